#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A stock kernel under $LODGE_ENGINE to userland and power-off, in the rig (docs/rig.md).

  boot.py BUILD_DIR KERNEL VCPUS...

tests/stock/stock.py is stricter; much of what it looks at (AVX in userland, mitigations, warnings) is
the host's processor's here, which is QEMU's.
"""
import os
import re
import subprocess
import sys
import time

TIMEOUT = 120
# What the kernel complains of without Lodge's doing: it put AVX into XCR0, which QEMU did not show to
# KVM, whose CPUID then has another size for the state (tests/kvm/exceptions-rig: fpu).
EXCUSED = re.compile(r"^\[ *[\d.]+\] -+\[ cut here \]-+\n\[ *[\d.]+\] XSAVE consistency problem.*?"
                     r"end trace .*?$", re.M | re.S)


def boot(build, kernel, vcpus):
    """The run's problems, its output and how long it took."""
    guest = os.path.join(build, "guests", kernel)
    began = time.monotonic()
    p = subprocess.Popen([os.path.join(build, "lodge"), "run", "-e", os.environ["LODGE_ENGINE"], "--no-reboot", "-k",
                          f"{guest}/vmlinuz", "-i", f"{guest}/initrd", "-c", vcpus, "--append",
                          "console=ttyS0 panic=-1 lodge.run=hello"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        text = p.communicate(timeout=TIMEOUT)[0]
        problems = [f"lodge exited with {p.returncode}"] if p.returncode else []
    except subprocess.TimeoutExpired:
        p.kill()
        text, problems = p.communicate()[0], [f"not at its end after {TIMEOUT} s"]
    text = text.decode(errors="replace").replace("\r", "")
    for pattern in (rf"^lodge: userland reached .*, {vcpus} CPUs, Linux ", r"^clock: +(tsc|kvm-clock)$",
                    r"^lodge: hello: exit 0$", r"reboot: Power down$"):
        if not re.search(pattern, text, re.M):
            problems.append(f"nothing in the output matches {pattern!r}")
    problems += re.findall(r"^.*(?:Oops|Call Trace|BUG: |soft lockup|rcu.*stall).*$", EXCUSED.sub("", text, 1),
                           re.M)
    return problems, text, time.monotonic() - began


def main():
    build, kernel, *runs = sys.argv[1:]
    failed = False
    for vcpus in runs:
        problems, text, took = boot(build, kernel, vcpus)
        failed |= bool(problems)
        if problems:
            print(re.sub(r"^(?=ok |not ok )", " ", text[-4000:], flags=re.M))
            print("\n".join(f"  {p}" for p in problems))
        name = f"boot {kernel} with {vcpus} vCPUs"
        print(f"{'not ok' if problems else 'ok'} {name} ({took:.1f} s)", flush=True)
    sys.exit(failed or not runs)


main()
