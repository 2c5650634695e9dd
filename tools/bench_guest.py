# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""For bench.py: runs a program and measures it from outside, between the lines that it prints.

Nothing is believed that a guest says about time: processor time is that of the whole emulating process,
all its threads, as its own kernel counts it in nanoseconds; elapsed time is this machine's.
"""
import os
import re
import select
import signal
import subprocess
import time

BEGIN = re.compile(r"bench (\w+) begin")
END = re.compile(r"bench (\w+) end (\d+)(?: operations .* ([\d.]+) cpu)?")
WRONG = re.compile(r"bench (\w+) wrong")
LIMIT = 1800  # seconds that one run may take


class Failed(Exception):
    """What was run did not do what it should."""


class Sample:
    """A moment: seconds of processor time that the process has used, and the time."""

    def __init__(self, cpu, wall):
        self.cpu, self.wall = cpu, wall

    def __sub__(self, other):
        return Sample(self.cpu - other.cpu, self.wall - other.wall)

    def per(self, operations):
        return Sample(self.cpu / operations, self.wall / operations)


def sample(pid):
    clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of another process, clock_getcpuclockid(3)
    return Sample(time.clock_gettime(clock), time.monotonic())


PRIVATE, SHARE = ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:"), ("Pss:",)


def private_kib(pid, ram):
    """Private memory of a process that runs a guest, without the guest's RAM of so many bytes: that is the
    one mapping, or all mappings of the one file, whose extent comes nearest to that size."""
    kib, extent = {}, {}
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ...(.) ([0-9a-f]+) (\S+ \d+)", line)
            if head:
                size, offset = int(head[2], 16) - int(head[1], 16), int(head[4], 16)
                anonymous = head[5].endswith(" 0")
                name = head[1] if anonymous else head[5]
                # What one process has mapped twice, as generated code may be, is not called private
                counted = SHARE if head[3] == "s" else PRIVATE
                low, high = extent.get(name, (offset, offset))
                extent[name] = (min(low, offset), max(high, offset + size))
            elif line.startswith(counted):
                kib[name] = kib.get(name, 0) + int(line.split()[1])
    guest = min(extent, key=lambda name: abs(extent[name][1] - extent[name][0] - ram))
    return sum(kib.values()) - kib[guest]


class Run:
    """One run to its end. Afterwards: total (Sample), userland (Sample since the start, or None),
    work {name: Sample for each operation}, memory {"userland": KiB, "done": KiB}.

    ram: bytes of a guest's; without, it is an ordinary program. shell: at its shell, memory is looked at and
    the guest powered off. cpu: the only processor that it may use."""

    def __init__(self, command, ram=None, shell=False, cpu=None):
        self.command, self.ram, self.shell = command, ram, shell
        self.text, self.began, self.userland = "", {}, None
        self.work, self.memory = {}, {}
        pin = (lambda: os.sched_setaffinity(0, {cpu})) if cpu is not None else None
        start = time.monotonic()
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE if shell else subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=pin)
        self.start = Sample(0, start)
        try:
            self.watch(start + LIMIT)
            _, status, usage = os.wait4(self.child.pid, 0)
            self.child.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if self.child.returncode is None:
                self.child.kill()
                self.child.wait()
        self.total = Sample(usage.ru_utime + usage.ru_stime, time.monotonic() - start)
        self.check()

    def fail(self, why):
        raise Failed(f"{why}: {' '.join(self.command)}\n{self.text[-2000:]}")

    def watch(self, end):
        out, rest = self.child.stdout.fileno(), ""
        while True:
            if not select.select([out], [], [], max(0, end - time.monotonic()))[0]:
                self.fail(f"not done within {LIMIT} s")
            chunk = os.read(out, 65536)
            if not chunk:
                return
            now = sample(self.child.pid)
            lines = (rest + chunk.decode("utf-8", "replace").replace("\r", "")).split("\n")
            rest = lines.pop()
            self.text += "\n".join(lines + [""])
            for line in lines:
                self.line(line, now)

    def line(self, line, now):
        if "lodge: userland reached" in line and not self.userland:
            self.userland = now - self.start
        elif "bench done" in line and self.ram:
            self.memory["done"] = private_kib(self.child.pid, self.ram)
        elif self.shell and "This is a Debian kernel" in line:
            self.at_shell()
        elif match := WRONG.search(line):
            self.fail(f"{match[1]}: a wrong result")
        elif match := BEGIN.search(line):
            self.began[match[1]] = now
        elif match := END.search(line):
            spent = now - self.began[match[1]]
            if match[3] and not self.ram:  # its children's too, which it counts itself
                spent.cpu = float(match[3]) / 1e9 * int(match[2])
            self.work[match[1]] = spent.per(int(match[2]))

    def at_shell(self):
        time.sleep(2)  # the kernel ends what it put off until after boot
        self.memory["userland"] = private_kib(self.child.pid, self.ram)
        self.child.stdin.write(b"poweroff -f\n")
        self.child.stdin.close()

    def check(self):
        if self.child.returncode != 0:
            self.fail(f"exit status {self.child.returncode}")
        if self.ram and (not self.userland or "reboot: Power down" not in self.text):
            self.fail("did not boot and power off")


def timed(command):
    """Processor and elapsed time, on one processor, of a program that this machine's system came with: what
    else there may be in PATH is not what the guest has."""
    path = next((path for path in (f"/usr/bin/{command[0]}", command[0]) if os.path.exists(path)), command[0])
    return Run([path, *command[1:]], cpu=max(os.sched_getaffinity(0))).total


signal.signal(signal.SIGINT, signal.default_int_handler)
