#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# bench-kvm.sh BUILD [native]: what the kvm engine costs beside `qemu-system-x86_64 -accel kvm`, counted in the rig
# (docs/kvm.md): one processor, whose time stamp counter counts instructions. The table goes to standard
# output and BUILD/bench-kvm.tsv; the exit status is 1 if a floor is broken. With "native": only what
# tools/bench_native.py asks of the peer, to BUILD/bench-kvm-native.tsv.
set -eu

build=$1
what=${2:-}
top=$(dirname "$0")/..
qemu=$(command -v qemu-system-x86_64)
share=/usr/share
[ -s "$build/rig/host.img" ] || {
    echo "bench-kvm: there is no $build/rig/host.img: 'make rig' makes it, as root or through sudo" >&2
    exit 1
}
job=$(mktemp -d "$build/rig/job.XXXXXX")
trap 'rm -rf "$job"' EXIT
trap 'exit 1' HUP INT TERM

# The peer, its libraries and firmware, under root/ as they lie on this machine: the rig's host is the
# same release of Debian.
for file in "$qemu" $(ldd "$qemu" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p') \
    $share/seabios/bios-256k.bin $share/qemu/bios-microvm.bin $share/qemu/linuxboot_dma.bin \
    $share/qemu/pvh.bin $share/qemu/kvmvapic.bin; do
    folder=$job/root$(readlink -f "$(dirname "$file")")
    mkdir -p "$folder"
    cp -L "$file" "$folder/"
done
cp "$top"/tools/bench-kvm/* "$build/lodge" "$build/guests/bin/exits.elf" \
    "$build/guests/debian-6.1-cloud/vmlinuz" "$build/guests/debian-6.1-cloud/initrd" "$job/"
echo "$what" >"$job/what"
status=0
"$top/tools/run-rig.sh" -t 900 -n bench-kvm "$build" "$job" -icount shift=0,sleep=off -smp 1 \
    >"$job/out" || status=$?
sed '/^tsv: /d' "$job/out"
sed -n 's/^tsv: //p' "$job/out" >"$build/bench-kvm${what:+-$what}.tsv"
exit $status
