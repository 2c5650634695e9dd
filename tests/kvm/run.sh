#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# run.sh short|long BUILD: the tests with -e kvm in the rig (docs/rig.md). What is run there says
# tests/kvm/job; here it gets all that it needs on a disk of its own. It is run twice: with two
# processors, and with one for Linux guests, which do not bear an interrupt that comes twice.
set -eu

form=$1
build=$2
case $form in
short) own_seconds=400 linux_seconds=200 ;;
long) own_seconds=3000 linux_seconds=3000 ;;
*)
    echo "usage: run.sh short|long BUILD" >&2
    exit 2
    ;;
esac
top=$(dirname "$0")/../..
[ -s "$build/rig/host.img" ] || {
    echo "not ok rig: there is no $build/rig/host.img: 'make rig' makes it, as root or through sudo"
    exit 1
}
job=$(mktemp -d "$build/rig/job.XXXXXX")
trap 'rm -rf "$job"' EXIT
trap 'exit 1' HUP INT TERM

guests=$job/build/guests
mkdir -p "$guests/debian-6.1-cloud" "$job/guests" "$job/tests" "$job/docs"
echo "$form" >"$job/form"
cp -a "$top/tests/kvm/job" "$job/"
cp -a "$top/tests/kvm" "$top/tests/cli" "$top/tests/guests" "$job/tests/"
cp -a "$top/docs/machine.md" "$job/docs/"
cp -a "$top/guests/runs" "$top/guests/die" "$job/guests/"
cp -a "$build/lodge" "$job/build/"
mkdir "$job/build/kvm-test"
for program in "$build"/kvm-test/*; do
    [ -d "$program" ] || cp -a "$program" "$job/build/kvm-test/"
done
cp -a "$build/guests/bin" "$build/guests/cli.elf" "$guests/"
cp -a "$build/guests/debian-6.1-cloud/vmlinuz" "$build/guests/debian-6.1-cloud/initrd" \
    "$guests/debian-6.1-cloud/"
status=0
echo own >"$job/part"
"$top/tools/run-rig.sh" -t "$own_seconds" -n "kvm-$form" "$build" "$job" || status=1
echo linux >"$job/part"
{
    "$top/tools/run-rig.sh" -t "$linux_seconds" -n "kvm-$form-linux" "$build" "$job" -smp 1 ||
        echo "part linux failed" >"$job/failed"
} | tee "$job/linux" | grep --line-buffered -v '^recorded ' || true
[ ! -e "$job/failed" ] || status=1
[ "$form" = short ] || python3 "$top/tests/kvm/inventory.py" "$build" --engines soft,recorded \
    --recorded "$job/linux" --exceptions "$top/tests/kvm/exceptions-inventory" \
    --exceptions "$top/tests/kvm/exceptions-inventory-rig" --linux debian-6.1-cloud --append noxsave linux ||
    status=1
exit $status
