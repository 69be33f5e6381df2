# emra_default_architectures(NVCC RESULT): what to build for, as a list for CMAKE_CUDA_ARCHITECTURES, of the GPUs that
# the kernels run on, compute capability 8.0 and later:
#
#   80   A100, A30                        90   H100, H200, GH200
#   86   RTX 30, A10, A40, RTX A6000      100  B200, GB200; its code runs on B300 (10.3), too
#   87   Jetson Orin                      110  Jetson Thor
#   89   RTX 40, L4, L40                  120  RTX 50, RTX PRO; its code runs on DGX Spark (12.1), too
#
# Machine code for each that this nvcc knows, and PTX of two, which a driver can compile for others: 90 for those between
# it and the newest that this nvcc does not name (CUDA 12.8 has another name for Thor), the newest for what comes later.
function(emra_default_architectures nvcc result)
  set(wanted 80 86 87 89 90 100 110 120)
  execute_process(COMMAND "${nvcc}" --list-gpu-arch OUTPUT_VARIABLE known RESULT_VARIABLE status ERROR_QUIET)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "'${nvcc} --list-gpu-arch' failed: an nvcc of CUDA 11.8 or newer is expected")
  endif()
  set(architectures "")
  foreach(architecture IN LISTS wanted)
    if("${known}\n" MATCHES "compute_${architecture}\n")
      list(APPEND architectures "${architecture}-real")
      set(newest "${architecture}")
    endif()
  endforeach()
  if(NOT architectures)
    list(JOIN wanted ", " wanted)
    message(FATAL_ERROR "'${nvcc}' knows none of ${wanted}; choose with -DCMAKE_CUDA_ARCHITECTURES=...")
  endif()
  if("90-real" IN_LIST architectures AND NOT newest EQUAL 90)
    list(APPEND architectures "90-virtual")
  endif()
  list(APPEND architectures "${newest}-virtual")
  set(${result} "${architectures}" PARENT_SCOPE)
endfunction()
