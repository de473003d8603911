#!/bin/sh
# run.sh shared|static BUILD - install kvpager, as configured in BUILD, into a temporary prefix;
# build the README's example against it by find_package and by pkg-config; run both.
set -eu
kind=${1:?usage: run.sh shared|static BUILD}
build=${2:?usage: run.sh shared|static BUILD}
source=$(cd "$(dirname "$0")/../.." && pwd)
cmake=${CMAKE:-cmake}
cc=${CC:-cc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

quietly() { # quietly WHAT COMMAND...: output only if it fails
    what=$1
    shift
    "$@" >"$work/log" 2>&1 || {
        echo "$what failed: $*"
        cat "$work/log"
        exit 1
    }
}

cached() { # cached VARIABLE: its value in BUILD
    sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"
}

# ---- install -------------------------------------------------------------------------------------

shared=OFF
[ "$kind" = static ] || shared=ON
if [ "$(cached BUILD_SHARED_LIBS)" != $shared ]; then
    other=$work/build
    quietly configure "$cmake" -S "$source" -B "$other" -G "$(cached CMAKE_GENERATOR)" \
        -DBUILD_SHARED_LIBS=$shared -DCMAKE_BUILD_TYPE="$(cached CMAKE_BUILD_TYPE)" \
        -DCMAKE_C_COMPILER="$cc" -DKVP_BUILD_TESTS=OFF -DKVP_BUILD_BENCH=OFF \
        -DKVP_WITH_URING="$(cached KVP_WITH_URING)" -DKVP_WITH_ZSTD="$(cached KVP_WITH_ZSTD)" \
        -DKVP_WITH_JEMALLOC="$(cached KVP_WITH_JEMALLOC)" \
        -DKVP_WITH_MODELS="$(cached KVP_WITH_MODELS)"
    quietly build "$cmake" --build "$other" -j 2
    build=$other
fi
quietly install "$cmake" --install "$build" --prefix "$work/installed"
# Found where it lies, not where it was installed to.
prefix=$work/moved
mv "$work/installed" "$prefix"

# ---- use -----------------------------------------------------------------------------------------

block() { # block LANGUAGE: the first such block of the README's example
    awk -v fence="\`\`\`$1" '
        /^## / { in_section = /^## Example/ }
        in_block && /^```$/ { exit }
        in_block
        in_section && $0 == fence { in_block = 1 }' "$source/README.md"
}
block c >"$work/example.c"
block text >"$work/expected"
[ -s "$work/example.c" ] && [ -s "$work/expected" ]

check() { # check HOW PROGRAM: it prints what the README says it does
    quietly "the example, built by $1," "$2"
    diff "$work/expected" "$work/log"
    echo "$kind, by $1: $(cat "$work/log")"
}

quietly "find_package" "$cmake" -S "$source/tests/install/consumer" -B "$work/consumer" \
    -DCMAKE_PREFIX_PATH="$prefix" -DEXAMPLE="$work/example.c" -DCMAKE_C_COMPILER="$cc"
quietly "building by find_package" "$cmake" --build "$work/consumer"
check find_package "$work/consumer/example"

pc=$(find "$prefix" -name kvpager.pc)
libdir=$(dirname "$(dirname "$pc")")
# shellcheck disable=SC2046  # flags are words
quietly "building by pkg-config" "$cc" -std=c17 -Wall -Wextra -Werror "$work/example.c" \
    -o "$work/example" $(PKG_CONFIG_PATH=${pc%/*} pkg-config --cflags --libs kvpager) \
    -Wl,-rpath,"$libdir"
check pkg-config "$work/example"

# Loaded at run time by a program that is not linked to it; in each of two rounds the same.
if [ "$kind" = shared ]; then
    quietly "building load.c" "$cc" -std=gnu17 -Wall -Wextra -Werror \
        "$source/tests/install/consumer/load.c" -I"$prefix/include" -o "$work/load" -ldl -lpthread
    quietly "loading by dlopen" "$work/load" "$libdir/libkvpager.so"
    cat "$work/expected" "$work/expected" | diff - "$work/log"
    echo "$kind, by dlopen: $(sort -u "$work/log")"
fi

# Each kind really is what it says.
needed=$(readelf -d "$work/example" | grep -c 'NEEDED.*libkvpager\.so\.[0-9]') || true
[ "$needed" = "$([ "$kind" = shared ] && echo 1 || echo 0)" ]

# The command comes along where it was built, and finds its library.
if [ -x "$build/integration/kvpager" ]; then
    quietly "the installed command" "$prefix/bin/kvpager" --help
    echo "$kind, bin/kvpager runs"
fi
