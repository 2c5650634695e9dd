#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""The names of the bare-metal image's functions, for its backtraces (native/symbols.c).

  native-symbols.py IMAGE.debug

Prints assembly: for each function its offset from image_start and that of its name, in order, then the names.
"""
import subprocess
import sys


def main():
    out = subprocess.run(["nm", "-n", sys.argv[1]], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in out.splitlines() if len(line.split()) == 3]
    base = next(int(value, 16) for value, _, name in rows if name == "image_start")
    functions = [(int(value, 16) - base, name) for value, kind, name in rows if kind in "tTW"]
    print('.section .rodata\n.balign 8\n.globl symbol_table\nsymbol_table:')
    print(f".long {len(functions)}, 0")
    at = 0
    for offset, name in functions:
        print(f".long {offset}, {at}")
        at += len(name) + 1
    for _, name in functions:
        print(f'.asciz "{name}"')
    print('.section .note.GNU-stack, "", @progbits')


main()
