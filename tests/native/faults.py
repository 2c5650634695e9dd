#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""What goes wrong with a machine or its fleet file, and how it ends: in clear words, and what can run runs. Isolation
proven at each change, threads of one core, CPUs that are stopped. The image with all checks, in QEMU.

  faults.py BUILD [NAME...]

Prints "ok NAME" or "not ok NAME" for each test. Without names: those of the short form.
"""
import os
import re
import subprocess
import sys
import tempfile
import time

from machine import make_iso, sign_grub, tsc_khz
from operator_line import Operator
from suite import check, chosen, long, run, test

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(TOP, "tests", "cli"))
from saved_file import edit, set_features, set_tsc_aux, set_xcr0_mask  # noqa

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
SCRATCH = tempfile.TemporaryDirectory()
os.environ["XDG_RUNTIME_DIR"] = SCRATCH.name
LODGE = os.path.join(BUILD, "lodge")
GUESTS = os.path.join(BUILD, "guests")
SPIN = os.path.join(GUESTS, "bin/spin.elf")
DEBIAN = [os.path.join(GUESTS, "debian-6.1-cloud", f) for f in ("vmlinuz", "initrd")]
SVME, AIBRSE = 1 << 12, 1 << 21


def machine(words, fleet, files=(("spin", SPIN),), image="lodge-native-checked", **more):
    """Boots Lodge with these words on its command line; files: (path in the fleet file, file)."""
    iso, path = (os.path.join(SCRATCH.name, f) for f in ("image.iso", "fleet.toml"))
    with open(path, "w") as f:
        f.write(fleet)
    modules = [(path, "fleet")] * (fleet is not None) + [(file, name) for name, file in files]
    make_iso(BUILD, iso, words, modules, image)
    return Operator(iso, **{"memory": 512, **more})


def vm(name, kernel="spin", *lines):
    return "\n".join(["[[vm]]", f"name = '{name}'", f"kernel = '{kernel}'", "memory = '64M'", *lines, ""])


def prompt(o):
    """Until the operator may type: what came before it."""
    before = o.output
    o.expect(rb"lodge> ", 90)
    return before


def power_off(o):
    o.command("poweroff", rb"other CPUs have stopped", 60)
    check(o.ends(60) == 0, "it is not off")


# --- the fleet file --------------------------------------------------------------------------------

@test
def test_bad_vms():
    """Of six VMs three are wrong, each in its own way, and so is [machine]: the others run."""
    fleet = ("[machine]\ncpus = 1000\n" + vm("good") + vm("typo", "spin", "memroy = 1") + vm("huge", "spin", "vcpus = 99") +
             vm("fine", "spin", "[vm.cpu]", "weight = 200") + vm("good") + vm("last"))
    with machine("", fleet) as o:
        o.expect(rb"the fleet file: fleet:2: a machine with 1000 CPUs is out of range", 90)
        o.expect(rb"the fleet file: what line 2 belongs to is left out")
        o.expect(rb"the fleet file: fleet:11: unknown key 'memroy' \(the nearest known one is 'memory'\)")
        o.expect(rb"the fleet file: fleet:16: 99 vCPUs are not possible \(1 to 16\)")
        o.expect(rb"the fleet file: fleet:24: there is a VM 'good' already, in line 3")
        for _ in range(3):
            o.expect(rb"\] (good|fine|last) starts")
        o.command("ps", rb"(?s)good +running.*fine +running.*last +running")
        o.command("start typo", rb"there is no VM 'typo'")
        power_off_killed(o, "good", "fine", "last")


def power_off_killed(o, *names):
    for name in names:
        o.command(f"kill {name}", name.encode() + rb" was ended")
    power_off(o)


@test
def test_no_sense():
    with machine("", "this is not\na fleet = file\n\x01") as o:
        o.expect(rb"the fleet file: fleet:1: ", 90)
        o.expect(rb"the fleet file: fleet:4: the fleet has no VMs|the fleet file: no guests")
        o.expect(rb"lodge> ")
        o.command("info", rb"engine svm")
        power_off(o)


@test
def test_missing_modules():
    """No kernel, no initrd, no saved VM, a kernel that is none: each is said; the one that has all runs."""
    fleet = (vm("one", "nowhere") + vm("two", "spin", "initrd = 'gone'") + "[[vm]]\nname = 'three'\nrestore = 'lost'\n" +
             vm("four", "text") + vm("five"))
    with machine("", fleet, [("spin", SPIN), ("text", __file__)]) as o:
        prompt(o)
        o.command("log", rb"(?s)" + b"".join(
            rb"(?=.*\] %s)" % line for line in (
                rb"one does not start: its kernel 'nowhere' is not in the image \(make the image again\)",
                rb"two does not start: its initrd 'gone' is not in the image \(make the image again\)",
                rb"three does not start: the saved VM 'lost' is not in the image \(make the image again\)",
                rb"four does not start: ", rb"five starts")))
        o.command("ps", rb"(?s)one +off.*two +off.*three +off.*four +off.*five +running")
        power_off_killed(o, "five")


def saved_vm():
    """A file of one that ran under Linux, and may go on on any processor."""
    definition, file = (os.path.join(SCRATCH.name, f) for f in ("vm.toml", "vm.saved"))
    with open(definition, "w") as f:
        f.write(f'name = "vm"\nkernel = "{SPIN}"\nappend = "jump"\nmemory = "16M"\n'
                f'engine = "soft"\nportable = true\ntsc_khz = {tsc_khz(BUILD)}\n')
    with subprocess.Popen([LODGE, "run", definition], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as p:
        try:
            check(b"mode jump" in p.stdout.readline(), "it does not run")
            subprocess.run([LODGE, "save", "vm", file], check=True, timeout=60)
        finally:
            p.kill()
    return file


@test
def test_hostile_saved_vms():
    """Made with care: checksums are right, and what they say no Lodge has saved. The one that is as it was goes on."""
    good = saved_vm()
    names = {n: os.path.join(SCRATCH.name, n) for n in ("x87", "avx", "bare", "aux")}
    edit(good, names["x87"], set_xcr0_mask(1))
    edit(good, names["avx"], set_xcr0_mask(5))
    edit(good, names["bare"], set_features(0))  # so it has no RDTSCP either
    edit(names["bare"], names["aux"], set_tsc_aux((1 << 64) - 1))
    fleet = vm("neighbour", "spin", "append = 'jump'") + "".join(f"[[vm]]\nname = '{n}'\nrestore = '{n}'\nautostart = false\n" for n in (*names, "good"))
    with machine("", fleet, [("spin", SPIN), ("good", good), *names.items()]) as o:
        o.expect(rb"neighbour starts", 90)
        for name in ("x87", "avx"):
            o.command(f"start {name}", name.encode() + rb" does not start: engine svm does not run it: XCR0 without x87 or SSE is not offered here", 60)
        o.command("start aux", rb"aux does not start: the saved state of processors and devices cannot be taken: damaged", 60)
        for name in ("bare", "good"):
            o.command(f"start {name}", name.encode() + rb" starts", 60)
        while o.command("ps", rb"\ngood +(\w+)").group(1) == b"starting":
            pass
        o.command("ps", rb"(?s)neighbour +running.*x87 +off.*avx +off.*bare +running.*aux +off.*good +running")
        power_off_killed(o, "neighbour", "bare", "good")


REFUSED = rb"If Secure Boot is on, switch it off in the firmware\s+set-up: Lodge is not signed\."


def image_of_one():
    iso, path = (os.path.join(SCRATCH.name, f) for f in ("one.iso", "fleet.toml"))
    with open(path, "w") as f:
        f.write(vm("a", SPIN))
    subprocess.run([f"{BUILD}/lodge", "image", path, "-o", iso], check=True, timeout=120, stdout=subprocess.DEVNULL)
    return iso


@test
def test_cannot_be_loaded():
    """GRUB finds no Lodge in what it is to load."""
    iso = image_of_one()
    with open(iso, "r+b") as f:
        data = f.read()
        at = data.find(b"\xd6\x50\x52\xe8\0\0\0\0")  # the header's magic, and its architecture
        check(at > 0, "there is no Multiboot 2 header")
        f.seek(at)
        f.write(bytes(4))
    with Operator(iso, memory=256) as o:
        o.expect(REFUSED, 60)


@test
def test_secure_boot():
    """Firmware does not start a GRUB that nobody has signed; the same GRUB, signed, does not load Lodge, and says so."""
    iso = image_of_one()
    with Operator(iso, memory=512, mode="secure") as o:
        o.expect(rb"failed to load Boot\d+ \"UEFI QEMU DVD-ROM[^\n]*Access Denied", 90)
    sign_grub(iso)
    with Operator(iso, memory=512, mode="secure") as o:
        o.expect(REFUSED, 90)


# --- CPUs ------------------------------------------------------------------------------------------

@test
def test_siblings_are_parked():
    with machine("", vm("a") + vm("b"), cpus="4,threads=2", cpu="EPYC,+svm,+npt,+topoext") as o:
        o.expect(rb"SMT: 2 of 4 CPUs are second threads of their cores and run nothing", 90)
        for _ in range(2):
            o.expect(rb"\] (a|b) starts", 60)
        o.expect(rb"lodge> ")
        o.command("info", rb"CPU 0: APIC id 0, idle[^\r\n]*\r\nCPU 1: APIC id 1, parked[^\r\n]*\r\n"
                  rb"CPU 2: APIC id 2, idle[^\r\n]*\r\nCPU 3: APIC id 3, parked")
        efer = [int(e, 16) for e in registers(o, "EFER")]
        check([bool(e & SVME) for e in efer] == [True, False, True, False], f"EFER: {efer}")
        o.command("kill a", rb"a was ended")
        o.command("kill b", rb"b was ended")
        o.command("poweroff", rb"3 of 3 other CPUs have stopped", 60)
        check(o.ends(60) == 0, "it is not off")


@test
def test_siblings_are_shared():
    with machine("", "[machine]\nsmt = 'shared'\n" + vm("a"), cpus="2,threads=2", cpu="EPYC,+svm,+npt,+topoext") as o:
        o.expect(rb"SMT: 2 CPUs are threads of 1 cores, and run different VMs at once, as the fleet file says", 90)
        o.expect(rb"lodge> ")
        o.command("info", rb"CPU 1: APIC id 1, idle")
        efer = [int(e, 16) for e in registers(o, "EFER")]
        check(all(e & SVME for e in efer), f"EFER: {efer}")
        power_off_killed(o, "a")


@long
def test_offline_cpus():
    with machine("", vm("a"), cpus="2,maxcpus=4") as o:
        o.expect(rb"CPUs: 2 of 2; ", 90)
        prompt(o)
        o.command("info", rb"CPU 1: ")
        power_off_killed(o, "a")


def registers(o, name):
    """That register's value on each CPU, by QEMU's monitor."""
    text = o.machine.monitor("info registers -a")
    return re.findall(rf"\b{name}=([0-9a-f]+)", text)


def all_are_stopped(o):
    """Halted, and out of SVM operation."""
    for _ in range(20):
        halted, efer = registers(o, "HLT"), registers(o, "EFER")
        if halted == ["1", "1"] and not any(int(e, 16) & SVME for e in efer):
            return
        time.sleep(0.2)
    raise AssertionError(f"HLT {halted}, EFER {efer}")


@test
def test_panic_stops_guests():
    with machine("test-panic-later", vm("a") + vm("b")) as o:
        o.expect(rb"Lodge: panic on CPU \d at native/selftest_home\.c:\d+: as the command line asked", 120)
        o.expect(rb"Lodge has stopped; 2 of 2 processors are halted\.")
        all_are_stopped(o)


@test
def test_reboot_stops_cpus():
    """One of them takes no interrupts any more."""
    with machine("test-deaf", vm("a", "spin", "autostart = false")) as o:
        o.expect(rb"self-test: CPU \d hears nothing", 90)
        o.command("reboot", rb"1 of 1 other CPUs have stopped", 60)
        check(o.ends(30) == 0, "it does not start anew")


# --- interrupts ------------------------------------------------------------------------------------

@test
def test_debian_goes_on():
    """A CPU that does not start, interrupts that nobody sent, an NMI: said, and a Debian takes no notice. (With one
    processor that works: docs/rig.md.)"""
    fleet = ("[[vm]]\nname = 'debian'\nkernel = 'vmlinuz'\ninitrd = 'initrd'\nappend = 'console=ttyS0'\nmemory = '128M'\n")
    with machine("test-lost-cpu test-spurious", fleet, [("vmlinuz", DEBIAN[0]), ("initrd", DEBIAN[1])],
                 cpus="2,threads=2", cpu="EPYC,+svm,+npt,+topoext") as o:
        o.expect(rb"the CPU with APIC id 200 did not start: left out", 90)
        o.expect(rb"debian starts", 60)
        o.expect(rb"a spurious interrupt of the 8259s: vector 0x27 on CPU 0", 60)
        o.expect(rb"a spurious interrupt of the 8259s: vector 0x2f on CPU 0")
        o.expect(rb"an interrupt that nobody asked for: vector 0x77 on CPU 0")
        o.expect(rb"self-test: interrupts that nobody sent have been taken")
        o.machine.monitor("nmi")
        o.expect(rb"an NMI on CPU 0, at 0x[0-9a-f]+", 30)
        o.command("console debian", rb"comes back")
        o.expect(rb"This is a Debian kernel", 120)
        o.machine.monitor("nmi")
        o.send("echo on-$((40+2))\r")
        o.expect(rb"\non-42\r", 60)
        o.send("\x1d")
        power_off_killed(o, "debian")


# --- isolation -------------------------------------------------------------------------------------

PLANTS = ("the hypervisor, to be read", "another VM", "another VM, to be read", "its own tables", "a frame that is free",
          "a device", "nothing", "a module", "a table that is the VM's")


@test
def test_isolation():
    """Tables that lead where they must not are found, each, and in words."""
    with machine("test-isolation", vm("a") + vm("b")) as o:
        o.expect(rb"isolation: with [ab], 2 VMs reach 3\d\d\d\d pages, each its own", 90)
        text = o.expect(rb"(?s)self-test: a leaf to the hypervisor: .*self-test: isolation: (\d+) of 10 found", 60)
        check(text.group(1) == b"10", text.group(0).decode())
        for words in (rb"a leaf to the hypervisor: isolation is broken: a page at 0x3fe00000 of VM a is frame 0x[0-9a-f]+, which is the hypervisor's",
                      rb"a leaf to another VM: isolation is broken: a page at 0x3f[0-9a-f]+ of VM a is frame 0x[0-9a-f]+, which is b\r",
                      rb"a leaf to a device: isolation is broken: [^\r\n]*, which is no memory at all",
                      rb"a leaf to a frame that is free: isolation is broken: [^\r\n]*, which is nobody's",
                      rb"a table that is the VM's: isolation is broken: a page of tables at 0x3fe00000 of VM a is frame"):
            check(re.search(words, text.group(0)), f"no {words!r} in {text.group(0).decode()}")
        o.expect(rb"lodge> ")
        power_off_killed(o, "a", "b")


@test
def test_broken_isolation_ends_it():
    """In the test build by the next change of any tables: a VM's end."""
    with machine("test-isolation-broken", vm("a") + vm("b") + vm("c", "spin", "autostart = false")) as o:
        o.expect(rb"self-test: isolation is broken now", 90)
        o.command("start c", rb"Lodge: isolation is broken: a page at 0x3fe00000 of VM a is frame 0x[0-9a-f]+, which is b")
        o.expect(rb"Lodge has stopped; 2 of 2 processors are halted\.")


