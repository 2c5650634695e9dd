# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A machine in Bochs, on a processor with VT-x, with its serial line as an operator has it (operator_line.py)."""
import os
import socket
import subprocess
import time

from operator_line import SLOWER, Operator

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LONGEST = 14400  # seconds, if nobody ends it


class Bochs(Operator):
    """with Bochs(iso, cpus=2) as o: as Operator. ips: instructions that Bochs takes for a microsecond, times all CPUs."""

    def __init__(self, iso, cpus=1, memory=512, ips=50, cpu="corei7_skylake_x"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.process = subprocess.Popen(
                [f"{TOP}/tools/run-bochs.sh", "-n", str(cpus), "-m", str(memory), "-i", str(ips), "-p", cpu,
                 "-s", f"127.0.0.1:{server.getsockname()[1]}", str(LONGEST), iso],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            self.output, self.seen = b"", 0
            server.settimeout(1)
            self.serial = self.accept(server)

    def accept(self, server):
        end = time.monotonic() + 20 * SLOWER
        while True:
            try:
                return server.accept()[0]
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    self.__exit__()
                    raise

    def __exit__(self, *_):
        self.process.terminate()  # it ends Bochs
        self.process.wait()
        if hasattr(self, "serial"):
            self.serial.close()
