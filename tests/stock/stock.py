#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Stock guests under Lodge: each Debian kernel to userland and power-off, GNU Mach to its banner.

  stock.py BUILD_DIR [KERNEL:VCPUS[:interpreted] ...]
      default: all kernels with 1, 2 and 4 vCPUs, one with 8 (LODGE_NIGHTLY set: and 16), one with 2 by
      the interpreter alone (--translator=off), and gnumach

Environment: LODGE_REPEAT=N runs each N times; LODGE_ENGINE is passed
with -e (soft).

For each Debian run: it must reach userland with as many CPUs as it was given, the guest's self-test
and, with several CPUs, its memory order tests must pass, kernel messages at level warning or worse
must all be on the kernel's list (tests/stock/warnings-*.txt), no mitigation that costs speed may be
chosen, and lodge must exit with 0 after the guest's power-off.
"""
import os
import re
import subprocess
import sys
import threading
import time

KERNELS = ["debian-6.1-cloud", "debian-6.1-generic", "debian-6.12-cloud"]
SELFTESTS = 14  # guests/user/selftest.c
LITMUS = 28  # guests/user/litmus.c, which is run where there are two processors or more
TIMEOUT = 240
HERE = os.path.dirname(os.path.abspath(__file__))
# What must not be found to be necessary (design: page-table isolation, retpolines, return thunks,
# VERW): words that a vulnerability file must not contain.
COSTLY = re.compile(r"PTI|Retpoline|Untrained return thunk|Clear CPU buffers|IBRS$|Vulnerable")


def run(build, arguments, timeout):
    command = [os.path.join(build, "lodge"), "run", *arguments]
    command += ["-e", os.environ.get("LODGE_ENGINE", "soft")]
    began = time.monotonic()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=timeout)
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as e:
        status, output = None, e.stdout or b""
    text = output.decode("utf-8", "replace").replace("\r", "")
    return status, text, time.monotonic() - began


def allowed_patterns(kernel):
    """Lines of the list: a regular expression; comments (the reasons) begin with #."""
    patterns = []
    for name in ("warnings-all.txt", f"warnings-{kernel}.txt"):
        path = os.path.join(HERE, name)
        if os.path.exists(path):
            patterns += [re.compile(line.rstrip("\n")) for line in open(path)
                         if line.strip() and not line.startswith("#")]
    return patterns


def unexpected_warnings(kernel, text):
    match = re.search(r"lodge: warnings begin\n(.*?)lodge: warnings end", text, re.S)
    if not match:
        return ["no list of warnings in the output"]
    patterns, bad = allowed_patterns(kernel), []
    for line in match.group(1).splitlines():
        message = re.match(r"<\d+>\[ *[\d.]+\] (.*)", line)
        if message and not any(p.search(message.group(1)) for p in patterns):
            bad.append("unexpected: " + message.group(1))
    return bad


def programs(vcpus):
    """The test programs that are run, with the number of their tests."""
    return [("selftest", SELFTESTS), ("jit", 1)] + ([("litmus", LITMUS)] if vcpus > 1 else [])


def without_kernel_messages(text):
    """They come between any two lines of a program."""
    return re.sub(r"^\[ *\d+\.\d+\] .*\n", "", text, flags=re.M)


def check_debian(kernel, vcpus, status, text):
    problems = []
    plain = without_kernel_messages(text)
    if status != 0:
        problems.append("timed out" if status is None else f"lodge exited with {status}")
    if "lodge: userland reached" not in text:
        return problems + ["userland was not reached"]
    if f", {vcpus} CPUs, Linux" not in text:
        problems.append(f"the guest does not see {vcpus} CPUs")
    for program, count in programs(vcpus):
        output = re.search(rf"((?:^(?:PASS|FAIL) .*\n)*)^lodge: {program}: exit 0$", plain, re.M)
        passed = output[1].count("PASS ") if output else 0
        if passed != count:
            problems.append(f"{program}: {passed} of {count} tests passed")
    problems += re.findall(r"^FAIL .*$", text, re.M)
    problems += unexpected_warnings(kernel, text)
    weak = re.findall(r"^mitigation: (.*)$", text, re.M)
    if not weak:
        problems.append("no mitigations in the output")
    problems += ["costly mitigation: " + w for w in weak if COSTLY.search(w.split(": ", 1)[1])]
    if "reboot: Power down" not in text:
        problems.append("no power-off")
    return problems


def test_debian(build, kernel, vcpus, interpreted):
    guest = os.path.join(build, "guests", kernel)
    run_list = ",".join(name for name, _ in programs(vcpus))
    status, text, took = run(build, [
        "-k", f"{guest}/vmlinuz", "-i", f"{guest}/initrd", "-m", "512M", "-c", str(vcpus), "--append",
        f"console=ttyS0 lodge.run={run_list},warnings,mitigations",
        *(["--translator=off"] if interpreted else [])], TIMEOUT)
    return check_debian(kernel, vcpus, status, text), text, took


def run_until(build, arguments, words, timeout):
    """For a guest that does not power off: ends it when its output has all the words."""
    command = [os.path.join(build, "lodge"), "run", *arguments]
    began, text = time.monotonic(), ""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as child:
        timer = threading.Timer(timeout, child.kill)
        timer.start()
        while not all(w in text for w in words):
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                break
            text += chunk.decode("utf-8", "replace")
        child.terminate()
        child.stdout.read()
        timer.cancel()
    return text, time.monotonic() - began


def test_gnumach(build):
    text, took = run_until(build, ["-k", os.path.join(build, "guests/gnumach/vmlinuz"), "-m", "128M",
                                   "--append", "console=com0"], ["GNU Mach 1.8", "panic"], 60)
    problems = []
    if "GNU Mach 1.8" not in text:
        problems.append("no banner")
    if "panic" not in text:
        problems.append("it should end with a panic, since there is no bootstrap module")
    return problems, text, took


def report(name, problems, text, took):
    if problems:
        print(text[-6000:])
        for p in problems:
            print(f"  {name}: {p}")
    print(f"{'not ok' if problems else 'ok'} {name} ({took:.1f} s)", flush=True)
    return bool(problems)


def default_runs():
    runs = [f"{k}:{n}" for k in KERNELS for n in (1, 2, 4)]
    many = (8, 16) if os.environ.get("LODGE_NIGHTLY") else (8,)
    if os.environ.get("LODGE_ENGINE", "soft") == "soft":
        runs.append(f"{KERNELS[0]}:2:interpreted")
    return runs + [f"{KERNELS[0]}:{n}" for n in many] + ["gnumach:1"]


def main():
    build = sys.argv[1]
    wanted = sys.argv[2:] or default_runs()
    failed = 0
    for _ in range(int(os.environ.get("LODGE_REPEAT", "1"))):
        for item in wanted:
            kernel, vcpus, *how = item.split(":")
            if kernel == "gnumach":
                result = test_gnumach(build)
            else:
                result = test_debian(build, kernel, int(vcpus), how == ["interpreted"])
            failed += report(" ".join([f"stock {kernel} with {vcpus} vCPUs", *how]), *result)
    sys.exit(1 if failed else 0)


main()
