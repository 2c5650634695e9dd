#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""What exits cost on the bare-metal image, in instructions: the hypervisor's and the processor's own together.

  cost.py BUILD

QEMU's time stamp counter counts instructions (-icount), so figures are exact, whatever else the machine does, and a
guest reads them itself (guests/bench/exits.c). Prints "ok NAME: FIGURE" or "not ok NAME: ..." for each.
"""
import os
import re
import sys
import tempfile

from machine import make_fleet_iso
from operator_line import Operator

ICOUNT = ["-icount", "shift=0,sleep=off"]
# Row to floor and goal (None: none), in instructions.
FLOORS = {"cpuid": (400, 150), "hypercall": (400, 150), "uart-register": (700, 250), "uart-data": (None, None),
          "mmio-read": (None, None)}
GUEST = """[[vm]]
name = "exits"
kernel = "{}/guests/bin/exits.elf"
memory = "64M"
exit_port = true
"""


def exits(build):
    """Row to instructions."""
    with tempfile.TemporaryDirectory() as scratch:
        iso = make_fleet_iso(build, scratch, GUEST.format(os.path.abspath(build)))
        with Operator(iso, memory=256, cpus=1, more=ICOUNT) as o:
            o.expect(rb"exits (wrote|died|did|was|does)[^\r\n]*", 120)
            text = o.command("console exits", rb"(?s)exits: .*exits: mmio-read \d+\n").group().decode(errors="replace")
    return {name: int(steps) for name, steps in re.findall(r"exits: (\S+) (\d+)", text)}


def main():
    found = exits(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
    failed = False
    for name, (most, goal) in FLOORS.items():
        steps = found.get(name)
        if steps is None or (most and steps > most):
            failed = True
            print(f"not ok {name}: {steps} instructions, at most {most}")
        else:
            print(f"ok {name}: {steps} instructions" + (f" (at most {most}, goal {goal})" if most else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
