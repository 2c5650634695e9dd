#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# fetch-xen.sh OUT: Xen 4.17 from Debian's package, unpacked, not installed (its package would have the machine
# boot it), for tools/bench_native.py.
set -eu

out=$1
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
(cd "$work" && apt-get -q -o APT::Sandbox::User= download xen-hypervisor-4.17-amd64 >log 2>&1) || {
    echo "fetch-xen: $(tail -n 1 "$work/log")" >&2
    exit 1
}
dpkg-deb -x "$work"/*.deb "$work/unpacked"
gunzip -c "$work/unpacked/boot/xen-4.17-amd64.gz" >"$work/xen"
mv "$work/xen" "$out"
