#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Runs our own guests: the self-checking ones of guests/system, the must-die ones of guests/die.

  guests.py BUILD_DIR [--program LODGE] [NAME...]

--program: another lodge than BUILD_DIR/lodge; one under BUILD_DIR/asan has sanitizers, so it gets
--no-sandbox and more time. NAME: only runs whose line of report contains one of these ("fatal64",
"random64 -m 64M --append kernel").

A system guest prints "PASS name" for each of its tests and ends with value 0 at the exit port; with
which options it is run stands in guests/runs. How a must-die guest is run and must end stands at the
top of its source (guests/die/die.h says in what form).
Whatever a guest does, Lodge must end in time with a status that docs/cli.md has for it, after one
clear message, and without a trace of a crash.

Prints "ok NAME" or "not ok NAME" after what went wrong; exit status 0 only if all is well.
LODGE_NIGHTLY=1: more seeds, every run watched longer. LODGE_SEEDS=N: so many seeds.
"""
import concurrent.futures
import glob
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NIGHTLY = os.environ.get("LODGE_NIGHTLY") == "1"
SEEDS = range(1, int(os.environ.get("LODGE_SEEDS", "100" if NIGHTLY else "12")) + 1)
AT_ONCE = 2
SECONDS = 10      # that a guest may take if it says nothing else
STOP_SECONDS = 2  # after a signal: a second, as docs/cli.md says, and one for a busy machine
SLOWER = 6        # how much longer anything may take with sanitizers
LIVES = 1         # status of value 0 at the exit port
CRASH = re.compile(r"panic|AddressSanitizer|LeakSanitizer|runtime error:|UndefinedBehavior|"
                   r"a bug of Lodge|stack smashing|core dumped|\*\*\* ")
DEATH = re.compile(r"^lodge: the guest died of a triple fault: vCPU \d+ at [0-9a-f]{4}:[0-9a-f]+, "
                   r".* mode, CPL [0-3], CR2 [0-9a-f]+$", re.M)


class Run:
    """One way to run a guest, and how that must end."""

    def __init__(self, kind, guest, outcome, arguments, seconds, output=0):
        self.kind, self.guest, self.outcome = kind, guest, outcome
        self.arguments, self.output = arguments, output
        self.seconds = seconds * (2 if NIGHTLY else 1)
        self.name = " ".join([guest, *arguments])

    def kernel(self, build):
        ending = ".bzimage" if self.guest.endswith("_linux") else ".elf"
        return os.path.join(build, "guests", "bin", self.guest + ending)

    def command(self, program, build):
        arguments = [initrd(build, a) for a in self.arguments]
        return [program, "run", "-k", self.kernel(build), "--no-reboot", *arguments]


def initrd(build, argument):
    """"pattern:BYTES" as the name of a file with the pattern of guests/lib/boot.h, which is made;
    any other argument as it is."""
    if not argument.startswith("pattern:"):
        return argument
    size = int(argument.removeprefix("pattern:"))
    path = os.path.join(build, "guests", f"initrd-{size}")
    with open(f"{path}.{threading.get_ident()}", "wb") as f:
        f.write(bytes((31 * n + 7 * (n // 256)) % 256 for n in range(size)))
    os.replace(f.name, path)
    return path


class Result:
    def __init__(self, status, out, err, seconds, stopped):
        self.status, self.out, self.err = status, out, err
        self.seconds, self.stopped = seconds, stopped  # stopped: seconds from signal to end, or None


def system_runs():
    """The table guests/runs: guest, options of lodge run, "slow" if it is for nightly runs only."""
    for line in open(os.path.join(TOP, "guests", "runs")):
        columns = line.rstrip("\n").split("\t") + ["", ""]
        if line.startswith("#") or not columns[0] or (columns[2] == "slow" and not NIGHTLY):
            continue
        yield Run("system", columns[0], "lives", ["--exit-port", *shlex.split(columns[1])], 60)


def die_arguments(words, options):
    arguments = ["-m", options.get("memory", "64M")]
    if options.get("port") != "off":
        arguments.append("--exit-port")
    for key, option in (("vcpus", "-c"), ("level", "--cpu")):
        if key in options:
            arguments += [option, options[key]]
    return arguments + ["--append", words]


def die_runs():
    for path in sorted(glob.glob(f"{TOP}/guests/die/*.c")):
        lines = re.findall(r"^ \* run: (.*?) +=> (\S+)(.*)$", open(path).read(), re.M)
        if not lines:
            sys.exit(f"{path} does not say how it is run")
        for words, outcome, rest in lines:
            options = dict(o.split("=", 1) for o in rest.split())
            for seed in SEEDS if "@" in words else [0]:
                yield Run("die", os.path.basename(path)[:-2], outcome,
                          die_arguments(words.replace("@", str(seed)), options),
                          float(options.get("seconds", SECONDS)), int(options.get("output", 0)))


def execute(program, build, run, slower):
    """Runs it to its end; what goes on for too long (or is meant to) gets a signal."""
    sanitized = "/asan/" in program
    command = run.command(program, build) + (["--no-sandbox"] if sanitized else [])
    began = time.monotonic()
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    stopped = None
    try:
        out, err = p.communicate(timeout=run.seconds * (1 if run.outcome in ("runs", "any") else slower))
    except subprocess.TimeoutExpired:
        p.send_signal(signal.SIGTERM)
        told = time.monotonic()
        try:
            out, err = p.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            p.kill()
            out, err = p.communicate()
        stopped = time.monotonic() - told
    return Result(p.returncode, out, err.decode(errors="replace"), time.monotonic() - began, stopped)


def outcome_of(result):
    """What happened, in the words of guests/die/die.h; None: something that must not."""
    if result.stopped is not None and result.status == 128 + signal.SIGTERM:
        return "runs"  # any other status: it came to its own end just before the signal did
    if result.status & 1 and 0 < result.status < 256:
        return "lives" if result.status == LIVES else "fails"
    return {0: "off", 4: "triple-fault"}.get(result.status)


def problems_of(run, result, slower):
    problems = []
    outcome = outcome_of(result)
    if outcome is None:
        problems.append(f"status {result.status}")
    elif run.outcome not in ("any", outcome):
        problems.append(f"expected {run.outcome}, but it {outcome}")
    if result.stopped is not None and result.stopped > STOP_SECONDS * slower:
        problems.append(f"took {result.stopped:.1f} s to end after a signal")
    if CRASH.search(result.err):
        problems.append("traces of a crash")
    if outcome == "triple-fault" and not DEATH.search(result.err):
        problems.append("no clear message of the guest's death")
    if outcome != "triple-fault" and result.err:
        problems.append("there should be nothing on standard error")
    if run.output and len(result.out) < run.output:
        problems.append(f"{len(result.out)} bytes of output instead of {run.output}")
    text = result.out.decode(errors="replace")
    if run.outcome == "lives":
        problems += re.findall(r"^FAIL.*", text, re.M)
    if run.kind == "system" and not re.search(r"^PASS ", text, re.M):
        problems.append("no test passed")
    return problems


def report(run, result, problems):
    if problems:
        text = result.out[-1500:].decode(errors="replace")
        print(re.sub(r"^(?=ok |not ok )", " ", text, flags=re.M))
        print(re.sub(r"^(?=ok |not ok )", " ", result.err[-6000:], flags=re.M))
        for p in problems:
            print(f"  {run.name}: {p}")
    print(f"{'not ok' if problems else 'ok'} {run.name} ({result.seconds:.1f} s)", flush=True)


def main():
    arguments = sys.argv[1:]
    program = None
    if "--program" in arguments:
        at = arguments.index("--program")
        program = arguments[at + 1]
        del arguments[at:at + 2]
    if not arguments:
        sys.exit(__doc__)
    build, wanted = arguments[0], arguments[1:]
    program = os.path.abspath(program or f"{build}/lodge")
    slower = SLOWER if "/asan/" in program else 1
    runs = [r for r in [*system_runs(), *die_runs()] if not wanted or any(w in r.name for w in wanted)]
    missing = {r.guest for r in runs if not os.path.exists(r.kernel(build))}
    if missing:
        sys.exit("not built (make own-guests): " + " ".join(sorted(missing)))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = [(r, pool.submit(execute, program, build, r, slower)) for r in runs]
        for run, future in results:
            result = future.result()
            problems = problems_of(run, result, slower)
            failed += bool(problems)
            report(run, result, problems)
    sys.exit(1 if failed or not runs else 0)


main()
