#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""The soft engine beside qemu-system-x86_64 -accel tcg and the bare machine: docs/bench.md.

  bench.py BUILD_DIR [--quick] [--only ROW,ROW...] [--rounds N] [--seconds S] [--floors]
                     [--lodge PROGRAM] [--lodge-args ARGS] [--peer PROGRAM] [--peer-args ARGS] [-o FILE]

Same kernel, initrd, vCPUs, memory and command line; runs interleaved (A B B A), since the machines are
shared and their speed drifts: a ratio is the median of the ratios within the rounds.
"""
import argparse
import math
import os
import shlex
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
from bench_guest import Failed, Run, Sample, timed  # noqa: E402

KERNEL = "debian-6.1-cloud"
CPU = ["calls", "sieve", "crc", "matrix", "indirect", "chase", "memcpy"]
SYSTEM = ["getppid", "fault", "fork", "pipe", "exec"]
REQUIRED = ["boot", *CPU, "cpu_geomean", *SYSTEM]
BOOTS = {"boot": 1, "boot_smp2": 2, "boot_smp4": 4}
USERLAND = {"gcc": ["gcc", "-O2", "-c", "-o", "/dev/null", "work.c"], "python": ["python3", "-S", "work.py"]}
MEMORY = ["memory_kib", "memory_bench_kib"]
ROWS = [*REQUIRED, "boot_userland", "boot_smp2", "boot_smp4", *USERLAND, *MEMORY]
QUICK = [*REQUIRED, "boot_userland", *MEMORY]
WHO = ("lodge", "peer", "native")
SECONDS = {"boot", "boot_userland", "boot_smp2", "boot_smp4", *USERLAND}


class Results:
    """By row and by who: a list of Samples, one for each round; memory in both their fields."""

    def __init__(self):
        self.of = {}

    def add(self, row, who, value):
        self.of.setdefault(row, {}).setdefault(who, []).append(value)

    def value(self, row, who, kind):
        if row == "cpu_geomean":
            return geomean([self.value(r, who, kind) for r in CPU])
        found = [getattr(s, kind) for s in self.of.get(row, {}).get(who, [])]
        return statistics.median(found) if found else None

    def ratio(self, row, of, to, kind):
        """How many times `of` is `to`: the median over the rounds."""
        if row == "cpu_geomean":
            return geomean([self.ratio(r, of, to, kind) for r in CPU])
        a, b = (self.of.get(row, {}).get(who, []) for who in (of, to))
        return statistics.median(getattr(x, kind) / getattr(y, kind) for x, y in zip(a, b)) if a and b else None

    def has(self, row):
        return all(r in self.of for r in CPU) if row == "cpu_geomean" else row in self.of


def geomean(values):
    if not values or None in values:
        return None
    return math.exp(statistics.fmean(math.log(v) for v in values))


# --- what is run -----------------------------------------------------------------------------------

class Bench:
    def __init__(self, options):
        self.options, self.results = options, Results()
        guest = os.path.join(options.build, "guests", KERNEL)
        self.kernel, self.initrd = f"{guest}/vmlinuz", f"{guest}/initrd"
        self.cpu = max(os.sched_getaffinity(0))

    def file(self, name):
        return os.path.join(self.options.build, "bench", name)

    def guest(self, who, initrd, append, mib=512, vcpus=1, shell=False):
        return Run(self.command(who, initrd, append, f"{mib}M", vcpus), ram=mib << 20, shell=shell)

    def command(self, who, initrd, append, memory, vcpus):
        o = self.options
        if who == "lodge":
            return [o.lodge, "run", *shlex.split(o.lodge_args), "-k", self.kernel, "-i", initrd, "-m", memory,
                    "-c", str(vcpus), "--append", f"console=ttyS0 {append}"]
        return [o.peer, *shlex.split(o.peer_args), "-m", memory, "-smp", str(vcpus), "-nographic", "-no-reboot",
                "-kernel", self.kernel, "-initrd", initrd, "-append", f"console=ttyS0 {append}"]

    def rounds(self, what, rounds, one, who=WHO):
        for i in range(rounds):
            print(f"bench: {what}, round {i + 1} of {rounds}", file=sys.stderr, flush=True)
            for each in who if i % 2 == 0 else reversed(who):
                one(each)

    def boot(self, row, wanted):
        def one(who):
            run = self.guest(who, self.initrd, "lodge.run=hello", vcpus=BOOTS[row])
            self.results.add(row, who, run.total)
            if row == "boot":
                self.results.add("boot_userland", who, run.userland)

        if row in wanted or (row == "boot" and "boot_userland" in wanted):
            rounds = self.options.rounds
            self.rounds(row, rounds if row == "boot" else (rounds + 1) // 2, one, ("lodge", "peer"))

    def workloads(self, wanted):
        names = [r for r in CPU + SYSTEM if r in wanted or (r in CPU and "cpu_geomean" in wanted)]
        arguments = ["-t", str(self.options.seconds), *names]

        def one(who):
            if who == "native":
                program = os.path.join(self.options.build, "guests", "user", "bench")
                run = Run([program, *arguments], cpu=self.cpu)
            else:
                words = "quiet lodge.run=" + ":".join(["bench", *arguments])
                run = self.guest(who, self.file("initrd"), words)
                self.results.add("memory_bench_kib", who, Sample(run.memory["done"], run.memory["done"]))
            for name in names:
                if name not in run.work:
                    run.fail(f"no result of {name}")
                self.results.add(name, who, run.work[name])

        if names:
            self.rounds("workloads", self.options.rounds, one)

    def userland(self, wanted):
        names = [r for r in USERLAND if r in wanted]

        def one(who):
            if who == "native":
                for name in names:
                    last = USERLAND[name][-1]
                    path = self.file(last) if last == "work.c" else os.path.join(TOP, "guests/userland", last)
                    self.results.add(name, who, timed([*USERLAND[name][:-1], path]))
                return
            run = self.guest(who, self.file("userland"), f"quiet lodge.run={','.join(names)}", mib=1024)
            for name in names:
                if name not in run.work:
                    run.fail(f"no result of {name}")
                self.results.add(name, who, run.work[name])

        if names:
            self.rounds(" and ".join(names), (self.options.rounds + 1) // 2, one)

    def memory(self, wanted):
        def one(who):
            run = self.guest(who, self.initrd, "quiet", shell=True)
            if "userland" not in run.memory:
                run.fail("no shell")
            self.results.add("memory_kib", who, Sample(run.memory["userland"], run.memory["userland"]))

        if "memory_kib" in wanted:
            self.rounds("memory", (self.options.rounds + 1) // 2, one, ("lodge", "peer"))

    def run(self, wanted):
        for row in BOOTS:
            self.boot(row, wanted)
        self.workloads(wanted)
        self.userland(wanted)
        self.memory(wanted)


# --- what is said ----------------------------------------------------------------------------------

def number(value):
    if value is None:
        return "-"
    return f"{value:.{max(0, 3 - int(math.floor(math.log10(value))))}f}" if value > 0 else "0"


def scaled(row, value):
    return value if value is None or row in SECONDS or row in MEMORY else value * 1e9


def cells(results, row, kind):
    values = [number(scaled(row, results.value(row, who, kind))) for who in WHO]
    return values + [number(results.ratio(row, "peer", "lodge", kind)),
                     number(results.ratio(row, "lodge", "native", kind))]


def tsv(results, rows, about):
    lines = about + ["name\tlodge\tpeer\tnative\tratio_peer\tratio_native"]
    lines += ["\t".join([row, *cells(results, row, "cpu")]) for row in rows]
    lines += ["\t".join([f"{row}_wall", *cells(results, row, "wall")]) for row in rows if row not in MEMORY]
    return "\n".join(lines) + "\n"


def table(results, rows):
    lines = [["", "lodge", "peer", "native", "x peer", "x native", "wall x peer", "wall x native"]]
    for row in rows:
        unit = "s" if row in SECONDS else "" if row in MEMORY else "ns"
        wall = ["", ""] if row in MEMORY else cells(results, row, "wall")[3:]
        lines.append([f"{row} {unit}", *cells(results, row, "cpu"), *wall])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                               for i, (c, w) in enumerate(zip(line, widths))).rstrip() for line in lines)


def machine(options):
    def said(command):
        try:
            return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]
        except (OSError, subprocess.CalledProcessError) as e:
            sys.exit(f"bench: {e}")

    with open("/proc/cpuinfo") as cpuinfo:
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "?")
    with open(os.path.join(options.build, "guests", KERNEL, "package")) as package:
        kernel = package.read().strip()
    return [f"# machine: {model}, {os.cpu_count()} CPUs, Linux {os.uname().release}",
            f"# versions: {said([options.lodge, 'version'])} ({options.lodge_args}); "
            f"{said([options.peer, '--version'])} ({options.peer_args}); guest {kernel}",
            f"# runs: {options.rounds} rounds, interleaved (half as many of boot_smp*, gcc, python and memory); "
            f"{options.seconds} s for each workload",
            "# unit: processor time of the whole process; seconds for boots, gcc and python, KiB for memory, else "
            "ns for each operation; *_wall: elapsed time; medians"]


# --- floors ----------------------------------------------------------------------------------------

def floors(results):
    """Yields (what is promised, what was found, whether it holds); found is None if it was not measured."""
    def judge(text, value, holds):
        return text, number(value) if value is not None else None, value is not None and holds(value)

    peer = {row: results.ratio(row, "peer", "lodge", "cpu") for row in ROWS if results.has(row)}
    yield judge("cpu_geomean at least 3 times as fast as the peer", peer.get("cpu_geomean"), lambda v: v >= 3)
    native = results.ratio("cpu_geomean", "lodge", "native", "cpu") if "cpu_geomean" in peer else None
    yield judge("cpu_geomean at most 3 times native", native, lambda v: v <= 3)
    yield judge("matrix at least 15 times as fast as the peer", peer.get("matrix"), lambda v: v >= 15)
    for row in ("boot", "boot_userland"):
        yield judge(f"{row} in at most 0.7 of the peer's time", 1 / peer[row] if row in peer else None,
                    lambda v: v <= 0.7)
    work = {row: ratio for row, ratio in peer.items() if row not in (*MEMORY, "cpu_geomean")}
    slower = [f"{row} {number(ratio)}" for row, ratio in work.items() if ratio < 1]
    yield "no workload slower than the peer", (", ".join(slower) or "none") if work else None, not slower
    yield judge("memory_kib at most 32768", results.value("memory_kib", "lodge", "cpu"), lambda v: v <= 32768)


def judge(results):
    missed = 0
    print("floors:")
    for text, found, held in floors(results):
        verdict = "not measured" if found is None else "held" if held else "MISSED"
        missed += found is not None and not held
        print(f"  {verdict:<12}  {text}" + (f": {found}" if found else ""))
    return missed


TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def arguments():
    p = argparse.ArgumentParser(description="the soft engine beside QEMU's TCG and the bare machine (docs/bench.md)")
    p.add_argument("build", help="the build directory")
    p.add_argument("--quick", action="store_true", help="one round, shorter, without SMP, gcc and python")
    p.add_argument("--only", metavar="ROWS", help=f"some of: {', '.join(ROWS)}")
    p.add_argument("--rounds", type=int, help="default 4, with --quick 1")
    p.add_argument("--seconds", type=float, help="for each workload, natively and in guests (0.5, with --quick 0.25)")
    p.add_argument("--floors", action="store_true", help="missed floors are status 1 also if not all is measured")
    p.add_argument("--lodge", metavar="PROGRAM", help="default BUILD/lodge")
    p.add_argument("--lodge-args", metavar="ARGS", default="-e soft", help="of `lodge run`, default '-e soft'")
    p.add_argument("--peer", metavar="PROGRAM", default="qemu-system-x86_64")
    p.add_argument("--peer-args", metavar="ARGS", default="-accel tcg -cpu max", help="default '%(default)s'")
    p.add_argument("-o", metavar="FILE", help="default BUILD/bench.tsv")
    o = p.parse_args()
    o.lodge = o.lodge or os.path.join(o.build, "lodge")
    o.rounds = o.rounds or (1 if o.quick else 4)
    o.seconds = o.seconds or (0.25 if o.quick else 0.5)
    o.o = o.o or os.path.join(o.build, "bench.tsv")
    o.wanted = o.only.split(",") if o.only else QUICK if o.quick else ROWS
    for row in o.wanted:
        if row not in ROWS:
            p.error(f"no row {row}: there are {', '.join(ROWS)}")
    return o


def main():
    options = arguments()
    about = machine(options)
    bench = Bench(options)
    try:
        bench.run(options.wanted)
    except (Failed, OSError) as e:
        sys.exit(f"bench: {e}")
    rows = [row for row in ROWS if row in options.wanted and bench.results.has(row)]
    with open(options.o, "w") as out:
        out.write(tsv(bench.results, rows, about))
    print("\n".join(about))
    print(table(bench.results, rows))
    missed = judge(bench.results)
    whole = not options.quick and not options.only
    sys.exit(1 if missed and (whole or options.floors) else 0)


if __name__ == "__main__":
    main()
