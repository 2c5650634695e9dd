#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Guests on the bare-metal image, under svm in QEMU: from `lodge image` to the operator's console.

  fleet.py BUILD [NAME...]

Prints "ok NAME" or "not ok NAME" for each test. Without names: those of the short form.
"""
import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import time

from machine import make_fleet_iso, tsc_khz
from operator_line import Operator
from suite import ATTEMPTS, again, check, chosen, long, run, test

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
HERE = os.path.dirname(os.path.abspath(__file__))
SCRATCH = tempfile.TemporaryDirectory()
GUESTS = os.path.join(BUILD, "guests")
os.environ["XDG_RUNTIME_DIR"] = SCRATCH.name
LODGE = os.path.join(BUILD, "lodge")
BOOT = 120  # seconds for a Debian, in an emulated machine, beside others


def vm(name, kernel, **keys):
    lines = ["[[vm]]", f'name = "{name}"', f'kernel = "{GUESTS}/{kernel}"']
    for key, value in keys.items():
        shown = str(value).lower() if isinstance(value, bool) else value if isinstance(value, int) else f'"{value}"'
        lines.append(f"{key} = {shown}")
    return "\n".join(lines) + "\n"


def debian(name, version, append="", **keys):
    where = f"debian-{version}"
    return vm(name, f"{where}/vmlinuz", initrd=f"{GUESTS}/{where}/initrd", append=f"console=ttyS0 {append}", **keys)


def make_image(text):
    return make_fleet_iso(BUILD, SCRATCH.name, text)


def use_debian(o, name, release):
    """On its own console, to a shell that answers; and back."""
    o.command(f"console {name}", rb"comes back")
    o.expect(rb"This is a Debian kernel", BOOT)
    o.send("uname -r; echo $((6*7))\r")
    found = o.expect(rb"\n(\d+\.\d+)[^\r\n]*\r\n42\r", 60).group(1)
    check(found == release, f"{name}: {found}")
    o.send("dmesg -r | grep '^<[0-4]>' | wc -l\r")  # nothing at warning level
    found = o.expect(rb"\n(\d+)\r\n", 60).group(1)
    check(found == b"0", f"{name}: {found} lines of warnings")
    o.send("\x1d")


def three_systems(**machine):
    # clearcpuid: QEMU's CMPXCHG16B leaves garbage in the flags, which 6.12 meets (docs/rig.md)
    iso = make_image(debian("old", "6.1-cloud", memory="128M") +
                     debian("new", "6.12-cloud", "clearcpuid=cx16", memory="192M") +
                     vm("mach", "gnumach/vmlinuz", append="console=com0", memory="64M"))
    with Operator(iso, **machine) as o:
        o.expect(rb"engine svm", 90)
        for _ in range(3):
            o.expect(rb"(old|new|mach) starts", 60)
        o.command("console mach", rb"comes back")
        o.expect(rb"GNU Mach 1\.8", BOOT)
        o.send("\x1d")
        use_debian(o, "old", b"6.1")
        use_debian(o, "new", b"6.12")
        o.command("pause old")
        time.sleep(1)
        o.command("ps", rb"(?s)old +paused.*new +running.*mach +running")
        o.command("resume old")
        o.command("console old", rb"comes back")
        o.send("echo again-$((1+1))\r")
        o.expect(rb"again-2", 60)
        o.send("\x1d")
        o.command("reset mach")
        o.expect(rb"mach was reset", 30)
        o.command("console mach", rb"(?s)comes back.*GNU Mach.*GNU Mach", 60)
        o.send("\x1d")
        o.command("kill mach", rb"mach was ended")
        o.command("start mach", rb"mach starts")
        o.command("kill old", rb"old was ended")
        o.command("kill new", rb"new was ended")
        o.command("kill mach", rb"mach was ended")
        o.command("poweroff")
        check(o.ends(60) == 0, "it is not off")


@test
@again
def test_three_systems():
    three_systems(memory=1024, cpus=1)


@long
@again
def test_three_systems_uefi():
    three_systems(memory=1024, cpus=1, mode="uefi")


@long
@again
def test_three_systems_on_two_cpus():
    three_systems(memory=1024, cpus=2)


@test
@again
def test_saved_hosted():
    """A VM that was saved under Linux and engine soft goes on here."""
    definition, saved = (os.path.join(SCRATCH.name, f) for f in ("one.toml", "one.saved"))
    with open(definition, "w") as f:
        f.write(debian("one", "6.1-cloud", "noxsave", memory="128M", tsc_khz=tsc_khz(BUILD), portable=True, engine="soft")
                .replace("[[vm]]\n", ""))
    subprocess.run([LODGE, "run", "-d", definition], check=True, timeout=60)
    try:
        console = subprocess.Popen([LODGE, "console", "one"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        text = b""
        while b"This is a Debian kernel" not in text:
            more = os.read(console.stdout.fileno(), 65536)
            check(more, "the VM ended")
            text += more
        console.stdin.write(b"x=kept; echo $((40+2))-said\r")
        console.stdin.flush()
        while b"42-said" not in text:
            text += os.read(console.stdout.fileno(), 65536)
        console.kill()
        console.wait()
        subprocess.run([LODGE, "save", "one", saved], check=True, timeout=60)
    finally:
        subprocess.run([LODGE, "kill", "one"], timeout=60)
    with Operator(make_image(f'[[vm]]\nname = "back"\nrestore = "{saved}"\n'), memory=512, cpus=1) as o:
        o.expect(rb"back starts", 120)
        o.command("console back", rb"comes back")
        o.send("echo $x-$((1+1))\r")
        o.expect(rb"kept-2", 60)
        o.send("\x1d")
        o.command("kill back", rb"back was ended")
        o.command("poweroff")
        check(o.ends(60) == 0, "it is not off")


def use_tiny(o, name, key):
    """guests/bench/steady.c hears the key, and its next unit is right."""
    o.command(f"console {name}", rb"comes back")
    o.send(key)
    o.expect(rb'heard "' + key.encode() + rb'" in unit \d+\r?\n', 120)
    wrong = o.expect(rb"unit \d+: \d+ ticks, (\d+) wrong\r?\n", 120).group(1)
    check(wrong == b"0", f"{name}: {wrong} results are wrong")
    o.send("\x1d")


@long
@again
def test_ten_guests():
    """Three Debians and seven that compute without end, in 620 MiB; each is used on its own console."""
    debians = {"old1": b"6.1", "old2": b"6.1", "new": b"6.12"}
    tiny = [f"tiny{n}" for n in range(7)]
    iso = make_image(debian("old1", "6.1-cloud", memory="128M") + debian("old2", "6.1-cloud", memory="128M") +
                     debian("new", "6.12-cloud", "clearcpuid=cx16", memory="192M") +
                     "".join(vm(name, "bin/steady.elf", append=f"seed={n}", memory="16M", autostart=False)
                             for n, name in enumerate(tiny)))
    with Operator(iso, memory=768, cpus=1) as o:
        for _ in debians:
            o.expect(rb"(old1|old2|new) starts", 90)
        for name, release in debians.items():
            use_debian(o, name, release)
        for name in tiny:
            o.command(f"start {name}", name.encode() + rb" starts", 60)
        for name, key in zip(tiny, "abcdefg"):
            use_tiny(o, name, key)
        for name, release in debians.items():  # beside the seven
            o.command(f"console {name}", rb"comes back")
            o.send(f"echo {name}-$((6*7)); uname -r\r")
            found = o.expect(rb"\n" + name.encode() + rb"-42\r\n(\d+\.\d+)\.", 180).group(1)
            check(found == release, f"{name}: {found}")
            o.send("\x1d")
        o.command("ps", rb"(?s)old1 +running.*old2 +running.*new +running" + b"".join(rb".*tiny%d +running" % n for n in range(7)))
        for name in (*tiny, *debians):
            o.command(f"kill {name}", name.encode() + rb" was ended", 60)
        o.command("poweroff")
        check(o.ends(60) == 0, "it is not off")


# --- our own guests --------------------------------------------------------------------------------

OWN = ("paging", "protection", "pcid", "gates", "debug", "syscalls", "interrupts", "fpu", "smp 1", "smp 2", "smp 4",
       "smc", "addresses", "codegen 2", "paging32", "segments32", "task32", "v8632")


def exceptions():
    """(run, what) of those where QEMU's processor is not like a real one."""
    for name in ("exceptions-rig", "exceptions-native"):
        path = os.path.join(HERE, "..", "kvm" if name == "exceptions-rig" else "native", name)
        with open(path) as f:
            for line in f:
                if line.strip() and not line.startswith("#"):
                    yield line.split("\t")[:2]


