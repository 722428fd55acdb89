# ONNXRuntime::ONNXRuntime: from ONNXRUNTIME_ROOT (a folder with include/ and lib/, as the releases of ONNX Runtime are
# packed), or from the system.
include(FindPackageHandleStandardArgs)

set(hints ${ONNXRUNTIME_ROOT} $ENV{ONNXRUNTIME_ROOT})
find_path(ONNXRuntime_INCLUDE_DIR onnxruntime_cxx_api.h HINTS ${hints}
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime onnxruntime/core/session)
find_library(ONNXRuntime_LIBRARY onnxruntime HINTS ${hints} PATH_SUFFIXES lib lib64)

find_package_handle_standard_args(ONNXRuntime
  REQUIRED_VARS ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "Unpack a release of ONNX Runtime and pass -DONNXRUNTIME_ROOT=FOLDER, \
or build without it: -DTOKEXPORT_ONNXRUNTIME=OFF.")

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  add_library(ONNXRuntime::ONNXRuntime UNKNOWN IMPORTED)
  set_target_properties(ONNXRuntime::ONNXRuntime PROPERTIES
    IMPORTED_LOCATION ${ONNXRuntime_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${ONNXRuntime_INCLUDE_DIR})
endif()
mark_as_advanced(ONNXRuntime_INCLUDE_DIR ONNXRuntime_LIBRARY)
