#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""What the bare-metal image costs, in instructions and exits, beside kvm_amd with QEMU and beside Xen in the same emulated
machine (docs/bench.md): bench_native.py BUILD_DIR [--no-kvm] [-o FILE]

Everything is counted (QEMU's -icount and a plugin, tools/bench-native/count.c), nothing is timed: figures are the same
on a busy machine. Status 1 if a floor is missed.
"""
import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import time

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(TOP, "tests", "native"))
import cost  # noqa: E402
from machine import Machine, make_fleet_iso, make_iso  # noqa: E402

IMAGE = 0xFFFFFFFF80000000  # native/layout.h
IMAGE_END = IMAGE + 0x1000000
EXEC, EXEC_END = 0xFFFFF00000000000, 0xFFFFF10000000000
LOADED_AT = 0x200000  # by GRUB
KERNEL_64 = 0x1000200  # where Lodge enters Linux: at its preferred address (machine/boot_linux.c)
KERNEL_32 = 0x100000  # where QEMU's boot program does
# No randomization, so that both kernels do the same. No probe for an 8042, as in bench-kvm.
APPEND = "console=ttyS0 initcall_blacklist=i8042_init nokaslr mitigations=off tsc=reliable lodge.run=hello"
LOCAL_APIC_VERSION = 0xFEE00030
SMALL_MIB, DEBIAN_MIB = 64, 512
SECONDS = 300

Count = collections.namedtuple("Count", "name all own fill vmruns")
# Row: unit, what; lodge's value is to be at most `most`, or `share` of the best peer's; goal: the one or the other.
Row = collections.namedtuple("Row", "what most share goal", defaults=(None, None, None))
ROWS = {
    "cpuid": Row("instructions, a guest's CPUID, all in", 400, None, 150),
    "hypercall": Row("instructions, VMMCALL", 400, None, 150),
    "uart-register": Row("instructions, a write to a 16550's register", 700, None, 250),
    "uart-data": Row("instructions, a byte to a 16550"),
    "mmio-read": Row("instructions, an MMIO read of a device"),
    "create": Row(f"instructions, a VM of {SMALL_MIB} MiB with a vCPU and devices; no zeroing, no loading", 100000, None, 20000),
    "create-vm": Row("instructions, KVM_CREATE_VM alone"),
    "create-check": Row("instructions, the isolation checker's walk when it starts"),
    "start": Row("instructions, from GRUB's jump to a guest's first instruction", 20000000),
    "start-fill": Row("  of those, zeroing memory"),
    "boot": Row("instructions, from the kernel's entry to userland"),
    "boot-guest": Row("  of those, the guest's own"),
    "boot-ratio": Row("how many times the guest's own", 1.05, None, 1.02),
    "bare": Row("instructions, the same kernel on the emulated machine itself"),
    "bare-ratio": Row("boot to bare", 1.05, None, 1.02),
    "exits": Row("exits, boot to power-off, all messages on the console", None, 1 / 2, 1 / 3),
    "exits-quiet": Row("exits, the same boot with Debian's own command line: quiet", None, 1 / 2, 1 / 3),
}


def fail(text):
    sys.exit(f"bench-native: {text}")


# --- counting ----------------------------------------------------------------------------------------

class Symbols:
    def __init__(self, build):
        program = f"{build}/lodge-native.debug"
        names = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
        self.at = {name: int(at, 16) for at, _, name in map(str.split, names.splitlines())}
        self.code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", program], check=True, capture_output=True,
                                   text=True).stdout

    def after_calls(self, name):
        """Where calls of it come back to."""
        found = re.findall(rf"\tcall +[0-9a-f]+ <{name}>\n(?:\n.*\n)?([0-9a-f]+):", self.code)
        if not found:
            fail(f"{name} is called from nowhere")
        return [int(at, 16) for at in found]

    def end(self, name):
        """The end of a function without a size: the next symbol's beginning."""
        return min(at for at in self.at.values() if at > self.at[name])


def plugin(build, out, own=(), fill=(), marks=()):
    options = [f"out={out}"]
    options += [f"own={low:x}-{high:x}" for low, high in own]
    options += [f"fill={low:x}-{high:x}" for low, high in fill]
    options += [f"mark={name}:{at:x}" for name, at in marks]
    return [*cost.ICOUNT, "-plugin", ",".join([f"{build}/bench/count.so", *options])]


def counts(path):
    with open(path) as f:
        return [Count(name, *map(int, numbers)) for name, *numbers in map(str.split, f)]


def first(lines, name):
    return next((c for c in lines if c.name == name), None) or fail(f"the machine did not come by '{name}'")


def between(lines, begin, end):
    """What was counted from the first line of the one name to the next of the other."""
    a = first(lines, begin)
    b = first(lines[lines.index(a):], end)
    return Count("", *(y - x for x, y in zip(a[1:], b[1:])))


# --- native --------------------------------------------------------------------------------------------

def native(build, symbols, definition, until, marks):
    """Runs a fleet of one VM until the log says so; the lines that were written."""
    with tempfile.TemporaryDirectory() as scratch:
        iso, out = make_fleet_iso(build, scratch, definition), os.path.join(scratch, "counts")
        more = plugin(build, out, [(IMAGE, IMAGE_END), (EXEC, EXEC_END)],
                      [(symbols.at["memset"], symbols.end("memset"))], marks)
        with Machine(iso, memory=1024, cpus=1, more=more) as m:
            if not m.wait(until, SECONDS):
                fail(f"no '{until}':\n{m.output()[-3000:]}")
            m.monitor("quit")
            if not m.wait_off(60):
                fail("QEMU does not end")
        return counts(out)


def marks_of(symbols, *names):
    """NAME, and NAME-ends behind its calls."""
    for name in names:
        yield name, symbols.at[name]
        for at in symbols.after_calls(name):
            yield f"{name}-ends", at


def small_guest(build, symbols, results):
    entry = LOADED_AT + symbols.at["boot_entry"] - IMAGE
    lines = native(build, symbols, cost.GUEST.format(build), r"exits wrote the exit port",
                   [("entry", entry), ("native_main", symbols.at["native_main"]), ("svm_enter", symbols.at["svm_enter"]),
                    *marks_of(symbols, "guest_build", "pc_boot", "isolation_check")])
    # A program at the same address before Lodge (GRUB's) does not count: the last time is Lodge's own.
    main = lines.index(first(lines, "native_main"))
    before = [c for c in lines[:main] if c.name == "entry"]
    if not before or lines[main].all - before[-1].all > 20000:
        fail(f"GRUB did not load Lodge at {LOADED_AT:#x}")
    start = between([before[-1], *lines[main:]], "entry", "svm_enter")
    create, load, check = (between(lines, name, f"{name}-ends") for name in ("guest_build", "pc_boot", "isolation_check"))
    results["start", "lodge"], results["start-fill", "lodge"] = start.all, start.fill
    results["create", "lodge"] = create.own - create.fill - (load.own - load.fill) - (check.own - check.fill)
    results["create-check", "lodge"] = check.own - check.fill


def first_program(build):
    """Where the first program of the initrd begins: it is busybox's shell."""
    text = subprocess.run(["readelf", "-h", f"{build}/guests/tools/busybox"], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"Entry point address: +(0x[0-9a-f]+)", text)[1], 16)


