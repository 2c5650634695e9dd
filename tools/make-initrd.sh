#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# make-initrd.sh OUT BUSYBOX FILE...: a newc cpio archive with /init, busybox under its usual names
# and every FILE as /lodge/NAME. Written by busybox's own cpio, so nothing else is needed; not
# compressed, since unpacking would cost the guest more than reading.
set -eu

out=$1
busybox=$(realpath "$2")
shift 2
root=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$root" "$out.new"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/root" "$root/lodge" \
    "$root/etc"
cp "$busybox" "$root/bin/busybox"
for name in $("$busybox" --list); do
    [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
for file in "$@"; do
    case $file in
    */init) cp "$file" "$root/init" ;;
    *) cp "$file" "$root/lodge/" ;;
    esac
done
(cd "$root" && find . | LC_ALL=C sort | "$busybox" cpio -o -H newc -R 0:0 2>/dev/null) >"$out.new"
mv "$out.new" "$out"
