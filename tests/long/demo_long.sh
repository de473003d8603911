#!/bin/sh
# demo_long.sh KVPAGER MODEL - `make demo-long`, with a short answer, does what it promises: it ends
# well, with the same bits as all in RAM, though most of the KV was not there. Called from the root
# of the tree; exit 77: there is no MODEL.
set -eu

kvpager=$1 model=$2
[ -f "$model" ] || exit 77
said=$(mktemp)
trap 'rm -f "$said"' EXIT

fail() {
    echo "demo_long: $1" >&2
    cat "$said" >&2
    exit 1
}

sh integration/demo_long.sh "$kvpager" 4 >"$said" 2>&1 || fail "exit status $?"
grep -q 'identical to all-in-RAM: yes' "$said" || fail 'not said to be identical'
grep -q ' -n 4 ' "$said" || fail 'not as many tokens as asked for'
grep -Eq '^faults .*major [1-9]' "$said" || fail 'no page came from disk'
