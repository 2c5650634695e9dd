#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# Fetches the stock guests from Debian's packages and unpacks them under build/guests. Nothing is
# installed and no privilege is needed: apt works in a state directory of its own, with the
# machine's own package sources, plus the backports suite of the same archive.
#
#   build/guests/debian-6.1-cloud/vmlinuz    linux-image-cloud-amd64
#   build/guests/debian-6.1-cloud/modules/   those that the rig's host needs (tools/make-rig.sh), and
#                                            "order", in which they are to be loaded
#   build/guests/debian-6.1-generic/vmlinuz  linux-image-amd64
#   build/guests/debian-6.12-cloud/vmlinuz   linux-image-cloud-amd64 of bookworm-backports
#   build/guests/gnumach/vmlinuz             gnumach-image-1.8-486
#   build/guests/tools/busybox               busybox-static
set -eu

out=${1:-build/guests}
mkdir -p "$out"
out=$(cd "$out" && pwd)
apt_dir=$out/.apt

# A disk, and KVM on an AMD processor; each after those that it needs.
rig_modules="drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev
    drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci drivers/block/virtio_blk
    virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-amd"

say() { printf 'fetch-guests: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# --- an apt of our own --------------------------------------------------------------------------
prepare_apt() {
    mkdir -p "$apt_dir/state/lists/partial" "$apt_dir/cache/archives/partial" \
        "$apt_dir/sources.list.d" "$apt_dir/deb"
    cp /etc/apt/sources.list.d/debian*.sources "$apt_dir/sources.list.d/" 2>/dev/null || true
    cp /etc/apt/sources.list "$apt_dir/sources.list" 2>/dev/null || : >"$apt_dir/sources.list"
    if ! grep -rqs 'bookworm-backports' "$apt_dir/sources.list" "$apt_dir/sources.list.d"; then
        uri=$("$(dirname "$0")/debian-archive.sh") || exit 1
        printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: %s\n' \
            "$uri" /usr/share/keyrings/debian-archive-keyring.gpg \
            >"$apt_dir/sources.list.d/backports.sources"
    fi
    apt_do apt-get -q update >"$apt_dir/update.log" 2>&1 ||
        die "apt-get update failed: $(tail -n 1 "$apt_dir/update.log")"
}

apt_do() {
    command=$1
    shift
    "$command" -o Dir::State="$apt_dir/state" -o Dir::State::status=/var/lib/dpkg/status \
        -o Dir::Cache="$apt_dir/cache" -o Dir::Etc::sourcelist="$apt_dir/sources.list" \
        -o Dir::Etc::sourceparts="$apt_dir/sources.list.d" -o APT::Sandbox::User= "$@"
}

# download PACKAGE[/SUITE] DIR: unpacks the package into DIR
download() {
    rm -rf "$2" "$apt_dir/deb"
    mkdir -p "$2" "$apt_dir/deb"
    (cd "$apt_dir/deb" && apt_do apt-get -q download "$1" >"$apt_dir/download.log" 2>&1) ||
        die "cannot download $1: $(tail -n 1 "$apt_dir/download.log")"
    dpkg-deb -x "$apt_dir"/deb/*.deb "$2"
}

# The versioned package that a kernel meta-package stands for.
kernel_package() {
    apt_do apt-cache show --no-all-versions "$1" | sed -n 's/^Depends: *\(linux-image-[^ ,]*\).*/\1/p' | head -n 1
}

# keep_modules DIR: the rig's modules, from the package that was unpacked last
keep_modules() {
    mkdir -p "$1"
    for module in $rig_modules; do
        cp "$out"/.unpack/lib/modules/*/kernel/"$module.ko" "$1/" ||
            die "the kernel package has no module $module"
        basename "$module.ko"
    done >"$1/order.new"
    mv "$1/order.new" "$1/order"
}

# kernel_complete NAME: it is there, with its modules if it is the one that the rig's host runs
kernel_complete() {
    [ -s "$out/$1/vmlinuz" ] && { [ "$1" != debian-6.1-cloud ] || [ -s "$out/$1/modules/order" ]; }
}

# fetch_kernel NAME META [SUITE]
fetch_kernel() {
    ! kernel_complete "$1" || return 0
    version=
    if [ -n "${3:-}" ]; then
        version=$(apt_do apt-cache madison "$2" | awk -v s="$3/" 'index($6, s) == 1 {print $3; exit}')
        [ -n "$version" ] || die "$2 is not in $3"
    fi
    package=$(kernel_package "$2${version:+=$version}")
    [ -n "$package" ] || die "no package found for $2 ${3:-}"
    say "$1: $package"
    download "$package" "$out/.unpack"
    mkdir -p "$out/$1"
    rm -rf "$out/$1/vmlinuz" "$out/$1/modules"
    [ "$1" != debian-6.1-cloud ] || keep_modules "$out/$1/modules"
    cp "$out"/.unpack/boot/vmlinuz-* "$out/$1/vmlinuz.new"
    printf '%s\n' "$package" >"$out/$1/package"
    mv "$out/$1/vmlinuz.new" "$out/$1/vmlinuz"
    rm -rf "$out/.unpack"
}

fetch_gnumach() {
    [ ! -s "$out/$1/vmlinuz" ] || return 0
    say "$1: $2"
    download "$2" "$out/.unpack"
    mkdir -p "$out/$1"
    image=$(find "$out/.unpack/boot" -name 'gnumach*' -type f | head -n 1)
    [ -n "$image" ] || die "$2 holds no kernel"
    case "$image" in
    *.gz) gzip -dc "$image" >"$out/$1/vmlinuz.new" ;;
    *) cp "$image" "$out/$1/vmlinuz.new" ;;
    esac
    mv "$out/$1/vmlinuz.new" "$out/$1/vmlinuz"
    rm -rf "$out/.unpack"
}

fetch_busybox() {
    [ ! -x "$out/tools/busybox" ] || return 0
    say "busybox: busybox-static"
    download busybox-static "$out/.unpack"
    mkdir -p "$out/tools"
    cp "$out/.unpack/bin/busybox" "$out/tools/busybox.new"
    mv "$out/tools/busybox.new" "$out/tools/busybox"
    rm -rf "$out/.unpack"
}

complete() {
    for name in debian-6.1-cloud debian-6.1-generic debian-6.12-cloud gnumach; do
        kernel_complete "$name" || return 1
    done
    [ -x "$out/tools/busybox" ]
}

complete && exit 0
prepare_apt
fetch_busybox
fetch_kernel debian-6.1-cloud linux-image-cloud-amd64
fetch_kernel debian-6.1-generic linux-image-amd64
fetch_kernel debian-6.12-cloud linux-image-cloud-amd64 bookworm-backports
fetch_gnumach gnumach gnumach-image-1.8-486
complete || die "something is missing in $out"
