#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Threads on a machine's CPUs: build/lodge-native-test (tests/native/threads.c) in QEMU, on a clock that counts
instructions, so that times have tight bounds, and with CPUs that are threads of the host.

  threads.py BUILD [NAME...]

Prints "ok NAME" or "not ok NAME" for each test. LODGE_NIGHTLY: a million rounds of ping-pong.
"""
import os
import sys
import tempfile

from machine import Machine, make_iso

BUILD = sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__)
NIGHTLY = bool(os.environ.get("LODGE_NIGHTLY"))
EXACT = ("-icount", "shift=0,sleep=off")


def run(cpus, words, more=(), seconds=200):
    """Why it failed; None: it did not."""
    with tempfile.TemporaryDirectory() as scratch:
        iso = os.path.join(scratch, "image.iso")
        make_iso(BUILD, iso, words, image="lodge-native-test")
        with Machine(iso, cpus=cpus, memory=256, more=more) as m:
            done = m.wait(r"^threads: (\d+) checks, (\d+) failed$", seconds)
            if not done or int(done[1]) < 30000 or int(done[2]):
                return m.output()[-3000:]
            if f"\nCPUs: {cpus} of {cpus};" not in m.output():
                return "not all CPUs came up"
            print(m.output()); return None if m.wait_off() else "still on"


TESTS = {
    "threads on 1 CPU": lambda: run(1, "threads-exact", EXACT),
    "threads on 2 CPUs": lambda: run(2, "threads-exact" + " threads-long" * NIGHTLY, EXACT, 200 + 1000 * NIGHTLY),
    "threads on 4 CPUs": lambda: run(4, "threads-exact", EXACT),
    "threads on 2 CPUs that are threads of the host": lambda: run(2, ""),
}


def main():
    failed = 0
    for name, test in TESTS.items():
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        why = test()
        print("".join(f"  {line}\n" for line in (why or "").splitlines()), end="")
        print(("not ok " if why else "ok ") + name, flush=True)
        failed |= bool(why)
    return failed


if __name__ == "__main__":
    sys.exit(main())
