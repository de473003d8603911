# What kvpager builds on. Sets
#   KVP_HAVE_<PART>  ON or OFF for URING, ZSTD, JEMALLOC, MODELS
#   KVP_DEFINITIONS  KVP_HAVE_<PART>=1, for the sources of the library
#   KVP_LIBRARIES    what the library links
#   KVP_MODULES      of those, the pkg-config modules, for programs that link libkvpager.a
#   KVP_MODEL_LIBRARIES  what the models link
find_package(Threads REQUIRED)
find_package(PkgConfig QUIET)

# kvp_part(PART PACKAGES FOUND...): decide KVP_HAVE_<PART> by its KVP_WITH_ option. FOUND are the
# names of variables that are true where what the part needs is here; PACKAGES are Debian's.
function(kvp_part part packages)
    set(have ON)
    foreach(found IN LISTS ARGN)
        if(NOT ${found})
            set(have OFF)
        endif()
    endforeach()
    if(KVP_WITH_${part} AND NOT KVP_WITH_${part} STREQUAL "AUTO" AND NOT have)
        message(FATAL_ERROR "KVP_WITH_${part} is ${KVP_WITH_${part}}, but what it needs is not here. "
                            "On Debian: apt-get install ${packages}")
    endif()
    if(NOT KVP_WITH_${part})
        set(have OFF)
    endif()
    set(KVP_HAVE_${part} ${have} PARENT_SCOPE)
    message(STATUS "kvpager: ${part} ${have}")
endfunction()

# kvp_module(MODULE): the target PkgConfig::KVP_<module> and KVP_<module>_FOUND.
function(kvp_module module)
    if(PkgConfig_FOUND)
        pkg_check_modules(KVP_${module} QUIET IMPORTED_TARGET GLOBAL ${module})
    endif()
endfunction()

# Checksums are part of what kvpager is. Only the header is used, inlined.
find_path(KVP_XXHASH_INCLUDE xxhash.h)
if(NOT KVP_XXHASH_INCLUDE)
    message(FATAL_ERROR "kvpager needs the header xxhash.h. On Debian: apt-get install libxxhash-dev")
endif()

# jemalloc as Debian packs it takes over malloc, as the sanitizers do. Brought along by a shared
# library it takes over only half, the C++ operator new but not free: a program that has C++ in it
# aborts in free().
if(KVP_SANITIZE OR BUILD_SHARED_LIBS)
    if(KVP_WITH_JEMALLOC STREQUAL "AUTO")
        set(KVP_WITH_JEMALLOC OFF)
    elseif(KVP_WITH_JEMALLOC)
        message(FATAL_ERROR "KVP_WITH_JEMALLOC needs a static build without sanitizers")
    endif()
endif()

set(KVP_LIBRARIES Threads::Threads m)
set(KVP_MODULES)
# An optional part of the library: one pkg-config module.
macro(kvp_library_part part module package)
    kvp_module(${module})
    kvp_part(${part} ${package} KVP_${module}_FOUND)
    if(KVP_HAVE_${part})
        list(APPEND KVP_DEFINITIONS KVP_HAVE_${part}=1)
        list(APPEND KVP_LIBRARIES PkgConfig::KVP_${module})
        list(APPEND KVP_MODULES ${module})
    endif()
endmacro()
kvp_library_part(URING liburing liburing-dev)
kvp_library_part(ZSTD libzstd libzstd-dev)
kvp_library_part(JEMALLOC jemalloc libjemalloc-dev)

kvp_module(libpcre2-8)
kvp_module(jansson)
kvp_module(libutf8proc)
kvp_part(MODELS "libpcre2-dev libjansson-dev libutf8proc-dev"
         KVP_libpcre2-8_FOUND KVP_jansson_FOUND
         KVP_libutf8proc_FOUND)
set(KVP_MODEL_LIBRARIES PkgConfig::KVP_libpcre2-8 PkgConfig::KVP_jansson
                        PkgConfig::KVP_libutf8proc)