@long
def test_broken_isolation_ends_the_release():
    with machine("test-isolation-broken", vm("a") + vm("b") + vm("c", "spin", "autostart = false"),
                 image="lodge-native") as o:
        o.expect(rb"self-test: isolation is broken now", 90)
        o.command("kill b", rb"b was ended")
        o.command("start c", rb"Lodge: isolation is broken: a page at 0x3fe00000 of VM a is frame 0x[0-9a-f]+")
        all_are_stopped(o)


# --- speculation -----------------------------------------------------------------------------------

def plan(words, cpu):
    with machine("", vm("a"), cpu=cpu, cpus=1) as o:
        o.expect(rb"speculation: " + words + rb"\r", 90)
        o.expect(rb"\] a starts", 60)
        o.expect(rb"lodge> ")
        power_off_killed(o, "a")


@test
def test_without_barriers():
    plan(rb"retpolines, return stack filled at exits; missing: IBPB, BTC, SRSO", "EPYC,+svm,+npt,-ibpb")


@long
def test_without_barriers_of_intel():
    plan(rb"retpolines, return stack filled at exits; missing: IBPB, L1D flush, VERW, iTLB multihit",
         "EPYC,+svm,+npt,vendor=GenuineIntel")


@long
def test_with_barriers_of_intel():
    """In Bochs, whose Tiger Lake has enhanced IBRS: the hypervisor's indirect branches are plain jumps, and a guest runs."""
    iso, path = (os.path.join(SCRATCH.name, f) for f in ("image.iso", "fleet.toml"))
    with open(path, "w") as f:
        f.write(vm("a"))
    make_iso(BUILD, iso, "test-panic-later", [(path, "fleet"), (SPIN, "spin")], "lodge-native-checked")
    run = subprocess.run(["tools/run-bochs.sh", "-p", "tigerlake", "-n", "2", "-m", "256", "-u", "are halted", "200", iso],
                         timeout=240, capture_output=True, check=False)
    for words in (rb"speculation: enhanced IBRS, return stack filled at exits, IBPB between VMs, VERW at entries; missing: "
                  rb"BHI, ITS, iTLB multihit\r?\n", rb"engine vmx", rb"\] a starts", rb"panic on CPU \d at native/selftest_home",
                  rb"Lodge has stopped; 2 of 2 processors are halted\."):
        check(re.search(words, run.stdout), f"no {words!r} in {run.stdout.decode(errors='replace')[-2000:]}")


run(chosen(sys.argv[2:]))
