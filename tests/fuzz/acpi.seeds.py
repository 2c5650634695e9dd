#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""acpi.seeds.py DIRECTORY: seeds for tests/fuzz/acpi.c: memory with well-formed tables, without their checksums, which
the target makes right."""
import os
import struct
import sys

BASE = 0x1000


def table(signature, contents):
    return signature + struct.pack("<IBB", 36 + len(contents), 2, 0) + b"LODGE LODGEACP" + bytes(12) + contents


def gas(space, address):
    return struct.pack("<BBBBQ", space, 32, 0, 0, address)


def fadt(dsdt, extended):
    p = bytearray(276 if extended else 116)
    struct.pack_into("<I", p, 40, dsdt)
    struct.pack_into("<H", p, 46, 9)
    struct.pack_into("<IB", p, 48, 0xB2, 0xF1)
    struct.pack_into("<IIIIII", p, 56, 0x600, 0, 0x604, 0, 0, 0x608)
    p[88], p[89], p[91], p[108] = 4, 2, 4, 0x32
    struct.pack_into("<I", p, 112, 1 << 8 | 1 << 10)
    if extended:
        p[116:128] = gas(1, 0xCF9)
        p[128] = 6
        struct.pack_into("<Q", p, 140, dsdt)
        for at, address in ((148, 0x600), (172, 0x604), (208, 0x608)):
            p[at:at + 12] = gas(1, address)
    return table(b"FACP", bytes(p[36:]))


def madt():
    entries = b"".join([
        bytes([0, 8, 0, 0, 1, 0, 0, 0]), bytes([0, 8, 1, 1, 1, 0, 0, 0]),
        struct.pack("<BBHIII", 9, 16, 0, 300, 1, 2), struct.pack("<BBBBII", 1, 12, 0, 0, 0xFEC00000, 0),
        struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0), struct.pack("<BBHQ", 5, 12, 0, 0xFEE00000),
        bytes([4, 6, 255, 0, 0, 1])])
    return table(b"APIC", struct.pack("<II", 0xFEE00000, 1) + entries)


def memory(extended, s5, in_ssdt):
    places, out = {}, bytearray(0x40)
    hpet = table(b"HPET", struct.pack("<I", 0x8086A201) + gas(0, 0xFED00000) + bytes(4))
    for name, t in (("dsdt", table(b"DSDT", b"" if in_ssdt else s5)), ("ssdt", table(b"SSDT", s5)),
                    ("madt", madt()), ("hpet", hpet)):
        places[name] = BASE + len(out)
        out += t
    places["fadt"] = BASE + len(out)
    out += fadt(places["dsdt"], extended)
    addresses = [places[n] for n in ("fadt", "madt", "hpet", "ssdt")]
    root = BASE + len(out)
    out += table(b"XSDT", struct.pack("<4Q", *addresses)) if extended else \
        table(b"RSDT", struct.pack("<4I", *addresses))
    out[0:36] = struct.pack("<8sB6sBIIQI", b"RSD PTR ", 0, b"LODGE ", 2 if extended else 0,
                            0 if extended else root, 36, root if extended else 0, 0)
    return bytes(out)


S5 = [b"\x08_S5_\x12\x0A\x04\x0A\x05\x0A\x05\x00\x00", b"\x08\\_S5_\x12\x06\x02\x01\x00",
      b"\x08_S5_\x12\x47\x00\x02\x0B\x05\x00\x0C\x06\x00\x00\x00", b""]
for n in range(16):
    with open(os.path.join(sys.argv[1], f"memory{n}"), "wb") as f:
        f.write(memory(n & 1, S5[n >> 2], n & 2))
