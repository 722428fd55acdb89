# TensorRT::TensorRT: from TENSORRT_ROOT, TENSORRT_INCLUDE_DIR, or where JetPack and NVIDIA's packages put it.
include(FindPackageHandleStandardArgs)

set(hints ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT})
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h HINTS ${hints} ENV TENSORRT_INCLUDE_DIR PATH_SUFFIXES include)
find_library(TensorRT_LIBRARY nvinfer HINTS ${hints} PATH_SUFFIXES lib lib64)

find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_LIBRARY TENSORRT_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "On a Jetson: sudo apt-get install nvidia-jetpack. Elsewhere pass -DTENSORRT_ROOT=FOLDER, \
or build without it: -DTOKEXPORT_TENSORRT=OFF.")

if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  set_target_properties(TensorRT::TensorRT PROPERTIES
    IMPORTED_LOCATION ${TensorRT_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${TENSORRT_INCLUDE_DIR})
endif()
mark_as_advanced(TENSORRT_INCLUDE_DIR TensorRT_LIBRARY)
