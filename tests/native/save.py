#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""VMs saved on the bare machine (the operator's command save), under svm in QEMU, received by lrzsz's rb as an operator does.

  save.py BUILD [NAME...]

Prints "ok NAME" or "not ok NAME" for each test. Without names: those of the short form.
"""
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

from machine import make_fleet_iso, tsc_khz
from operator_line import SLOWER, Operator
from suite import again, check, chosen, long, run, test

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
SCRATCH = tempfile.TemporaryDirectory()
GUESTS = os.path.join(BUILD, "guests")
os.environ["XDG_RUNTIME_DIR"] = SCRATCH.name
LODGE = os.path.join(BUILD, "lodge")
BOOT = 120
RECEIVE = 1800  # a Debian has 50 MiB to send
BAD = re.compile(rb"FAIL|Oops|Call Trace|BUG: |soft lockup|rcu_sched self|Kernel panic|unstable|segfault")
# What Linux says of its processor when that stood still for some ms while a timer's interrupt was served: QEMU, on a host with other work.
STOOD_STILL = re.compile(rb"\n<4>\[[^\n]*hrtimer: interrupt took \d+ ns\r")
# noxsave: a Linux that moves between QEMU's processor and another must not use it (docs/rig.md). init_on_free: fewer pages
# that are not zero, so that there is less to send.
DEBIAN = "console=ttyS0 noxsave init_on_free=1"
READY = rb"twice cancels\r\n"


def scratch(name):
    return os.path.join(SCRATCH.name, name)


def make_image(text):
    return make_fleet_iso(BUILD, SCRATCH.name, text)


def debian(name, memory="96M"):
    kernel = f"{GUESTS}/debian-6.1-cloud"
    return (f'[[vm]]\nname = "{name}"\nkernel = "{kernel}/vmlinuz"\ninitrd = "{kernel}/initrd"\n'
            f'append = "{DEBIAN}"\nmemory = "{memory}"\n')


def own(name, guest, more=""):
    return f'[[vm]]\nname = "{name}"\nkernel = "{GUESTS}/bin/{guest}.elf"\nmemory = "64M"\nexit_port = true\n{more}'


# --- a Debian that has a load, on whatever console --------------------------------------------------

def begin_load(g):
    g.expect(rb"This is a Debian kernel", BOOT)
    g.send("load noavx\r")
    g.expect(rb"load: ready", 120)


def clock(g, before=0):
    """In seconds. It is to be more than `before`: what was said until then may be shown again."""
    g.send("mono\r")
    while True:
        now = int(g.expect(rb"load: mono (\d+)\s", 60).group(1)) / 1e9
        if now > before:
            return now


def end_load(g, excused=None):
    """Every result is right, and the kernel has said nothing at warning level but what is excused."""
    g.send("end\r")
    text = g.expect(rb"(?s).*load: (pass|FAIL)\s", 120).group()
    check(not BAD.search(text), text[-3000:])
    g.send("dmesg -r | grep '^<[0-4]>'; echo that-is-$((1+1))\r")
    found = g.expect(rb"(?s).*that-is-2\r\n", 60).group()
    if excused:
        found = excused.sub(b"", found)
    check(b"\n<" not in found, f"warnings: {found}")


class Hosted:
    """A VM of the Linux program lodge, with Operator's words."""

    def __init__(self, *command):
        self.output = b""
        self.process = subprocess.Popen([LODGE, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)

    def expect(self, pattern, seconds):
        end = time.monotonic() + seconds * SLOWER
        while True:
            found = re.search(pattern, self.output)
            if found:
                check(not BAD.search(self.output[:found.end()]), self.output[-3000:])
                self.output = self.output[found.end():]
                return found
            more = b""
            if select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                more = os.read(self.process.stdout.fileno(), 65536)
            check(more, f"expected {pattern!r}, have {self.output[-3000:]!r}")
            self.output += more

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


# --- receiving ---------------------------------------------------------------------------------------

def save(o, name):
    """To where a receiver is waited for."""
    o.command(f"save {name}", READY)


def receiver(o, directory, *options):
    """rb on the machine's line."""
    os.makedirs(directory, exist_ok=True)
    return subprocess.Popen(["rb", "-b", "-y", *options], cwd=directory, stdin=o.serial, stdout=o.serial,
                            stderr=subprocess.DEVNULL)


def receive(o, name, directory="received"):
    """The file that was received."""
    with receiver(o, scratch(directory)) as rb:
        check(rb.wait(RECEIVE * SLOWER) == 0, f"rb: status {rb.returncode}")
    file = scratch(f"{directory}/{name}.saved")
    size = int(o.expect(name.encode() + rb"\.saved: (\d+) bytes sent").group(1))
    check(os.path.getsize(file) == size, f"{os.path.getsize(file)} bytes of {size}")
    check(os.stat(file).st_mode & 0o777 == 0o600, "its contents are for its owner's eyes")
    return file


def check_restored(file, before, ran):
    """Goes on under soft; its clock was `before`, then it may have run for `ran` seconds until it was saved."""
    began = time.monotonic()
    with Hosted("restore", "-e", "soft", "--verify", file) as g:
        now, ran = clock(g, before), ran + time.monotonic() - began
        check(now - before <= ran, f"the clock went from {before} to {now} s while it ran for {ran} s at most")
        end_load(g)
        g.send("poweroff -f\r")
        check(g.process.wait(60 * SLOWER) == 0, "it does not power off")


def attach(o, name):
    """Its console, which begins with the end of what it has said before."""
    o.command(f"console {name}", rb"comes back\r\n")


def detach(o):
    o.send("\x1d")
    o.expect(rb"lodge> ")


def off(o):
    o.command("poweroff")
    check(o.ends(60) == 0, "it is not off")


# --- our own guest: guests/system/moved.c -----------------------------------------------------------

def moved(name, more=""):
    return own(name, "moved", more)


def counts(g, before):
    """TSC, ticks, rounds: what it says when it is asked. All are to be more than `before`: what was said until then may be shown again."""
    g.send("t")
    while True:
        now = [int(n) for n in g.expect(rb"moved: tsc (\d+), (\d+) ticks, (\d+) rounds\s", 60).groups()]
        if all(a > b for a, b in zip(now, before)):
            return now


def check_runs(o, name, before):
    attach(o, name)
    now = counts(o, before)
    detach(o)
    return now


def check_own_restored(file, before, khz, ran, setting=()):
    """Under soft. `ran`: seconds that it may have run for before it was saved."""
    began = time.monotonic()
    with Hosted("restore", "-e", "soft", "--verify", *setting, file) as g:
        now, ran = counts(g, before), ran + time.monotonic() - began
        passed = (now[0] - before[0]) / 1000 / khz
        check(passed <= ran, f"its TSC went on by {passed} s while it ran for {ran} s at most")
        g.send("e")
        g.expect(rb"PASS test_all_is_kept", 60)
        check(g.process.wait(60 * SLOWER) == 1, f"status {g.process.returncode}")


@test
def test_own_guest():
    """Saved while others run, which go on; it goes on here, and under Linux with the translator and without; what was logged meanwhile comes
    afterwards. Before that: receivers that give up, or never begin, or talk nonsense."""
    iso = make_image(moved("one") + moved("two") + own("late", "steady", "append = 'units=60'\nautostart = false\n"))
    with Operator(iso, memory=512, cpus=1) as o:
        khz = int(o.expect(rb"TSC: (\d+) kHz", 90).group(1))
        o.expect(rb"(one|two) starts", 60)
        o.expect(rb"(one|two) starts", 60)
        two = check_runs(o, "two", [0, 0, 0])
        one = check_runs(o, "one", [0, 0, 0])
        o.command("save late", rb"it does not run")
        one = check_cancelled_by_operator(o, one)
        one = check_cancelled_by_receiver(o, one)
        one = check_nonsense(o, one)
        began = time.monotonic()
        o.command("start late")
        save(o, "one")
        ran = time.monotonic() - began
        file = receive(o, "one")
        o.expect(rb"late wrote the exit port: status 1", 60)
        check_runs(o, "one", one)
        check_runs(o, "two", two)
        o.command("pause one")
        save(o, "one")
        receive(o, "one", "paused")
        o.command("ps", rb"one +paused")
        o.command("resume one")
        check_runs(o, "one", one)
        off(o)
    check_own_restored(file, one, khz, ran)
    check_own_restored(file, one, khz, ran, ("--translator", "off"))


def check_cancelled_by_operator(o, one):
    save(o, "one")
    o.send("\x18\x18")
    o.expect(rb"one\.saved: not sent: it was cancelled", 30)
    o.expect(rb"lodge> ")
    return check_runs(o, "one", one)


def check_cancelled_by_receiver(o, one):
    """In the middle: it is interrupted, as by Ctrl-C."""
    save(o, "one")
    with receiver(o, scratch("cancelled")) as rb:
        end = time.monotonic() + 60 * SLOWER
        while not any(f.stat().st_size for f in os.scandir(scratch("cancelled"))):
            check(rb.poll() is None and time.monotonic() < end, "nothing comes")
            time.sleep(0.02)
        rb.send_signal(signal.SIGINT)
    o.expect(rb"one\.saved: not sent: it was cancelled", 30)
    o.expect(rb"lodge> ")
    return check_runs(o, "one", one)


def check_nonsense(o, one):
    """A receiver that begins, and then sends whatever, with nothing in it that is a cancel; and is silenced by the operator."""
    noise = bytes(random.Random(1).choices([b for b in range(256) if b != 0x18], k=20000))
    save(o, "one")
    o.serial.sendall(b"C")
    for at in range(0, len(noise), 500):
        o.serial.sendall(noise[at:at + 500])
        o.read(0.01)
    o.serial.sendall(b"\x18\x18")
    o.expect(rb"one\.saved: (not sent: (it was cancelled|the receiver does not take it)|\d+ bytes sent)", 30)
    o.expect(rb"lodge> ")
    return check_runs(o, "one", one)


@long
def test_nobody_receives():
    with Operator(make_image(moved("one")), memory=256, cpus=1) as o:
        o.expect(rb"one starts", 90)
        one = check_runs(o, "one", [0, 0, 0])
        save(o, "one")
        o.expect(rb"one\.saved: not sent: nobody receives it", 90)
        one = check_runs(o, "one", one)
        save(o, "one")
        o.serial.sendall(b"C")
        o.expect(rb"one\.saved: not sent: the receiver says nothing any more", 90)
        one = check_runs(o, "one", one)
        save(o, "one")
        o.machine.monitor("system_powerdown")
        check(o.ends(60) == 0, "the power button does nothing")


@long
def test_no_memory_for_a_copy():
    """It rests until it has been sent."""
    with Operator(make_image(moved("one")), memory=98, cpus=1) as o:
        o.expect(rb"one starts", 90)
        one = check_runs(o, "one", [0, 0, 0])
        o.command("save one", rb"one rests until this is over(?s:.*)" + READY)
        receive(o, "one")
        check_runs(o, "one", one)
        off(o)


# --- Debian -----------------------------------------------------------------------------------------

def save_debian(o, name, others):
    """A Debian whose load is running. The file, its clock, and for how long it may have run before it was saved."""
    attach(o, name)
    before, began = clock(o), time.monotonic()
    detach(o)
    save(o, name)
    ran = time.monotonic() - began
    file = receive(o, name)
    attach(o, name)
    clock(o, before)
    end_load(o, STOOD_STILL)
    detach(o)
    for other in others:
        check_runs(o, other, [0, 0, 0])
    off(o)
    return file, before, ran


@long
@again
def test_debian():
    """From here to Linux."""
    with Operator(make_image(debian("one") + moved("two")), memory=512, cpus=1) as o:
        o.expect(rb"one starts", 90)
        attach(o, "one")
        begin_load(o)
        detach(o)
        file, before, ran = save_debian(o, "one", ["two"])
    check_restored(file, before, ran)


@long
@again
def test_debian_there_and_back():
    """Saved under Linux, it goes on here, is saved here, and goes on there and, once more, here."""
    first = scratch("first.saved")
    with open(scratch("first.toml"), "w") as f:
        f.write(debian("one").replace("[[vm]]\n", "") + f'tsc_khz = {tsc_khz(BUILD)}\nportable = true\nengine = "soft"\n')
    with Hosted("run", scratch("first.toml")) as g:
        begin_load(g)
        clock(g)
        subprocess.run([LODGE, "save", "one", first], check=True, timeout=60)
    with Operator(make_image(f'[[vm]]\nname = "one"\nrestore = "{first}"\n'), memory=512, cpus=1) as o:
        o.expect(rb"one starts", 120)
        file, before, ran = save_debian(o, "one", [])
    check_restored(file, before, ran)
    with Operator(make_image(f'[[vm]]\nname = "one"\nrestore = "{file}"\n'), memory=512, cpus=1) as o:
        o.expect(rb"one starts", 120)
        attach(o, "one")
        clock(o, before)
        end_load(o, STOOD_STILL)
        detach(o)
        off(o)


run(chosen(sys.argv[2:]))
