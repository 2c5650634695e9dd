#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""One machine: what guests find must be the same under all engines, for one definition of a VM.

  inventory.py BUILD_DIR [--engines A,B] [--exceptions FILE]... [--linux KERNEL] [--append WORDS]
               [--record] [--recorded FILE] [--slower N] [NAME...]

Runs guests that print an inventory (guests/inventory; with --linux also guests/user/inventory.c under
that stock kernel) with the same definition under both engines and compares them. Without --engines:
soft twice, which must give the same both times. With kvm among them: the TSC's rate is part of the
definition, and is the one that kvm has by itself on this host. NAME: only runs whose name has it;
"rates": that a rate which the definition names is kept or refused.
--append: more for Linux's command line, under both engines.

--record: what the guests print under the one engine of --engines is printed, in lines that begin with
"recorded", and nothing compared. --recorded: a file with such lines, which stand for an engine named
"recorded"; so what kvm gives in the rig is compared outside, where soft is not slow.

Besides, of each inventory of our own guests: the vCPUs are alike, and no port or address answers that
docs/machine.md does not have.

--exceptions: what must differ, and nothing else, with the reason. A line for each, split by tabs:
where (a pattern as shells have it, for "NAME: KEY"), which bits, the reason. Bits: a mask for each
word of the value, or "words" and those that only one side may have, in any order, or "*" (anything, or
no such line on one side); "?" before it: may differ, since it is the host's. What does not differ any more is reported. The comparison of a vCPU with the first has
the name "vcpus NAME".

