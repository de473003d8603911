#!/bin/sh
# words.sh ROOT - what must not be in the tree: paths of one machine, unfinished places, sleeping
# tests.
cd "${1:?usage: words.sh ROOT}" || exit 2
bad=0

forbid() { # forbid WHAT PATTERN NAME...: in files called NAME
    what=$1
    pattern=$2
    shift 2
    for name in "$@"; do
        set -- "$@" "--include=$name"
        shift
    done
    grep -rnIE "$@" --exclude-dir='build*' --exclude-dir=lint -e "$pattern" . || return
    echo "^ $what"
    bad=1
}

forbid "a path of one machine" '(^|[^A-Za-z0-9_.$}])/(work|root|home|Users|mnt|opt)/[A-Za-z]' \
    '*.[ch]' '*.sh' '*.md' CMakeLists.txt '*.cmake' '*.in' CMakePresets.json Makefile run
forbid "an unfinished place" '\b(TODO|FIXME|XXX|HACK)\b|not (yet )?implemented|simplified for now' \
    '*.[ch]' '*.sh' '*.md' CMakeLists.txt Makefile run
forbid "a test that sleeps" '\b(u|nano)?sleep\(' 'test_*.c'
exit $bad
