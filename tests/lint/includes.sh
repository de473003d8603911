#!/bin/sh
# includes.sh ROOT - check who may include what (ARCHITECTURE.md, "Folders").
#
#   include/      C standard headers, include/
#   alloc/        and system headers, itself
#   tiers/        and alloc/, the third-party headers below, each in exactly one .c
#   attention/    include/, itself, system headers
#   integration/  include/, itself, system headers, the third-party headers below
#
# Tests and benches include what they test.
cd "${1:?usage: includes.sh ROOT}" || exit 2

find include alloc tiers attention integration -name '*.[ch]' | sort | xargs awk '
BEGIN {
    words("include", "include")
    words("alloc", "include alloc")
    words("tiers", "include alloc tiers")
    words("attention", "include attention")
    words("integration", "include integration")
    words("tests", "")
    words("bench", "")

    n = split("assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp " \
              "signal stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn " \
              "string tgmath threads time uchar wchar wctype", name)
    for (i = 1; i <= n; i++)
        standard[name[i] ".h"]

    n = split("cpuid dirent endian fcntl getopt immintrin pthread sched strings syscall termios " \
              "unistd", name)
    for (i = 1; i <= n; i++)
        system_header[name[i] ".h"]

    third_party["tiers", "liburing.h"]
    third_party["tiers", "zstd.h"]
    third_party["tiers", "xxhash.h"]
    third_party["tiers", "jemalloc/jemalloc.h"]
    third_party["integration", "xxhash.h"]
    third_party["integration", "pcre2.h"]
    third_party["integration", "jansson.h"]
    third_party["integration", "utf8proc.h"]
}

function words(folder, list,    name, i, n) {
    top_folder[folder]
    n = split(list, name, " ")
    for (i = 1; i <= n; i++)
        may_include[folder, name[i]]
}

function complain(text) {
    printf "%s:%d: %s\n", FILENAME, FNR, text
    bad = 1
}

/^[ \t]*#[ \t]*include/ {
    folder = FILENAME
    sub(/\/.*/, "", folder)
    header = $0
    sub(/^[^<"]*[<"]/, "", header)
    sub(/[>"].*/, "", header)

    if ($0 ~ /"/) {
        owner = header
        sub(/\/.*/, "", owner)
        if (owner == "kvpager.h" || owner == "kvpager")
            owner = "include"
        else if (!(owner in top_folder)) # beside it, or in a folder of integration/
            owner = folder
        if (!((folder, owner) in may_include))
            complain(folder "/ may not include " owner "/ (" header ")")
    } else if (header in standard || (FILENAME ~ /^integration\/examples\// && header == "kvpager.h")) {
        ;
    } else if (header in system_header || header ~ /^(sys|linux|asm)\//) {
        if (folder == "include")
            complain("a public header may include C standard headers only (" header ")")
    } else if (!((folder, header) in third_party)) {
        complain(folder "/ may not include <" header ">")
    } else if (folder == "tiers" && FILENAME !~ /\.c$/) {
        complain("<" header "> belongs into exactly one .c, not into a header")
    } else if (folder == "tiers") {
        if (header in used_in && used_in[header] != FILENAME)
            complain("<" header "> belongs into exactly one .c, and is in " used_in[header] " already")
        used_in[header] = FILENAME
    }
}

END {
    if (NR == 0)
        print "no sources found"
    exit (bad || NR == 0)
}'
