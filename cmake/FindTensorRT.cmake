# Finds TensorRT's headers, 10.3 or newer. Its libraries are not needed: the plugin takes nothing from them, and the
# process that loads the plugin brings them.
#
# Looked for, in this order, and said which was taken:
#   1. TensorRT_INCLUDE_DIR, the folder of NvInferRuntime.h
#   2. TensorRT_ROOT, a variable or in the environment: an unpacked TensorRT, or any folder of its headers
#   3. the system's: JetPack and Debian packages, containers, /usr/local
#   4. the headers that come in the PyPI package kernel-lens, of the Python that is found (Python3_EXECUTABLE)
#
# Defines TensorRT_FOUND, TensorRT_VERSION, TensorRT_INCLUDE_DIR, and the target TensorRT::headers with CUDA's headers.

set(TensorRT_MINIMUM 10.3)

if(NOT TensorRT_INCLUDE_DIR)
  set(origin "TensorRT_ROOT")
  find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
            PATHS "${TensorRT_ROOT}" ENV TensorRT_ROOT
            PATH_SUFFIXES include include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  set(root "${TensorRT_ROOT}")
  if(NOT root)
    set(root "$ENV{TensorRT_ROOT}")
  endif()
  if(root AND NOT TensorRT_INCLUDE_DIR)
    message(FATAL_ERROR "TensorRT_ROOT is '${root}', and NvInferRuntime.h is neither in it nor in its folder include")
  endif()
endif()
if(NOT TensorRT_INCLUDE_DIR)
  set(origin "the system")
  find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
            PATHS /usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu /usr/include /usr/local/tensorrt/include
                  /usr/local/TensorRT/include /opt/tensorrt/include /usr/local/cuda/include)
endif()
if(NOT TensorRT_INCLUDE_DIR)
  set(origin "the Python package kernel-lens")
  find_package(Python3 QUIET COMPONENTS Interpreter)
  if(Python3_Interpreter_FOUND)
    # find_spec does not import the package, whose import asks for more than headers.
    execute_process(
      COMMAND "${Python3_EXECUTABLE}" -c
              "import importlib.util as u; print(u.find_spec('kernel_lens').submodule_search_locations[0])"
      OUTPUT_VARIABLE wheel OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(wheel)
      find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h PATHS "${wheel}/include/tensorrt" NO_DEFAULT_PATH
                NO_CMAKE_FIND_ROOT_PATH)
    endif()
  endif()
endif()

if(TensorRT_INCLUDE_DIR AND EXISTS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h")
  # From 10.13 on the numbers stand behind a second name.
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" numbers
       REGEX "define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)(_ENTERPRISE)? +[0-9]+")
  set(TensorRT_VERSION "")
  foreach(part IN ITEMS MAJOR MINOR PATCH)
    if("${numbers}" MATCHES "_${part}(_ENTERPRISE)? +([0-9]+)")
      list(APPEND TensorRT_VERSION "${CMAKE_MATCH_2}")
    endif()
  endforeach()
  list(JOIN TensorRT_VERSION "." TensorRT_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TensorRT REQUIRED_VARS TensorRT_INCLUDE_DIR TensorRT_VERSION VERSION_VAR TensorRT_VERSION
  REASON_FAILURE_MESSAGE "No NvInferRuntime.h. Install TensorRT's headers (on a Jetson: apt install libnvinfer-headers-dev), \
or set TensorRT_ROOT, or pip install --no-deps kernel-lens. -DEMRA_TENSORRT=OFF builds the kernels alone.")
if(TensorRT_FOUND)
  if(TensorRT_VERSION VERSION_LESS TensorRT_MINIMUM)
    message(FATAL_ERROR "TensorRT ${TensorRT_VERSION} in ${TensorRT_INCLUDE_DIR} is older than ${TensorRT_MINIMUM}. "
                        "JetPack 6.0 and older cannot run the plugin; JetPack 6.1 has TensorRT 10.3")
  endif()
  if(DEFINED origin)
    message(STATUS "TensorRT ${TensorRT_VERSION} headers of ${origin}: ${TensorRT_INCLUDE_DIR}")
  endif()
  # TensorRT's headers include CUDA's.
  find_path(EMRA_CUDA_INCLUDE_DIR cuda_runtime_api.h
            HINTS ${CUDAToolkit_INCLUDE_DIRS} ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ENV CUDA_HOME
            PATHS /usr/local/cuda PATH_SUFFIXES include NO_CMAKE_FIND_ROOT_PATH)
  if(NOT EMRA_CUDA_INCLUDE_DIR)
    message(FATAL_ERROR "No cuda_runtime_api.h: install the CUDA toolkit, or name its folder with "
                        "-DEMRA_CUDA_INCLUDE_DIR=...")
  endif()
  if(NOT TARGET TensorRT::headers)
    add_library(TensorRT::headers INTERFACE IMPORTED)
    target_include_directories(TensorRT::headers SYSTEM INTERFACE "${TensorRT_INCLUDE_DIR}" "${EMRA_CUDA_INCLUDE_DIR}")
  endif()
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR EMRA_CUDA_INCLUDE_DIR)
