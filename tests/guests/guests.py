#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Runs our own guests: the self-checking ones of guests/system, the must-die ones of guests/die.

  guests.py BUILD_DIR [--program LODGE] [--engine ENGINE] [--translator on|off] [--exceptions FILE]
            [--slower N] [NAME...]

--program: another lodge than BUILD_DIR/lodge; one under BUILD_DIR/asan has sanitizers, so it gets
--no-sandbox and more time. --engine: which one runs them (lodge run -e; else $LODGE_ENGINE, else
soft). --translator: lodge run --translator. --slower: everything may take N times as long, as in the rig (docs/rig.md). NAME: only runs
whose line of report contains one of these ("fatal64", "random64 -m 64M --append kernel").
--exceptions: what must be different here, and nothing else, for a reason that is not Lodge's. May be
given several times. A line for each, split by tabs: which runs (a pattern as shells have it, for the
run's name in the report), what, the reason. What: the name of a test that fails ("?" before it: that
may fail, by chance), or "=> OUTCOME" for how the run as a whole ends ("?=>": may end): an outcome of
guests/die/die.h, "stuck" (KVM or the processor cannot go on, and Lodge says so), "refused" (the host
lacks something), or "not run". "again WORD": a run whose output has a line that begins with that word
says nothing; it is done once more, at most three times.
What is not so any more is reported, so that the list stays true.

A system guest prints "PASS name" for each of its tests and ends with value 0 at the exit port; with
which options it is run stands in guests/runs. How a must-die guest is run and must end stands at the
top of its source (guests/die/die.h says in what form).
Whatever a guest does, Lodge must end in time with a status that docs/cli.md has for it, after one
clear message, and without a trace of a crash.

