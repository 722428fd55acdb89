# The GPUs to compile for, unless CMAKE_CUDA_ARCHITECTURES says: those of this list that the compiler knows.
#
# 75 T4; 87 Orin; 89 RTX 4090, L4; 90 H100, H200; 110 Thor; 120 RTX 5090
set(wanted 75 87 89 90 110 120)

if(NOT CMAKE_CUDA_COMPILER)
  find_program(TOKEXPORT_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT TOKEXPORT_NVCC)
    message(FATAL_ERROR
      "There is no nvcc: the kernels need the CUDA toolkit (12.2 or later). On a Jetson it comes with JetPack: "
      "sudo apt install nvidia-jetpack. Elsewhere set CUDACXX to its path.")
  endif()
  set(CMAKE_CUDA_COMPILER ${TOKEXPORT_NVCC})
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE known COMMAND_ERROR_IS_FATAL ANY)
  foreach(architecture IN LISTS wanted)
    if(known MATCHES "compute_${architecture}\n")
      list(APPEND CMAKE_CUDA_ARCHITECTURES ${architecture}-real)
    endif()
  endforeach()
elseif(CMAKE_CUDA_ARCHITECTURES STREQUAL "native")
  # CMake before 3.24 (Ubuntu 22.04, so JetPack 6) does not know the word, and later ones take an architecture of
  # their own choice where there is no GPU. The toolkit has a program that asks the driver.
  get_filename_component(compiler "${CMAKE_CUDA_COMPILER}" REALPATH)
  get_filename_component(folder "${compiler}" DIRECTORY)
  find_program(TOKEXPORT_DEVICE_QUERY __nvcc_device_query
    HINTS ${folder} ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES bin)
  set(found "")
  if(TOKEXPORT_DEVICE_QUERY)
    execute_process(COMMAND ${TOKEXPORT_DEVICE_QUERY} OUTPUT_VARIABLE found RESULT_VARIABLE failed ERROR_QUIET)
    string(REGEX MATCHALL "[0-9]+" found "${found}")
  endif()
  if(failed OR NOT found)
    message(FATAL_ERROR
      "There is no NVIDIA GPU on this machine to compile for. Say which one: -DCMAKE_CUDA_ARCHITECTURES=87 (Orin; "
      "75 T4, 86 RTX 3060, 89 RTX 4090 and L4, 90 H100 and H200, 110 Thor, 120 RTX 5090).")
  endif()
  list(REMOVE_DUPLICATES found)
  list(TRANSFORM found APPEND "-real")
  set(CMAKE_CUDA_ARCHITECTURES ${found})
endif()
message(STATUS "CUDA architectures: ${CMAKE_CUDA_ARCHITECTURES}")
