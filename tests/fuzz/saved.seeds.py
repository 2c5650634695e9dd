#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""saved.seeds.py DIRECTORY: seeds for tests/fuzz/saved.c: metadata as docs/saved.md describes it. Checksums
of sections are left at zero: the target makes them right."""
import os
import struct
import sys

PAGE, PIECE = 4096, 65536


def section(name, payload, version=1):
    return struct.pack("<16sIIII", name, 0, version, len(payload), 0) + payload


def metadata(memory_mib, rows, runs):
    definition = struct.pack("<64sQIB2048s", b"lodge", memory_mib << 20, 1, 0, b"console=ttyS0")
    level = struct.pack("<16sII", b"v3", 1000000, rows) + struct.pack("<IIBIIII", 1, 0, 0, 1, 2, 3, 4) * rows
    level += struct.pack("<5Q6B", 1, 2, 7, 4, 5, 39, 0, 1, 1, 1, 1)
    memory, sums, at = struct.pack("<I", len(runs)), b"", 0
    head = 64 + sum(len(section(b"", x)) for x in (definition, level)) + 2 * 32 + 4
    head += sum(24 + 4 * -(-pages * PAGE // PIECE) for _, pages in runs)
    file = -(-head // PAGE) * PAGE
    for ram, pages in runs:
        memory += struct.pack("<QQQ", ram * PAGE, file + at, pages * PAGE)
        sums += struct.pack("<I", 0x12345678) * -(-pages * PAGE // PIECE)
        at += pages * PAGE
    parts = [section(b"definition", definition), section(b"level", level), section(b"machine", b""),
             section(b"memory", memory + sums)]
    return b"".join(parts) + struct.pack("<Q", at)


def main():
    seeds = {"small": (2, 0, []), "one": (2, 3, [(0, 1)]), "three": (64, 20, [(0, 1), (7, 33), (100, 2)]),
             "large": (1024, 48, [(n * 40, 17) for n in range(60)])}
    for name, arguments in seeds.items():
        with open(os.path.join(sys.argv[1], name), "wb") as f:
            f.write(metadata(*arguments))


main()
