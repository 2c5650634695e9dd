#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# setup.sh run|test|kvm|bench: installs what is missing from Debian's packages, through sudo when not
# root, and says what it installs. docs/dependencies.md has the reason for each.
set -eu

run_packages="gcc libc6-dev linux-libc-dev musl-dev make"
kvm_packages="$run_packages binutils python3 debootstrap e2fsprogs qemu-system-x86"
image_packages="grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools"
test_packages="$kvm_packages $image_packages ovmf clang libclang-rt-14-dev libzydis-dev acpica-tools lrzsz pyflakes3 bochs bochs-term bochsbios vgabios openssl sbsigntool"
bench_packages="$test_packages"

case ${1:-} in
run) packages=$run_packages ;;
test) packages=$test_packages ;;
kvm) packages=$kvm_packages ;;
bench) packages=$bench_packages ;;
*)
    echo "usage: setup.sh run|test|kvm|bench" >&2
    exit 2
    ;;
esac

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "setup: these Debian packages are missing, and there is no sudo to install them with:" >&2
        echo "setup:  $missing" >&2
        echo "setup: as root:  apt-get install --no-install-recommends$missing" >&2
        exit 1
    }
    as_root=sudo
fi
echo "setup: installing from Debian's packages:$missing"
$as_root apt-get -q update >/dev/null
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends $missing \
    >/dev/null
