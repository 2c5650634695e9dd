# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A saved VM's file (docs/saved.md), changed, with all its checksums right."""
import struct
import zlib

HEAD, PAGE = 64, 4096
PAT_RESET = struct.pack("<Q", 0x0007040600070406)


def sections(data):
    """[name, version, payload, instance] of each."""
    at, out = 0, []
    while at < len(data):
        name, instance, version, length, _ = struct.unpack_from("<16sIIII", data, at)
        out.append([name, version, bytearray(data[at + 32:at + 32 + length]), instance])
        at += 32 + length
    return out


def put_sections(parts):
    out = b""
    for name, version, payload, instance in parts:
        head = struct.pack("<16sIII", name, instance, version, len(payload))
        out += head + struct.pack("<I", zlib.crc32(head + payload)) + payload
    return out


def edit(source, target, change_parts, version=1):
    """Writes a file with all its checksums right, after change_parts(its sections by name). Its metadata stay as long."""
    with open(source, "rb") as f:
        data = bytearray(f.read())
    size = struct.unpack_from("<Q", data, 16)[0]
    parts = sections(data[HEAD:HEAD + size])
    change_parts({p[0].rstrip(b"\0").decode(): p for p in parts})
    metadata = put_sections(parts)
    if len(metadata) != size:
        raise ValueError("the metadata are not as long as before")
    data[HEAD:HEAD + size] = metadata
    struct.pack_into("<I", data, 8, version)
    struct.pack_into("<I", data, 40, zlib.crc32(metadata))
    struct.pack_into("<I", data, 60, zlib.crc32(bytes(data[:60])))
    with open(target, "wb") as f:
        f.write(data)
    return target


# --- changes, for edit ---


def level_masks(level):
    """Where in the payload of the section `level` the masks are, behind the rows: 8 bytes each."""
    return 24 + 25 * struct.unpack_from("<I", level, 20)[0]


def set_features(mask):
    """Of instructions, as the decoder takes them."""
    return lambda parts: struct.pack_into("<Q", parts["level"][2], level_masks(parts["level"][2]), mask)


def set_xcr0_mask(mask):
    return lambda parts: struct.pack_into("<Q", parts["level"][2], level_masks(parts["level"][2]) + 16, mask)


def set_tsc_aux(value):
    """Of each vCPU. It is saved behind the PAT, which the guest must have left as it was after reset."""
    def apply(parts):
        inner = sections(parts["machine"][2])
        for name, _, payload, _ in inner:
            if name.rstrip(b"\0") == b"cpu":
                if payload.count(PAT_RESET) != 1:
                    raise ValueError("where IA32_TSC_AUX is cannot be told")
                struct.pack_into("<Q", payload, payload.index(PAT_RESET) + 8, value)
        parts["machine"][2] = put_sections(inner)
    return apply
