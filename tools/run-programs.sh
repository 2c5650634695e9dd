#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# run-programs.sh PROGRAM...: runs test programs one after the other. Each prints "ok" and "not ok"
# lines of its own; one that ends badly without having said "not ok" (a sanitizer's report, a panic,
# a hang), or that says neither, gets such a line here.
set -u

LONGEST=800 # seconds that one program may take

failed=0
for program in "$@"; do
    log=$(mktemp)
    timeout -k 5 $LONGEST "$program" >"$log" 2>&1
    status=$?
    cat "$log"
    if [ $status != 0 ]; then
        failed=1
        grep -q '^not ok ' "$log" || echo "not ok $(basename "$program") ended with status $status"
    elif ! grep -q '^ok ' "$log"; then
        failed=1
        echo "not ok $(basename "$program") tested nothing"
    fi
    rm -f "$log"
done
exit $failed
