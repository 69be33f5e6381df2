# Enables CUDA, for the architectures of this project's devices, with a static runtime.
#
# Sets CMAKE_CUDA_ARCHITECTURES unless the caller did, and defines the target emra_cudart.

include_guard(GLOBAL)

# JetPack and many servers install nvcc without putting it on the PATH.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(EMRA_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT EMRA_NVCC)
    message(FATAL_ERROR "No nvcc on the PATH, in CUDA_HOME or in /usr/local/cuda/bin: install the CUDA toolkit, or name "
                        "its compiler with -DCMAKE_CUDA_COMPILER=/path/to/nvcc")
  endif()
  set(CMAKE_CUDA_COMPILER "${EMRA_NVCC}")
endif()

# This has to be known before CUDA is enabled: CMake's own default is an architecture that CUDA 13 dropped.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  include(EmraArchitectures)
  if(CMAKE_CUDA_COMPILER)
    emra_default_architectures("${CMAKE_CUDA_COMPILER}" architectures)
  else()
    emra_default_architectures("$ENV{CUDACXX}" architectures)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "CUDA architectures")
endif()

if(CMAKE_CROSSCOMPILING AND NOT CMAKE_CUDA_HOST_COMPILER)
  set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
enable_language(CUDA)
# The runtime is linked below, where a cross-build can name its own. CMake 3.22 cannot test nvcc with this set.
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}: ${CMAKE_CUDA_COMPILER}, architectures ${CMAKE_CUDA_ARCHITECTURES}")

# A library that TensorRT writes into an engine travels alone, so it has to carry the CUDA runtime with it.
set(EMRA_CUDART_STATIC "" CACHE FILEPATH "libcudart_static.a of the target; needed only by cross-builds")
if(NOT EMRA_CUDART_STATIC)
  find_package(CUDAToolkit REQUIRED)
  if(NOT TARGET CUDA::cudart_static)
    message(FATAL_ERROR "No libcudart_static.a for ${CMAKE_SYSTEM_PROCESSOR}: name it with -DEMRA_CUDART_STATIC=...; "
                        "NVIDIA ships it in cuda-cudart-dev and in the PyPI package nvidia-cuda-runtime")
  endif()
endif()
find_package(Threads REQUIRED)
add_library(emra_cudart INTERFACE)
if(EMRA_CUDART_STATIC)
  target_link_libraries(emra_cudart INTERFACE "${EMRA_CUDART_STATIC}" Threads::Threads ${CMAKE_DL_LIBS} rt)
else()
  target_link_libraries(emra_cudart INTERFACE CUDA::cudart_static)
endif()
# Keeps the runtime's symbols from being bound to another copy of it in the process.
target_link_options(emra_cudart INTERFACE "LINKER:--exclude-libs,ALL")
