#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# Boots an ISO in Bochs, on a processor with VT-x, BIOS only, and prints what comes out of its first serial port.
#
#   tools/run-bochs.sh [-n CPUS] [-m MIB] [-i INSTRUCTIONS_PER_US] [-p MODEL] [-u TEXT] [-s HOST:PORT] SECONDS ISO
#
# After SECONDS at most it is ended, or earlier when a line with TEXT has come. Status 0: TEXT came, or none
# was asked for. -p: another processor ("bochs --help cpu" has the list). -s: the serial port is a connection to
# that address, where somebody listens, and nothing is printed.
# Bochs's own log is in build/logs/bochs.log, where it says why if it has stopped by itself.
set -u
cpus=1 mib=512 ips=50 model=corei7_skylake_x until= socket=
while getopts n:m:i:p:u:s: option; do
    case $option in
    n) cpus=$OPTARG ;;
    m) mib=$OPTARG ;;
    i) ips=$OPTARG ;;
    p) model=$OPTARG ;;
    u) until=$OPTARG ;;
    s) socket=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 2 ] || { sed -n 's/^# \{0,1\}//p' "$0" | sed -n 3,10p >&2; exit 2; }
seconds=$1 iso=$(realpath "$2")

dir=$(mktemp -d) || exit 1
logs=$(dirname "$0")/../build/logs
mkdir -p "$logs"
bochs=
finish() {
    [ -n "$bochs" ] && kill "$bochs" 2>/dev/null && wait "$bochs" 2>/dev/null
    cat "$dir/out" "$dir/log" >"$logs/bochs.log" 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM

serial="mode=file, dev=$dir/serial"
[ -z "$socket" ] || serial="mode=socket-client, dev=$socket"
# The display that waits for nobody. Without VBE: GRUB corrupts its heap when it asks Bochs's for a mode.
cat >"$dir/rc" <<END
cpu: model=$model, count=$cpus, ips=$((ips * 1000000)), reset_on_triple_fault=0
memory: guest=$mib, host=$mib
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=$iso, status=inserted
boot: cdrom
com1: enabled=1, $serial
display_library: rfb, options="timeout=0"
vga: extension=none
clock: sync=none
sound: waveoutdrv=dummy
log: $dir/log
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
END
echo c >"$dir/commands" # Debian's has a debugger, which asks before it begins
: >"$dir/serial"
(cd "$dir" && exec bochs -q -f "$dir/rc" -rc "$dir/commands") >"$dir/out" 2>&1 </dev/null &
bochs=$!

status=0
[ -n "$until" ] && status=1
printed=0 ticks=0
while [ $ticks -lt $((seconds * 5)) ]; do
    size=$(stat -c %s "$dir/serial")
    if [ "$size" -gt $printed ]; then
        tail -c +$((printed + 1)) "$dir/serial" | head -c $((size - printed))
        printed=$size
    fi
    if [ -n "$until" ] && grep -aqF "$until" "$dir/serial"; then
        status=0
        break
    fi
    kill -0 $bochs 2>/dev/null || break
    sleep 0.2
    ticks=$((ticks + 1))
done
tail -c +$((printed + 1)) "$dir/serial"
exit $status
