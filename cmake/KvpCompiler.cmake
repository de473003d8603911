# Warnings, sanitizers and the language: the target kvp_compiler, linked by everything of ours.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(kvp_compiler INTERFACE)
target_compile_options(kvp_compiler INTERFACE -Wall -Wextra -Wconversion)
if(KVP_WERROR)
    target_compile_options(kvp_compiler INTERFACE -Werror)
endif()

# A launcher for the tests, empty unless the sanitizer needs one.
set(KVP_LAUNCHER "")
if(KVP_SANITIZE STREQUAL "address")
    set(sanitize -fsanitize=address,undefined -fno-sanitize-recover=all)
elseif(KVP_SANITIZE STREQUAL "thread")
    set(sanitize -fsanitize=thread)
    # TSan of gcc 12 and clang 14 cannot place its shadow where the kernel randomises 32 bits of
    # mmap addresses (vm.mmap_rnd_bits, the default since Linux 6.6).
    execute_process(COMMAND setarch -R true RESULT_VARIABLE no_setarch OUTPUT_QUIET ERROR_QUIET)
    if(no_setarch EQUAL 0)
        set(KVP_LAUNCHER setarch -R)
    endif()
elseif(KVP_SANITIZE)
    message(FATAL_ERROR "KVP_SANITIZE is \"${KVP_SANITIZE}\"; it may be address, thread or empty")
endif()
if(KVP_SANITIZE)
    add_compile_options(${sanitize} -fno-omit-frame-pointer)
    add_link_options(${sanitize})
endif()
