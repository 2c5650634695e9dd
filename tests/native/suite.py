# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A program of tests: each a function test_NAME that is marked @test, or @long if it is not of the short form. What
tests/native's programs share."""
import os
import subprocess
import sys
import time
import traceback

TESTS, LONG = {}, set()
ATTEMPTS = 3


def test(function):
    TESTS[function.__name__.removeprefix("test_")] = function
    return function


def long(function):
    LONG.add(function.__name__.removeprefix("test_"))
    return test(function)


def again(function):
    """For guests that have Linux: QEMU loses an interrupt now and then, and delivers one twice, with two processors or where it
    counts instructions (docs/rig.md). So they have one, and what fails is done once more, at most three times; that is said."""
    def attempts():
        for n in range(ATTEMPTS):
            try:
                return function()
            except AssertionError as e:
                if n + 1 == ATTEMPTS:
                    raise
                print(f"# once more, after: {str(e)[-600:]}", flush=True)
        return None
    attempts.__name__ = function.__name__
    return attempts


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def chosen(names):
    """Name to function: those that are named; without names the short form, LODGE_NIGHTLY: all."""
    return {n: TESTS[n] for n in names or [n for n in TESTS if n not in LONG or os.environ.get("LODGE_NIGHTLY")]}


def run(tests):
    """Prints "ok NAME" or "not ok NAME" for each, with what it returns, and ends the program."""
    failed = False
    for name, function in tests.items():
        began = time.monotonic()
        try:
            figures = function()
            print(f"ok {name}{': ' + figures if figures else ''} ({time.monotonic() - began:.0f} s)", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError):
            failed = True
            traceback.print_exc(file=sys.stdout)
            print(f"not ok {name}", flush=True)
    sys.exit(1 if failed else 0)