Prints "ok NAME" or "not ok NAME" after what went wrong; exit status 0 only if all is well.
"""
import argparse
import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SECONDS = 60
SHOWN = 30  # differences, at most
RATE = 2596143  # of the TSC in kHz, where no host has a say
RATES_APART = 1.1  # a rate that the host does not have, if it cannot scale
CANNOT_SCALE = re.compile(r"this host's TSC runs at \d+ kHz and cannot be scaled to the \d+ kHz")

# Name, memory: the others differ in how many vCPUs and which level.
OWN = [
    ("cpu v2 1", {"memory": "64M"}),
    ("cpu v3 4", {"memory": "64M"}),
    ("board v3 1", {"memory": "64M"}),
    ("board v2 4", {"memory": "3200M"}),
]
LINUX = [("linux v3 1", {"memory": "256M"}), ("linux v2 2", {"memory": "512M"})]


class Problem(Exception):
    pass


class Exceptions:
    """The files of --exceptions."""

    def __init__(self, paths):
        lines = [line.rstrip("\n") for path in paths for line in open(path)]
        self.rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
        for row in self.rows:
            if len(row) != 3:
                sys.exit(f"exceptions: three columns, please: {row}")

    def of(self, where):
        return [bits for pattern, bits, _ in self.rows if fnmatch.fnmatchcase(where, pattern)]


def covered(bits, one, other):
    """Does the exception allow these two values?"""
    bits = bits.lstrip("?")
    if bits == "*":
        return True
    if one is None or other is None:
        return False
    words, others, masks = one.split(), other.split(), bits.split()
    if masks[0] == "words":
        return set(words) ^ set(others) <= set(masks[1:])
    if len(words) != len(others) or len(words) > len(masks):
        return False
    for a, b, mask in zip(words, others, masks):
        if a != b and not (re.fullmatch("[0-9a-f]+", a) and re.fullmatch("[0-9a-f]+", b) and
                           (int(a, 16) ^ int(b, 16)) & ~int(mask, 16) == 0):
            return False
    return True


def compare(name, one, other, exceptions):
    """Problems of two inventories, and how many differences are allowed."""
    problems, allowed = [], 0
    for key in dict.fromkeys([*one, *other]):
        rows = exceptions.of(f"{name}: {key}")
        a, b = one.get(key), other.get(key)
        if a == b:
            if rows and not all(bits.startswith("?") for bits in rows):
                problems.append(f"{key} is {a} in both, but the exceptions say that it differs")
        elif any(covered(bits, a, b) for bits in rows):
            allowed += 1
        else:
            problems.append(f"{key}: {a} or {b}")
    return problems, allowed


# --- running ---------------------------------------------------------------------------------------


def definition(options, name, more):
    guest, level, vcpus = name.split()
    top = os.path.abspath(options.build)
    keys = {"level": level, "vcpus": int(vcpus), "tsc_khz": options.rate,
            "exit_port": guest != "linux", **more}
    if guest == "linux":
        keys |= {"kernel": f"{top}/guests/{options.linux}/vmlinuz",
                 "initrd": f"{top}/guests/{options.linux}/initrd",
                 "append": f"console=ttyS0 loglevel=1 panic=-1 nokaslr lodge.run=inventory {options.append}"}
    else:
        keys |= {"kernel": f"{top}/guests/bin/inventory_{guest}.elf", "append": "one machine"}
    return "".join(f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
                   .replace("'", '"') for key, value in keys.items())


def execute(options, engine, text):
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as f:
        f.write(text)
        f.flush()
        try:
            return subprocess.run([os.path.join(options.build, "lodge"), "run", "-e", engine, "--no-reboot",
                                   f.name], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=SECONDS * options.slower)
        except subprocess.TimeoutExpired as e:
            tail = (e.stdout or b"")[-300:].decode(errors="replace")
            raise Problem(f"under {engine}: not at its end after {e.timeout:.0f} s: {tail}") from e


def recorded(options, what):
    """An inventory out of --recorded, or "rate"."""
    prefix = f"recorded {what}: "
    found = dict(line.removeprefix(prefix).split(": ", 1) for line in options.lines if line.startswith(prefix))
    if not found:
        raise Problem(f"{options.recorded} has no {what}")
    return found


def record(what, found):
    for key, value in found.items():
        print(f"recorded {what}: {key}: {value}", flush=True)


def inventory(options, engine, name, more):
    """What the guest prints, as a dictionary."""
    if engine == "recorded":
        return recorded(options, name)
    linux = name.startswith("linux")
    done = execute(options, engine, definition(options, name, more))
    text = done.stdout.decode(errors="replace").replace("\r", "")
    if done.returncode != (0 if linux else 1):
        raise Problem(f"under {engine}: status {done.returncode}: {text[-300:]}{done.stderr.decode()}")
    lines = [line for line in text.split("\n") if line]
    if linux:
        lines = [line.removeprefix("inventory ") for line in lines if line.startswith("inventory ")]
    found = {}
    for line in lines:
        key, _, value = line.partition(": ")
        if key in found:
            raise Problem(f"under {engine}: {key} is there twice: {found[key]} and {value}")
        found[key] = value
    if lines[-1:] != ["end: 1"]:
        raise Problem(f"under {engine}: the inventory has no end: {lines[-3:]}")
    return found


# --- of one inventory ------------------------------------------------------------------------------


def vcpus_of(found):
    """An inventory for each vCPU."""
    every = []
    for key, value in found.items():
        match = re.match(r"cpu(\d+) (.*)", key)
        if match:
            while len(every) <= int(match[1]):
                every.append({})
            every[int(match[1])][match[2]] = value
    return every


def check_vcpus(options, name, found):
    vcpus = vcpus_of(found)
    if len(vcpus) != int(name.split()[2]):
        return [f"{len(vcpus)} vCPUs"]
    return [f"cpu{n} {p}" for n, vcpu in enumerate(vcpus[1:], 1)
            for p in compare(f"vcpus {name}", vcpus[0], vcpu, options.exceptions)[0]]


def documented(heading):
    """Ranges in the first columns of a table of docs/machine.md."""
    text = open(os.path.join(TOP, "docs", "machine.md")).read()
    table = re.search(rf"^## {heading}\n(.*?)^## ", text, re.M | re.S)[1]
    rows = [row.split("|")[1:3] for row in table.split("\n") if re.match(r"\| 0x[0-9A-F]", row)]
    if heading == "Memory":
        return [(int(first, 16), int(last, 16)) for first, last in rows if "0x" in last]
    ranges = [re.fullmatch(r"0x([0-9A-F]+)(?:-0x([0-9A-F]+))?", r.strip())
              for first, _ in rows for r in first.split(",")]
    return [(int(r[1], 16), int(r[2] or r[1], 16)) for r in ranges]


def check_documented(found):
    problems = []
    for kind, heading in (("port", "Ports"), ("address", "Memory")):
        ranges = documented(heading)
        places = [re.fullmatch(rf"{kind} ([0-9a-f]+)", key) for key in found]
        places = [int(m[1], 16) for m in places if m]
        if not places or not ranges:
            problems.append(f"nothing to compare with the table of docs/machine.md: {heading}")
        problems += [f"{kind} {at:x} answers, and docs/machine.md does not have it" for at in places
                     if not any(first <= at <= last for first, last in ranges)]
    return problems


# --- tests -----------------------------------------------------------------------------------------


def test_inventories(options, name, more):
    found = [inventory(options, engine, name, more) for engine in options.engines]
    if options.record:
        record(name, found[0])
        return [], f"{len(found[0])} lines"
    problems, allowed = compare(name, *found, options.exceptions)
    if name.startswith("cpu"):
        problems += check_vcpus(options, name, found[0])
    if name.startswith("board"):
        problems += check_documented(found[0])
    return problems, f"{len(found[0])} lines, {allowed} by exception"


def own_rate(options, engine):
    """The TSC's rate where the definition names none."""
    options.rate = 0
    return int(inventory(options, engine, "cpu v3 1", {})["cpu0 cpuid 40000010.0"].split()[0], 16)


