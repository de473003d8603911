#!/bin/sh
# sources.sh ROOT - the lists in CMake are complete: every .c and public header is named, so that none
# is left unbuilt, unrun or uninstalled.
cd "${1:?usage: sources.sh ROOT}" || exit 2
bad=0

named() { # named CMAKELISTS WORD FILE
    sed 's/#.*//; s/LABELS [a-z]*//' "$1" | grep -qwF -e "$2" || {
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
for path in $(find include -name '*.h'); do
    named CMakeLists.txt "$path" "$path"
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
