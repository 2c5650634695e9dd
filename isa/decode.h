/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The decoder's working state. Private to isa/decode*.c. */
#ifndef LODGE_ISA_DECODE_H
#define LODGE_ISA_DECODE_H

#include "isa/tables.h"

/* Bits of REX, and of VEX un-inverted in the same places */
enum { REX_B = 1, REX_X = 2, REX_R = 4, REX_W = 8 };

struct decoder {
    struct insn *out;
    const uint8_t *bytes;
    size_t limit; /* bytes that may be read: those given, at most 15 */
    size_t pos;
    const struct insn_row *row;
    enum insn_mode mode;
    uint32_t flags;      /* INSN_*; out->flags in the end */
    uint32_t attr;       /* ATTR_* of row and of the rows that led to it */
    uint8_t rex;         /* REX_*; 0 without */
    uint8_t prefix;      /* mandatory prefix, as SELECT_PREFIX counts */
    uint8_t seg;         /* effective override, or SEG_COUNT */
    bool address_prefix; /* 67 */
};

/* All that read return false if there are not enough bytes. */

static inline bool decoder_next(struct decoder *d, uint8_t *byte)
{
    if (d->pos >= d->limit)
        return false;
    *byte = d->bytes[d->pos++];
    return true;
}

/* n bytes, little-endian, zero-extended; n is 1 to 8. */
static inline bool decoder_read(struct decoder *d, unsigned int n, uint64_t *value)
{
    if (d->limit - d->pos < n)
        return false;
    uint64_t v = 0;
    for (unsigned int k = 0; k < n; k++)
        v |= (uint64_t)d->bytes[d->pos + k] << (8 * k);
    d->pos += n;
    *value = v;
    return true;
}

/* Sign-extends the low n bytes of v; n is 1 to 8. */
static inline uint64_t decoder_sign_extend(uint64_t v, unsigned int n)
{
    unsigned int shift = 64 - 8 * n;
    return (uint64_t)((int64_t)(v << shift) >> shift);
}

/* isa/decode_operands.c: sizes, registers, memory operand, immediates of d->row. out->modrm is set.
 */
bool decoder_operands(struct decoder *d);

/* isa/decode_fix.c: what the row could not say. False: the encoding is not an instruction. */
bool decoder_fix(struct decoder *d);

#endif
