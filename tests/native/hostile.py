#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Hostile guests on the bare-metal image, under svm in QEMU, with a neighbour that works. With two processors: each must
end in its way or be ended, and the neighbour's results be right. With one: the neighbour gets no less of it than beside
a guest that only computes. The image proves isolation at every change of tables.

  hostile.py BUILD [WORD...]

Runs are those of guests/die (tests/guests/guests.py); a WORD chooses runs by their name, or "ten" (guests at once).
Without words: the short form; with LODGE_NIGHTLY=1 all. Prints "ok NAME" or "not ok NAME" for each.

For speeds QEMU counts instructions (-icount), and the neighbour's clock goes by them, not by how busy the machine is that
runs the tests, so they can be held to a bound. With one processor only: QEMU has two take turns at whatever timer of the
machine is due next, so how much each gets is a matter of how their timers lie. guests/bench/steady.c says how it tells.
"""
import fnmatch
import itertools
import os
import string
import subprocess
import sys
import tempfile
import time
import traceback

from machine import make_iso
from operator_line import Operator

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
NIGHTLY = os.environ.get("LODGE_NIGHTLY") == "1"
os.environ.setdefault("LODGE_SEEDS", "3" if NIGHTLY else "1")
sys.path.insert(0, os.path.join(TOP, "tests", "guests"))
import guests  # noqa: E402  (after what it reads)

ICOUNT = ["-icount", "shift=0,sleep=off"]
FAIR = 0.9          # of what the neighbour gets beside a guest that only computes
WINDOW = 24 if NIGHTLY else 12 # units of the neighbour that a speed is measured over
UNITS = 3           # that a guest is watched for
PATIENCE = 600      # such times after which a guest that should end has not
HUNG = 180          # seconds in which something has to be said, whatever the machine has to do
IN_A_BOOT = 48      # VMs of one fleet
TINY = [f"tiny{n}" for n in range(10)]
LARGEST = 128       # MiB of a guest
SHORT = ("chains*double*", "chains*serial-forever", "hypercall*numbers", "hypercall*forever", "nmi*-c 2*token", "nmi*-c 4*forever",
         "nmi*no-stack", "recursion*ac-user-handler", "recursion*db-on-stack", "recursion*pf-on-idt", "startup*-c 3*each-other",
         "timers*-c 4*", "timers*-c 2*all", "virtual*")
SHORT_PACE = ("chains*serial-forever", "nmi*-c 2*forever", "timers*-c 2*all", "virtual*storm")
ENDS = (("wrote the exit port: status 1", "lives"), ("wrote the exit port", "fails"), ("died of a triple fault", "triple-fault"),
        ("powered off", "off"), ("was reset", "off"), ("did what this machine cannot go on from", "stuck"))


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def exceptions():
    return guests.Exceptions([os.path.join(TOP, "tests", "kvm", "exceptions-rig"), os.path.join(HERE, "exceptions-native")])


def option(run, name, otherwise):
    return run.arguments[run.arguments.index(name) + 1] if name in run.arguments else otherwise


def fits(run):
    """Memory in MiB, or a level that QEMU's processor has."""
    return option(run, "-m", "64M").endswith("M") and int(option(run, "-m", "64M")[:-1]) <= LARGEST and "--cpu" not in run.arguments


def chosen(excused, short):
    words = sys.argv[2:]
    for run in guests.die_runs():
        wanted = any(w in run.name for w in words) if words else NIGHTLY or any(fnmatch.fnmatchcase(run.name, w) for w in short)
        if wanted and fits(run) and excused.outcome(run) != "not run":
            yield run


# --- the image -------------------------------------------------------------------------------------

def definition(name, guest, append="", memory="64M", vcpus=1, start=False, port=True):
    return "\n".join(["[[vm]]", f"name = '{name}'", f"kernel = '{guest}'", f"append = '{append}'", f"memory = '{memory}'",
                      f"vcpus = {vcpus}", f"autostart = {str(start).lower()}", f"exit_port = {str(port).lower()}", ""])


def machine(scratch, fleet, names, cpus):
    iso, path = (os.path.join(scratch, f) for f in ("image.iso", "fleet.toml"))
    with open(path, "w") as f:
        f.write("\n".join(fleet))
    modules = [(path, "fleet")] + [(f"{BUILD}/guests/bin/{n}.elf", n) for n in sorted(set(names))]
    make_iso(BUILD, iso, "", modules, "lodge-native-checked")
    return Operator(iso, cpus=cpus, memory=512, more=ICOUNT if cpus == 1 else ())


def power_off(o):
    o.command("poweroff", rb"(\d) of \1 other CPUs have stopped", HUNG)
    check(o.ends(HUNG) == 0, "it is not off")


