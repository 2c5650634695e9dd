# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A fleet of guests/bench/shares.c on the bare machine in QEMU, which counts instructions for time, and what its operator's
commands usage and set say: for tests/native/shares.py and tools/shares_picture.py."""
import collections
import os
import re
import tempfile
import time

from cost import ICOUNT
from machine import make_fleet_iso
from operator_line import Operator

START = 120
# A [[vm]], formatted with the build directory.
DEBIAN = """[[vm]]
name = "debian"
kernel = "{0}/guests/debian-6.1-cloud/vmlinuz"
initrd = "{0}/guests/debian-6.1-cloud/initrd"
append = "console=ttyS0"
memory = "128M"
"""

# Of a VM, in seconds; MiB seconds.
Use = collections.namedtuple("Use", "guest overhead steal memory")
# now and the rest: seconds; vm: name to Use.
Usage = collections.namedtuple("Usage", "now cpus together before own idle vm tenant")


def vm(build, name, append="", **keys):
    """A [[vm]] of the fleet file: weight=200 is cpu.weight = 200."""
    of_cpu = {"weight", "reservation", "limit", "credit", "pin"}
    lines = ["[[vm]]", f'name = "{name}"', f'kernel = "{os.path.abspath(build)}/guests/bin/shares.elf"', f'append = "{append}"',
             'memory = "4M"']
    for key, value in keys.items():
        lines.append(f"{'cpu.' if key in of_cpu else ''}{key} = {value if isinstance(value, int) else chr(34) + value + chr(34)}")
    return "\n".join(lines) + "\n"


class Fleet(Operator):
    """with Fleet(build, [vm(build, ...), ...], cpus=2) as f: all have begun."""

    def __init__(self, build, vms, cpus=1, memory=256, **more):
        self.scratch = tempfile.TemporaryDirectory()
        iso = make_fleet_iso(build, self.scratch.name, "\n".join(vms))
        super().__init__(iso, cpus=cpus, memory=memory, more=ICOUNT, **more)
        self.count = len(vms)

    def __enter__(self):
        super().__enter__()
        for _ in range(self.count):
            self.expect(rb" starts: ", START)
        return self

    def __exit__(self, *what):
        super().__exit__(*what)
        self.scratch.cleanup()

    def usage(self):
        text = self.command("usage", rb"(?s)\nNAME .*together [^\r\n]*\r?\n", START).group().decode()
        vms, tenants = {}, {}
        for name, tenant, *figures in re.findall(r"^(\S+|\(all of\)) +(\S+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)\r?$", text, re.M):
            (tenants if name == "(all of)" else vms)[tenant if name == "(all of)" else name] = Use(*map(float, figures))
        before, own, idle = map(float, re.search(r"starting up +([\d.]+), Lodge itself +([\d.]+), idle +([\d.]+)", text).groups())
        together, cpus, now = re.search(r"together +([\d.]+) of (\d+) CPUs? x +([\d.]+)", text).groups()
        return Usage(float(now), int(cpus), float(together), before, own, idle, vms, tenants)

    def window(self, seconds):
        """What was used in at least so many seconds of the machine's time."""
        first = self.usage()
        end = time.monotonic() + START + 30 * seconds
        while True:
            last = self.usage()
            if last.now - first.now >= seconds:
                return difference(first, last)
            if time.monotonic() > end:
                raise AssertionError(f"no {seconds} s have passed: {first.now} to {last.now}")
            time.sleep(0.2)

    def set(self, name, words):
        return self.command(f"set {name} {words}", rb"\n(cpu\.weight=[^\r\n]*|[^\r\n]*nothing is changed[^\r\n]*)\r?\n").group(1).decode()


def difference(a, b):
    def of(x, y):
        return {name: Use(*(q - p for p, q in zip(x[name], y[name]))) for name in y}
    return Usage(b.now - a.now, b.cpus, b.together - a.together, b.before - a.before, b.own - a.own, b.idle - a.idle,
                 of(a.vm, b.vm), of(a.tenant, b.tenant))


def cpu(use):
    return use.guest + use.overhead


def parts(usage):
    """Each VM's part of what all VMs had, in percent."""
    total = sum(cpu(u) for u in usage.vm.values())
    return {name: 100 * cpu(u) / total for name, u in usage.vm.items()}
