/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The instruction decoder: prefixes, opcode, and which row of the tables that is.
 *
 * One pass over the bytes, in the order in which they stand: legacy prefixes and REX, opcode with
 * its escapes or VEX, ModRM. That settles the row (isa/tables.h), and with it whether this is an
 * instruction at all; only then are SIB, displacement and immediates read (decode_operands.c). So
 * an encoding that is not an instruction costs no more bytes than it takes to see that, which is
 * also what lets a #UD at the end of a page be a #UD when the next page is absent.
 *
 * Pure: no state but struct decoder on the stack, no allocation, nothing read beyond the bytes
 * given. Opcodes are table rows rather than cases, so that a row can be held against the manual's
 * opcode maps, and so that no function grows with the instruction set.
 *
 * Choices where processors differ (all as Intel's):
 *  - 64-bit mode ignores 66 on near branches, and CS DS ES SS overrides, which do not cancel an
 *    earlier FS or GS either.
 *  - Of F2 and F3 the later one counts.
 *  - 0F 0D and 0F 18-1F are NOPs with an operand that is not touched.
 * Not offered by any level, hence not decoded: EVEX, XOP, 3DNow!, SSE4a, VMX, SVM, SGX, TSX, CET.
 */
#include "isa/decode.h"

enum prefix_kind {
    PREFIX_NONE,
    PREFIX_SEG, /* PREFIX_SEG + enum insn_seg */
    PREFIX_REX = PREFIX_SEG + SEG_COUNT,
    PREFIX_OPSIZE,
    PREFIX_ADDRESS,
    PREFIX_LOCK,
    PREFIX_F2,
    PREFIX_F3,
};

/* table */
static const uint8_t prefix_kinds[256] = {
    [0x26] = PREFIX_SEG + SEG_ES, [0x2E] = PREFIX_SEG + SEG_CS,
    [0x36] = PREFIX_SEG + SEG_SS, [0x3E] = PREFIX_SEG + SEG_DS,
    [0x64] = PREFIX_SEG + SEG_FS, [0x65] = PREFIX_SEG + SEG_GS,
    [0x66] = PREFIX_OPSIZE,       [0x67] = PREFIX_ADDRESS,
    [0xF0] = PREFIX_LOCK,         [0xF2] = PREFIX_F2,
    [0xF3] = PREFIX_F3,           [0x40 ... 0x4F] = PREFIX_REX, /* in 64-bit mode only */
};

static const struct insn_row invalid_row = {.op = INSN_INVALID};

static void apply_prefix(struct decoder *d, unsigned int kind)
{
    switch (kind) {
    case PREFIX_OPSIZE:
        d->flags |= INSN_OPSIZE_PREFIX;
        break;
    case PREFIX_ADDRESS:
        d->address_prefix = true;
        break;
    case PREFIX_LOCK:
        d->flags |= INSN_LOCK;
        break;
    case PREFIX_F2:
        d->flags = (d->flags & ~(uint32_t)INSN_PREFIX_F3) | INSN_PREFIX_F2;
        break;
    case PREFIX_F3:
        d->flags = (d->flags & ~(uint32_t)INSN_PREFIX_F2) | INSN_PREFIX_F3;
        break;
    default: /* a segment */
        if (d->mode != INSN_MODE_64 || kind >= PREFIX_SEG + SEG_FS)
            d->seg = (uint8_t)(kind - PREFIX_SEG);
        break;
    }
}

/* Leaves d->pos at the first byte that is no prefix. */
static bool read_prefixes(struct decoder *d)
{
    for (; d->pos < d->limit; d->pos++) {
        uint8_t byte = d->bytes[d->pos];
        unsigned int kind = prefix_kinds[byte];
        if (kind == PREFIX_NONE || (kind == PREFIX_REX && d->mode != INSN_MODE_64))
            break;
        if (kind == PREFIX_REX) {
            d->rex = byte;
        } else {
            d->rex = 0; /* REX counts only right before the opcode (SDM 2A 2.2.1) */
            apply_prefix(d, kind);
        }
    }
    if (d->rex)
        d->flags |= INSN_REX | (d->rex & REX_W ? INSN_REX_W : 0);
    if (d->flags & INSN_PREFIX_F3)
        d->prefix = 2;
    else if (d->flags & INSN_PREFIX_F2)
        d->prefix = 3;
    else if (d->flags & INSN_OPSIZE_PREFIX)
        d->prefix = 1;
    if (d->seg != SEG_COUNT)
        d->flags |= INSN_SEG_OVERRIDE;
    return d->pos < d->limit;
}

/* The bytes after C4 or C5 (SDM 2A 2.3.5). A VEX prefix takes the place of 66, F2, F3 and REX. */
static bool read_vex(struct decoder *d, uint8_t first)
{
    uint8_t p1, p2, opcode;
    unsigned int map = 1;
    bool allowed = !(d->flags & (INSN_LOCK | INSN_REX)) && d->prefix == 0;

    if (!decoder_next(d, &p1))
        return false;
    p2 = p1 & 0x7F; /* the two-byte form has R where the three-byte form has W */
    d->rex = (uint8_t)(~p1 >> 5) & REX_R;
    if (first == 0xC4) {
        if (!decoder_next(d, &p2))
            return false;
        map = p1 & 0x1F;
        d->rex = (uint8_t)((~p1 >> 5) & (REX_R | REX_X | REX_B));
    }
    if (!decoder_next(d, &opcode))
        return false;

    static const uint32_t prefix_flags[4] = {0, INSN_OPSIZE_PREFIX, INSN_PREFIX_F3, INSN_PREFIX_F2};
    d->prefix = p2 & 3;
    d->flags |= INSN_VEX | prefix_flags[d->prefix];
    if (p2 & 0x80) {
        d->flags |= INSN_REX_W;
        d->rex |= REX_W;
    }
    if (p2 & 4)
        d->flags |= INSN_VEX_L;
    d->out->vvvv = (~p2 >> 3) & 15;
    if (d->mode != INSN_MODE_64)
        d->rex &= REX_W; /* eight registers; B is ignored (SDM 2A 2.3.5.2) */
    d->out->map = (uint8_t)map;
    d->out->opcode = opcode;
    d->row = allowed && map >= 1 && map <= 3 ? insn_row_extended(true, map, opcode) : &invalid_row;
    return true;
}

/* Outside 64-bit mode C4 and C5 are LES and LDS unless the next byte is no memory form. */
static bool is_vex(const struct decoder *d)
{
    return d->mode == INSN_MODE_64 || (d->bytes[d->pos] & 0xC0) == 0xC0;
}

static bool read_opcode(struct decoder *d)
{
    uint8_t opcode;
    if (!decoder_next(d, &opcode))
        return false;
    if (opcode == 0xC4 || opcode == 0xC5) {
        if (d->pos >= d->limit)
            return false;
        if (is_vex(d))
            return read_vex(d, opcode);
    }
    d->row = &insn_map_one_byte[opcode];
    if (opcode == 0x0F) {
        if (!decoder_next(d, &opcode))
            return false;
        d->out->map = opcode == 0x38 ? 2 : opcode == 0x3A ? 3 : 1;
        d->row = &insn_map_0f[opcode];
        if (d->out->map != 1) {
            if (!decoder_next(d, &opcode))
                return false;
            d->row = insn_row_extended(false, d->out->map, opcode);
        }
    }
    d->out->opcode = opcode;
    return true;
}

static unsigned int select_index(const struct decoder *d, enum insn_select select)
{
    uint8_t modrm = d->out->modrm;
    switch (select) {
    case SELECT_REG:
        return (modrm >> 3) & 7;
    case SELECT_RM:
        return modrm & 7;
    case SELECT_MOD:
        return modrm >= 0xC0;
    case SELECT_PREFIX:
        return d->prefix;
    case SELECT_MODE64:
    case SELECT_NONE:
        break;
    }
    return d->mode == INSN_MODE_64;
}

/* Reads ModRM where there is one, and follows the sub-tables to the row that counts. */
static bool read_modrm(struct decoder *d)
{
    const struct insn_row *row = d->row;
    d->attr = row->attr;
    if (row->select == SELECT_NONE && row->where != WHERE_MODRM && row->where != WHERE_MODRM_REG)
        return true;
    if (!decoder_next(d, &d->out->modrm))
        return false;
    while (row->select != SELECT_NONE) {
        row = &insn_groups[row->op][select_index(d, (enum insn_select)row->select)];
        d->attr |= row->attr;
    }
    d->row = row;
    if (row->where == WHERE_MODRM && d->out->modrm < 0xC0)
        d->flags |= INSN_MEM;
    else if (row->where == WHERE_MOFFS)
        d->flags |= INSN_MEM;
    return true;
}

/* Does the row allow this mode, these prefixes and this kind of operand? */
static bool is_allowed(const struct decoder *d)
{
    uint32_t attr = d->attr;
    bool mode64 = d->mode == INSN_MODE_64;
    bool mem = d->flags & INSN_MEM;

    if (d->row->op == INSN_INVALID)
        return false;
    if (attr & (mode64 ? ATTR_NO64 : ATTR_ONLY64))
        return false;
    if (attr & (mem ? ATTR_REG_ONLY : ATTR_MEM_ONLY))
        return false;
    if ((attr & ATTR_NP) && d->prefix != 0)
        return false;
    return !(d->flags & INSN_LOCK) || ((attr & ATTR_LOCK) && mem);
}

static void make_invalid(struct decoder *d)
{
    uint8_t opcode = d->out->opcode;
    *d->out = (struct insn){
        .op = INSN_INVALID,
        .flags = INSN_ENDS,
        .opcode = opcode,
        .seg = SEG_DS,
        .base = INSN_NO_REG,
        .index = INSN_NO_REG,
    };
}

/* False: the encoding is not an instruction after all. */
static bool finish(struct decoder *d)
{
    struct insn *out = d->out;
    out->op = d->row->op;
    out->form = d->row->form;
    if (d->attr & ATTR_ENDS)
        d->flags |= INSN_ENDS;
    if (!decoder_fix(d))
        return false;
    out->flags = (uint16_t)d->flags;
    out->feature = (uint8_t)insn_op_feature((enum insn_op)out->op);
    if ((d->flags & INSN_VEX) && out->feature == INSN_FEATURE_SSE)
        out->feature = INSN_FEATURE_AVX; /* VLDMXCSR, VSTMXCSR */
    if (out->op == INSN_SIMD && !simd_decode(out, d->mode))
        return false;
    if (out->op == INSN_X87 && !x87_decode(out))
        return false;
    /* Outside 64-bit mode the top bit counts where vvvv must be 1111, but does not select a
     * register: so do processors; the manual speaks of the two-byte form only. */
    if (d->mode != INSN_MODE_64)
        out->vvvv &= 7;
    return true;
}

int insn_decode(struct insn *out, const uint8_t *bytes, size_t available, enum insn_mode mode)
{
    struct decoder d = {
        .out = out,
        .bytes = bytes,
        .limit = available < INSN_MAX_LENGTH ? available : INSN_MAX_LENGTH,
        .mode = mode,
        .seg = SEG_COUNT,
    };
    int shortage = available < INSN_MAX_LENGTH ? INSN_DECODE_SHORT : INSN_DECODE_TOO_LONG;

    *out = (struct insn){.seg = SEG_DS, .base = INSN_NO_REG, .index = INSN_NO_REG};
    if (!read_prefixes(&d) || !read_opcode(&d) || !read_modrm(&d))
        return shortage;
    bool valid = is_allowed(&d);
    if (valid) {
        if (!decoder_operands(&d))
            return shortage;
        valid = finish(&d);
    }
    if (!valid)
        make_invalid(&d);
    out->length = (uint8_t)d.pos;
    return INSN_DECODE_OK;
}
