# emra_default_architectures(NVCC RESULT): what to build for, of the devices this project is for, as a list for
# CMAKE_CUDA_ARCHITECTURES: Orin 87, Ada 89, Hopper 90, Thor 110, Blackwell desktop 120.
#
# Machine code for each that this nvcc knows, and PTX of two, which a driver can compile for others: 90 for data-centre
# Blackwell (10.x), the newest for what comes later.
function(emra_default_architectures nvcc result)
  execute_process(COMMAND "${nvcc}" --list-gpu-arch OUTPUT_VARIABLE known RESULT_VARIABLE status ERROR_QUIET)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "'${nvcc} --list-gpu-arch' failed: an nvcc of CUDA 11.8 or newer is expected")
  endif()
  set(architectures "")
  foreach(architecture IN ITEMS 87 89 90 110 120)
    if("${known}\n" MATCHES "compute_${architecture}\n")
      list(APPEND architectures "${architecture}-real")
      set(newest "${architecture}")
    endif()
  endforeach()
  if(NOT architectures)
    message(FATAL_ERROR "'${nvcc}' knows none of 87, 89, 90, 110 and 120; choose with -DCMAKE_CUDA_ARCHITECTURES=...")
  endif()
  if("90-real" IN_LIST architectures AND NOT newest EQUAL 90)
    list(APPEND architectures "90-virtual")
  endif()
  list(APPEND architectures "${newest}-virtual")
  set(${result} "${architectures}" PARENT_SCOPE)
endfunction()
