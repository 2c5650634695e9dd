#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""lodge on a terminal: raw while the guest has it, the operator's keys, and back whatever happens."""
from lodge import (GUEST_DIED, LODGE, OK, OPERATOR, Terminal, check, check_within_a_second, guest,
                   main, wait_for)
import os
import shlex
import signal
import termios
import time

MENU, CTRL_A = b"\x1d", b"\x01"


def start(*args):
    t = Terminal("run", "-k", guest(), "-m", "16M", *args)
    t.expect(b"ready")
    wait_for(t.is_raw, "raw while the guest runs")
    return t


def test_power_off():
    with start() as t:
        t.type(b"o")
        t.check_end(OK)


def test_keys_reach_the_guest():
    with start() as t:
        for key in (b"a", b"\x03", b"\x1a", b"\x1c", b"\x04", b"\r", b"\x7f", b"\x11"):
            t.type(key)
            t.expect(b"<" + key + b">")
        t.type(b"o")
        t.check_end(OK)


def test_menu_quit():
    with start() as t:
        t.type(MENU)
        t.expect(b"q quit, r reset")
        t.type(b"q")
        t.check_end(OPERATOR)


def test_ctrl_a_x_quits():
    with start() as t:
        t.type(CTRL_A + b"x")
        t.check_end(OPERATOR)


def test_ctrl_a_is_sent():
    with start() as t:
        t.type(CTRL_A + CTRL_A)
        t.expect(b"<\x01>")
        t.type(CTRL_A + b"y")
        t.expect(b"<\x01><y>")
        t.type(CTRL_A + b"x")
        t.check_end(OPERATOR)


def test_menu_sends_its_own_key():
    with start() as t:
        t.type(MENU + MENU)
        t.expect(b"<\x1d>")
        t.type(MENU + b"q")
        t.check_end(OPERATOR)


def test_menu_reset():
    with start("--no-reboot") as t:  # is about the guest's own reboots
        t.type(MENU + b"r")
        t.expect(b"[lodge] reset")
        t.expect(b"clean")
        t.expect(b"ready")
        t.type(b"o")
        t.check_end(OK)


def test_menu_reset_of_a_guest_that_hangs():
    with start("-c", "2") as t:
        t.type(b"s")
        time.sleep(0.2)
        t.type(b"many keys that it does not read, far more than its FIFO holds" * 100)
        t.type(MENU + b"r")
        t.expect(b"ready")
        t.type(b"o")
        t.check_end(OK)


def test_menu_registers():
    with start("-c", "2") as t:
        t.type(MENU + b"d")
        t.expect(b"vCPU 0:\r\n")
        t.expect(b"vCPU 1:\r\n")
        t.type(b"a")
        t.expect(b"<a>")
        t.type(b"o")
        t.check_end(OK)


def test_menu_help_and_leave():
    with start() as t:
        t.type(MENU + b"h")
        t.expect(b"Ctrl-a x quits too")
        t.type(MENU + b"z")
        t.type(b"a")
        t.expect(b"<a>")
        t.type(MENU + b"p")
        t.expect(b"power button")
        t.type(b"o")
        t.check_end(OK)


def test_guest_dies():
    with start() as t:
        t.type(b"t")
        t.check_end(GUEST_DIED)
        check(b"triple fault" in t.output, t.output)
        check(b"\nlodge: the guest died" in t.output, t.output)


def seconds_to_end(sig, status):
    with start() as t:
        began = time.monotonic()
        t.process.send_signal(sig)
        t.check_end(status)
        return time.monotonic() - began


def test_signals():
    for sig, status in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130),
                        (signal.SIGUSR1, 138), (signal.SIGXCPU, 152)):
        check_within_a_second(lambda: seconds_to_end(sig, status))


def test_fatal_signals_restore():
    for sig in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL,
                signal.SIGSYS):
        with start() as t:
            t.process.send_signal(sig)
            t.check_end(-sig)


def test_stop_and_continue():
    with start() as t:
        t.process.send_signal(signal.SIGTSTP)
        wait_for(lambda: state_of(t.process.pid) == "T", "stopped")
        check(t.modes() == t.modes_before, "stopped, and the terminal is not as it was")
        t.process.send_signal(signal.SIGCONT)
        wait_for(t.is_raw, "raw again")
        t.type(b"a")
        t.expect(b"<a>")
        t.type(b"o")
        t.check_end(OK)


def test_stopped_unseen():
    """SIGSTOP cannot be noticed, and a shell sets its own modes meanwhile."""
    with start() as t:
        t.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: state_of(t.process.pid) == "T", "stopped")
        termios.tcsetattr(t.master, termios.TCSANOW, t.modes_before)
        t.process.send_signal(signal.SIGCONT)
        wait_for(t.is_raw, "raw again")
        t.type(b"o")
        t.check_end(OK)


def state_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rpartition(")")[2].split()[0]


JOB = f"set -m; {shlex.quote(LODGE)} run -k {{}} -m 16M & sleep 0.7; echo now; {{}}"


def test_background_and_foreground():
    """A shell's job: in the background it prints and leaves the terminal alone."""
    with Terminal("-c", JOB.format(guest(), "sleep 0.7; fg"), program="sh") as t:
        t.expect(b"ready")
        t.expect(b"now")
        check(t.modes() == t.modes_before, "a background job has changed the terminal")
        t.type(b"a")
        wait_for(t.is_raw, "raw in the foreground")
        t.expect(b"<a>")
        t.type(b"o")
        t.wait()
        wait_for(lambda: not t.is_raw(), "the shell's modes again")


def test_background_and_sigterm():
    with Terminal("-c", JOB.format(guest(), "kill %1; wait %1; echo ended $?"), program="sh") as t:
        t.expect(b"ended 143")
        check(t.modes() == t.modes_before, "a background job has changed the terminal")


def test_terminal_that_controls_nobody():
    with Terminal("run", "-k", guest(), "-m", "16M", controlling=False) as t:
        t.expect(b"ready")
        wait_for(t.is_raw, "raw")
        t.type(b"o")
        t.check_end(OK)


def test_output_stopped():
    """Ctrl-S from outside, so to speak: nobody reads the terminal, and SIGTERM still works."""
    check_within_a_second(seconds_to_end_unread)


def seconds_to_end_unread():
    with start() as t:
        t.type(b"f")
        time.sleep(1.5)
        began = time.monotonic()
        t.process.terminate()
        t.process.wait(timeout=5)
        took = time.monotonic() - began
        check(t.modes() == t.modes_before, "the terminal's modes are not as they were")
        return took


def test_errors_leave_the_terminal_alone():
    with Terminal("run", "-k", "/nonexistent") as t:
        t.check_end(2)
    with Terminal("run", "-k", guest(), "-m", "16M", "-i", "/dev/null") as t:
        t.check_end(2)


def test_terminal_goes_away():
    t = start()
    os.close(t.master)
    os.close(t.slave)
    status = t.process.wait(timeout=5)
    check(status in (129, OPERATOR), status)


if __name__ == "__main__":
    main()
