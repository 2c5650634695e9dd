#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""One machine: guests on the bare-metal image find what they find under soft in the hosted program.

  same_machine.py BUILD svm|vmx [--linux KERNEL] [--append WORDS] [NAME...]

svm: in QEMU; vmx: in Bochs. The guests, the definitions and what is compared are tests/kvm/inventory.py's; the
inventories come from the guests' consoles, by the operator's line. NAME: only these ("cpu v3 1"). The TSC's rate is
the one that the machine has at this boot: soft is given it.
What may differ: tests/native/exceptions-inventory and exceptions-inventory-ENGINE, of the form that inventory.py
says; and between the vCPUs of one VM, tests/kvm/exceptions-inventory.

Prints "ok NAME" or "not ok NAME" after what went wrong; exit status 0 only if all is well.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

from bochs_line import Bochs
from operator_line import Operator

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "kvm"))
from inventory import (LINUX, OWN, Exceptions, Problem, check_documented, check_vcpus, compare, definition,  # noqa
                       inventory, report)

ATTEMPTS = 3
GUEST = 300  # seconds for a guest, in an emulated machine, beside others
MEMORY = {"svm": 1024, "vmx": 512}  # of the machine, in MiB
LARGE = 3072  # more, for a guest that has so much
IPS = 200  # of Bochs: its TSC runs at so many MHz, of which soft wants 100 at least


def exceptions_of(engine):
    found = Exceptions([f"{HERE}/exceptions-inventory", f"{HERE}/exceptions-inventory-{engine}"])
    hosted = Exceptions([f"{HERE}/../kvm/exceptions-inventory"])
    found.rows += [row for row in hosted.rows if row[0].startswith("vcpus ")]
    return found


def name_of(run):
    return run.replace(" ", "-")


def make_image(options, runs, scratch):
    fleet, iso = f"{scratch}/fleet.toml", f"{scratch}/image.iso"
    with open(fleet, "w") as f:
        for run, more in runs:
            f.write(f'[[vm]]\nname = "{name_of(run)}"\nautostart = false\n')
            f.write(re.sub("tsc_khz.*\n", "", definition(options, run, more)))
    subprocess.run([f"{options.build}/lodge", "image", fleet, "-o", iso], check=True, timeout=120,
                   stdout=subprocess.DEVNULL)
    return iso


def machine(options, iso, runs):
    memory = MEMORY[options.engine]
    if any(re.match(rf"[{LARGE // 1000}-9]\d\d\d", more["memory"]) for _, more in runs):
        memory += LARGE
    return Operator(iso, memory=memory, cpus=1) if options.engine == "svm" else Bochs(iso, memory=memory, ips=IPS)


def printed(o, run):
    """What the guest prints, as a dictionary."""
    # Both at once: it is looked at before it has said more than the operator is shown of the past.
    o.send(f"start {name_of(run)}\rconsole {name_of(run)}\r")
    o.expect(rb"comes back\r\n", GUEST)  # at once, but for a large memory that is zeroed
    text = o.expect(rb"(?s)^.*end: 1\r?\n", GUEST).group(0).decode(errors="replace").replace("\r", "")
    o.send("\x1d")
    o.expect(rb"lodge> ")
    if run.startswith("linux"):
        o.command(f"kill {name_of(run)}")
    found = {}
    for line in text.split("\n"):
        if run.startswith("linux") and not line.startswith("inventory "):
            continue
        key, _, value = line.removeprefix("inventory ").partition(": ")
        if key in found:
            raise Problem(f"{key} is there twice: {found[key]} and {value}")
        if key:
            found[key] = value
    return found


def natively(options, runs):
    """The inventories of all runs, from one machine."""
    with tempfile.TemporaryDirectory() as scratch:
        iso = make_image(options, runs, scratch)
        with machine(options, iso, runs) as o:
            o.expect(rf"\] engine {options.engine}".encode(), 120)
            o.expect(rb"lodge> ")
            options.rate = int(o.command("log", rb"TSC: (\d+) kHz").group(1))
            found = {run: printed(o, run) for run, _ in runs}
            o.command("poweroff")
            if o.ends(60) != 0:
                raise Problem("it is not off")
            return found


def natively_at_last(options, runs):
    """QEMU loses an interrupt once in a while (docs/rig.md)."""
    for n in range(ATTEMPTS):
        try:
            return natively(options, runs)
        except AssertionError as e:
            if options.engine != "svm" or n + 1 == ATTEMPTS:
                raise Problem(str(e)) from e
            print(f"# once more, after: {str(e)[-600:]}", flush=True)
    return None


def test_one(options, native, run, more):
    found = native[run]
    problems, allowed = compare(run, inventory(options, "soft", run, more), found, options.exceptions)
    if run.startswith("cpu"):
        problems += check_vcpus(options, run, found)
    if run.startswith("board"):
        problems += check_documented(found)
    return problems, f"{len(found)} lines, {allowed} by exception"


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build")
    parser.add_argument("engine", choices=("svm", "vmx"))
    parser.add_argument("wanted", nargs="*")
    parser.add_argument("--linux")
    parser.add_argument("--append", default="")
    options = parser.parse_intermixed_args()
    options.build, options.rate, options.slower = os.path.abspath(options.build), 0, 2
    options.exceptions = exceptions_of(options.engine)
    runs = [(r, m) for r, m in OWN + (LINUX if options.linux else [])
            if not options.wanted or r in options.wanted]
    try:
        native = natively_at_last(options, runs)
    except (Problem, subprocess.SubprocessError) as e:
        print(f"  {e}\nnot ok inventories under {options.engine}", flush=True)
        return 1
    failed = [report(f"inventory {run}, soft and {options.engine}", test_one, options, native, run, more)
              for run, more in runs]
    return 1 if any(failed) or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
