#!/bin/sh
# demo_long.sh KVPAGER [TOKENS] - a pretrained model reads a book with an eighth of the RAM that its
# keys and values need, and answers a question about it, in up to TOKENS tokens (default 100).
# `make demo-long` calls it from the root of the tree.
set -eu

kvpager=${1:?usage: demo_long.sh KVPAGER [TOKENS]}
tokens=${2:-100}
question='What is this text about? Answer in one or two sentences.'

model=$(sh models/smollm2/fetch.sh)

run() {
    printf '$ %s\n' "$*" >&2
    "$@" </dev/null
}

cat >&2 <<'END'
SmolLM2, a Llama of 135 million parameters, reads the first chapters of Moby-Dick, 7,700 tokens, and
answers a question. Their keys and values take about 175 MiB; they get 22 MiB of RAM, an eighth, and
the rest lies on disk. Afterwards the same is done with everything in RAM, and tokens and logits are
compared bit by bit. That takes a minute or two.

END

status=0
run "$kvpager" generate -m "$model" --chat -f models/smollm2/book.txt -p "$question" -n "$tokens" \
    --ram 22M --map --verify --stats || status=$?
[ "$status" -eq 0 ] || exit "$status"

case $kvpager in
/*) path=$kvpager ;;
*) path=$PWD/$kvpager ;;
esac
cat >&2 <<END

A model this small reads badly, but what it read was there to the last bit, from disk or not.

With a model and a text of your own (a Hugging Face folder or .gguf file of GPT-2, Llama, Qwen2, OPT):
    $path plan -m MODEL --ctx TOKENS --ram SIZE     says beforehand what it will take
    $path generate -m MODEL --chat -f TEXT -p QUESTION --ram SIZE
END
