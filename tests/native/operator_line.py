# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A machine with its serial line as an operator has it: machine.py's, on a socket, and what is said to it."""
import os
import re
import select
import socket
import time

from machine import Machine

SLOWER = float(os.environ.get("LODGE_SLOWER", "1"))
ESCAPES = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


class Operator:
    """with Operator(iso, mode="uefi", ...) as o: what Machine takes."""

    def __init__(self, iso, **machine):
        self.machine = Machine(iso, serial="unix", **machine)
        self.process = self.machine.process
        self.output, self.seen = b"", 0
        self.serial = self.connect(self.machine.serial)

    def connect(self, path):
        end = time.monotonic() + 20
        while True:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(path)
                return s
            except OSError:
                s.close()
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def read(self, seconds):
        """False: it has ended, or nothing came."""
        if not select.select([self.serial], [], [], seconds)[0]:
            return False
        more = self.serial.recv(65536)
        self.output += more
        return bool(more)

    def expect(self, pattern, seconds=30):
        """The match, in what comes after the last one; without the terminal's escapes."""
        end = time.monotonic() + seconds * SLOWER
        while True:
            text = ESCAPES.sub(b"", self.output[self.seen:])
            found = re.search(pattern, text)
            if found:
                self.output, self.seen = text[found.end():], 0
                return found
            if time.monotonic() > end or (not self.read(0.2) and self.process.poll() is not None):
                raise AssertionError(f"expected {pattern!r}, have {text[-1500:]!r}")

    def send(self, text):
        self.serial.sendall(text.encode())

    def command(self, text, pattern=None, seconds=30):
        self.send(text + "\r")
        return self.expect(pattern, seconds) if pattern else None

    def ends(self, seconds=30):
        """Its status, when it has powered off."""
        end = time.monotonic() + seconds * SLOWER
        while time.monotonic() < end and self.process.poll() is None:
            self.read(0.2)
        return self.process.poll()

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.serial.close()
        self.machine.__exit__(*what)
