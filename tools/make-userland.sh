#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# make-userland.sh OUT PACKAGES BUSYBOX FILE...: an initrd that holds a whole Debian 12 with these packages
# (names with commas): minbase by debootstrap, without what a compiler and a script do not need. busybox and
# every FILE are put under /lodge, the FILE named "init" is the first program.
#
# debootstrap needs root; it is asked for through sudo where we are not.
set -eu

# What neither gcc for C nor python3 opens; the initrd is unpacked into the guest's memory.
WASTE="usr/share usr/sbin usr/lib/apt usr/lib/locale var/cache var/lib/apt var/lib/dpkg var/log dev
    usr/bin/perl* usr/bin/x86_64-linux-gnu-lto-dump* usr/bin/x86_64-linux-gnu-dwp
    usr/bin/x86_64-linux-gnu-gp-* usr/bin/x86_64-linux-gnu-ld.gold usr/bin/x86_64-linux-gnu-gcov*
    usr/lib/gcc/x86_64-linux-gnu/*/lto1 usr/lib/gcc/x86_64-linux-gnu/*/lto-wrapper
    usr/lib/gcc/x86_64-linux-gnu/*/lib*san* usr/lib/gcc/x86_64-linux-gnu/*/*.a
    usr/lib/x86_64-linux-gnu/*.a usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/perl*
    usr/lib/x86_64-linux-gnu/lib*san* usr/lib/x86_64-linux-gnu/*gprofng*
    usr/lib/x86_64-linux-gnu/libapt* usr/lib/x86_64-linux-gnu/libdb-* usr/lib/x86_64-linux-gnu/libicu*
    usr/lib/x86_64-linux-gnu/libgnutls* usr/lib/x86_64-linux-gnu/libcrypto* usr/lib/x86_64-linux-gnu/libssl*
    usr/lib/x86_64-linux-gnu/libstdc++*"

out=$1
packages=$2
busybox=$3
shift 3
here=$(dirname "$0")

say() { printf 'make-userland: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "debootstrap needs root, and there is no sudo: run 'make $out' as root once"
    as_root=sudo
fi
# Administrators' tools are not on everyone's PATH.
PATH=$PATH:/usr/sbin:/sbin
command -v debootstrap >/dev/null || die "debootstrap is missing (tools/setup.sh bench installs it)"
archive=$("$here/debian-archive.sh") || exit 1

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(realpath "$(dirname "$out")")/make-userland.XXXXXX")
trap '$as_root rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say "Debian 12 with $packages, by debootstrap from $archive"
$as_root debootstrap --variant=minbase --include="$packages" bookworm "$work/root" \
    "$archive" >"$work/log" 2>&1 || {
    tail -n 5 "$work/log" >&2
    $as_root tail -n 5 "$work/root/debootstrap/debootstrap.log" >&2 2>/dev/null || true
    die "debootstrap failed"
}
for name in $WASTE; do
    case $packages:$name in
    stress-ng:*/libcrypto*) continue ;; # libkmod's
    esac
    # shellcheck disable=SC2086 # a pattern
    $as_root rm -rf "$work"/root/$name
done
$as_root find "$work/root" -name __pycache__ -prune -exec rm -rf '{}' +
$as_root mkdir -p "$work/root/dev" "$work/root/lodge" "$work/root/tmp"
$as_root cp "$busybox" "$@" "$work/root/lodge/"
$as_root mv "$work/root/lodge/init" "$work/root/init"
busybox=$(realpath "$busybox")
(cd "$work/root" && $as_root find . | LC_ALL=C sort |
    $as_root "$busybox" cpio -o -H newc -R 0:0 2>/dev/null) >"$work/initrd"
mv "$work/initrd" "$out"
say "done: $(du -h "$out" | cut -f 1)"