# --- the neighbour ---------------------------------------------------------------------------------

def look_at(o, name):
    o.command(f"console {name}", rb"comes back\r?\n", HUNG)


def unit(o):
    """Number and time of the neighbour's next unit, which must have been right."""
    found = o.expect(rb"unit (\d+): (\d+) ticks, (\d+) wrong\r?\n", HUNG)
    number, ticks, wrong = (int(g) for g in found.groups())
    check(wrong == 0, f"the neighbour's unit {number}: {wrong} results are wrong")
    return number, ticks


def ask(o, key):
    """Types a key, which the neighbour hears: what it says then is of now, whatever the console has shown of before. Not
    before its first unit: until then it empties its FIFO."""
    unit(o)
    o.send(key)
    return int(o.expect(rb'heard "' + key.encode() + rb'" in unit (\d+)\r?\n', HUNG).group(1))


def state(o, name):
    """Of a VM, by ps: its state, and how it ended last."""
    o.command("ps")
    o.expect(rb"NAME +STATE[^\n]*\n", HUNG)
    return tuple(g.decode() for g in o.expect(rb"\n?" + name.encode() + rb" +(\w+) +\d+ +\d+ +[\d.]+ +[\d.]+ *([^\r\n]*)\r?\n", HUNG).groups())


def kill(o, name):
    o.command(f"kill {name}")
    found = o.expect(rb"\] " + name.encode() + rb" [^\r\n]*\r?\n|it does not end yet|it is off", HUNG).group().decode()
    check("does not end" not in found, f"{name} does not end")


class Fleet:
    """One boot: the neighbour, and the hostile ones one after the other."""

    def __init__(self, scratch, runs, cpus, others=()):
        self.runs = {f"h{n}": run for n, run in enumerate(runs)}
        self.keys = itertools.cycle(string.ascii_lowercase)
        fleet = [definition("steady", "steady", start=True), *others]
        fleet += [definition(name, r.guest, option(r, "--append", ""), option(r, "-m", "64M"), int(option(r, "-c", 1)),
                             port="--exit-port" in r.arguments) for name, r in self.runs.items()]
        fleet += [definition(name, "steady", f"seed={n}", "16M") for n, name in enumerate(TINY)]
        fleet += [definition("resets", "wild_port", "reset-cf9", "16M")]
        self.operator = machine(scratch, fleet, ["steady", "spin", "wild_port", *(r.guest for r in runs)], cpus)

    def start(self, name):
        self.operator.command(f"start {name}", name.encode() + rb" starts[^\n]*\n", HUNG)

    def look(self, units):
        """Units in a second (10^9 instructions) that the neighbour gets now, over so many of them."""
        look_at(self.operator, "steady")
        ask(self.operator, next(self.keys))
        first = last = unit(self.operator)
        for _ in range(units):
            last = unit(self.operator)
        self.operator.send("\x1d")
        return (last[0] - first[0]) * 1e9 / (last[1] - first[1])

    def end(self, name):
        """By force, if need be; and the hypervisor does what it is told, and the neighbour goes on."""
        o = self.operator
        if state(o, name)[0] != "off": # one that resets itself is ending, too, now and then
            kill(o, name)
        check(state(o, name)[0] in ("off", "ending"), f"{name} is still there")
        check(state(o, "steady")[0] == "running", "the neighbour does not run")
        o.command("info", rb"CPU 0: APIC id 0[^\n]*\n", HUNG)

    def outcome(self, name, wanted):
        """Until it has ended, or for some of the neighbour's units; for many, if it should end."""
        for _ in range(PATIENCE if not wanted & {"runs", "any"} else 1):
            self.look(UNITS)
            what, how = state(self.operator, name)
            if what == "off" or "was reset" in how:
                return next((outcome for text, outcome in ENDS if how.startswith(text)), how)
        return "runs"

    def results(self, name, wanted):
        self.start(name)
        found = self.outcome(name, wanted)
        self.end(name)
        check(found in wanted or "any" in wanted, f"expected {' or '.join(sorted(wanted))}, but it {found}")
        return found


class Pace(Fleet):
    """On one processor, with guests that only compute."""

    def __init__(self, scratch, runs):
        self.fair = {}
        others = [definition(f"spin{n}", "spin", "jump", vcpus=n) for n in sorted({int(option(r, "-c", 1)) for r in runs})]
        super().__init__(scratch, runs, 1, others)

    def fair_share(self, vcpus):
        """Of the neighbour beside so many vCPUs: asked once for each boot."""
        if vcpus not in self.fair:
            self.start(f"spin{vcpus}")
            self.fair[vcpus] = self.look(WINDOW)
            self.end(f"spin{vcpus}")
        return self.fair[vcpus]

    def pace(self, name):
        fair = self.fair_share(int(option(self.runs[name], "-c", 1)))
        self.start(name)
        found = self.look(WINDOW)
        runs = state(self.operator, name)[0] == "running"
        self.end(name)
        said = f"{found:.1f} units in a second beside it, {fair:.1f} beside one that computes"
        check(found >= FAIR * fair, said)
        return said if runs else f"it has ended; {said}"


