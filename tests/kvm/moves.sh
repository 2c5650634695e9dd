#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# moves.sh short|long BUILD: Debian, moved every few ms from one machine under soft into the next
# (tests/kvm/move.c), on any machine. Here Linux keeps its vector registers by XSAVE, which it cannot in
# the rig (docs/rig.md), and there are fifty moves where the rig has one.
set -u

form=$1
build=$2
debian=$build/guests/debian-6.1-cloud
failed=0

# debian VCPUS PROGRAM: panic=-1, so that a panic is the end at once
debian() {
    "$build/kvm-test/move" --engines s --least 0 --most 4 --longer 10 --memory 512 --vcpus "$1" \
        --append "console=ttyS0 panic=-1 lodge.run=$2" --expect "lodge: $2: exit 0" \
        "$debian/vmlinuz" "$debian/initrd" || failed=1
}

debian 2 hello
[ "$form" = short ] || for vcpus in 1 2 4; do
    debian $vcpus selftest
done
exit $failed