def test_rates(options, name, more):
    """A rate that is named is kept, or refused with a sentence that names both."""
    own, rate = options.rate, int(options.rate * RATES_APART)
    options.rate = rate
    done = execute(options, "kvm", definition(options, "cpu v3 1", more))
    if CANNOT_SCALE.search(done.stderr.decode()):
        options.rate = own
        return [] if done.returncode == 10 else [f"refused with status {done.returncode}"], "refused"
    found = inventory(options, "kvm", "board v3 1", more)
    options.rate = own
    return [] if int(found["clock tsc-khz"], 16) == rate else [found["clock tsc-khz"]], "scaled"


def report(name, test, *arguments):
    began = time.monotonic()
    try:
        problems, note = test(*arguments)
    except Problem as e:
        problems, note = [str(e)], ""
    for p in problems[:SHOWN]:
        print(f"  {p}")
    if len(problems) > SHOWN:
        print(f"  and {len(problems) - SHOWN} more")
    print(f"{'not ok' if problems else 'ok'} {name} ({note}; {time.monotonic() - began:.1f} s)", flush=True)
    return bool(problems)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build")
    parser.add_argument("wanted", nargs="*")
    parser.add_argument("--engines", default="soft,soft")
    parser.add_argument("--exceptions", action="append", default=[])
    parser.add_argument("--linux")
    parser.add_argument("--append", default="")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--recorded")
    parser.add_argument("--slower", type=float, default=1)
    options = parser.parse_intermixed_args()
    options.exceptions = Exceptions(options.exceptions)
    options.engines = options.engines.split(",")
    if options.recorded:
        with open(options.recorded) as f:
            options.lines = f.read().splitlines()
        options.rate = int(recorded(options, "rate")["khz"])
    else:
        options.rate = own_rate(options, "kvm") if "kvm" in options.engines else RATE
    if options.record:
        record("rate", {"khz": options.rate})
    runs = OWN + (LINUX if options.linux else [])
    runs = [(n, m) for n, m in runs if not options.wanted or any(w in n for w in options.wanted)]
    failed = 0
    for name, more in runs:
        failed += report(f"inventory {name}, {' and '.join(options.engines)}", test_inventories, options,
                         name, more)
    if "kvm" in options.engines and (not options.wanted or "rates" in options.wanted):
        failed += report("inventory with another rate", test_rates, options, "rates", {})
    sys.exit(1 if failed or not runs else 0)


if __name__ == "__main__":
    main()
