#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Shares of the processor over time, recorded from a run on the bare machine in QEMU, and drawn (docs/sharing.md).

  shares_picture.py record BUILD FILE.csv    runs the scenario below and writes what the meter said, in steps of a tenth of a second
  shares_picture.py draw FILE.csv FILE.svg

Time is QEMU's count of instructions, on one CPU.
"""
import csv
import os
import sys
import time

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(TOP, "tests", "native"))

STEP, SECONDS = 0.1, 12
# name, what it does (guests/bench/shares.c), its shares
VMS = [
    ("web", "on=700000 off=1300000", {"weight": 100, "credit": 300}),
    ("build", "", {"weight": 200}),
    ("batch", "", {"weight": 400, "limit": 30}),
    ("guarded", "on=2000000 off=1000000", {"weight": 1, "reservation": 25}),
]
# second, what is typed then
CHANGES = [(4, "build cpu.weight=800"), (8, "batch cpu.limit=0")]
COLOURS = {"web": "#4878a8", "build": "#d08840", "batch": "#609060", "guarded": "#a04858", "Lodge": "#909090", "idle": "#f0f0f0"}
WIDTH, HEIGHT, LEFT, TOP_EDGE, BOTTOM = 900, 300, 50, 40, 60


def record(build, path):
    from shares_line import Fleet, cpu, difference, vm
    rows, changes = [], list(CHANGES)
    with Fleet(build, [vm(build, name, append, **shares) for name, append, shares in VMS]) as f:
        first = last = f.usage()
        while last.now - first.now < SECONDS:
            while changes and last.now - first.now >= changes[0][0]:
                f.set(*changes.pop(0)[1].split(" ", 1))
            now = f.usage()
            if now.now - last.now < STEP:
                time.sleep(0.02)
                continue
            u = difference(last, now)
            rows.append([f"{now.now - first.now:.4f}", *(f"{100 * cpu(u.vm[name]) / u.now:.3f}" for name, _, _ in VMS),
                         f"{100 * u.own / u.now:.3f}", f"{100 * u.idle / u.now:.3f}"])
            last = now
    with open(path, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["seconds", *(name for name, _, _ in VMS), "Lodge", "idle"])
        out.writerows(rows)


def draw(source, target):
    with open(source) as f:
        names, *rows = csv.reader(f)
    names = names[1:]
    rows = [[float(v) for v in row] for row in rows]
    end = rows[-1][0]

    def x(seconds):
        return LEFT + seconds / end * WIDTH

    def y(percent):
        return TOP_EDGE + HEIGHT * (1 - percent / 100)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{TOP_EDGE + HEIGHT + BOTTOM}" '
           'font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>']
    below = [0.0] * len(rows)
    for k, name in enumerate(names):
        above = [b + row[k + 1] for b, row in zip(below, rows)]
        begins = [0.0, *(row[0] for row in rows[:-1])]
        edge = [f"{x(t):.1f},{y(v):.1f}" for row, t0, v in zip(rows, begins, above) for t in (t0, row[0])]
        back = [f"{x(t):.1f},{y(v):.1f}" for row, t0, v in zip(rows, begins, below) for t in (t0, row[0])]
        out.append(f'<polygon points="{" ".join(edge + back[::-1])}" fill="{COLOURS[name]}"/>')
        below = above
    for percent in range(0, 101, 25):
        out.append(f'<text x="{LEFT - 6}" y="{y(percent) + 4:.1f}" text-anchor="end">{percent}</text>')
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y(percent):.1f}" y2="{y(percent):.1f}" stroke="#00000030"/>')
    for second in range(int(end) + 1):
        out.append(f'<text x="{x(second):.1f}" y="{TOP_EDGE + HEIGHT + 16}" text-anchor="middle">{second}</text>')
    for second, what in CHANGES:
        out.append(f'<line x1="{x(second):.1f}" x2="{x(second):.1f}" y1="{TOP_EDGE}" y2="{TOP_EDGE + HEIGHT}" '
                   'stroke="black" stroke-dasharray="4 3"/>')
        out.append(f'<text x="{x(second) + 4:.1f}" y="{TOP_EDGE - 6}">set {what}</text>')
    at = LEFT
    for name in names:
        words = next((", ".join(f"{k} {v}" for k, v in shares.items()) for n, _, shares in VMS if n == name), "")
        text = f"{name}: {words}" if words else name
        out.append(f'<rect x="{at}" y="{TOP_EDGE + HEIGHT + 34}" width="12" height="12" fill="{COLOURS[name]}" stroke="#808080"/>')
        out.append(f'<text x="{at + 16}" y="{TOP_EDGE + HEIGHT + 44}">{text}</text>')
        at += 40 + 6.2 * len(text)
    out.append("</svg>\n")
    with open(target, "w") as f:
        f.write("\n".join(out))


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "record":
        record(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 4 and sys.argv[1] == "draw":
        draw(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)


main()
