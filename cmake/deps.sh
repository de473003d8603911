#!/bin/sh
# Install what building kvpager needs and this machine lacks.
#
#   cmake/deps.sh [build|test|long|bench|ci]       YES=1: do not ask
#
# build: compiler, tools, libraries. test: what the tests need besides. long: build, and what fetches
# the pretrained model. bench: build, and what the benchmarks compare with. ci: everything but that.
# With nothing missing it does nothing, at once. On Debian and its derivatives it shows the apt-get
# command, asks if there is a terminal, and runs it as root or through sudo; elsewhere it names what
# is missing.
set -u
export LC_ALL=C

build="gcc libc6-dev cmake ninja-build pkg-config libxxhash-dev
       liburing-dev libzstd-dev libjemalloc-dev libpcre2-dev libjansson-dev libutf8proc-dev"
test="libcmocka-dev g++ binutils git util-linux"
long="python3 python3-pip ca-certificates"
bench="git libdnnl-dev libmimalloc2.0 libtcmalloc-minimal4 liblz4-dev gnuplot-nox"
ci="clang clang-format libclang-rt-dev"

case ${1:-build} in
build) packages=$build ;;
test) packages="$build $test" ;;
long) packages="$build $long" ;;
bench) packages="$build $bench" ;;
ci) packages="$build $test $long $ci" ;;
*)
    sed -n '2,10p' "$0" >&2
    exit 2
    ;;
esac

say() {
    echo "kvpager: $*" >&2
}

# ---- other systems: look for the things themselves -----------------------------------------------

lacks=""
need() { # need NAME COMMAND...: note NAME if COMMAND fails
    name=$1
    shift
    "$@" >/dev/null 2>&1 || lacks="$lacks $name"
}

compiles() {
    echo "#include <$1>" | cc -E -x c - -o /dev/null
}

check_by_hand() {
    need "a-C-compiler(cc)" command -v cc
    need cmake command -v cmake
    need pkg-config command -v pkg-config
    need xxHash compiles xxhash.h
    need PCRE2 pkg-config --exists libpcre2-8
    need jansson pkg-config --exists jansson
    need utf8proc pkg-config --exists libutf8proc
    case ${1:-build} in test | ci) need cmocka pkg-config --exists cmocka ;; esac
    required=$lacks
    lacks=""
    need liburing pkg-config --exists liburing
    need zstd pkg-config --exists libzstd
    need jemalloc pkg-config --exists jemalloc
    [ -z "$lacks" ] || say "built without these, which are optional:$lacks"
    [ -z "$required" ] && exit 0
    say "this is not a Debian system, so please install, with headers:$required"
    exit 1
}

if ! command -v dpkg-query || ! command -v apt-get; then
    check_by_hand "$@"
fi >/dev/null

# ---- Debian --------------------------------------------------------------------------------------

# shellcheck disable=SC2086  # lists of words
missing=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2>/dev/null |
    awk -v all="$packages" '
        $1 == "installed" { have[$2] = 1 }
        END { n = split(all, name); for (i = 1; i <= n; i++) if (!(name[i] in have)) printf "%s ", name[i] }')
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        say "as root, please run: apt-get install $missing"
        exit 1
    fi
    as_root=sudo
fi
install="apt-get install -y --no-install-recommends $missing"
say "these Debian packages are missing, to be installed by"
say "    $as_root${as_root:+ }$install"
if [ "${YES:-}" = 1 ]; then
    :
elif [ -t 0 ] && [ -t 2 ]; then
    printf 'kvpager: install them now? [Y/n] ' >&2
    read -r answer
    case $answer in
    "" | [Yy]*) ;;
    *) exit 1 ;;
    esac
else
    say "no terminal to ask on: going ahead"
fi

# shellcheck disable=SC2086
apt_install() {
    $as_root env DEBIAN_FRONTEND=noninteractive $install
}

# A fresh machine has no package lists, an old one outdated ones.
# shellcheck disable=SC2086
if ! apt-cache show $missing >/dev/null 2>&1 || ! apt_install; then
    $as_root apt-get update && apt_install
fi || {
    say "apt-get failed; see above"
    exit 1
}
rm -f build/*/.configured # what is there now was not there when they were configured
