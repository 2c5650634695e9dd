#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""state.seeds.py DIRECTORY: seeds for tests/fuzz/state.c: changes of single bits, here and there."""
import os
import struct
import sys

for n in range(160):
    with open(os.path.join(sys.argv[1], f"bit{n}"), "wb") as f:
        f.write(struct.pack("<HB", n * 61 + 32, 1 << n % 8))
with open(os.path.join(sys.argv[1], "nothing"), "wb") as f:
    f.write(b"\0\0\0")