Prints "ok NAME" or "not ok NAME" after what went wrong; exit status 0 only if all is well.
LODGE_NIGHTLY=1: more seeds, every run watched longer. LODGE_SEEDS=N: so many seeds.
"""
import argparse
import concurrent.futures
import fnmatch
import glob
import os
import re
import select
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
AGAIN = 3         # how often a run that says nothing is done once more
AGAIN_IN_ALL = 8  # and all of them together: more is no accident
SECONDS = 10      # that a guest may take if it says nothing else
STOP_SECONDS = 2  # after a signal: a second, as docs/cli.md says, and one for a busy machine
SLOWER = 6        # how much longer anything may take with sanitizers
WATCHED = 3       # seconds for a guest that does not come to its end, as the exceptions say
LIVES = 1         # status of value 0 at the exit port
CRASH = re.compile(r"panic|AddressSanitizer|LeakSanitizer|runtime error:|UndefinedBehavior|"
                   r"a bug of Lodge|stack smashing|core dumped|\*\*\* ")
# What KVM cannot do for a guest; and what Lodge adds to that.
STUCK = re.compile(r"^lodge: .*(KVM cannot|KVM met|the processor refused to enter the guest|"
                   r"the guest cannot go on)", re.M)
REPORT_IT = re.compile(r"^lodge: +this may be a bug of Lodge: .*$", re.M)
NOT_USUAL = ("stuck", "refused")  # outcomes that only exceptions may allow
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

    def command(self, options):
        arguments = [initrd(options.build, a) for a in self.arguments]
        command = [options.program, "run", "-k", self.kernel(options.build), "--no-reboot", *arguments]
        if options.engine:
            command += ["-e", options.engine]
        if options.translator:
            command += ["--translator", options.translator]
        return command + (["--no-sandbox"] if options.sanitized else [])


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


class Exceptions:
    """The files of --exceptions."""

    def __init__(self, paths):
        lines = [line.rstrip("\n") for path in paths for line in open(path)]
        self.rows = [line.split("\t") for line in lines if line and not line.startswith("#")]

    def of(self, run):
        return [(what, why) for pattern, what, why in self.rows
                if fnmatch.fnmatchcase(run.name, pattern)]

    def outcome(self, run):
        """How the run must end instead of as it says, or None. The last row counts."""
        return self.last(run, "=> ")

    def may_end(self, run):
        """How the run may end besides, or None."""
        return self.last(run, "?=> ")

    def last(self, run, arrow):
        found = [what.removeprefix(arrow) for what, _ in self.of(run) if what.startswith(arrow)]
        return found[-1] if found else None

    def again(self, run):
        """The words whose lines say that the run is to be done again."""
        return [what.removeprefix("again ") for what, _ in self.of(run) if what.startswith("again ")]

    def tests(self, run):
        """Names of the tests that must fail and that may, with the reasons."""
        rows = [(what, why) for what, why in self.of(run) if "=> " not in what and not what.startswith("again ")]
        return ({what: why for what, why in rows if not what.startswith("?")},
                {what[1:]: why for what, why in rows if what.startswith("?")})

    def unused(self, runs):
        return [" ".join(row[:2]) for row in self.rows
                if not any(fnmatch.fnmatchcase(r.name, row[0]) for r in runs)]


def seconds_for(run, options):
    """How long it may take to its end, or is watched if it has none."""
    excepted = options.exceptions.outcome(run)
    if excepted == "runs":
        return WATCHED
    if excepted:
        return max(run.seconds, SECONDS) * options.slower
    return run.seconds * (1 if run.outcome in ("runs", "any") else options.slower)


def execute(options, run):
    """Runs it to its end; what goes on for too long (or is meant to) gets a signal."""
    began = time.monotonic()
    p = subprocess.Popen(run.command(options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    stopped = None
    # A second of the guest's, not of the machine's that is busy with starting it. (Their end counts.)
    select.select([p.stdout, p.stderr], [], [], SECONDS * options.slower)
    try:
        out, err = p.communicate(timeout=seconds_for(run, options))
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


def execute_until_it_counts(options, run):
    words = options.exceptions.again(run)
    for attempt in range(AGAIN + 1):
        result = execute(options, run)
        text = result.out.decode(errors="replace")
        found = [w for w in words if re.search(rf"^{re.escape(w)}", text, re.M)]
        if not found or attempt == AGAIN or re.search("^FAIL", text, re.M):
            break
        options.again.append(f"{run.name}: {found[0]}, so once more")
        print(options.again[-1], flush=True)
    return result


def outcome_of(result):
    """What happened, in the words of guests/die/die.h; None: something that must not."""
    if result.stopped is not None and result.status == 128 + signal.SIGTERM:
        return "runs"  # any other status: it came to its own end just before the signal did
    if result.status & 1 and 0 < result.status < 256:
        return "lives" if result.status == LIVES else "fails"
    if STUCK.search(result.err):
        return "stuck" if result.status in (4, 8) else None
    return {0: "off", 4: "triple-fault", 10: "refused"}.get(result.status)


def problems_of_tests(run, text, options):
    """Tests that failed and should not, and the other way round; and whether others failed at all."""
    failed = {line.split(":")[0].removeprefix("FAIL "): line
              for line in re.findall(r"^FAIL [^\r\n]*", text, re.M)}
    must, may = options.exceptions.tests(run)
    problems = [line for name, line in failed.items() if name not in must | may]
    problems += [f"{name} does not fail, but the exceptions say so: {reason}"
                 for name, reason in must.items() if name not in failed]
    return problems, bool(failed) and not problems


def problems_of(run, result, options):
    text, problems, excused = result.out.decode(errors="replace"), [], False
    outcome = outcome_of(result)
    wanted = options.exceptions.outcome(run) or run.outcome
    if outcome and outcome == options.exceptions.may_end(run):
        wanted = outcome
    if run.outcome == "lives":
        problems, excused = problems_of_tests(run, text, options)
    if wanted == "lives" and outcome == "fails" and excused:
        outcome = "lives"
    if outcome is None or outcome in NOT_USUAL and outcome != wanted:
        problems.append(f"status {result.status}")
    elif wanted not in ("any", outcome):
        problems.append(f"expected {wanted}, but it {outcome}")
    if result.stopped is not None and result.stopped > STOP_SECONDS * options.slower:
        problems.append(f"took {result.stopped:.1f} s to end after a signal")
    if CRASH.search(REPORT_IT.sub("", result.err) if wanted == outcome == "stuck" else result.err):
        problems.append("traces of a crash")
    if outcome == "triple-fault" and not DEATH.search(result.err):
        problems.append("no clear message of the guest's death")
    if outcome not in ("triple-fault", *NOT_USUAL) and result.err:
        problems.append("there should be nothing on standard error")
    if run.output > len(result.out) and wanted == run.outcome and not options.exceptions.of(run):
        problems.append(f"{len(result.out)} bytes of output instead of {run.output}")
    if run.kind == "system" and wanted == "lives" and not re.search(r"^PASS ", text, re.M):
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


def parse(arguments):
    if not arguments:
        sys.exit(__doc__)
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build")
    parser.add_argument("wanted", nargs="*")
    parser.add_argument("--program")
    parser.add_argument("--engine", default=os.environ.get("LODGE_ENGINE", "soft"))
    parser.add_argument("--translator", choices=("on", "off"))
    parser.add_argument("--exceptions", action="append", default=[])
    parser.add_argument("--slower", type=float, default=1)
    options = parser.parse_intermixed_args(arguments)
    options.program = os.path.abspath(options.program or f"{options.build}/lodge")
    options.exceptions = Exceptions(options.exceptions)
    options.again = []
    options.sanitized = "/asan/" in options.program
    options.slower *= SLOWER if options.sanitized else 1
    return options


def chosen_runs(options):
    every = [*system_runs(), *die_runs()]
    runs = [r for r in every if not options.wanted or any(w in r.name for w in options.wanted)]
    missing = {r.guest for r in runs if not os.path.exists(r.kernel(options.build))}
    if missing:
        sys.exit("not built (make own-guests): " + " ".join(sorted(missing)))
    unused = options.exceptions.unused(every)
    if unused:
        sys.exit("exceptions for what is not run: " + ", ".join(unused))
    return [r for r in runs if options.exceptions.outcome(r) != "not run"]


def main():
    options = parse(sys.argv[1:])
    runs = chosen_runs(options)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = [(r, pool.submit(execute_until_it_counts, options, r)) for r in runs]
        for run, future in results:
            result = future.result()
            problems = problems_of(run, result, options)
            failed += bool(problems)
            report(run, result, problems)
    if len(options.again) > AGAIN_IN_ALL:
        print(f"not ok runs done once more: {len(options.again)}, of at most {AGAIN_IN_ALL}")
        failed += 1
    sys.exit(1 if failed or not runs else 0)


if __name__ == "__main__":
    main()
