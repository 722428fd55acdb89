# The GPUs to compile for, unless CMAKE_CUDA_ARCHITECTURES says: those of this list that the compiler knows.
#
# 75 T4; 87 Orin; 89 RTX 4090, L4; 90 H100, H200; 110 Thor; 120 RTX 5090
set(wanted 75 87 89 90 110 120)

if(NOT CMAKE_CUDA_ARCHITECTURES)
  find_program(TOKEXPORT_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT TOKEXPORT_NVCC)
    message(FATAL_ERROR
      "There is no nvcc: the kernels need the CUDA toolkit (12.2 or later). On a Jetson it comes with JetPack: "
      "sudo apt install nvidia-jetpack. Elsewhere set CUDACXX to its path.")
  endif()
  set(CMAKE_CUDA_COMPILER ${TOKEXPORT_NVCC})
  execute_process(COMMAND ${TOKEXPORT_NVCC} --list-gpu-arch OUTPUT_VARIABLE known COMMAND_ERROR_IS_FATAL ANY)
  foreach(architecture IN LISTS wanted)
    if(known MATCHES "compute_${architecture}\n")
      list(APPEND CMAKE_CUDA_ARCHITECTURES ${architecture}-real)
    endif()
  endforeach()
endif()
message(STATUS "CUDA architectures: ${CMAKE_CUDA_ARCHITECTURES}")
