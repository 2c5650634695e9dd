#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A Debian under load, saved at random moments and restored elsewhere.

  saved.py BUILD_DIR [OPTION VALUE]... [TEST...]

  --moves N     how often it is moved (5)
  --seed N      of the moments (drawn, and said)
  --engine E    with -e (soft)
  --sequence S  what it is restored with, in turn: s soft, i soft without its translator, k kvm (siss; kvm: k)
  --vcpus N     2
  --append TEXT for the kernel, --load WORDS for the load ("noavx")
  --file F      moves: begin with this file instead of a boot
  --leave F     moves: save to this file at last, instead of ending the guest
  --slower N    how much more time anything may take

  moves    saved and restored with the translator on and off in turn: guests/user/load.c must find every result right
  beside   a VM that was saved, and went on, passes as well as each copy of it
  forks    so do a VM and three forks of it, at once
  spoilt   the load finds whatever is wrong: each of its workers is made to fail
  identity a VM that was restored or forked has another generation id, and its Linux draws new random numbers: then, and
           not when it was paused or reset, nor in the VM that it comes from
  rests    how long a VM rests when it is saved, by its own clock: a processor that does nothing but look at it

The guest's monotonic clock must not have gone back over a move, nor further than it ran outside: not while it was a
file. With --leave, what it was is in a file beside (.clock), which --file looks for.
"""
import argparse
import atexit
import itertools
import os
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

BAD = re.compile(rb"FAIL|Oops|Call Trace|BUG: |soft lockup|rcu_sched self|Kernel panic|unstable|segfault")
EXCUSED = re.compile(rb"x86/fpu: XSAVE consistency problem.*?---\[ end trace", re.S)  # tests/kvm/boot.py
RESEEDED = rb"crng reseeded due to virtual machine fork"
# Those that have drivers/virt/vmgenid.c: Debian's 6.1 for clouds is built without it (CONFIG_VIRT_DRIVERS).
DRIVER_IN = ["debian-6.1-generic", "debian-6.12-cloud"]
LEAST, MOST = 0.05, 1.5  # seconds between two moves
SETTINGS = {"s": ["-e", "soft"], "i": ["-e", "soft", "--translator", "off"], "k": ["-e", "kvm"]}
REST = 0.2  # seconds that a VM may rest, at most, on a machine with other work


class Guest:
    """A VM that has a name, and its serial port."""

    def __init__(self, name, *command):
        self.name, self.output, self.reseeded = name, b"", 0
        self.process = subprocess.Popen([LODGE, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        atexit.register(self.process.kill)

    def expect(self, pattern, seconds=60, plain=True):
        """Waits for it, and forgets what came before it, in which nothing bad may be."""
        end = time.monotonic() + seconds * o.slower
        while True:
            found = re.search(pattern, self.output)
            if found:
                if plain:
                    self.check_plain(self.output[:found.end()])
                self.reseeded += self.output[:found.end()].count(RESEEDED)
                self.output = self.output[found.end():]
                return found
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"{self.name}: no {pattern!r}: {self.output[-3000:].decode(errors='replace')}")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise AssertionError(f"{self.name}: ended without {pattern!r}: "
                                     f"{self.output[-3000:].decode(errors='replace')}")
            self.output += piece

    def check_plain(self, text):
        bad = BAD.search(EXCUSED.sub(b"", text))
        if bad:
            raise AssertionError(f"{self.name}: {text[-3000:].decode(errors='replace')}")

    def say(self, word):
        self.process.stdin.write(word + b"\n")
        self.process.stdin.flush()

    def clock(self):
        self.say(b"mono")
        return int(self.expect(rb"load: mono (\d+)\s").group(1)) / 1e9

    def gap(self):
        self.say(b"gap")
        return int(self.expect(rb"load: longest gap (\d+) us\s").group(1)) / 1e6

    def identity(self):
        """At the shell: the id, which is at 0xFF000 (docs/machine.md)."""
        self.say(b"echo id: $(dd if=/dev/mem bs=16 skip=65280 count=1 2>/dev/null | od -An -tx1)")
        return self.expect(rb"id: ([0-9a-f]{2}(?: [0-9a-f]{2}){15})\s").group(1)

    def pass_on(self, file):
        """Saves it there, and ends it; its clock, and how much further it may have gone before it was saved."""
        began, before = time.monotonic(), self.clock()
        lodge("save", self.name, file)
        saved = time.monotonic()
        lodge("kill", self.name)
        self.process.wait(timeout=60 * o.slower)
        return before, saved - began

    def finish(self):
        self.say(b"end")
        self.expect(rb"load: pass\s", 120)
        self.expect(rb"lodge: load: exit 0", 60)
        status = self.process.wait(timeout=60 * o.slower)
        if status:
            raise AssertionError(f"{self.name}: status {status}")


def lodge(*args):
    done = subprocess.run([LODGE, *args], capture_output=True, timeout=120 * o.slower)
    if done.returncode:
        raise AssertionError(f"lodge {' '.join(args)}: status {done.returncode}: {done.stderr.decode()}")
    return done.stdout.decode()


def end_all():
    """What a test that failed has left: forks are nobody's children."""
    for line in lodge("ps").splitlines()[1:]:
        subprocess.run([LODGE, "kill", line.split()[0]], timeout=60)


