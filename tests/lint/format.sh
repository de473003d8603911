#!/bin/sh
# format.sh ROOT - every source is as clang-format 14 would write it (`make format`). Exit status 77
# without that version: others disagree with it.
cd "${1:?usage: format.sh ROOT}" || exit 2
for clang_format in clang-format-14 clang-format ""; do
    "$clang_format" --version 2>/dev/null | grep -q 'version 14\.' && break
done
if [ -z "$clang_format" ]; then
    echo "no clang-format 14"
    exit 77
fi
sources=$(find include alloc tiers attention integration tests bench -name '*.[ch]')
# shellcheck disable=SC2086  # none has a space
"$clang_format" --dry-run --Werror --ferror-limit=3 $sources || exit 1
# It leaves comments alone: it would break tables in them.
# shellcheck disable=SC2086
awk 'length > 100 { print FILENAME ":" FNR ": longer than 100 columns"; bad = 1 } END { exit bad }' $sources
