#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""`make run` once it has built: tools/run.sh, without a terminal and on one."""
from lodge import BUILD, OK, TOP, Terminal, check, main
import os
import subprocess

SCRIPT = os.path.join(TOP, "tools", "run.sh")
PATIENCE = 120  # seconds: a boot, on a machine that does something else as well


def test_without_a_terminal():
    done = subprocess.run([SCRIPT, BUILD], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=PATIENCE)
    out = done.stdout.decode(errors="replace")
    check(done.returncode == OK, f"status {done.returncode}: {out[-1000:]} {done.stderr!r}")
    check("lodge: userland reached" in out, out[-1000:])
    check("kernel:    Linux " in out, out[-1000:])
    check("lodge: hello: exit 0" in out, out[-1000:])


def test_output_in_a_pipe():
    """A terminal to type on and a pipe to write to is not one to have a shell on."""
    master, slave = os.openpty()
    try:
        done = subprocess.run([SCRIPT, BUILD], stdin=slave, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=PATIENCE)
    finally:
        os.close(master)
        os.close(slave)
    check(done.returncode == OK, done.returncode)
    check(b"lodge: hello: exit 0" in done.stdout, done.stdout[-1000:])


def test_on_a_terminal():
    with Terminal(BUILD, program=SCRIPT) as t:
        t.expect(b"This is a Debian kernel under Lodge", PATIENCE)
        t.expect(b"# ", PATIENCE)
        check(t.is_raw(), "the terminal is not raw")
        t.type(b"echo $((6 * 7))-$(nproc)\r")
        t.expect(b"42-2\r\n", PATIENCE)
        t.type(b"poweroff -f\r")
        t.check_end(OK)


if __name__ == "__main__":
    main()
