#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""make-demo.py BUILD_DIR OUT.svg: records a real run on a terminal and draws its last screen.

Boots the cloud kernel, types a few commands at the guest's shell, powers it off, and writes what the
terminal showed as an SVG picture. Nothing is staged: if the guest does not answer, there is no picture.
"""
import html
import os
import pty
import re
import select
import sys
import time

PROMPT = "# "
COMMANDS = ["uname -srm", "grep -m1 'model name' /proc/cpuinfo", "nproc; free -m | head -n 2",
            "grep -o -m1 -w 'vmx\\|svm' /proc/cpuinfo || echo no hardware virtualization in here",
            "poweroff -f"]
COLUMNS, LINE, CHAR = 100, 17, 8.05


def read_until(fd, mark, seconds):
    data, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        ready, _, _ = select.select([fd], [], [], 0.2)
        if ready:
            try:
                chunk = os.read(fd, 65536)
            except OSError:
                return data
            if not chunk:
                return data
            data += chunk
        if mark and data.replace(b"\x1b[6n", b"").endswith(mark):
            return data
    if mark:
        sys.exit(f"make-demo: no prompt after {seconds} s: {data[-400:]!r}")
    return data


def record(build):
    guest = os.path.join(build, "guests", "debian-6.1-cloud")
    command = [os.path.join(build, "lodge"), "run", "-k", f"{guest}/vmlinuz", "-i", f"{guest}/initrd",
               "-m", "512M", "-c", "2", "--append", "console=ttyS0 quiet"]
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    shown = "$ build/" + " ".join(["lodge"] + command[1:]).replace(build + "/", "build/") + "\n"
    shown += read_until(fd, PROMPT.encode(), 120).decode("utf-8", "replace")
    for line in COMMANDS:
        os.write(fd, line.encode() + b"\r")
        last = line.startswith("poweroff")
        shown += read_until(fd, None if last else PROMPT.encode(), 15 if last else 30).decode(
            "utf-8", "replace")
    os.waitpid(pid, 0)
    return shown


def screen(text):
    text = text.expandtabs(8)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\r", ""))
    lines = []
    for line in text.split("\n"):
        while len(line) > COLUMNS:
            lines.append(line[:COLUMNS])
            line = line[COLUMNS:]
        lines.append(line)
    return lines[-40:]


def draw(lines):
    width, height = int(COLUMNS * CHAR) + 24, len(lines) * LINE + 24
    rows = "\n".join(
        f'<text x="12" y="{20 + i * LINE}" xml:space="preserve">{html.escape(line)}</text>'
        for i, line in enumerate(lines))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">\n'
            f'<rect width="100%" height="100%" rx="6" fill="#16181d"/>\n'
            f'<g font-family="DejaVu Sans Mono,Menlo,monospace" font-size="13" fill="#d6dae2">\n'
            f"{rows}\n</g>\n</svg>\n")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    text = record(os.path.abspath(sys.argv[1]))
    with open(sys.argv[2], "w") as out:
        out.write(draw(screen(text)))


main()
