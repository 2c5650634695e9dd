#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# run-tests.sh SUITES [NAME...]: runs the suites of a list, all or the named ones, one after the
# other. A suite prints "ok NAME" or "not ok NAME" for each test; what else it prints is shown only
# if something failed. A suite that ends badly, takes too long, or prints neither counts as failed.
# The last line is "N passed, N failed"; exit status 0 only if none failed.
#
# SUITES has a line for each: name, seconds that it may take, command.
set -u

suites=$1
shift
only=" $* "
logs=${LODGE_LOGS:-build/logs}
mkdir -p "$logs"
passed=0
failed=0

run_suite() {
    name=$1
    seconds=$2
    command=$3
    log=$logs/$name.log
    began=$(date +%s)
    timeout -k 10 "$seconds" sh -c "$command" >"$log" 2>&1 </dev/null
    status=$?
    took=$(($(date +%s) - began))
    good=$(grep -c '^ok ' "$log")
    bad=$(grep -c '^not ok ' "$log")
    note=
    [ "$status" != 124 ] && [ "$status" != 137 ] || note=" (cut off after $seconds s)"
    if [ "$bad" = 0 ] && { [ "$status" != 0 ] || [ "$good" = 0 ]; }; then
        bad=1
        note="$note (ended with status $status, $good tests reported)"
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    printf '%-24s %5d passed, %d failed, %d s%s\n' "$name" "$good" "$bad" "$took" "$note"
    if [ "$bad" != 0 ]; then
        grep -B 12 '^not ok ' "$log" | tail -n 60 | sed 's/^/    /'
        [ -z "$note" ] || tail -n 30 "$log" | sed 's/^/    /'
    fi
}

while IFS='	' read -r name seconds command <&3; do
    case $name in '' | '#'*) continue ;; esac
    if [ "$only" != "  " ]; then
        case $only in *" $name "*) ;; *) continue ;; esac
    fi
    run_suite "$name" "$seconds" "$command"
done 3<"$suites"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
