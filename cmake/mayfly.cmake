# What every target of this project is built with. Three functions: a library, an executable, a test.

add_library(mayfly_options INTERFACE)
target_include_directories(mayfly_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(mayfly_options INTERFACE _GLIBCXX_ASSERTIONS)
target_compile_options(mayfly_options INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast
  -Wnon-virtual-dtor -Woverloaded-virtual -Wcast-qual -Wformat=2 -Wimplicit-fallthrough
  -fno-strict-overflow
  # Names of source files in the log are the project's own.
  -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=)
if(MAYFLY_WERROR)
  target_compile_options(mayfly_options INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # libstdc++ 12 hides std::expected from a Clang that reports an older date for concepts.
  target_compile_options(mayfly_options INTERFACE -D__cpp_concepts=202002L -Wno-builtin-macro-redefined
    -Wno-macro-redefined -Wno-gnu-statement-expression -Wthread-safety
    # What libstdc++ 12 uses itself; and -no-pie where only objects are made.
    -Wno-deprecated-declarations -Wno-unused-command-line-argument)
endif()
if(MAYFLY_SANITIZE)
  target_compile_options(mayfly_options INTERFACE -fsanitize=${MAYFLY_SANITIZE} -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  if(MAYFLY_SANITIZE MATCHES "thread")
    target_compile_definitions(mayfly_options INTERFACE MAYFLY_THREAD_SANITIZER)
  endif()
  target_link_options(mayfly_options INTERFACE -fsanitize=${MAYFLY_SANITIZE})
endif()
if(MAYFLY_STATIC)
  target_compile_options(mayfly_options INTERFACE -fPIE -flto=auto -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3
    -fstack-protector-strong -fstack-clash-protection -fcf-protection=full -ftrivial-auto-var-init=zero
    -ffunction-sections -fdata-sections)
  target_link_options(mayfly_options INTERFACE -static-pie -flto=auto
    -Wl,-z,relro,-z,now,-z,noexecstack,--gc-sections)
endif()

# Debian ships fmt as a shared library; static executables take one that is built here.
if(MAYFLY_STATIC)
  add_library(mayfly_fmt STATIC ${CMAKE_CURRENT_LIST_DIR}/fmt_library.cpp)
  target_link_libraries(mayfly_fmt PRIVATE mayfly_options)
else()
  add_library(mayfly_fmt INTERFACE)
  target_link_libraries(mayfly_fmt INTERFACE fmt::fmt)
endif()

# io_uring's system calls; static executables take the archive.
if(MAYFLY_STATIC)
  find_library(MAYFLY_URING liburing.a REQUIRED)
else()
  find_library(MAYFLY_URING uring REQUIRED)
endif()
add_library(mayfly_uring INTERFACE)
target_link_libraries(mayfly_uring INTERFACE ${MAYFLY_URING})

# Keyed hashes; static executables take the archive.
if(MAYFLY_STATIC)
  find_library(MAYFLY_SODIUM libsodium.a REQUIRED)
else()
  find_library(MAYFLY_SODIUM sodium REQUIRED)
endif()
add_library(mayfly_sodium INTERFACE)
target_link_libraries(mayfly_sodium INTERFACE ${MAYFLY_SODIUM})

# HTTP: one header, from Debian's source package.
if(NOT EXISTS "${MAYFLY_HTTPLIB}/httplib.h")
  execute_process(COMMAND ${PROJECT_SOURCE_DIR}/scripts/httplib.sh
    OUTPUT_VARIABLE MAYFLY_HTTPLIB_FOLDER OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(MAYFLY_HTTPLIB ${MAYFLY_HTTPLIB_FOLDER} CACHE PATH "The folder of httplib.h" FORCE)
endif()
add_library(mayfly_httplib INTERFACE)
target_include_directories(mayfly_httplib SYSTEM INTERFACE ${MAYFLY_HTTPLIB})

# What nearly every file includes takes longer to read than the file: read once.
add_library(mayfly_headers OBJECT ${CMAKE_CURRENT_LIST_DIR}/headers.cpp)
target_link_libraries(mayfly_headers PRIVATE mayfly_options mayfly_fmt Threads::Threads)
target_precompile_headers(mayfly_headers PRIVATE
  <algorithm> <array> <atomic> <cstdint> <cstring> <expected> <functional> <memory> <mutex> <optional> <span> <string>
  <string_view> <utility> <variant> <vector> <fmt/format.h>)

# mayfly_library(NAME SOURCES … [DEPENDS …])
function(mayfly_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC mayfly_options mayfly_fmt ${arg_DEPENDS})
  target_precompile_headers(${name} REUSE_FROM mayfly_headers)
endfunction()

# mayfly_executable(NAME SOURCES … [DEPENDS …]): lands in <build>/bin
function(mayfly_executable name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE mayfly_options mayfly_fmt ${arg_DEPENDS})
  target_precompile_headers(${name} REUSE_FROM mayfly_headers)
endfunction()

# mayfly_test(NAME LABEL label SOURCES … [DEPENDS …]): a Catch2 program, run by ctest under that label
# (unit: no KVM; kvm: needs /dev/kvm).
function(mayfly_test name)
  cmake_parse_arguments(arg "" "LABEL" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE mayfly_options mayfly_fmt mayfly_catch_main ${arg_DEPENDS})
  target_precompile_headers(${name} REUSE_FROM mayfly_headers)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  # The release flags would only make a test slower to link.
  add_test(NAME ${arg_LABEL}/${name} COMMAND ${name})
  set_tests_properties(${arg_LABEL}/${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT 600)
endfunction()
