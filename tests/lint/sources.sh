#!/bin/sh
# sources.sh ROOT - the lists in CMake are complete: every .c is named, so that none is left unbuilt
# or unrun.
cd "${1:?usage: sources.sh ROOT}" || exit 2
bad=0

named() { # named CMAKELISTS WORD FILE
    grep -qwF -e "$2" "$1" || {
        echo "$3 is not in $1"
        bad=1
    }
}

for path in $(find alloc tiers attention -name '*.c'); do
    case $path in
    tiers/blob_malloc.c | tiers/blob_jemalloc.c) ;; # one of two
    *) named CMakeLists.txt "$path" "$path" ;;
    esac
done
for path in $(find integration -name '*.c'); do
    named integration/CMakeLists.txt "${path#integration/}" "$path"
done
for path in $(find tests bench -name 'test_*.c' -o -name 'bench_*.c'); do
    word=${path##*/}
    word=${word#*_}
    named "${path%%/*}/CMakeLists.txt" "${word%.c}" "$path"
done
exit $bad
