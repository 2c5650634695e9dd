#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# run-rig.sh [-t SECONDS] [-n NAME] [-o DIR] [-r MIB] BUILD JOB [QEMU-OPTION...]: runs a job in the rig (docs/rig.md), an
# emulated machine with AMD-V whose Debian host has kvm_amd.
#
# JOB is a directory; its script `job` is run in it, on a copy. What it prints comes out here as it
# is printed, and its exit status is ours. It may write MIB (default 64); what it leaves in its directory
# `out` is copied into DIR. If the host does not get that far, loses kvm_amd, complains about a bug in its
# own kernel, or takes longer than SECONDS (default 600), its console's tail is shown and a line "not ok
# rig ..." says so. The whole console is kept as BUILD/logs/NAME.console (default "rig"). Nothing that was
# started here outlives it.
set -u

seconds=600
name=rig
out=
room=64
while getopts t:n:o:r: option; do
    case $option in
    t) seconds=$OPTARG ;;
    n) name=$OPTARG ;;
    o) out=$OPTARG ;;
    r) room=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || {
    sed -n 's/^# \(run-rig.sh .*\)/usage: \1/p' "$0" >&2
    exit 2
}
build=$1
job=$2
shift 2
PATH=$PATH:/usr/sbin:/sbin
logs=$build/logs
console=$logs/$name.console
qemu=
tail=
case " $* " in
*" -icount "*) counted=yes ;;
*) counted=no ;;
esac

# Whatever ends us ends what we started, and nothing else.
clean_up() {
    [ -z "$qemu" ] || kill -9 "$qemu" 2>/dev/null
    [ -z "$tail" ] || kill "$tail" 2>/dev/null
    rm -rf "$work"
}

# give_up WHY: what the console had to say, and that it failed
give_up() {
    echo "--- the host's console, last lines ($console has all):"
    tail -n 30 "$console" 2>/dev/null | tr -d '\r' | sed 's/^/    /'
    [ ! -s "$work/qemu.log" ] || sed 's/^/    /' "$work/qemu.log"
    echo "not ok rig: $1"
    exit 1
}

# The job's disk: a third more than the files take, and room for what the job writes.
make_disk() {
    size=$(($(du -sk --apparent-size "$job" | cut -f 1) * 4 / 3 + room * 1024))
    mke2fs -q -F -t ext4 -O ^has_journal -d "$job" "$work/job.img" "${size}k" >"$work/qemu.log"
}

start() {
    mkfifo "$work/monitor"
    exec 9<>"$work/monitor" # else QEMU sees its end with the first line
    # tsc=reliable: else Linux finds the emulated TSC wanting, falls back to the HPET, and KVM has
    # no master clock. -no-reboot and panic=-1: a panic is an end. thread=single: with a thread for
    # each processor, QEMU 7.2 loses its way under nested virtualization every few minutes (a host
    # that hangs, or panics for a stack that something has written over).
    qemu-system-x86_64 -accel tcg,thread=single,tb-size=512 -cpu EPYC,+svm,+npt -smp 2 -m 6G \
        -nodefaults -display none -no-reboot -kernel "$build/guests/debian-6.1-cloud/vmlinuz" -initrd "$build/rig/initrd" \
        -append "console=ttyS0 loglevel=5 tsc=reliable panic=-1 mitigations=off" \
        -drive "file=$build/rig/host.img,format=raw,if=virtio,snapshot=on" \
        -drive "file=$work/job.img,format=raw,if=virtio" \
        -serial "file:$console" -serial "file:$work/results" -monitor stdio "$@" \
        2>"$work/qemu.all" >/dev/null <"$work/monitor" 9>&- &
    qemu=$!
}

# QEMU 7.2 with AMD-V now and then forgets to tell its processor of an interrupt that the local APIC has,
# until there is a further one; if that was the only processor's timer, there is none, ever. So a key is
# pressed, from outside. If QEMU does not read any more, this does not wait. With -icount nothing is
# forgotten, since timers run in the processor's own thread, and instructions are being counted.
wake() {
    [ "$counted" = no ] || return 0
    echo "sendkey shift" | dd of="$work/monitor" oflag=nonblock status=none 2>/dev/null || true
}

# Waits for its end. What was printed shows as it comes, but for the last line, which is for us.
wait_for_end() {
    tail -n +1 -s 0.5 --pid=$qemu -f "$work/results" | sed -u '/^$/{N;/\nrig: /d;};/^rig: /d' &
    tail=$!
    end=$(($(date +%s) + seconds))
    while kill -0 "$qemu" 2>/dev/null; do
        [ "$(date +%s)" -lt $end ] || return 1
        wake
        sleep 0.5
    done
    wait "$tail"
    tail=
    return 0
}

for file in "$build/rig/host.img" "$build/rig/initrd" "$build/guests/debian-6.1-cloud/vmlinuz"; do
    [ -s "$file" ] || {
        echo "not ok rig: there is no $file (make rig)"
        exit 1
    }
done
mkdir -p "$logs"
work=$(mktemp -d "$build/rig/run.XXXXXX") || exit 1
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
: >"$console"
: >"$work/results"
make_disk || give_up "the job's disk cannot be made"
start "$@"
if ! wait_for_end; then
    kill -9 "$qemu" 2>/dev/null
    give_up "cut off after $seconds s"
fi
wait "$qemu"
left=$?
qemu=
# What TCG does not emulate of an EPYC is no news.
grep -v "TCG doesn't support requested feature" "$work/qemu.all" >"$work/qemu.log"
status=$(tr -d '\r' <"$work/results" | sed -n 's/^rig: //p' | tail -n 1)
case $status in
'') give_up "the host ended before the job did (QEMU's status $left)" ;;
*[!0-9]*) give_up "$status" ;;
esac
# The disk has been synced, not unmounted: it has no journal, and reading takes no more than that.
if [ -n "$out" ]; then
    mkdir -p "$out"
    debugfs -R "rdump out $work" "$work/job.img" >"$work/qemu.log" 2>&1
    cp -r "$work/out/." "$out/" || give_up "what the job left cannot be read"
fi
if grep -qE 'WARNING: CPU|BUG: |Oops|rcu: INFO: .* stall|general protection fault|unchecked MSR' "$console"; then
    give_up "the host's kernel complains"
fi
exit "$status"
