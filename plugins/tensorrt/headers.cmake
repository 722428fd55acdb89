# TENSORRT_INCLUDE_DIR: the folder of NvInfer.h, from TensorRT's package, JetPack, or said by hand.
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h
  HINTS ENV TENSORRT_INCLUDE_DIR ENV TENSORRT_ROOT ENV TRT_ROOT
  PATHS /usr/include/aarch64-linux-gnu /usr/include/x86_64-linux-gnu
        /usr/local/tensorrt /usr/local/TensorRT /opt/tensorrt /opt/TensorRT /usr/src/tensorrt
  PATH_SUFFIXES include
  DOC "folder of NvInferRuntime.h, TensorRT 10.0 or later")

if(TENSORRT_INCLUDE_DIR)
  if(NOT EXISTS ${TENSORRT_INCLUDE_DIR}/NvInferRuntime.h)
    message(FATAL_ERROR "There is no NvInferRuntime.h in TENSORRT_INCLUDE_DIR=${TENSORRT_INCLUDE_DIR}.")
  endif()
  file(STRINGS ${TENSORRT_INCLUDE_DIR}/NvInferVersion.h lines REGEX "define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)")
  string(REGEX MATCHALL "(MAJOR|MINOR|PATCH)(_ENTERPRISE|_RTX)? [0-9]+" TENSORRT_VERSION "${lines}")
  string(REGEX REPLACE "[A-Z_]+ " "" TENSORRT_VERSION "${TENSORRT_VERSION}")
  string(REPLACE ";" "." TENSORRT_VERSION "${TENSORRT_VERSION}")
  if(TENSORRT_VERSION VERSION_LESS 10 AND NOT "${lines}" MATCHES "TRT_MAJOR_RTX")
    message(FATAL_ERROR
      "The plugins need TensorRT 10 or later (JetPack 6.1), and ${TENSORRT_INCLUDE_DIR} has ${TENSORRT_VERSION}. "
      "Older ones run the inlined form of a bundle, which needs no plugins: tokexport build --form inlined.")
  endif()
  message(STATUS "TensorRT ${TENSORRT_VERSION} headers: ${TENSORRT_INCLUDE_DIR}")
else()
  message(WARNING
    "There are no TensorRT headers (NvInferRuntime.h), so only libtokexport_kernels is built, without the plugins for "
    "TensorRT. JetPack and NVIDIA's packages have them: sudo apt install libnvinfer-headers-dev. Or take the folder "
    "include/ of https://github.com/NVIDIA/TensorRT at the tag of your TensorRT. Where they are elsewhere: "
    "-DTENSORRT_INCLUDE_DIR=FOLDER.")
endif()
