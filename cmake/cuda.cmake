# cuda.cmake - the CUDA backend: libinferd_cuda.so, a module that the program loads when asked for.
#
# Built where nvcc is found; without it the rest is built just the same.  The module needs no
# library of the toolkit: the runtime is linked in, and finds the driver when it is loaded.  The
# plain C files of kernels/cuda need no nvcc, and are a library of their own for unit tests.
option(INFERD_CUDA "build the CUDA module where nvcc is found" ON)
set(INFERD_CUDA_ARCHS "90a" CACHE STRING "compute capabilities of the CUDA module, or all")

# What is shipped; a build of one takes a fraction of the time.  Code for 8.0 runs on 8.6 and 8.9 too,
# for 10.0 on 10.3, for 12.0 on 12.1 (docs/deploy.md has the table).
set(cuda_archs ${INFERD_CUDA_ARCHS})
if(INFERD_CUDA_ARCHS STREQUAL "all")
  set(cuda_archs 80 90a 100 120)
endif()
if("90" IN_LIST cuda_archs)
  message(FATAL_ERROR "INFERD_CUDA_ARCHS: want 90a; without the letter products of Hopper have no code")
endif()
list(JOIN cuda_archs " " cuda_archs_text)

file(GLOB cuda_c CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.c)
file(GLOB cuda_cu CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
if(cuda_c)
  add_library(inferd_kernels_cuda STATIC ${cuda_c})
  target_link_libraries(inferd_kernels_cuda PUBLIC inferd_kernels inferd_base m)
endif()

find_program(INFERD_NVCC nvcc HINTS /usr/local/cuda/bin)
if(NOT INFERD_CUDA OR NOT INFERD_NVCC OR NOT cuda_cu OR INFERD_SANITIZE)
  return()
endif()

set(CMAKE_CUDA_COMPILER ${INFERD_NVCC})
set(CMAKE_CUDA_ARCHITECTURES OFF) # given below: the suffix "a" is younger than CMake 3.25
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3") # assertions stay on, as in C
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3 -lineinfo")

include(CheckCompilerFlag)
check_compiler_flag(CUDA --compress-mode=size INFERD_NVCC_COMPRESSES) # from 12.8 on; to a fifth

add_library(inferd_cuda MODULE ${cuda_cu} ${cuda_c})
foreach(arch ${cuda_archs})
  target_compile_options(inferd_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-gencode=arch=compute_${arch},code=sm_${arch}>")
endforeach()
set_source_files_properties(${CMAKE_SOURCE_DIR}/kernels/cuda/cuda.cu PROPERTIES
                            COMPILE_DEFINITIONS "INFERD_CUDA_ARCHS=\"${cuda_archs_text}\"")
if(INFERD_NVCC_COMPRESSES)
  target_compile_options(inferd_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
endif()
target_link_libraries(inferd_cuda PRIVATE inferd_kernels inferd_base)
target_link_options(inferd_cuda PRIVATE -Wl,--no-undefined)
install(TARGETS inferd_cuda LIBRARY DESTINATION lib/inferd COMPONENT program)
