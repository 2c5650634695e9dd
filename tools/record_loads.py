#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Real guests' use of the processor, recorded on the bare machine in QEMU for the scheduler's simulation (tests/unit/share_machines.c).

  record_loads.py BUILD FILE.h

A Debian alone on one CPU is started and used; of its vCPU, each time that it woke until it slept again, and each sleep, are written, in
microseconds. Time is QEMU's count of instructions. QEMU logs the registers when the scheduler's policy is told (share_wake,
share_stop), which costs no instruction: the machine does not know that it is looked at.
"""
import os
import re
import subprocess
import sys
import tempfile

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(TOP, "tests", "native"))

MOST = 1200  # of each recording, from its beginning
PAIRS = 8    # in a line
# name, what is typed on its console, until what is said there
SCENES = [
    ("boot", "", rb"This is a Debian kernel"),
    ("shell", "for n in 1 2 3 4 5; do for d in bin etc proc sys; do find /$d -xdev | head -300 | sort | tail -1; usleep 30000; done; done; echo do''ne\r", rb"done\r"),
    ("daemons", "(while usleep 20000; do cat /proc/stat /proc/meminfo > /dev/null; done) & for i in 1 2 3 4 5 6 7 8; do "
     "(while usleep 10000; do :; done) & done; sleep 3; kill $(jobs -p); echo do''ne\r", rb"done\r"),
    ("idle", "sleep 20; echo do''ne\r", rb"done\r"),
]


def addresses(build):
    """Of the two functions, in the image as it is linked, where it runs."""
    listing = subprocess.run(["nm", f"{build}/lodge-native.debug"], check=True, capture_output=True, text=True).stdout
    return {name: int(re.search(rf"^([0-9a-f]+) T {name}$", listing, re.M)[1], 16) for name in ("share_wake", "share_stop")}


def events(log, where):
    """(when, who, wakes) of each that the log has, in ns."""
    names = {address: name for name, address in where.items()}
    registers = {}
    for line in log:
        registers.update((name, int(value, 16)) for name, value in re.findall(r"\b(R[A-Z0-9]{1,2}) ?=([0-9a-f]{16})\b", line))
        if not line.startswith("RIP="):
            continue
        name = names.get(registers["RIP"])
        if name == "share_wake":
            yield registers["RDX"], registers["RSI"], True
        elif name == "share_stop" and not registers["RDX"] & 0xff:
            yield registers["RCX"], registers["RSI"], False


def pairs_of(log, where):
    """For each who: (for how long it worked, for how long it slept then), in ns."""
    woke, slept, all_pairs = {}, {}, {}
    for when, who, wakes in events(log, where):
        if wakes and who in slept:
            end = slept.pop(who)
            all_pairs.setdefault(who, []).append((end - woke[who], when - end))
        if wakes:
            woke[who] = when
        elif who in woke:
            slept[who] = when
    return all_pairs


def record(build):
    from cost import ICOUNT
    from machine import make_fleet_iso
    from operator_line import Operator
    from shares_line import DEBIAN
    scenes = []
    where = addresses(build)
    with tempfile.TemporaryDirectory() as scratch:
        iso = make_fleet_iso(build, scratch, DEBIAN.format(os.path.abspath(build)))
        log = f"{scratch}/log"
        look = ["-d", "cpu,nochain", "-D", log, "-dfilter", ",".join(f"{a:#x}+0x1" for a in where.values())]
        with Operator(iso, cpus=1, memory=512, more=[*ICOUNT, *look]) as o:
            o.expect(rb" starts: ", 120)
            o.command("console debian")
            for name, typed, until in SCENES:
                o.send(typed)
                o.expect(until, 900)
                scenes.append((name, os.path.getsize(log)))
        with open(log, "r", encoding="ascii", errors="replace") as f:
            before = 0
            for name, size in scenes:
                yield name, max(pairs_of(f.read(size - before).splitlines(), where).values(), key=lambda p: sum(work for work, _ in p))
                before = size


def main():
    build, target = sys.argv[1:]
    out = ["/* SPDX-License-Identifier: Apache-2.0 */", "/* Copyright The Lodge authors */",
           "/* Recorded by tools/record_loads.py: how a Debian's vCPU worked, and slept then, in us. */",
           "#ifndef LODGE_TESTS_UNIT_SHARE_LOADS_H", "#define LODGE_TESTS_UNIT_SHARE_LOADS_H", "", '#include "tests/lib/share_sim.h"', ""]
    for name, pairs in record(build):
        pairs = [(max(1, round(work / 1000)), max(1, round(rest / 1000))) for work, rest in pairs[:MOST]]
        busy, time = sum(w for w, _ in pairs), sum(w + r for w, r in pairs)
        print(f"{name}: {len(pairs)} times, {time / 1e6:.3f} s, {100 * busy / time:.2f} % of a CPU")
        out.append(f"static const struct sim_load load_{name}[] = {{")
        for i in range(0, len(pairs), PAIRS):
            out.append("    " + " ".join(f"{{{w}, {r}}}," for w, r in pairs[i:i + PAIRS]))
        out += ["};", ""]
    with open(target, "w") as f:
        f.write("\n".join([*out, "#endif", ""]))


if __name__ == "__main__":
    sys.exit(__doc__) if len(sys.argv) != 3 else main()
