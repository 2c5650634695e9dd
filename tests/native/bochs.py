#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Engine vmx: guests on the bare-metal image in Bochs, whose processor has VT-x (docs/rig.md).

  bochs.py BUILD [NAME...]

Prints "ok NAME" or "not ok NAME" for each test. Without names: those of the short form; LODGE_NIGHTLY: all.
Our own guests run as tests/native/exceptions-bochs says; a NAME that is none of a test chooses among them by
what is in the run's name ("fatal64", "smp --exit-port -c 2").
"""
import os
import sys
import tempfile
import time

from bochs_line import Bochs
from machine import make_fleet_iso
from operator_line import SLOWER
from own_guests import FLEET, NIGHTLY, Options, die_runs, fleet_of, perform, system_runs
from shares_line import vm
from suite import LONG, TESTS, check, long, run, test

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
HERE = os.path.dirname(os.path.abspath(__file__))
SCRATCH = tempfile.TemporaryDirectory()
OPTIONS = Options([f"{HERE}/exceptions-bochs"], 30 if NIGHTLY else 6)
BOOT = 900   # seconds for a Debian, beside others
START = 180  # for Lodge
MEMORY = 512

# Each shows another part of the engine: nested tables, events, windows, MSRs, what leaves what is emulated,
# vCPUs, real mode, ends.
SHORT = ("paging --exit-port", "gates --exit-port", "msr --exit-port", "interrupts --exit-port", "fpu --exit-port",
         "debug --exit-port", "real32 --exit-port", "task32 --exit-port", "smp --exit-port -c 1",
         "fatal64 -m 64M --exit-port --append null-idt", "fatal32 -m 64M --exit-port --append null-idt",
         "spin -m 64M --exit-port --append halt", "spin -m 64M --exit-port -c 2 --append faults")
# On two CPUs.
TWO = ("smp --exit-port -c 2", "wild_mmio -m 64M --exit-port -c 4 --append contended", "smp --exit-port -c 4",
       "codegen --exit-port -c 2")


def make_image(text):
    return make_fleet_iso(BUILD, SCRATCH.name, text)


def power_off(o):
    o.command("poweroff")
    check(o.ends(START) == 0, f"it is not off: {o.output[-600:]}")


def until_off(o, name):
    """It has said its last word, and may yet take a while to power off; ps shows the moment it is asked in."""
    end, state = time.monotonic() + BOOT * SLOWER, None
    while state != b"off":
        check(time.monotonic() < end, f"it is {state}, not off")
        state, how = o.command("ps", rb"\n" + name.encode() + rb" +(\w+)([^\r\n]*)\r\n").groups()
    check(b"powered off" in how, f"it is off otherwise: {how}")


def report(run, problems, began):
    for p in problems:
        print("  " + p.replace("\r", "").replace("\n", "\n  "))
    print(f"{'not ok' if problems else 'ok'} {run.name} ({time.monotonic() - began:.1f} s)", flush=True)
    return bool(problems)


def run_own(runs, **machine):
    """One after the other; a machine for each FLEET of them, at most. False if any failed."""
    failed = 0
    for first in range(0, len(runs), FLEET):
        some = runs[first:first + FLEET]
        with Bochs(make_image(fleet_of(BUILD, some)), memory=MEMORY, **machine) as o:
            o.expect(rb"engine vmx", START)
            o.expect(rb"lodge> ")
            for n, r in enumerate(some):
                began = time.monotonic()
                failed += report(r, perform(o, f"r{n}", r, OPTIONS), began)
            power_off(o)
    check(not failed, f"{failed} runs failed")


def all_runs():
    return [r for r in (*system_runs(), *die_runs()) if OPTIONS.exceptions.outcome(r) != "not run"]


def named(names):
    runs = {r.name: r for r in all_runs()}
    return [runs[n] for n in names]


@test
def test_own_guests():
    run_own(named(SHORT))


@test
def test_own_guests_on_two_cpus():
    run_own(named(TWO[:2] if not NIGHTLY else TWO), cpus=2)


@test
def test_speculation():
    """Tiger Lake: one that has IA32_SPEC_CTRL, and not each bit of it."""
    run_own(named(("speculation -m 64M --exit-port --append bits",)), cpu="tigerlake")


def locks_taken(vcpus, others, cpus):
    """In a second of CPU time, by a VM of so many vCPUs, each of which holds one lock for 1 % of its work, beside so many that compute."""
    vms = [vm(BUILD, "locks", "lock=50 work=5000", vcpus=vcpus), *(vm(BUILD, f"greedy{n}") for n in range(others))]
    taken, tenths = 0, 60
    with Bochs(make_image("\n".join(vms)), cpus=cpus, memory=MEMORY) as o:
        for _ in vms:
            o.expect(rb" starts: ", START)
        o.command("console locks")
        for _ in range(tenths):
            taken += int(o.expect(rb"shares: lock (\d+)\r?\n", START)[1])
        o.send("\x1d")
        o.expect(rb"lodge> ")
        had = float(o.command("usage", rb"\nlocks +- +([\d.]+)")[1])
        for each in ("locks", *(f"greedy{n}" for n in range(others))):
            o.command(f"kill {each}", each.encode() + rb" was ended")
        power_off(o)
    return taken / had


@long
def test_locks():
    """vCPUs of one VM are not made to run at the same time. Who spins for a lock hands its slice on, and nothing is lost by that."""
    alone = locks_taken(1, 0, 1)
    parts = {name: locks_taken(*how) / alone for name, how in
             {"4 vCPUs on a CPU": (4, 0, 1), "2 beside two VMs on two": (2, 2, 2), "4 beside two VMs on two": (4, 2, 2)}.items()}
    said = ", ".join(f"{name}: {part:.3f}" for name, part in parts.items())
    check(min(parts.values()) > 0.95, said)
    return f"locks taken, of what one vCPU takes in the same CPU time: {said}"


@long
def test_all_own_guests():
    run_own(all_runs())
    unused = OPTIONS.exceptions.unused([*system_runs(), *die_runs()])
    check(not unused, f"exceptions for what is not run: {unused}")


@test
def test_no_vmx():
    """A processor of Intel's with 64 bits and without VT-x."""
    iso = make_image(fleet_of(BUILD, named(SHORT[:1])))
    with Bochs(iso, memory=256, cpu="p4_prescott_celeron_336") as o:
        o.expect(rb"this machine can run no guests: its processors have neither AMD-V nor VT-x", START)
        o.command("start r0", rb"r0 does not start: this machine can run no guests")
        power_off(o)