def start(name, kernel, append):
    debian = f"{o.build}/guests/{kernel}"
    return Guest(name, "run", "-e", o.engine, "-c", str(o.vcpus), "-m", "512M", "--name", name, *o.definition,
                 "-k", f"{debian}/vmlinuz", "-i", f"{debian}/initrd",
                 "--append", f"console=ttyS0 panic=-1 {append} {o.append}")


def boot(name, words=()):
    load = ":".join(["load", *words, *o.load.split()])
    g = start(name, "debian-6.1-cloud", f"lodge.run={load}")
    g.expect(rb"load: ready", 120)
    return g


def restore(name, file, setting=None, options=()):
    return Guest(name, "restore", *(SETTINGS[setting] if setting else ["-e", o.engine]), "--name", name, *options, file)


def check_clock(before, after, ran, what):
    """It was `before`; then it may have run for `ran` seconds."""
    if not 0 <= after - before <= ran:
        raise AssertionError(f"{what}: the clock went from {before} to {after} s while it ran for {ran} s at most")


def restore_on_time(name, file, setting, before, ran):
    """As pass_on() left it."""
    began = time.monotonic()
    g = restore(name, file, setting)
    check_clock(before, g.clock(), ran + time.monotonic() - began, f"restored with {setting}")
    return g


def begin(settings):
    if not o.file:
        return boot("vm")
    with open(f"{o.file}.clock") as f:
        before, ran = map(float, f.read().split())
    return restore_on_time("vm", o.file, next(settings), before, ran)


def test_moves():
    rng = random.Random(o.seed)
    settings = itertools.cycle(o.sequence)
    g = begin(settings)
    for n in range(o.moves):
        g.clock()
        time.sleep(rng.uniform(LEAST, MOST) * o.slower)
        file = f"{work}/move{n % 2}"
        before, ran = g.pass_on(file)
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 1))
        g = restore_on_time("vm", file, next(settings), before, ran)
        time.sleep(rng.uniform(0, 0.2))
    if o.leave:
        time.sleep(rng.uniform(LEAST, MOST) * o.slower)
        before, ran = g.pass_on(o.leave)
        with open(f"{o.leave}.clock", "w") as f:
            print(f"{before!r} {ran!r}", file=f)
    else:
        g.finish()


def test_beside():
    rng = random.Random(o.seed + 1)
    g = boot("first")
    copies = []
    for n in range(2):
        time.sleep(rng.uniform(LEAST, MOST))
        began, before = time.monotonic(), g.clock()
        lodge("save", "first", f"{work}/beside{n}")
        saved = time.monotonic()
        check_clock(before, g.clock(), time.monotonic() - began, "the one that was saved")
        copies.append(restore_on_time(f"copy{n}", f"{work}/beside{n}", None, before, saved - began))
    time.sleep(rng.uniform(LEAST, MOST))
    for one in (g, *copies):
        one.finish()


def test_forks():
    g = boot("origin")
    names = lodge("fork", "-n", "3", "origin").split()
    copies = [Guest(name, "console", name) for name in names]
    for one in (g, *copies):
        one.clock()
    time.sleep(1)
    for one in (*copies, g):
        one.finish()


def test_spoilt():
    g = boot("spoilt")
    g.say(b"spoil")
    time.sleep(1 * o.slower)
    g.say(b"end")
    text = g.expect(rb"(?s).*lodge: load: exit 1", 120, plain=False).group()
    workers = set(re.findall(rb"load: ([\w ]+): \d+ rounds", text))
    failed = set(re.findall(rb"load: FAIL ([\w ]+): ", text))
    if not workers or workers != failed:
        raise AssertionError(f"it did not find what was wrong: {workers - failed}: {text.decode(errors='replace')}")
    g.process.wait(timeout=60 * o.slower)


