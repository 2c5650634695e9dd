#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# make-rig.sh OUT: the disk of the rig's host (docs/rig.md), an ext4 file system with Debian 12's
# minimal base and python3. No kernel, modules or programs of ours are in it: those come with the
# initrd and with the job, so this is made once. The same packages make the same image.
#
# debootstrap needs root; it is asked for through sudo where we are not.
set -eu

SIZE=448M
EPOCH=1704067200 # of all files: one date is as good as another
UUID=6c6f6467-6500-4269-a167-000000000001
# What the host has no use for
WASTE="usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/i18n usr/share/zoneinfo
    usr/share/bash-completion usr/share/perl5 var/cache var/lib/apt/lists var/log var/tmp
    etc/machine-id etc/hostname etc/resolv.conf dev usr/lib/python3*/test"

out=$1
here=$(dirname "$0")

say() { printf 'make-rig: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
        die "debootstrap needs root, and there is no sudo: run 'make build/rig/host.img' as root once"
    as_root=sudo
fi
# Administrators' tools are not on everyone's PATH.
PATH=$PATH:/usr/sbin:/sbin
for tool in debootstrap mke2fs; do
    command -v $tool >/dev/null || die "$tool is missing (tools/setup.sh kvm installs it)"
done
archive=$("$here/debian-archive.sh") || exit 1

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(realpath "$(dirname "$out")")/make-rig.XXXXXX")
trap '$as_root rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say "Debian 12 for the rig's host, by debootstrap from $archive"
$as_root debootstrap --variant=minbase --include=python3 bookworm "$work/root" "$archive" \
    >"$work/log" 2>&1 || {
    tail -n 5 "$work/log" >&2
    $as_root tail -n 5 "$work/root/debootstrap/debootstrap.log" >&2 2>/dev/null || true
    die "debootstrap failed"
}
for name in $WASTE; do
    # shellcheck disable=SC2086 # a pattern
    $as_root rm -rf "$work"/root/$name
done
$as_root find "$work/root" -name __pycache__ -prune -exec rm -rf '{}' +
$as_root mkdir -p "$work/root/dev" "$work/root/run" "$work/root/job" "$work/root/var/log" \
    "$work/root/var/tmp" "$work/root/var/cache"
$as_root chmod 1777 "$work/root/var/tmp"
$as_root find "$work/root" -exec touch -h -d "@$EPOCH" '{}' +

truncate -s "$SIZE" "$work/host.img"
$as_root env E2FSPROGS_FAKE_TIME=$EPOCH mke2fs -q -F -t ext4 -O ^has_journal -U "$UUID" \
    -E "hash_seed=$UUID,root_owner=0:0" -d "$work/root" "$work/host.img"
mv "$work/host.img" "$out"
say "done: $(du -h "$out" | cut -f 1)"