def start_own(o, name):
    """How it ended, and what it said."""
    o.command(f"start {name}")
    end = o.expect(rb"\] " + name.encode() + rb" (wrote|died|did|was|does|ended)([^\r\n]*)\r\n", 60).group(0).decode().strip()
    o.command(f"console {name}", rb"comes back\r\n")
    o.send("\x1d")
    return end, o.expect(rb"(?s)(.*)lodge> ").group(1).decode(errors="replace")


def run_own(o, name, run):
    for _ in range(ATTEMPTS):
        end, text = start_own(o, name)
        if "IMPOSSIBLE" not in text:  # an interrupt with IF clear: QEMU (docs/rig.md)
            break
    passed, failed = set(re.findall(r"PASS (\w+)", text)), set(re.findall(r"FAIL (\w+)", text))
    excused = {what.lstrip("?") for pattern, what in exceptions() if fnmatch.fnmatch(run, pattern)}
    check(failed <= excused, f"{name}: {sorted(failed - excused)} failed")
    check("wrote the exit port" in end, f"{name}: {end}")
    check(passed or failed or "=> fails" in excused, f"{name} said nothing")
    check(failed or end.endswith("status 1") or "=> fails" in excused, f"{name}: {end}: {text[-700:]}")


@long
def test_own_guests():
    """One after the other, on two CPUs. No Linux beside them: with two, QEMU makes it deadlock now and then."""
    runs = {}
    for entry in OWN:
        guest, _, vcpus = entry.partition(" ")
        runs[guest + vcpus] = (guest, int(vcpus or 1), f"{guest} --exit-port" + (f" -c {vcpus}" if vcpus else ""))
    iso = make_image("".join(vm(name, f"bin/{guest}.elf", memory="128M", vcpus=vcpus, exit_port=True, autostart=False)
                             for name, (guest, vcpus, _) in runs.items()))
    bad = []
    with Operator(iso, memory=1024) as o:
        o.expect(rb"lodge> ", 90)
        for name, (_, _, said) in runs.items():
            try:
                run_own(o, name, said)
            except AssertionError as e:
                bad.append(str(e)[:900])
                o.command(f"kill {name}")
    check(not bad, "\n".join(bad))


