#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A Debian guest as one of several users of the host: what it costs and what it notices.

  sharing.py BUILD_DIR [NAME...]    NAME: only these of the tests below

idle    at its shell's prompt with nothing to do, it uses next to no processor time
steal   two busy guests pinned to one processor: each sees in its own /proc/stat what the other took
"""
import os
import re
import select
import signal
import subprocess
import sys
import time

KERNEL = "debian-6.1-cloud"
LIMIT = 120  # seconds that a guest may take to where it is wanted; it shares the host with others
IDLE_SECONDS = 3
IDLE_SHARE = 0.15  # of one processor


def start(build, append, **kwargs):
    guest = os.path.join(build, "guests", KERNEL)
    command = [os.path.join(build, "lodge"), "run", "-k", f"{guest}/vmlinuz", "-i",
               f"{guest}/initrd", "-m", "256M", "--append", f"console=ttyS0 quiet {append}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


def read_until(child, words):
    text, end = b"", time.monotonic() + LIMIT
    while words not in text:
        if not select.select([child.stdout], [], [], max(0, end - time.monotonic()))[0]:
            raise AssertionError(f"no {words!r} within {LIMIT} s: {text[-2000:]!r}")
        chunk = os.read(child.stdout.fileno(), 65536)
        if not chunk:
            raise AssertionError(f"it ended without {words!r}: {text[-2000:]!r}")
        text += chunk
    return text


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_idle(build):
    child = start(build, "", stdin=subprocess.PIPE)
    try:
        read_until(child, b"# ")  # the shell's prompt
        time.sleep(1)  # the kernel ends what it put off until after boot
        before, began = processor_seconds(child.pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        used = processor_seconds(child.pid) - before
        share = used / (time.monotonic() - began)
        child.stdin.write(b"poweroff -f\n")
        child.stdin.flush()
        assert child.wait(timeout=LIMIT) == 0, f"lodge exited with {child.returncode}"
        assert share < IDLE_SHARE, f"an idle guest uses {share:.1%} of a processor"
        return f"{share:.1%} of a processor"
    finally:
        child.kill()


def test_steal(build):
    if not os.path.exists("/proc/thread-self/schedstat"):
        return "skipped: this host's kernel does not count"
    one = {max(os.sched_getaffinity(0))}
    pair = [start(build, "lodge.run=steal", stdin=subprocess.DEVNULL,
                  preexec_fn=lambda: os.sched_setaffinity(0, one)) for _ in range(2)]
    try:
        found = []
        for child in pair:
            text = child.communicate(timeout=LIMIT)[0].decode(errors="replace")
            match = re.search(r"^steal: (\d+) of (\d+)", text, re.M)
            assert match and child.returncode == 0, f"{child.returncode}: {text[-2000:]}"
            stolen, passed = int(match[1]), int(match[2])
            # a hundredth is lost where each begins and ends to count
            assert stolen <= passed + 5, f"{stolen} was stolen while {passed} passed"
            found.append((stolen, passed))
        # One may have done its part while the other still booted, or was ready: the host decides.
        assert max(stolen for stolen, _ in found) > 0, f"neither saw anything stolen: {found}"
        return ", ".join(f"{s} of {p}" for s, p in found) + " hundredths of a second"
    finally:
        for child in pair:
            child.kill()


def main():
    build, wanted, failed = sys.argv[1], sys.argv[2:] or ["idle", "steal"], 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in wanted:
        began = time.monotonic()
        try:
            said = globals()["test_" + name](build)
            print(f"ok sharing {name}: {said} ({time.monotonic() - began:.1f} s)", flush=True)
        except (AssertionError, subprocess.TimeoutExpired) as e:
            print(f"  {e}\nnot ok sharing {name}", flush=True)
            failed += 1
    sys.exit(1 if failed else 0)


main()
