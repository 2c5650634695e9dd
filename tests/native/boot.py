#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""The bare-metal image comes up, on machines of several kinds in QEMU, and says what is wrong where it cannot.

  boot.py BUILD [NAME...]

Prints "ok NAME" or "not ok NAME" for each test.
"""
import os
import sys
import tempfile

from machine import Machine, make_iso

BUILD = sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__)
SCRATCH = tempfile.TemporaryDirectory()
TESTS = {}


def test(function):
    TESTS[function.__name__.removeprefix("test_")] = function
    return function


def iso(words, modules=()):
    path = os.path.join(SCRATCH.name, "image.iso")
    make_iso(BUILD, path, words, modules)
    return path


def expect(machine, *patterns):
    for pattern in patterns:
        if not machine.wait(pattern):
            raise AssertionError(f"no {pattern!r} in:\n{machine.output()[-3000:]}")


def self_test(cpus, **machine):
    """From inside (native/selftest.c), and then it is off."""
    words = machine.pop("words", "self-test")
    with Machine(iso(words), cpus=cpus, **machine) as m:
        expect(m, rf"^CPUs: {cpus} of {cpus}; ", r"^self-test: [1-9]\d+ checks, 0 failed$")
        if not m.wait_off():
            raise AssertionError("still on")
        return m.output()


@test
def test_bios():
    output = self_test(2)
    assert "(BIOS)" in output and "\nmemory: 1023 MiB" in output, output
    assert "\nscreen: pixels" in output, output
    assert output.count("nobody asked for: vector 0x77") == 1, output


@test
def test_uefi():
    output = self_test(2, mode="uefi")
    assert "(UEFI)" in output and "\nscreen: pixels" in output, output


@test
def test_bios_6_gib():
    assert "\nmemory: 6143 MiB" in self_test(2, memory=6144)


@test
def test_uefi_6_gib():
    assert "\nmemory: 613" in self_test(2, memory=6144, mode="uefi")


@test
def test_one_cpu():
    self_test(1)


@test
def test_many_cpus():
    self_test(8)


@test
def test_little_memory():
    self_test(2, memory=32)


@test
def test_no_1g_pages():
    self_test(2, cpu="EPYC,+svm,+npt,-pdpe1gb,-smep,-smap")


@test
def test_modules():
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"x" * 3000000)
        f.flush()
        with Machine(iso("self-test", [(f.name, "fleet"), (f.name, "a path of its own")])) as m:
            expect(m, r"^memory: .*; 2 modules of 5859 KiB$", r"^module: 0x[0-9a-f]+000, 3000000 bytes, fleet$",
                   r"^module: 0x[0-9a-f]+000, 3000000 bytes, a path of its own$", r"^self-test: \d+ checks, 0 failed$")


def fault(words, *patterns):
    with Machine(iso(words)) as m:
        expect(m, *patterns, r"^  at   0x[0-9a-f]{16} ", r"^Lodge has stopped; 2 of 2 processors are halted\.$")
        return m.output()


@test
def test_panic():
    output = fault("test-panic", r"^Lodge: panic on CPU 0 at native/selftest\.c:\d+: as the command line asked$",
                   r"^  at   0x[0-9a-f]+ fault_panic\+", r"^  from 0x[0-9a-f]+ selftest_faults\+")
    assert output.count("panic on CPU") == 1, output


@test
def test_null():
    fault("test-null", r"exception 14 \(#PF\), error code 0x2$", r" cr2 0000000000000008 ")


@test
def test_stack_overflow():
    fault("test-stack", r"exception 8 \(#DF\)", r"^  from 0x[0-9a-f]+ overflow_stack\+")


@test
def test_constants_are_read_only():
    fault("test-constants", r"exception 14 \(#PF\), error code 0x3$")


@test
def test_code_is_read_only():
    fault("test-code", r"exception 14 \(#PF\), error code 0x3$")


@test
def test_code_is_read_only_in_the_direct_map():
    fault("test-code-direct", r"exception 14 \(#PF\), error code 0x3$", r" cr2 ffff8")


@test
def test_data_does_not_execute():
    fault("test-run-data", r"exception 14 \(#PF\), error code 0x11$")


@test
def test_direct_map_does_not_execute():
    fault("test-run-direct", r"exception 14 \(#PF\), error code 0x11$")


@test
def test_devices_are_not_in_the_direct_map():
    fault("test-device", r"exception 14 \(#PF\), error code 0x2$")


@test
def test_lost_cpu():
    with Machine(iso("self-test test-lost-cpu")) as m:
        expect(m, r"^the CPU with APIC id 200 did not start: left out$", r"^CPUs: 2 of 3; ",
               r"^self-test: \d+ checks, 0 failed$")


@test
def test_nmi():
    with Machine(iso("test-idle")) as m:
        expect(m, r"^CPUs: 2 of 2; ")
        m.monitor("nmi")
        expect(m, r"^an NMI on CPU [01], at 0x")
        assert "panic" not in m.output(), m.output()


@test
def test_old_processor():
    with Machine(iso(""), cpu="qemu32") as m:
        expect(m, r"Lodge: this processor has no 64-bit mode or no NX pages")


@test
def test_no_acpi():
    with Machine(iso(""), more=["-no-acpi"]) as m:
        expect(m, r"^Lodge: .*(ACPI|RSDP|root).*$", r"^Lodge has stopped; 1 of 1 processors are halted\.$")
        assert "exception" not in m.output(), m.output()


def main():
    failed = 0
    for name in sys.argv[2:] or TESTS:
        try:
            TESTS[name]()
            print(f"ok {name}", flush=True)
        except Exception as e:  # whatever it was, the others still run
            failed += 1
            print(f"  {e}\nnot ok {name}", flush=True)
    sys.exit(1 if failed else 0)


main()
