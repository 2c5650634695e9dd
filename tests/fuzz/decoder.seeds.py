#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Seeds for the decoder's fuzz target, which begins with every opcode and every form of encoding
instead of finding them by chance.

  decoder.seeds.py DIRECTORY

Each file is a mode (one byte: 0, 1, 2 for 16, 32, 64 bits) and instructions one after another. There
is one for each row of 16 opcodes in each map and mode, each opcode once with a register and once
with memory as its operand, under prefixes and addressing forms that take turns; and one for each
kind of encoding that all opcodes share: ModRM and SIB, prefixes, groups, VEX, immediates; all cut
into files of at most 16 instructions, since short inputs are better to mutate. Four NOPs behind each
instruction are its immediate, if it has one, and instructions otherwise.
"""
import itertools
import os
import sys

MODES = {"16": 0, "32": 1, "64": 2}
TAIL = b"\x90" * 4
TOGETHER = 16  # instructions in a file

MAPS = {"one-byte": b"", "0f": b"\x0f", "0f38": b"\x0f\x38", "0f3a": b"\x0f\x3a"}
MANDATORY = [b"", b"\x66", b"\xf3", b"\xf2"]
LEGACY = MANDATORY + [b"\xf0", b"\x67", b"\x66\x67", b"\x26", b"\x64", b"\x65", b"\x66\xf2\xf3"]
REX = [b"", b"\x48", b"\x40", b"\x45", b"\x4f"]  # none, W, alone, R and B, all

# ModRM with what must follow it: registers, and memory by base, base and displacement of both
# sizes, displacement alone (RIP-relative in 64-bit mode), and SIB with and without base and index.
REGISTERS = [b"\xc0", b"\xd1", b"\xff", b"\xe4"]
MEMORY = [b"\x00", b"\x43\x7f", b"\x83" + b"\x80" * 4, b"\x05" + b"\x44" * 4, b"\x06\x34\x12",
          b"\x04\x88", b"\x44\x24\x10", b"\x04\x25" + b"\x11" * 4, b"\x84\xe5" + b"\xfe" * 4]

# Opcodes whose ModRM.reg says which instruction it is, as map and opcode.
GROUPS = [(b"", op) for op in (0x80, 0x81, 0x83, 0x8F, 0xC0, 0xC1, 0xC6, 0xC7, 0xD0, 0xD1, 0xD2, 0xD3,
                               0xF6, 0xF7, 0xFE, 0xFF, *range(0xD8, 0xE0))]
GROUPS += [(b"\x0f", op) for op in (0x00, 0x01, 0x0D, 0x18, 0x71, 0x72, 0x73, 0xAE, 0xB9, 0xBA, 0xC7)]


def turn(items, n):
    return items[n % len(items)]


def prefixes(mode, n):
    return turn(LEGACY, n) + (turn(REX, n // 2) if mode == "64" else b"")


def legacy_row(mode, escape, row):
    for n in range(16 * row, 16 * row + 16):
        opcode = escape + bytes([n])
        yield opcode + turn(REGISTERS, n)
        yield prefixes(mode, n + row) + opcode + turn(MEMORY, n + row)


def vex3(opmap, pp, w=0, length=0, vvvv=0, rxb=0):
    """The three bytes; vvvv and rxb (R X B) as numbers, which VEX holds inverted."""
    return bytes([0xC4, (rxb ^ 7) << 5 | opmap, w << 7 | (vvvv ^ 15) << 3 | length << 2 | pp])


def vex2(pp, length=0, vvvv=0, r=0):
    return bytes([0xC5, (r ^ 1) << 7 | (vvvv ^ 15) << 3 | length << 2 | pp])


def vex_row(mode, opmap, row):
    for n in range(16 * row, 16 * row + 16):
        rxb = n % 8 if mode == "64" else 0
        for pp in range(4):
            yield vex3(opmap, pp, w=pp & 1, length=n & 1, vvvv=n % 8) + bytes([n]) + turn(REGISTERS, n)
        yield vex3(opmap, 1, w=n & 1, length=1, rxb=rxb) + bytes([n]) + turn(MEMORY, n + row)


def modrm_forms():
    """MOV r,rm with every ModRM byte that has reg 0, 3 or 4; then with every SIB byte."""
    for modrm in range(256):
        if modrm >> 3 & 7 in (0, 3, 4):
            yield bytes([0x8B, modrm])
    for sib in range(0, 256, 3):
        for mod in (0x04, 0x44, 0x84):
            yield bytes([0x8B, mod, sib])


def prefix_forms(mode):
    """Every pair of prefixes, before an ALU operation, a move to a register that REX renames, a
    string instruction, and an SSE instruction; too many prefixes."""
    single = [bytes([p]) for p in (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3)]
    rex = [bytes([b]) for b in range(0x40, 0x50)] if mode == "64" else []
    for a in single:
        for b in single + rex:
            yield a + b + turn([b"\x01\x03", b"\x8a\xe4", b"\xa4", b"\x0f\x58\x07"], a[0] + b[0])
    yield b"\x66" * 14 + b"\x90"
    yield b"\x66" * 15 + b"\x90"


def group_forms():
    for escape, opcode in GROUPS:
        for reg in range(8):
            for mod_rm in (0xC0, 0xC5, 0x03):
                yield escape + bytes([opcode, mod_rm | reg << 3])


def vex_forms(mode):
    for pp in range(4):
        for length in (0, 1):
            yield vex2(pp, length, vvvv=7, r=mode == "64") + b"\x58\xc1"
            for opmap in range(0, 5):
                yield vex3(opmap, pp, w=pp >> 1, length=length, vvvv=15) + b"\x18\x02"
    yield b"\x66" + vex2(0) + b"\x58\xc1"  # prefixes that VEX does not take
    yield b"\xf0" + vex3(2, 1) + b"\xf2\xc1"
    yield b"\xc4\x03\xc5\x03"  # LES and LDS outside of 64-bit mode
    yield b"\x62\xf1\x7c\x48\x58\xc1"  # EVEX
    yield vex3(2, 1, vvvv=3) + b"\x90\x04\x88"  # VSIB


def immediates(mode):
    """Immediates and displacements of all sizes, far pointers, and moffs."""
    for opcode in (b"\x04", b"\x05", b"\x68", b"\x6a", b"\x69\xc0", b"\x6b\xc0", b"\x9a", b"\xea",
                   b"\xa0", b"\xa3", b"\xb0", b"\xb8", b"\xc2", b"\xc8", b"\xcd", b"\xe4", b"\xe8",
                   b"\xeb", b"\x74", b"\xe3", b"\x0f\x84", b"\xc7\x05", b"\xf7\x04\x25"):
        for prefix in (b"", b"\x66", b"\x67", b"\x66\x67"):
            for rex in (b"", b"\x48", b"\x41") if mode == "64" else (b"",):
                yield prefix + rex + opcode + TAIL


def seeds():
    for mode in MODES:
        for name, escape in MAPS.items():
            for row in range(16):
                yield f"{name}-{row:x}-{mode}", mode, legacy_row(mode, escape, row)
        for opmap in (1, 2, 3):
            for row in range(16):
                yield f"vex{opmap}-{row:x}-{mode}", mode, vex_row(mode, opmap, row)
        yield f"modrm-{mode}", mode, modrm_forms()
        yield f"prefixes-{mode}", mode, prefix_forms(mode)
        yield f"groups-{mode}", mode, group_forms()
        yield f"vex-{mode}", mode, vex_forms(mode)
        yield f"immediates-{mode}", mode, immediates(mode)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    os.makedirs(sys.argv[1], exist_ok=True)
    for name, mode, instructions in seeds():
        rest = iter(instructions)
        for n in itertools.count():
            some = list(itertools.islice(rest, TOGETHER))
            if not some:
                break
            with open(os.path.join(sys.argv[1], f"{name}-{n}"), "wb") as f:
                f.write(bytes([MODES[mode]]) + b"".join(i + TAIL for i in some))


main()
