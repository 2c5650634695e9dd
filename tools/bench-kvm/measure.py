#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Counts exits and instructions of lodge and qemu-system-x86_64 on KVM, in the rig (docs/kvm.md).

The host has one processor, and its time stamp counter counts instructions (QEMU's -icount with
shift=0): so what is between two events of the kernel's trace are instructions, and the processor time
of a thread is what it and the kernel on its behalf have executed. All of it is repeatable to some
percent; what differs is where the host's own timer comes in between.

The peer is taken as a PC with PCI and ACPI like ours (q35) and as the leanest machine it has
(microvm); a floor holds against the better of the two.
"""
import collections
import fcntl
import os
import re
import resource
import subprocess
import sys
import time

TRACING = "/sys/kernel/tracing"
MEMORY = 512
LINE = "lodge: userland reached"
# One machine of the peer's has no 8042 and does not say so: probing for it would take 10000 exits.
SHELL = "console=ttyS0 initcall_blacklist=i8042_init"
APPEND = f"{SHELL} lodge.run=hello"
OUTPUT = "/tmp/output" # of what runs
SECONDS = 120 # for one run
ROUNDS = 3
PEER = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", f"{MEMORY}M", "-nodefaults",
        "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]
EXIT_PORT = ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
ECAM_Q35, VIRTIO_MICROVM = 0xB0000000, 0xFEB00000


class Vmm:
    """How one is called: a VM with KERNEL, its command line and initrd (or None)."""

    def __init__(self, name, command, kernel, initrd, append, exit_port, mmio):
        self.name, self.mmio = name, mmio
        self._command, self._kernel, self._initrd = command, kernel, initrd
        self._append, self._exit_port = append, exit_port

    def command(self, kernel, append, initrd=None):
        return (self._command + [self._kernel, kernel, self._append, append]
                + ([self._initrd, initrd] if initrd else self._exit_port))


VMMS = [
    Vmm("lodge", ["./lodge", "run", "-e", "kvm", "-m", f"{MEMORY}M"], "-k", "-i", "--append", ["--exit-port"],
        None),
    Vmm("q35", PEER + ["-M", "q35"], "-kernel", "-initrd", "-append", EXIT_PORT, ECAM_Q35),
    Vmm("microvm", PEER + ["-M", "microvm,x-option-roms=off,rtc=off,pit=off,pic=off"], "-kernel", "-initrd",
        "-append", EXIT_PORT, VIRTIO_MICROVM),
]


# --- the kernel's trace ------------------------------------------------------------------------------

def control(name, value):
    with open(os.path.join(TRACING, name), "w") as f:
        f.write(value)


def started(command):
    """The process, whose output goes to a file: a reader would take part in the measurement."""
    begun = f"echo begun >{TRACING}/trace_marker; exec \"$@\""
    with open(OUTPUT, "wb") as out:
        return subprocess.Popen(["sh", "-c", begun, "sh", *command], stdin=subprocess.DEVNULL, stdout=out,
                                stderr=subprocess.STDOUT)


def output():
    with open(OUTPUT, errors="replace") as f:
        return f.read().replace("\r", "")


def wait_for(what, reached):
    """Until reached() is true."""
    end = time.monotonic() + SECONDS
    while not reached():
        if time.monotonic() > end:
            sys.exit(f"bench-kvm: waited in vain: {what}\n{output()[-3000:]}")
        time.sleep(0.02)


def end(process):
    process.kill()
    process.wait()


class Trace:
    """While in force, the kernel notes EVENTS: name to filter. Afterwards, lines has what came after a
    process that was started() has begun: (thread, time stamp, event, text)."""

    LINE = re.compile(r"^.*-(\d+) +\([ \d-]+\) \[\d+\] \S+ +(\d+): (\w+): (.*)$")

    def __init__(self, events):
        self.events, self.lines = events, []

    def __enter__(self):
        control("trace_clock", "x86-tsc")
        control("options/record-tgid", "1") # its column keeps the line's form the same
        control("buffer_size_kb", "131072")
        control("trace", "")
        for event, condition in self.events.items():
            control(f"events/{event}/filter", condition or "0")
            control(f"events/{event}/enable", "1")
        control("tracing_on", "1")
        return self

    def __exit__(self, *_):
        control("tracing_on", "0")
        for event in self.events:
            control(f"events/{event}/enable", "0")
        with open(os.path.join(TRACING, "trace"), errors="replace") as f:
            for m in filter(None, map(self.LINE.match, f)):
                if m[3] == "tracing_mark_write":
                    self.lines = []
                self.lines.append((int(m[1]), int(m[2]), m[3], m[4]))
        control("trace", "")


# --- exits until userland ----------------------------------------------------------------------------

def exits(vmm):
    """By kind, until the guest has printed LINE: what the processor had to say, and how often it was
    the VMM's to answer. And instructions until the kernel's first line: on each VMM's own way, the
    kernel is in memory by then, has unpacked itself, and has printed the same."""
    events = {"kvm/kvm_exit": "", "kvm/kvm_userspace_exit": "", "kvm/kvm_pio": "port==0x3f8"}
    with Trace(events) as trace:
        process = started(vmm.command("vmlinuz", APPEND, "initrd"))
        wait_for("power-off", lambda: process.poll() is not None)
    printed, kinds, outside = "", collections.Counter(), collections.Counter()
    begun, to_linux = trace.lines[0][1], None
    for _, now, event, text in trace.lines:
        if event == "kvm_exit":
            kinds[re.search(r"reason (\S+)", text)[1]] += 1
        elif event == "kvm_userspace_exit":
            outside[text.split()[1]] += 1
        elif event == "kvm_pio" and text.startswith("pio_write"):
            printed = (printed + chr(int(re.search(r"val (0x[0-9a-f]+)", text)[1], 16)))[-len(LINE):]
            to_linux = to_linux or (now - begun if printed.endswith("Linux version") else None)
            if printed == LINE:
                return kinds, outside, to_linux
    sys.exit(f"bench-kvm: {vmm.name} did not get to userland\n{output()[-3000:]}")


# --- beside the bare-metal image (tools/bench_native.py) ---------------------------------------------

NATIVE_APPEND = "console=ttyS0 initcall_blacklist=i8042_init nokaslr mitigations=off tsc=reliable lodge.run=hello"
CREATIONS = 10
KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_GET_API_VERSION, KVM_CREATE_IRQCHIP = 0xAE01, 0xAE41, 0xAE00, 0xAE60


def exits_to_the_end(vmm, more=""):
    """From exec to power-off."""
    with Trace({"kvm/kvm_exit": ""}) as trace:
        process = started(vmm.command("vmlinuz", NATIVE_APPEND + more, "initrd"))
        wait_for("power-off", lambda: process.poll() is not None)
    if LINE not in output():
        sys.exit(f"bench-kvm: {vmm.name} did not get to userland\n{output()[-3000:]}")
    return sum(event == "kvm_exit" for _, _, event, _ in trace.lines)


def ioctl_steps(fd, request):
    """Nanoseconds are instructions here; the file that the request may have made."""
    begun = time.perf_counter_ns()
    answer = fcntl.ioctl(fd, request, 0)
    return time.perf_counter_ns() - begun, answer


def creation_once():
    """KVM_CREATE_VM alone, and with interrupt controllers and a vCPU. Python's own instructions are taken off: those
    of a request that does nothing."""
    kvm = os.open("/dev/kvm", os.O_RDWR)
    nothing = min(ioctl_steps(kvm, KVM_GET_API_VERSION)[0] for _ in range(10))
    alone, vm = ioctl_steps(kvm, KVM_CREATE_VM)
    chips, _ = ioctl_steps(vm, KVM_CREATE_IRQCHIP)
    one, vcpu = ioctl_steps(vm, KVM_CREATE_VCPU)
    for fd in (vcpu, vm, kvm):
        os.close(fd)
    return alone - nothing, alone + chips + one - 3 * nothing


def measure_for_native():
    peers = [vmm for vmm in VMMS if vmm.name != "lodge"]
    alone, whole_vm = map(min, zip(*(creation_once() for _ in range(CREATIONS))))
    results = {vmm.name: {"exits": exits_to_the_end(vmm), "exits-quiet": exits_to_the_end(vmm, " quiet"), "create": whole_vm, "create-vm": alone, **per_exit(vmm)}
               for vmm in peers}
    print("tsv: " + "\t".join(["row", *results]))
    for row in results[peers[0].name]:
        print("tsv: " + "\t".join([row, *(str(results[vmm.name][row]) for vmm in peers)]), flush=True)


# --- instructions ------------------------------------------------------------------------------------

def per_exit(vmm):
    """What guests/bench/exits.c has counted."""
    process = started(vmm.command("exits.elf", f"mmio={vmm.mmio or 0}"))
    wait_for("the guest's end", lambda: process.poll() is not None)
    found = dict(re.findall(r"exits: (\S+) (\d+)", output()))
    if process.returncode != 1 or not found:
        sys.exit(f"bench-kvm: {vmm.name} ended with {process.returncode}\n{output()[-3000:]}")
    return {name: int(steps) for name, steps in found.items()}


def start_once(command):
    """Instructions of the VMM's threads from exec to the first entry into the guest."""
    events = {"kvm/kvm_entry": "", "sched/sched_switch": "", "sched/sched_process_fork": ""}
    control("events/kvm/kvm_exit/trigger", "traceoff:1")
    with Trace(events) as trace:
        process = started(command)
        wait_for("the guest's first instruction", lambda: tracing_is_off() or process.poll() is not None)
    control("events/kvm/kvm_exit/trigger", "!traceoff:1")
    end(process)
    (first, since, *_), total = trace.lines[0], 0
    ours = {first}
    for _, now, event, text in trace.lines:
        if event == "sched_process_fork":
            parent, child = map(int, re.search(r" pid=(\d+) .* child_pid=(\d+)", text).groups())
            ours |= {child} if parent in ours else set()
        elif event == "sched_switch":
            left, entered = map(int, re.search(r"prev_pid=(\d+) .* next_pid=(\d+) ", text).groups())
            total += now - since if left in ours else 0
            since = now if entered in ours else since
        elif event == "kvm_entry":
            return total + now - since
    sys.exit(f"bench-kvm: no entry into a guest: {' '.join(command)}\n{output()[-3000:]}")


