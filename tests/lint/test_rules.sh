#!/bin/sh
# test_rules.sh - the lints object where they should: each case spoils a clean little tree in one
# place.
here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
output=$(mktemp)
trap 'rm -rf "$tree" "$output"' EXIT
failed=0
n_cases=0

clean_tree() {
    rm -rf "${tree:?}"/*
    mkdir -p "$tree/include/kvpager" "$tree/alloc" "$tree/tiers" "$tree/attention" \
        "$tree/integration/cli" "$tree/tests/unit" "$tree/bench"
    printf '#include <stddef.h>\nsize_t kvp_count(void);\n' >"$tree/include/kvpager.h"
    printf '#include <stdint.h>\n' >"$tree/include/kvpager/status.h"
    printf '#include "kvpager.h"\n#include <sys/mman.h>\n' >"$tree/alloc/page.c"
    printf '#include "alloc/page.h"\n#include <zstd.h>\n' >"$tree/tiers/codec.c"
    printf '#include "kvpager/status.h"\n#include <immintrin.h>\n' >"$tree/attention/isa.c"
    printf '#include "cli/cli.h"\n#include <jansson.h>\n' >"$tree/integration/cli/main.c"
    printf '#include "alloc/page.h"\n' >"$tree/tests/unit/test_page.c"
    echo "alloc/page.c tiers/codec.c attention/isa.c include/kvpager.h include/kvpager/status.h" \
        >"$tree/CMakeLists.txt"
    echo "cli/main.c" >"$tree/integration/CMakeLists.txt"
    echo "page" >"$tree/tests/CMakeLists.txt"
}

expect() { # expect good|bad LINT WHAT
    n_cases=$((n_cases + 1))
    verdict=good
    sh "$here/$2.sh" "$tree" >"$output" 2>&1 || verdict=bad
    if [ $verdict != "$1" ]; then
        echo "$2: $3: $verdict instead of $1"
        cat "$output"
        failed=1
    fi
}

spoil() { # spoil LINT FILE LINE: LINE added to FILE must be objected to
    clean_tree
    echo "$3" >>"$tree/$2"
    expect bad "$1" "$3 in $2"
}

clean_tree
for lint in includes headers words sources; do
    expect good $lint "a clean tree"
done

spoil includes include/kvpager.h '#include <unistd.h>'
spoil includes include/kvpager.h '#include "alloc/page.h"'
spoil includes alloc/page.c '#include "tiers/codec.h"'
spoil includes alloc/page.c '#include <zstd.h>'
spoil includes alloc/page.c '#include "tests/support/faults.h"'
spoil includes tiers/codec.c '#include "attention/isa.h"'
spoil includes tiers/codec.c '#include <jansson.h>'
spoil includes tiers/frames.c '#include <zstd.h>'
spoil includes tiers/codec.h '#  include <zstd.h>'
spoil includes attention/isa.c '#include "tiers/codec.h"'
spoil includes attention/isa.c '#include "alloc/page.h"'
spoil includes integration/cli/main.c '#include "tiers/codec.h"'
spoil includes integration/cli/main.c '#include <zstd.h>'
spoil headers include/kvpager.h 'size_t kvp_new(int class, uint32_t n);'
spoil headers include/kvpager/status.h 'int *kvp_class(int class);'
spoil words alloc/page.c "/* as in /w"'ork/notes */'
spoil words alloc/page.c '/* FIXME: too slow */'
spoil words tests/unit/test_page.c 'usleep(10);'
spoil sources include/kvpager/view.h 'int x;'
spoil sources alloc/lane.c 'int x;'
spoil sources tests/unit/test_lane.c 'int x;'
spoil sources integration/cli/args.c 'int x;'

echo "$n_cases cases"
exit $failed
