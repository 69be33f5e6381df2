# Toolchain for Jetson and other 64-bit ARM machines, from an x86 machine:
#
#   apt-get install g++-aarch64-linux-gnu
#   cmake -B build-aarch64 --toolchain cmake/aarch64-linux-gnu.cmake -DCMAKE_CUDA_ARCHITECTURES=87
#
# nvcc compiles for the GPU and hands the rest to the cross-compiler. An x86 toolkit lacks only the CUDA runtime of the
# target: install NVIDIA's cuda-cross-aarch64 or cuda-cross-sbsa, or pass -DEMRA_CUDART_STATIC=.../libcudart_static.a of
# the PyPI package nvidia-cuda-runtime for aarch64, of the toolkit's own version, libcudadevrt.a beside it
# (docs/plugin.md; make plugin-aarch64 does it).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

find_program(EMRA_CROSS_CXX NAMES aarch64-linux-gnu-g++ aarch64-linux-gnu-g++-13 aarch64-linux-gnu-g++-12)
find_program(EMRA_CROSS_CC NAMES aarch64-linux-gnu-gcc aarch64-linux-gnu-gcc-13 aarch64-linux-gnu-gcc-12)
if(NOT EMRA_CROSS_CXX OR NOT EMRA_CROSS_CC)
  message(FATAL_ERROR "No aarch64-linux-gnu-g++: on Debian and Ubuntu, apt-get install g++-aarch64-linux-gnu")
endif()
set(CMAKE_C_COMPILER "${EMRA_CROSS_CC}")
set(CMAKE_CXX_COMPILER "${EMRA_CROSS_CXX}")
set(CMAKE_CUDA_HOST_COMPILER "${EMRA_CROSS_CXX}")

# nvcc takes headers and libraries from a folder named after the target, which an x86 toolkit does not have. Its own
# headers serve as well; its libraries are of the wrong machine, and the linker skips them.
if(EMRA_CUDART_STATIC)
  list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EMRA_CUDART_STATIC)
  get_filename_component(EMRA_CUDART_FOLDER "${EMRA_CUDART_STATIC}" DIRECTORY)
  set(CMAKE_CUDA_FLAGS_INIT "--target-directory=${CMAKE_HOST_SYSTEM_PROCESSOR}-linux -L${EMRA_CUDART_FOLDER}")
endif()

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
