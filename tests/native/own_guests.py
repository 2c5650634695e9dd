# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Our own guests on the bare-metal image: the runs of tests/guests/guests.py, by the operator's line.

A run is a VM of a fleet that does not start by itself. The operator starts it, sees how it ends, and reads its console;
that must be as the run, or the exceptions (guests.py says of what form), say.
"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(TOP, "tests", "guests"))
from guests import LIVES, NIGHTLY, NOT_USUAL, Exceptions, die_runs, initrd, problems_of_tests, system_runs  # noqa

ENDS = {"powered off": "off", "was reset": "off", "died of a triple fault": "triple-fault",
        "did what this machine cannot go on from": "stuck", "does not start": "refused", "was ended, since the engine failed": "stuck"}
KEYS = {"-m": "memory", "-c": "vcpus", "--cpu": "level", "--append": "append", "-i": "initrd"}
FLEET = 60   # VMs in one
MEMORY = "128M"  # if the run names none
WATCHED = 3  # seconds for a guest that goes on
__all__ = ["FLEET", "NIGHTLY", "Options", "die_runs", "fleet_of", "perform", "system_runs"]


class Options:
    """What guests.py's functions want to know. slower: everything may take so many times as long."""

    def __init__(self, exceptions, slower):
        self.exceptions, self.slower = Exceptions(exceptions), slower


def keys_of(build, run):
    """The VM's definition."""
    keys = {"memory": MEMORY, "exit_port": False, "autostart": False}
    words = iter(run.arguments)
    for word in words:
        if word == "--exit-port":
            keys["exit_port"] = True
        else:
            value = initrd(build, next(words))
            keys[KEYS[word]] = int(value) if word == "-c" else value
    return keys


def fleet_of(build, runs):
    """The fleet file's text; the VMs' names are r0, r1, ..."""
    text = ""
    for n, run in enumerate(runs):
        keys = {"name": f"r{n}", "kernel": run.kernel(build), **keys_of(build, run)}
        text += "[[vm]]\n" + "".join(
            f"{k} = {str(v).lower() if isinstance(v, bool) else v if isinstance(v, int) else chr(34) + v + chr(34)}\n"
            for k, v in keys.items())
    return text


def console_of(o, name):
    """What is shown of the console of a VM that is off: the last 4 KiB."""
    o.command(f"console {name}", rb"comes back\r\n")
    o.send("\x1d")
    return o.expect(rb"(?s)(.*)lodge> ").group(1).decode(errors="replace")


def until_end(o, name, seconds):
    """How it ended, in the log's words; None: it had not, and was ended."""
    found = o.command(f"start {name}", rb"\] " + name.encode() + rb" ((starts|does not start)[^\r\n]*)\r\n", 60)
    if found.group(2) != b"starts":
        return found.group(1).decode()
    try:
        end = rb"\] " + name.encode() + rb" ((powered|was|died|did|wrote|ended)[^\r\n]*)\r\n"
        found = o.expect(end, seconds).group(1).decode()
    except AssertionError:
        found = None
    if not found or found == "was reset":
        o.command(f"kill {name}", rb"\] " + name.encode() + rb" was ended", 60)
    return found


def outcome_of(end):
    """In the words of guests/die/die.h; None: something that must not be."""
    if not end:
        return "runs"
    status = re.match(r"wrote the exit port: status (\d+)", end)
    if status:
        return "lives" if int(status[1]) == LIVES else "fails"
    return next((outcome for words, outcome in ENDS.items() if end.startswith(words)), None)


def seconds_of(run, wanted, slower):
    if wanted == "runs":
        return WATCHED
    return run.seconds * (1 if wanted == "any" else slower)


def perform(o, name, run, options):
    """Runs it. Problems: none if all is well."""
    wanted = options.exceptions.outcome(run) or run.outcome
    end = until_end(o, name, seconds_of(run, wanted, options.slower))
    outcome, text, excused = outcome_of(end), console_of(o, name), False
    problems = []
    if run.outcome == "lives":
        problems, excused = problems_of_tests(run, text, options)
    if outcome == "fails" and wanted == "lives" and excused:
        outcome = "lives"
    if outcome == options.exceptions.may_end(run):
        wanted = outcome
    if outcome is None or outcome in NOT_USUAL and outcome != wanted or wanted not in ("any", outcome):
        problems.append(f"expected {wanted}, but: {end or 'it goes on'}")
    if run.kind == "system" and wanted == "lives" and "PASS " not in text:
        problems.append("no test passed")
    return [f"{run.name}: {p}" for p in problems] + ([text[-1500:]] if problems else [])
