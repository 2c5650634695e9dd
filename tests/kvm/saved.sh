#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# saved.sh short|long BUILD: Debians under load (tests/stock/saved.py), saved under one engine and restored under the
# other: kvm in the rig, soft outside, files carried in and out. The first boots under kvm, the others
# under soft, portable, and with the TSC of the rig's processor, since that cannot scale. In the end each must find
# all its results right, in the rig. 'short': two guests, four moves from engine to engine. 'long': ten guests, a hundred.
set -eu

form=$1
build=$2
case $form in
short) guests=2 rounds=1 ;;
long) guests=10 rounds=5 ;;
*)
    echo "usage: saved.sh short|long BUILD" >&2
    exit 2
    ;;
esac
top=$(dirname "$0")/../..
driver=$top/tests/stock/saved.py
work=$(mktemp -d "$(realpath "$build")/rig/saved.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$work/job/build/guests/debian-6.1-cloud" "$work/files"
cp -a "$driver" "$work/job/"
cp -a "$build/lodge" "$work/job/build/"
cp -a "$build/guests/debian-6.1-cloud/vmlinuz" "$build/guests/debian-6.1-cloud/initrd" \
    "$work/job/build/guests/debian-6.1-cloud/"
# Linux does without XSAVE there (docs/rig.md), and has one processor for two vCPUs.
in_rig="python3 saved.py build --engine kvm --append noxsave --load noavx --slower 6"

# rig SECONDS: runs the job with the files, which are what it leaves afterwards.
rig() {
    rm -rf "$work/job/in" "$work/job/out"
    mv "$work/files" "$work/job/in"
    mkdir "$work/job/out" "$work/files"
    "$top/tools/run-rig.sh" -t "$1" -n "saved-$form" -r 1800 -o "$work/files" "$build" "$work/job" -smp 1
}

outside() {
    python3 "$driver" "$build" --load noavx --append noxsave "$@" moves
}

# One boots there, and stays under kvm for a while.
echo "$in_rig --moves $rounds --leave out/0 moves" >"$work/job/job"
rig 400

XDG_RUNTIME_DIR=$work "$build/lodge" restore -e soft --paused -d --name tsc "$work/files/0"
tsc=$(XDG_RUNTIME_DIR=$work "$build/lodge" inspect tsc | sed 's/.*"tsc_khz":\([0-9]*\).*/\1/')
XDG_RUNTIME_DIR=$work "$build/lodge" kill tsc

outside --moves 0 --file "$work/files/0" --leave "$work/files/0"
outside --moves 0 --portable --tsc-khz "$tsc" --leave "$work/files/1"
n=2
while [ $n -lt $guests ]; do
    outside --moves 0 --file "$work/files/$((n - 1))" --leave "$work/files/$n"
    n=$((n + 1))
done

round=1
while :; do
    last=$([ $round -lt $rounds ] || echo yes)
    cat >"$work/job/job" <<EOF
failed=0
for file in in/*[0-9]; do
    $in_rig --moves 0 --file \$file $([ "$last" ] || echo '--leave out/${file#in/}') moves || failed=1
done
exit \$failed
EOF
    rig $((120 + guests * 80))
    [ -z "$last" ] || break
    for file in "$work"/files/*[0-9]; do # with its clock in a file beside it
        outside --moves 1 --sequence si --file "$file" --leave "$file"
    done
    round=$((round + 1))
done
