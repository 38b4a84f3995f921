# cuda.cmake - the CUDA backend: libinferd_cuda.so, a module that the program loads when asked for.
#
# Built where nvcc and cublasLt are found; without them the rest is built just the same.  The plain
# C files of kernels/cuda need neither, and are a library of their own for unit tests.
option(INFERD_CUDA "build the CUDA module where nvcc is found" ON)
set(INFERD_CUDA_ARCHS "90a" CACHE STRING "compute capabilities of the CUDA module, e.g. 90a")
set(INFERD_CUBLAS_ROOT "" CACHE PATH "folder with include/cublasLt.h and lib/libcublasLt.so")

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

# The toolkit's own cublasLt, or that of the Python package nvidia-cublas.
file(GLOB cublas_places /opt/cublas*/nvidia/cu[0-9]* /opt/cublas*/nvidia/cublas)
find_path(INFERD_CUBLAS_INCLUDE cublasLt.h HINTS ${INFERD_CUBLAS_ROOT}/include
          PATHS /usr/local/cuda/include ${cublas_places} PATH_SUFFIXES include)
find_library(INFERD_CUBLAS_LIBRARY NAMES cublasLt libcublasLt.so.13 libcublasLt.so.12
             HINTS ${INFERD_CUBLAS_ROOT}/lib PATHS /usr/local/cuda/lib64 ${cublas_places}
             PATH_SUFFIXES lib lib64)
if(NOT INFERD_CUBLAS_INCLUDE OR NOT INFERD_CUBLAS_LIBRARY)
  message(STATUS "nvcc is here but cublasLt is not: no CUDA module (INFERD_CUBLAS_ROOT says where)")
  return()
endif()

set(CMAKE_CUDA_COMPILER ${INFERD_NVCC})
set(CMAKE_CUDA_ARCHITECTURES OFF) # given below: the suffix "a" is younger than CMake 3.25
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
enable_language(CUDA)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3") # assertions stay on, as in C
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3 -lineinfo")

add_library(inferd_cuda MODULE ${cuda_cu} ${cuda_c})
target_include_directories(inferd_cuda SYSTEM PRIVATE ${INFERD_CUBLAS_INCLUDE})
foreach(arch ${INFERD_CUDA_ARCHS})
  target_compile_options(inferd_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-gencode=arch=compute_${arch},code=sm_${arch}>")
endforeach()
target_link_libraries(inferd_cuda PRIVATE inferd_kernels inferd_base ${INFERD_CUBLAS_LIBRARY})
# The toolkit's folder too: the loader does not know it on every machine.
get_filename_component(cublas_folder ${INFERD_CUBLAS_LIBRARY} DIRECTORY)
set(cuda_folders ${CMAKE_CUDA_HOST_IMPLICIT_LINK_DIRECTORIES} ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES})
list(FILTER cuda_folders INCLUDE REGEX "cuda")
list(FILTER cuda_folders EXCLUDE REGEX "stubs")
list(REMOVE_DUPLICATES cuda_folders)
set_target_properties(inferd_cuda PROPERTIES BUILD_RPATH "${cuda_folders}"
                      INSTALL_RPATH "${cublas_folder};${cuda_folders}")
install(TARGETS inferd_cuda LIBRARY DESTINATION lib/inferd)
