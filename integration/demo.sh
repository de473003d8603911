#!/bin/sh
# demo.sh KVPAGER - run the main job with the demo model: past the model's context, with a sixth of
# the RAM that its keys and values need. `make demo` calls it from the root of the tree.
set -eu

kvpager=${1:?usage: demo.sh KVPAGER}
tokens=400

run() {
    printf '$ %s\n' "$*" >&2
    "$@"
}

cat >&2 <<'END'
A GPT-2 of 7 million parameters reads about 900 tokens of a book and writes 400 more, well past its
context of 1,024. The keys and values of a full context take about 6 MiB; they get 1 MiB of RAM.
Another MiB holds compressed pages, the rest lies on disk. Afterwards the same is done with
everything in RAM, and tokens and logits are compared bit by bit.

END

status=0
run "$kvpager" generate -m models/demo -f models/demo/excerpt.txt -n "$tokens" --ignore-eos \
    --temp 0.7 --top-p 0.9 --seed 5 --ram 1M --zram 1M --map --verify --stats || status=$?
[ -t 1 ] || echo
[ "$status" -eq 0 ] || exit "$status"

cat >&2 <<'END'

Forgotten, unless a memory keeps it: --beyond recall looks up in all that was read before what followed
similar text. Here is what that is worth in another part of the book, seen 256 tokens at a time, and what
a memory of another book is worth.

END
run "$kvpager" memory-test -m models/demo -f models/smollm2/book.txt --other models/demo/other.txt \
    --ctx 256 --tokens 5000 --ram 1M

case $kvpager in
/*) path=$kvpager ;;
*) path=$PWD/$kvpager ;;
esac
cat >&2 <<END

A model this small shows memory, not prose: its sentences would wander without a budget as well.
What went to disk came back bit by bit.

With a model of your own (a Hugging Face folder or .gguf file of GPT-2, Llama, Qwen2 or OPT):
    $path generate -m MODEL -f TEXT -n $tokens --ram 64M --zram 64M --map --verify
All options: $path generate --help
END