# --- what is wrong with the machine ----------------------------------------------------------------

@test
def test_no_virtualization():
    iso = make_image(vm("mach", "gnumach/vmlinuz", memory="64M"))
    with Operator(iso, cpu="qemu64,-svm", memory=256) as o:
        o.expect(rb"this machine can run no guests: its processors have neither AMD-V nor VT-x", 90)
        o.expect(rb"mach does not start: this machine can run no guests", 30)
        o.command("start mach", rb"mach does not start")
        o.command("poweroff")
        check(o.ends(60) == 0, "it is not off")


@test
def test_commands():
    """What is no command, no VM, or not now is said."""
    iso = make_image(vm("mach", "gnumach/vmlinuz", memory="64M", autostart=False))
    with Operator(iso, memory=256) as o:
        o.expect(rb"engine svm", 90)
        o.expect(rb"lodge> ")
        o.command("help", rb"poweroff +stops all VMs")
        o.command("frobnicate", rb"there is no command 'frobnicate'")
        o.command("start", rb"start takes the name of a VM")
        o.command("start nobody", rb"there is no VM 'nobody'")
        o.command("stop mach", rb"it does not run")
        o.command("pause mach", rb"it is off")
        o.command("info", rb"CPU 0: APIC id 0")
        o.command("log", rb"engine svm")
        o.command("ps", rb"mach +off +1 +64")
        o.send("a" * 5000 + "\r")
        o.expect(rb"there is no command 'a+'")
        o.machine.monitor("system_powerdown")
        check(o.ends(60) == 0, "the power button does nothing")


@test
def test_too_little_memory():
    iso = make_image(vm("small", "gnumach/vmlinuz", memory="64M") + vm("large", "gnumach/vmlinuz", memory="2G"))
    with Operator(iso, memory=512) as o:
        o.expect(rb"the fleet: [^\r\n]*what fits is started", 90)
        o.expect(rb"large does not start: its 2048 MiB of memory are more than", 60)
        o.command("ps", rb"(?s)small +running.*large +off")
        o.command("poweroff")
        check(o.ends(60) == 0, "it is not off")


def tiny(name, **keys):
    """It writes the exit port at once."""
    return vm(name, "bin/boot_pvh.elf", memory="4M", exit_port=True, **keys)


def check_all_ran(o, names, seconds):
    left, end = set(names), time.monotonic() + seconds
    while left:
        left.discard(o.expect(rb"(\S+) wrote the exit port: status 3", end - time.monotonic()).group(1).decode())


@test
def test_pins():
    """Every VM runs, on CPUs that there are: of the second core's threads only the first runs VMs, and is CPU 1."""
    pins = {"first": "0", "second": "1", "some": "1-5", "none": "7,9", "all": "0-63"}
    iso = make_image("".join(tiny(name, **{"cpu.pin": pin, "cpu.reservation": 60 if name in ("second", "some") else 0})
                             for name, pin in pins.items()))
    for more in ({"cpus": 2}, {"cpus": "4,cores=2,threads=2", "cpu": "EPYC,+svm,+npt,+topoext"}):
        with Operator(iso, memory=512, **more) as o:
            o.expect(rb"some is pinned to CPU 2-5, and this machine has 0 to 1: it runs on 1\r", 90)
            o.expect(rb"none is pinned to CPU 7,9, and this machine has 0 to 1: it runs on all\r")
            o.expect(rb"the fleet: [^\r\n]* within CPUs 1 have reserved 120 %[^\r\n]*what fits is started")
            check_all_ran(o, pins, 60)
            o.command("poweroff")
            check(o.ends(60) == 0, "it is not off")


@long
def test_as_many_as_there_may_be():
    names = [f"v{n}" for n in range(256)]
    with Operator(make_image("".join(map(tiny, names))), memory=2560) as o:
        o.expect(rb" 2 modules of ", 90)  # the fleet, and the kernel of all
        check_all_ran(o, names, 240)
        o.command("poweroff")
        check(o.ends(60) == 0, "it is not off")


run(chosen(sys.argv[2:]))
