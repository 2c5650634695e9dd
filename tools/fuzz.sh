#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# fuzz.sh BUILD_DIR SECONDS: runs each libFuzzer target for so long, starting from the seeds that are
# kept in tests/fuzz/corpus/NAME or made by tests/fuzz/NAME.seeds.py (into BUILD_DIR/fuzz/seeds/NAME),
# and from what earlier runs found (BUILD_DIR/fuzz/corpus/NAME). A target must have seeds. Prints
# "ok" or "not ok" for each; an input that crashed is kept beside its corpus.
set -u

out=$1
seconds=$2
failed=0
for source in tests/fuzz/*.c; do
    name=$(basename "$source" .c)
    found=$out/fuzz/corpus/$name
    seeds=tests/fuzz/corpus/$name
    mkdir -p "$found"
    if [ -e "tests/fuzz/$name.seeds.py" ]; then
        seeds=$out/fuzz/seeds/$name
        rm -rf "$seeds" && mkdir -p "$seeds" && python3 "tests/fuzz/$name.seeds.py" "$seeds"
    fi
    if [ -z "$(ls "$seeds")" ]; then
        echo "not ok fuzz $name: no seeds in $seeds"
        failed=1
        continue
    fi
    if "$out/fuzz/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="$found-crash-" "$found" "$seeds" \
        2>&1 | tail -n 40 >"$out/fuzz/$name.log" &&
        grep -q '^stat::number_of_executed_units' "$out/fuzz/$name.log" &&
        ! grep -q 'ERROR\|SUMMARY' "$out/fuzz/$name.log"; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/fuzz/$name.log")
        echo "ok fuzz $name ($runs runs)"
    else
        cat "$out/fuzz/$name.log"
        echo "not ok fuzz $name"
        failed=1
    fi
done
exit $failed