@long
def test_debian():
    """Debian 6.1, used on its own console, to its own end."""
    where = f"{BUILD}/guests/debian-6.1-cloud"
    iso = make_image(f'[[vm]]\nname = "debian"\nkernel = "{where}/vmlinuz"\ninitrd = "{where}/initrd"\n'
                     'append = "console=ttyS0"\nmemory = "128M"\n')
    with Bochs(iso, memory=MEMORY) as o:
        o.expect(rb"engine vmx", START)
        o.command("console debian", rb"comes back")
        o.expect(rb"This is a Debian kernel", BOOT)
        o.send("uname -r; echo $((6*7))\r")
        check(o.expect(rb"\n(\d+\.\d+)[^\r\n]*\r\n42\r", BOOT).group(1) == b"6.1", "another kernel")
        o.send("dmesg -r | grep '^<[0-4]>' | wc -l; grep -o -m 1 -w hypervisor /proc/cpuinfo\r")
        check(o.expect(rb"\n(\d+)\r\nhypervisor\r", BOOT).group(1) == b"0", "warnings")
        o.send("\x1d")
        o.command("ps", rb"debian +running +1 +128")
        o.command("console debian", rb"comes back")
        o.send("poweroff -f\r")
        o.expect(rb"Power down", BOOT)
        o.send("\x1d")
        o.expect(rb"lodge> ")
        until_off(o, "debian")
        power_off(o)


def choose(names):
    tests = [n for n in names if n in TESTS]
    words = [n for n in names if n not in TESTS]
    runs = [r for r in all_runs() if any(w in r.name for w in words)]
    chosen = {n: TESTS[n] for n in tests or ([] if words else [t for t in TESTS if NIGHTLY or t not in LONG])}
    if words:
        chosen["chosen"] = lambda: run_own(runs)
    return chosen


run(choose(sys.argv[2:]))
