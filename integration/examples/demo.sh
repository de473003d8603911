#!/bin/sh
# demo.sh KVPAGER - the demo: a model reads 900 tokens of a book and writes 400 more, far past its
# context of 1,024, with 1 MiB of RAM for its KV.
set -eu
kvpager=${1:?usage: demo.sh KVPAGER}
model=models/demo

cat >&2 <<END
A model of 7 million parameters continues a page of a book. It is here to show memory, not prose:
1 MiB of RAM holds its keys and values, which need about 6; the rest lies compressed in RAM and on
disk. Then it does so again with everything in RAM, to see that not a bit differs.

END
run() {
    echo "+ $*" >&2
    "$@"
}
run "$kvpager" generate -m $model -f $model/excerpt.txt -n 400 --ignore-eos \
    --ram 1M --zram 1M --map --stats --verify
cat >&2 <<END

With a model of your own, any GPT-2 in a Hugging Face folder, and as much text as you like:

    $(cd "$(dirname "$kvpager")" && pwd)/kvpager generate -m DIR -f FILE -n 400 --ram 64M --zram 16M --map
END
