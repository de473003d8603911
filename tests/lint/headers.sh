#!/bin/sh
# headers.sh ROOT - every public header compiles alone, as C17 and as C++17, without warnings.
# CC and CXX may name the compilers. Exit status 77 without a C++ compiler.
cd "${1:?usage: headers.sh ROOT}" || exit 2
cc=${CC:-cc}
cxx=${CXX:-c++}
bad=0

compile() { # compile HEADER COMPILER FLAGS...
    header=$1
    shift
    printf '#include "%s"\n' "$header" | "$@" -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only - || {
        echo "include/$header does not compile alone: $*"
        bad=1
    }
}

for path in include/kvpager.h include/kvpager/*.h; do
    compile "${path#include/}" "$cc" -std=c17 -x c
done
if command -v "$cxx" >/dev/null; then
    for path in include/kvpager.h include/kvpager/*.h; do
        compile "${path#include/}" "$cxx" -std=c++17 -x c++
    done
elif [ $bad = 0 ]; then
    echo "no C++ compiler ($cxx): checked as C only"
    exit 77
fi
exit $bad