def tracing_is_off():
    with open(os.path.join(TRACING, "tracing_on")) as f:
        return f.read().strip() == "0"


def start(vmm, *guest):
    """The least of some: the first one reads the disk."""
    return min(start_once(vmm.command(*guest)) for _ in range(ROUNDS))


def whole(vmm):
    """Of a boot to power-off, the guest's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = started(vmm.command("vmlinuz", APPEND, "initrd"))
    process.wait(SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int(1e9 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


# --- memory ------------------------------------------------------------------------------------------

def private(vmm):
    """KiB of a VMM whose guest has come to its shell: private pages that it has written, those that it
    has from files, and page tables (guest RAM's too). A mapping as large as guest RAM is guest RAM."""
    process = started(vmm.command("vmlinuz", SHELL, "initrd"))
    wait_for("the guest's shell", lambda: LINE in output())
    time.sleep(1)
    sums = collections.Counter()
    is_ram = False
    for line in open(f"/proc/{process.pid}/smaps"):
        key, value, *_ = line.split()
        if key == "Size:":
            is_ram = int(value) >= MEMORY * 1024
        elif key.startswith("Private_") and not is_ram:
            sums[key] += int(value)
    with open(f"/proc/{process.pid}/status") as f:
        tables = int(re.search(r"VmPTE:\s+(\d+)", f.read())[1])
    end(process)
    return sums["Private_Dirty:"], sums["Private_Clean:"], tables


# --- the whole ---------------------------------------------------------------------------------------

def measure(vmm):
    """Row to value."""
    print(f"bench-kvm: {vmm.name}", flush=True)
    kinds, outside, to_linux = exits(vmm)
    rows = {"exits to userland": kinds.total(), "exits to the VMM": outside.total()}
    rows |= {f"  exits: {kind}": n for kind, n in kinds.most_common()}
    rows |= {f"  to the VMM: {kind}": n for kind, n in outside.most_common()}
    rows |= {f"instructions per {name}": n for name, n in per_exit(vmm).items()}
    rows["instructions to start, small guest"] = start(vmm, "exits.elf", "")
    rows["instructions to start, Debian"] = start(vmm, "vmlinuz", APPEND, "initrd")
    rows["instructions to Linux's first line"] = to_linux
    rows["instructions, boot to power-off"] = whole(vmm)
    dirty, clean, tables = private(vmm)
    rows["KiB private"] = dirty + clean
    rows |= {"  KiB written": dirty, "  KiB of files": clean, "KiB of page tables": tables}
    return rows


def floor(row, ours, best):
    """Whether a floor holds; None: there is none. A start is measured with the same kernel and initrd,
    although we have them in memory by then and the peer's firmware fetches them afterwards."""
    if row == "instructions per hypercall": # KVM's alone
        return None
    if row.startswith(("exits", "instructions per")):
        return ours < best
    if row.startswith("instructions to start"):
        return ours * 10 <= best
    if row == "KiB private":
        return ours <= 6 * 1024
    return None


def main():
    results = {vmm.name: measure(vmm) for vmm in VMMS}
    names = list(results)
    broken = []
    print(f"{'':38}" + "".join(f"{name:>12}" for name in names))
    print("tsv: " + "\t".join(["row", *names]))
    for row in dict.fromkeys(row for name in names for row in results[name]):
        values = [results[name].get(row, 0) for name in names]
        held = floor(row, values[0], min(values[1:]))
        broken += [row] if held is False else []
        print(f"{row:38}" + "".join(f"{v:12}" for v in values)
              + {None: "", True: "  ok", False: "  FLOOR BROKEN"}[held])
        print("tsv: " + "\t".join([row.strip(), *map(str, values)]), flush=True)
    sys.exit(1 if broken else 0)


if sys.argv[1:] == ["native"]:
    measure_for_native()
else:
    main()
