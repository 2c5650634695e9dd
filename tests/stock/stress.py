#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A Debian under stress: stress.py BUILD_DIR [SECONDS [VCPUS]]    default: 36 s of the guest's, 2 vCPUs

guests/stress/init runs Debian's stress-ng, in mixes that check their own results (page tables, messages between
processors, signals, computing, code), and guests/user/jit.c, a sixth of the time each. All must pass, the kernel
must complain of nothing, and the guest must power off. LODGE_ENGINE: passed with -e (soft).
"""
import os
import re
import subprocess
import sys

PARTS = ("page-tables", "processors", "signals", "computing", "code", "jit")
BAD = re.compile(r"BUG:|Oops|Call Trace|soft lockup|rcu_sched self|Kernel panic|general protection|segfault at.*jit")


def main():
    build = sys.argv[1]
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 36
    vcpus = sys.argv[3] if len(sys.argv) > 3 else "2"
    command = [os.path.join(build, "lodge"), "run", "-e", os.environ.get("LODGE_ENGINE", "soft"), "-m", "1G", "-c", vcpus,
               "-k", os.path.join(build, "guests/debian-6.1-cloud/vmlinuz"), "-i", os.path.join(build, "guests/stress"),
               "--append", f"console=ttyS0 stress.seconds={seconds}"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=seconds * 3 + 120)
        status, text = done.returncode, done.stdout.decode("utf-8", "replace").replace("\r", "")
    except subprocess.TimeoutExpired as e:
        status, text = None, (e.stdout or b"").decode("utf-8", "replace")
    bad = [f"lodge exited with {status}"] if status != 0 else []
    bad += BAD.findall(text)
    if "lodge: stress done" not in text:
        bad.append("it did not come to its end")
    for part in PARTS:
        passed = re.search(rf"^PASS {part}\b", text, re.M)
        print(f"{'ok' if passed else 'not ok'} stress {part} with {vcpus} vCPUs")
        bad += [] if passed else [f"{part} did not pass"]
    if bad:
        print(text[-8000:])
        for line in bad:
            print(f"  {line}")
    print(f"{'not ok' if bad else 'ok'} stress: {seconds} s with {vcpus} vCPUs")
    sys.exit(bool(bad))


main()
