#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Runs our own guests as guests/runs says and looks at how they end.

    guests.py [--lodge FILE] [--bin DIR] [--seconds N] [--slow] [--random N] [--option=O]... [NAME...]

--lodge   the program (default build/lodge); --option=--no-sandbox: one more option for each run
--slow    also the runs marked so
--random  N more runs of the random guests with seeds that differ each time; they are printed
NAME      only these guests

Prints "ok NAME" or "not ok NAME" for each run; exit status 0 only if all ended as they must.
"""
import argparse
import os
import random
import re
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PASSED, DIED, STOPPED = 1, 4, 6  # exit statuses of lodge run (docs/cli.md)
FORBIDDEN = re.compile(r"panic|assertion|NEVER happened|Sanitizer|runtime error", re.I)


def runs(slow):
    with open(os.path.join(TOP, "guests", "runs")) as f:
        for line in f:
            if line.startswith("#") or not line.strip():
                continue
            columns = line.rstrip("\n").split("\t") + [""] * 4
            if columns[3] != "slow" or slow:
                yield columns[0], columns[1], columns[2].split()


def run(lodge, elf, options, seconds):
    """Output, exit status, and whether it had to be stopped. None: it did not stop when asked to."""
    command = [lodge, "run", "--exit-port", "--no-reboot", "-k", elf] + options
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    try:
        out, _ = p.communicate(timeout=seconds)
        return out.decode(errors="replace"), p.returncode, False
    except subprocess.TimeoutExpired:
        p.terminate()
    try:
        out, _ = p.communicate(timeout=5)
        return out.decode(errors="replace"), p.returncode, True
    except subprocess.TimeoutExpired:
        p.kill()
        out, _ = p.communicate()
        return out.decode(errors="replace"), None, True


def judge(end, out, status, stopped):
    """Why this is not how it must end, or None."""
    if status is None:
        return "it did not stop on SIGTERM"
    if FORBIDDEN.search(out):
        return "lodge itself failed"
    if end == "any":
        # odd: the exit port; 0: power-off or reset
        good = status in (0, DIED) or (stopped and status == STOPPED) or status % 2 == 1
        return None if 0 <= status < 128 and good else f"status {status}"
    if stopped:
        return "it took too long"
    if end == "dies":
        if status != DIED or "the guest died" not in out:
            return f"status {status}, and the guest should have died"
        return None
    if status != PASSED or "FAIL" in out or "PASS" not in out:
        return f"status {status}"
    return None


def extra_runs(count):
    for _ in range(count):
        seed = str(random.randrange(1, 1 << 32))
        yield "random_user", "pass", ["--append", "seed=" + seed]
        yield "random_kernel", "any", ["-c", "2", "--append", "seed=" + seed]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--lodge", default=os.path.join(TOP, "build", "lodge"))
    a.add_argument("--bin", default=os.path.join(TOP, "build", "guests", "bin"))
    a.add_argument("--seconds", type=int, default=60)
    a.add_argument("--slow", action="store_true")
    a.add_argument("--random", type=int, default=0)
    a.add_argument("--option", action="append", default=[])
    a.add_argument("names", nargs="*")
    o = a.parse_args()
    failed = ran = 0
    for name, end, options in list(runs(o.slow)) + list(extra_runs(o.random)):
        if o.names and name not in o.names:
            continue
        began = time.monotonic()
        elf = os.path.join(o.bin, name + ".elf")
        out, status, stopped = run(o.lodge, elf, options + o.option, o.seconds)
        why = judge(end, out, status, stopped)
        title = " ".join([name] + options)
        if why:
            print("\n".join("  " + line for line in out.splitlines()[-20:]))
            print(f"  {why} after {time.monotonic() - began:.1f} s")
        print(("not ok " if why else "ok ") + title, flush=True)
        failed += why is not None
        ran += 1
    return 0 if ran and not failed else 1


sys.exit(main())