def check_new(g, ids):
    g.expect(RESEEDED)
    own = g.identity()
    if own in ids or g.reseeded != 1:
        raise AssertionError(f"{g.name}: id {own}, after {ids}; reseeded {g.reseeded} times")
    ids.append(own)


def check_old(g, own, what):
    now = g.identity()
    if now != own or g.reseeded:
        raise AssertionError(f"{g.name}, {what}: id {now}, was {own}; reseeded {g.reseeded} times")


def wait_paused():
    end = time.monotonic() + 60 * o.slower
    while "paused" not in lodge("ps"):
        if time.monotonic() > end:
            raise AssertionError("the restored VM is not paused")
        time.sleep(0.05)


def follow_identity(kernel):
    g = start("vm", kernel, "")
    g.expect(rb"/ # ", 120)
    ids = [g.identity()]
    lodge("pause", "vm")
    lodge("resume", "vm")
    check_old(g, ids[0], "paused")
    g.say(b"reboot -f")
    g.expect(rb"lodge: userland reached", 120)
    g.expect(rb"/ # ", 120)
    check_old(g, ids[0], "reset")
    for name in lodge("fork", "-n", "2", "vm").split():
        check_new(Guest(name, "console", name), ids)
        lodge("kill", name)
    check_old(g, ids[0], "forked from")
    lodge("save", "vm", f"{work}/identity")
    check_old(g, ids[0], "saved")
    lodge("kill", "vm")
    g.process.wait(timeout=60 * o.slower)
    for paused in (False, True):
        g = restore("vm", f"{work}/identity", options=["--paused"] if paused else [])
        if paused:
            wait_paused()
            lodge("resume", "vm")
        check_new(g, ids)
        g.say(b"poweroff -f")
        g.process.wait(timeout=60 * o.slower)


def test_identity():
    for kernel in DRIVER_IN:
        follow_identity(kernel)


def test_rests():
    g = boot("spin", ["spin"])
    gaps = {False: [], True: []}
    for save in (False, True) * 7:
        time.sleep(0.3)
        g.gap()
        began = time.monotonic()
        if save:
            lodge("save", "spin", f"{work}/spin")
        else:
            time.sleep(0.3)
        took = time.monotonic() - began
        gaps[save].append(g.gap())
    print("  ms without: %s; saved: %s; the last save took %.0f ms" % (
        *(" ".join(f"{1e3 * gap:.1f}" for gap in sorted(gaps[save])) for save in (False, True)), 1e3 * took))
    if sorted(gaps[True])[3] > REST * o.slower:
        raise AssertionError("it rests too long")
    g.finish()


def main():
    global o, work, LODGE
    p = argparse.ArgumentParser()
    p.add_argument("build")
    p.add_argument("--moves", type=int, default=5)
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    p.add_argument("--engine", default=os.environ.get("LODGE_ENGINE", "soft"))
    p.add_argument("--sequence")
    p.add_argument("--vcpus", type=int, default=2)
    p.add_argument("--append", default="")
    p.add_argument("--load", default="")
    p.add_argument("--file")
    p.add_argument("--leave")
    p.add_argument("--tsc-khz", type=int)
    p.add_argument("--slower", type=float, default=1)
    p.add_argument("--portable", action="store_true")
    p.add_argument("test", nargs="*", default=["moves", "beside", "forks", "spoilt", "identity", "rests"])
    o = p.parse_intermixed_args()
    o.sequence = o.sequence or ("k" if o.engine == "kvm" else "siss")
    LODGE = os.path.abspath(os.path.join(o.build, "lodge"))
    work = tempfile.mkdtemp(prefix="saved.", dir=os.path.abspath(o.build))  # /run/lodge is not ours
    atexit.register(shutil.rmtree, work, True)
    os.environ["XDG_RUNTIME_DIR"] = work
    atexit.register(end_all)
    o.definition = ["--portable"] if o.portable else []
    if o.tsc_khz:  # no option has it: a file
        with open(f"{work}/vm.toml", "w") as f:
            f.write(f"tsc_khz = {o.tsc_khz}\n")
        o.definition += [f"{work}/vm.toml"]
    failed = 0
    for name in o.test:
        try:
            globals()[f"test_{name}"]()
            print(f"ok saved {name}, {o.moves} moves, seed {o.seed}", flush=True)
        except (AssertionError, OSError, subprocess.TimeoutExpired) as e:
            print(f"{e}\nnot ok saved {name}, seed {o.seed}", flush=True)
            failed += 1
    sys.exit(bool(failed))


main()