def wanted_of(run, excused):
    outcomes = {excused.outcome(run) or run.outcome, excused.may_end(run)} - {None}
    if outcomes == {"lives"} and any(excused.tests(run)):
        outcomes.add("fails")
    return outcomes


def tell(name, test, *arguments):
    """Prints how it went. True: it failed."""
    began = time.monotonic()
    try:
        print(f"ok {name}: {test(*arguments)} ({time.monotonic() - began:.0f} s)", flush=True)
        return False
    except AssertionError as e:
        print(f"  {str(e)[-1500:]}\nnot ok {name}", flush=True)
        return True


def run_boot(fleet, what, test, with_ten):
    """test(name of the VM) for each. How many have failed."""
    failed = 0
    with fleet.operator as o:
        o.expect(rb"steady starts[^\n]*\n", HUNG)
        for name, run in fleet.runs.items():
            failed += tell(f"{what} {run.name}", test, name)
            check(o.process.poll() is None and b"panic" not in o.output, "the hypervisor is gone")
        if with_ten and what == "results":
            failed += tell(f"{what} of resets without end", resets, fleet)
        if with_ten:
            failed += tell(f"{what} of ten at once", ten, o, what == "pace")
        power_off(o)
    return failed


def run_results(scratch, runs, excused, with_ten):
    fleet = Fleet(scratch, runs, 2)
    return run_boot(fleet, "results", lambda name: fleet.results(name, wanted_of(fleet.runs[name], excused)), with_ten)


def run_pace(scratch, runs, with_ten):
    fleet = Pace(scratch, runs)
    return run_boot(fleet, "pace", fleet.pace, with_ten)


# --- ten at once -----------------------------------------------------------------------------------

def hear(o, name, key):
    look_at(o, name)
    ask(o, key)
    last = unit(o)
    o.send("\x1d")
    o.expect(rb"lodge> ", HUNG)
    return last


def ten(o, paced):
    """Ten small ones: each is right, and hears what is typed on its own console and nothing else; if QEMU counts
    instructions, it gets a tenth."""
    kill(o, "steady")
    for name in TINY:
        o.command(f"start {name}", name.encode() + rb" starts[^\n]*\n", HUNG)
    first, last = ([hear(o, name, key) for key, name in zip(keys, TINY)] for keys in ("abcdefghij", "klmnopqrst"))
    pace = [(b[0] - a[0]) * 1e9 / (b[1] - a[1]) for a, b in zip(first, last)]
    check(not paced or min(pace) >= FAIR * max(pace), f"units in a second: {[round(p, 1) for p in pace]}")
    for name in TINY[:5]:
        kill(o, name)
    o.command("ps", rb"(?s)tiny4 +off.*tiny9 +running", HUNG)
    for name in TINY[5:]:
        kill(o, name)
    return f"{min(pace):.1f} to {max(pace):.1f} units in a second"


def resets(fleet):
    """One that resets itself as often as it can: it fills no log, and is ended by force in the midst of it."""
    o = fleet.operator
    fleet.start("resets")
    o.expect(rb"resets: more of this is not said for some seconds", HUNG)
    fleet.look(WINDOW)
    fleet.end("resets")
    return "it is ended"


def boots(scratch):
    """Functions, each for one boot: how many tests have failed there."""
    excused = exceptions()
    runs = list(chosen(excused, SHORT))
    lasting = [r for r in chosen(excused, SHORT_PACE) if wanted_of(r, excused) & {"runs", "any"}]
    with_ten = not sys.argv[2:] or "ten" in sys.argv[2:]
    for at in range(0, max(len(runs), with_ten), IN_A_BOOT):
        yield lambda at=at: run_results(scratch, runs[at:at + IN_A_BOOT], excused, with_ten and at == 0)
    for at in range(0, max(len(lasting), with_ten), IN_A_BOOT):
        yield lambda at=at: run_pace(scratch, lasting[at:at + IN_A_BOOT], with_ten and at == 0)


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for n, boot in enumerate(boots(scratch)):
            try:
                failed += boot()
            except (AssertionError, OSError, subprocess.SubprocessError):
                failed += 1
                traceback.print_exc(file=sys.stdout)
                print(f"not ok boot {n + 1}", flush=True)
    sys.exit(1 if failed else 0)


main()
