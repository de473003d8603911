#!/bin/sh
# exports.sh LIBRARY.so - every exported symbol starts with kvp_.
library=${1:?usage: exports.sh LIBRARY.so}
nm -D --defined-only "$library" | awk '
    $3 !~ /^kvp_/ { print "exported, but not named kvp_: " $3; bad = 1 }
    $3 ~ /^kvp_/ { n++ }
    END {
        if (!n)
            print "no exported symbols found"
        exit (bad || !n)
    }'