def debian_once(build, symbols, append):
    where = f"{build}/guests/debian-6.1-cloud"
    definition = (f'[[vm]]\nname = "debian"\nkernel = "{where}/vmlinuz"\ninitrd = "{where}/initrd"\n'
                  f'append = "{append}"\nmemory = "{DEBIAN_MIB}M"\n')
    return native(build, symbols, definition, r"debian powered off",
                  [("kernel", KERNEL_64), ("userland", first_program(build))])


def debian(build, symbols, results):
    lines = debian_once(build, symbols, APPEND)
    boot = between(lines, "kernel", "userland")
    results["boot", "lodge"], results["boot-guest", "lodge"] = boot.all, boot.all - boot.own
    results["boot-ratio", "lodge"] = boot.all / (boot.all - boot.own)
    results["exits", "lodge"] = first(lines, "end").vmruns
    results["exits-quiet", "lodge"] = first(debian_once(build, symbols, APPEND + " quiet"), "end").vmruns
    results["bare", "lodge"] = bare(build)
    results["bare-ratio", "lodge"] = boot.all / results["bare", "lodge"]


def bare(build):
    """The same kernel, initrd and command line, without Lodge: instructions from the kernel's entry to userland."""
    where = f"{build}/guests/debian-6.1-cloud"
    with tempfile.TemporaryDirectory() as scratch:
        out, console = os.path.join(scratch, "counts"), os.path.join(scratch, "console")
        command = ["qemu-system-x86_64", "-M", "q35,hpet=off", "-accel", "tcg,thread=single", "-cpu", "EPYC,-svm", "-smp", "1",
                   "-m", str(DEBIAN_MIB), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-serial", f"file:{console}", "-kernel", f"{where}/vmlinuz", "-initrd", f"{where}/initrd",
                   "-append", APPEND,
                   *plugin(build, out, marks=[("kernel", KERNEL_32), ("userland", first_program(build))])]
        subprocess.run(command, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return between(counts(out), "kernel", "userland").all


# --- kvm_amd, in the rig -------------------------------------------------------------------------------

def kvm(build, results):
    """The peers' columns (tools/bench-kvm/measure.py)."""
    out = f"{build}/bench-kvm-native.tsv"
    subprocess.run([f"{TOP}/tools/bench-kvm.sh", build, "native"], check=True, timeout=1000)
    with open(out) as f:
        heads, *lines = (line.rstrip("\n").split("\t") for line in f)
    for row, *values in lines:
        for who, value in zip(heads[1:], values):
            results[row, who] = int(value)
    return heads[1:]


# --- Xen ------------------------------------------------------------------------------------------------

def xen(build, results):
    """exits.elf as Xen's dom0, which is a PVH guest like any other but that it has the machine's ports: what they
    cost is not Xen's. Its toolstack would need a Linux there, which would take part in the machine's time. It asks for
    an IOMMU. The address that is read is the local APIC's, which Xen emulates."""
    with tempfile.TemporaryDirectory() as scratch:
        iso = os.path.join(scratch, "xen.iso")
        make_iso(build, iso, "placeholder dom0=pvh dom0_mem=256M spec-ctrl=no console=com2 com2=115200,8n1 noreboot",
                 [(f"{build}/guests/bin/exits.elf", f"placeholder mmio={LOCAL_APIC_VERSION}")], "bench/xen")
        more = ["-M", "q35", "-device", "amd-iommu", "-serial", "null", *cost.ICOUNT]
        with Machine(iso, memory=2048, cpus=1, more=more) as m:
            if not m.wait(r"exits: mmio-read \d+\n", SECONDS):
                fail(f"Xen does not run exits.elf:\n{m.output()[-3000:]}")
            found = dict(re.findall(r"exits: (\S+) (\d+)", m.output()))
    for row in ("cpuid", "hypercall", "mmio-read"):
        results[row, "xen"] = int(found[row])


# --- the whole -----------------------------------------------------------------------------------------

def bound(row, peers, most, share):
    """What lodge's value may be at most; None: nothing to hold it against."""
    if most is not None:
        return most
    return share * min(peers) if share and peers else None


def shown(value):
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def report(results, peers, path):
    missed = []
    with open(path, "w") as f:
        f.write("\t".join(["row", "lodge", *peers, "floor", "goal"]) + "\n")
        print(f"{'':14}" + "".join(f"{h:>14}" for h in ["lodge", *peers, "floor", "goal"]))
        for name, row in ROWS.items():
            ours, *theirs = (results.get((name, who)) for who in ["lodge", *peers])
            there = [v for v in theirs if v is not None]
            floor = bound(row, there, row.most, row.share)
            goal = bound(row, there, None if row.share else row.goal, row.goal if row.share else None)
            state = "" if floor is None else "held" if ours <= floor else "MISSED"
            missed += [name] if state == "MISSED" else []
            reached = "goal" if goal is not None and ours <= goal else ""
            cells = [shown(v if not isinstance(v, float) or v < 10 else int(v)) for v in (ours, *theirs, floor, goal)]
            print(f"{name:14}" + "".join(f"{c:>14}" for c in cells) + f"  {state:6} {reached:4}  {row.what}")
            f.write("\t".join([name, *cells]) + "\n")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build")
    parser.add_argument("--no-kvm", action="store_true", help="without the rig: no peers, and no floor for exits")
    parser.add_argument("-o", dest="out")
    options = parser.parse_args()
    build = os.path.abspath(options.build)
    began = time.monotonic()
    symbols, results = Symbols(build), {}
    results |= {(name, "lodge"): steps for name, steps in cost.exits(build).items()}
    small_guest(build, symbols, results)
    debian(build, symbols, results)
    peers = [] if options.no_kvm else kvm(build, results)
    if os.path.exists(f"{build}/bench/xen"):
        xen(build, results)
        peers.append("xen")
    missed = report(results, peers, options.out or f"{build}/bench-native.tsv")
    print(f"bench-native: {time.monotonic() - began:.0f} s" + (f"; missed: {', '.join(missed)}" if missed else ""))
    sys.exit(1 if missed else 0)


main()
