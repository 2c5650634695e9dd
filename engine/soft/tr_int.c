/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Integer instructions: emitted as they are, with the guest's registers replaced by those of the
 * host that hold them, and the memory operand by what tr_memory has found. So the host's own ALU
 * makes result and flags.
 *
 * Scratch registers: a memory operand takes R11 and R10; a displaced data register then goes
 * through RCX. In register forms the destination goes through R11 and the source through RCX.
 * 8- and 16-bit results merge with what the register held, so displaced destinations are loaded
 * first; so are those of instructions that may leave their destination as it was.
 *
 * What is not here is interpreted: divisions that might raise #DE, which would be a signal, CH, and
 * what is rare.
 */
#include "engine/soft/translator.h"
#include "x86/level.h"

static bool is_memory(const struct insn *i)
{
    return i->flags & INSN_MEM;
}

/* LOCKed operands are done inline only where they are naturally aligned, so never split. */
static uint32_t lock_align(const struct insn *i, uint32_t size)
{
    return i->flags & INSN_LOCK ? size : 1;
}

static unsigned int lock_flag(const struct insn *i)
{
    return i->flags & INSN_LOCK ? EMIT_LOCK : 0;
}

/* Is AH, CH, DH or BH among the operands? */
static bool has_high_byte(const struct insn *i)
{
    return i->reg >= 16 || (!is_memory(i) && i->rm >= 16);
}

/* A register that can be encoded beside AH: no REX prefix, in whatever size. */
static bool fits_beside_high(uint8_t g, bool byte)
{
    return g >= 16 ? g != 17 : g != RCX && !tr_is_displaced(g) && g < (byte ? 4 : 8) && g != RSP;
}

/* Can the register form be emitted although it names a high byte? `wide`: the other operand is no
 * byte (MOVZX). */
static bool high_byte_is_encodable(const struct insn *i, bool one_operand, bool wide)
{
    if (is_memory(i))
        return false;
    if (!fits_beside_high(i->rm, true))
        return false;
    return one_operand || fits_beside_high(i->reg, !wide);
}

static void put_imm(struct translation *x, uint8_t size)
{
    if (size == 1)
        emit8(&x->e, (uint8_t)x->i->imm);
    else if (size == 2)
        emit16(&x->e, (uint16_t)x->i->imm);
    else
        emit32(&x->e, (uint32_t)x->i->imm);
}

/* --- shapes --- */

/* rm <- rm op reg; `writes`: not CMP, TEST */
static bool rm_reg(struct translation *x, uint32_t op, bool writes, uint32_t align)
{
    const struct insn *i = x->i;
    uint8_t size = i->opsize;
    if (has_high_byte(i) && !high_byte_is_encodable(i, false, false))
        return false;
    op |= size != 1;
    if (is_memory(i)) {
        struct emit_mem m;
        if (!tr_memory(x, size, writes, align, &m))
            return false;
        uint8_t r = tr_use(x, i->reg, RCX);
        emit_rm(&x->e, op, emit_size(size) | lock_flag(i), r, m);
        return true;
    }
    uint8_t s = tr_use(x, i->reg, RCX), d = tr_use(x, i->rm, R11);
    emit_rr(&x->e, op, emit_size(size), s, d);
    if (writes)
        tr_put(x, i->rm, d);
    return true;
}

/* reg <- reg op rm. `loads`: the destination is not read, if it is not narrower than 4 bytes */
static bool reg_rm_sized(struct translation *x, uint32_t op, unsigned int flags, uint8_t memory_size,
                         bool loads, bool writes)
{
    const struct insn *i = x->i;
    bool fresh = loads && i->opsize >= 4;
    if (is_memory(i)) {
        struct emit_mem m;
        if (!tr_memory(x, memory_size, false, 1, &m))
            return false;
        uint8_t d = fresh ? tr_target(i->reg, RCX) : tr_use(x, i->reg, RCX);
        emit_rm(&x->e, op, flags, d, m);
        if (writes)
            tr_put(x, i->reg, d);
        return true;
    }
    uint8_t s = tr_use(x, i->rm, RCX);
    uint8_t d = fresh ? tr_target(i->reg, R11) : tr_use(x, i->reg, R11);
    emit_rr(&x->e, op, flags, d, s);
    if (writes)
        tr_put(x, i->reg, d);
    return true;
}

static bool reg_rm(struct translation *x, uint32_t op, bool loads, bool writes)
{
    const struct insn *i = x->i;
    if (has_high_byte(i) && !high_byte_is_encodable(i, false, false))
        return false;
    return reg_rm_sized(x, op, emit_size(i->opsize), i->opsize, loads, writes);
}

/* One operand, /extension; an immediate may follow. */
static bool rm_extended(struct translation *x, uint32_t op, uint8_t extension, bool writes,
                        uint32_t align)
{
    const struct insn *i = x->i;
    if (!is_memory(i) && i->rm >= 16 && !high_byte_is_encodable(i, true, false))
        return false;
    unsigned int flags = emit_size(i->opsize) & ~(unsigned int)EMIT_REG_BYTE;
    if (is_memory(i)) {
        struct emit_mem m;
        if (!tr_memory(x, i->opsize, writes, align, &m))
            return false;
        emit_rm(&x->e, op, flags | lock_flag(i), extension, m);
        return true;
    }
    uint8_t d = tr_use(x, i->rm, R11);
    emit_rr(&x->e, op, flags, extension, d);
    return true;
}

static void rm_written(struct translation *x)
{
    if (!is_memory(x->i))
        tr_put(x, x->i->rm, R11);
}

/* --- ALU --- */

static bool is_int8(int64_t v)
{
    return v == (int8_t)v;
}

static int64_t sign_extend(uint64_t v, uint8_t size)
{
    unsigned int shift = 64 - 8u * size;
    return (int64_t)(v << shift) >> shift;
}

static bool tr_alu_imm(struct translation *x, bool writes)
{
    const struct insn *i = x->i;
    uint8_t extension = (uint8_t)(i->op - INSN_ADD), size = i->opsize;
    bool small = size == 1 || is_int8(sign_extend(i->imm, size));
    uint32_t op = size == 1 ? 0x80 : small ? 0x83 : 0x81;
    if (!rm_extended(x, op, extension, writes, lock_align(i, size)))
        return false;
    put_imm(x, small ? 1 : size);
    if (writes)
        rm_written(x);
    return true;
}

static bool tr_alu(struct translation *x)
{
    const struct insn *i = x->i;
    uint32_t op = (uint32_t)(i->op - INSN_ADD) << 3;
    bool writes = i->op != INSN_CMP;
    if (i->form == INSN_FORM_RM_REG)
        return rm_reg(x, op, writes, lock_align(i, i->opsize));
    if (i->form == INSN_FORM_REG_RM)
        return reg_rm(x, op | 2 | (i->opsize != 1), false, writes);
    return i->form == INSN_FORM_RM_IMM && tr_alu_imm(x, writes);
}

static bool tr_test(struct translation *x)
{
    const struct insn *i = x->i;
    if (i->form == INSN_FORM_RM_REG)
        return rm_reg(x, 0x84, false, 1);
    if (i->form != INSN_FORM_RM_IMM || !rm_extended(x, 0xF6 | (i->opsize != 1), 0, false, 1))
        return false;
    put_imm(x, i->opsize);
    return true;
}

/* INC DEC NOT NEG */
static bool tr_unary(struct translation *x)
{
    const struct insn *i = x->i;
    bool step = i->op == INSN_INC || i->op == INSN_DEC;
    uint32_t op = (step ? 0xFEu : 0xF6u) | (i->opsize != 1);
    uint8_t extension = step ? (uint8_t)(i->op - INSN_INC) : (uint8_t)(i->op - INSN_NOT + 2);
    if (!rm_extended(x, op, extension, true, lock_align(i, i->opsize)))
        return false;
    rm_written(x);
    return true;
}

/* --- shifts --- */

static bool tr_shift(struct translation *x)
{
    const struct insn *i = x->i;
    uint8_t extension = i->op == INSN_SAL ? 4 : (uint8_t)(i->op - INSN_ROL), size = i->opsize;
    bool by_cl = i->form == INSN_FORM_RM_CL;
    if (!by_cl && i->form != INSN_FORM_RM_IMM)
        return false;
    uint32_t op = (by_cl ? 0xD2u : 0xC0u) | (size != 1);
    unsigned int flags = emit_size(size) & ~(unsigned int)EMIT_REG_BYTE;
    if (!is_memory(i) && i->rm >= 16 && !high_byte_is_encodable(i, true, false))
        return false;
    struct emit_mem m;
    uint8_t d = R11;
    if (is_memory(i) && !tr_memory(x, size, true, 1, &m))
        return false;
    if (!is_memory(i))
        d = tr_use(x, i->rm, R11);
    if (by_cl)
        emit_rr(&x->e, 0x8B, 0, RCX, tr_host_of[RCX]);
    if (is_memory(i))
        emit_rm(&x->e, op, flags, extension, m);
    else
        emit_rr(&x->e, op, flags, extension, d);
    if (!by_cl)
        emit8(&x->e, (uint8_t)i->imm);
    rm_written(x);
    return true;
}

static bool tr_double_shift(struct translation *x)
{
    const struct insn *i = x->i;
    bool by_cl = i->form == INSN_FORM_RM_REG_CL;
    uint32_t op = EMIT_OP(0, 1, (i->op == INSN_SHLD ? 0xA4 : 0xAC) | by_cl);
    if (is_memory(i))
        return false;
    uint8_t s = tr_use(x, i->reg, R10), d = tr_use(x, i->rm, R11);
    if (by_cl)
        emit_rr(&x->e, 0x8B, 0, RCX, tr_host_of[RCX]);
    emit_rr(&x->e, op, emit_size(i->opsize), s, d);
    if (!by_cl)
        emit8(&x->e, (uint8_t)i->imm);
    tr_put(x, i->rm, d);
    return true;
}

/* --- VEX-encoded instructions on general registers --- */

/* reg <- rm, vvvv in either order, or vvvv <- rm with an extension in reg. */
static bool tr_vex(struct translation *x)
{
    const struct insn *i = x->i;
    uint32_t op = EMIT_OP(insn_mandatory_prefix(i), i->map, i->opcode);
    bool to_vvvv = i->form == INSN_FORM_VVVV_RM, has_vvvv = i->form != INSN_FORM_REG_RM_IMM;
    uint8_t result = to_vvvv ? i->vvvv : i->reg;
    struct emit_mem m;
    uint8_t rm = R11;
    if (is_memory(i) && !tr_memory(x, i->opsize, false, 1, &m))
        return false;
    if (!is_memory(i))
        rm = tr_use(x, i->rm, R11);
    uint8_t v = 0;
    if (to_vvvv)
        v = tr_target(i->vvvv, RCX);
    else if (has_vvvv)
        v = tr_use(x, i->vvvv, RCX);
    uint8_t r = to_vvvv ? i->modrm >> 3 & 7 : tr_target(i->reg, RCX);
    if (is_memory(i))
        emit_vex_rm(&x->e, op, i->opsize == 8, false, r, v, m);
    else
        emit_vex_rr(&x->e, op, i->opsize == 8, false, r, v, rm);
    if (!has_vvvv)
        emit8(&x->e, (uint8_t)i->imm);
    tr_put(x, result, to_vvvv ? v : r);
    return true;
}

static bool tr_mulx(struct translation *x)
{
    const struct insn *i = x->i;
    const uint32_t op = EMIT_OP(0xF2, 2, 0xF6);
    struct emit_mem m;
    uint8_t rm = R11;
    if (is_memory(i) && !tr_memory(x, i->opsize, false, 1, &m))
        return false;
    if (!is_memory(i))
        rm = tr_use(x, i->rm, R11);
    uint8_t high = tr_target(i->reg, RCX), low = tr_target(i->vvvv, R10);
    if (is_memory(i))
        emit_vex_rm(&x->e, op, i->opsize == 8, false, high, low, m);
    else
        emit_vex_rr(&x->e, op, i->opsize == 8, false, high, low, rm);
    if (i->reg != i->vvvv) /* the same twice: the high half is what stays */
        tr_put(x, i->vvvv, low);
    tr_put(x, i->reg, high);
    return true;
}

/* --- bits --- */

/*
 * BT and its kin with a register offset into memory: the offset is signed and selects the operand,
 * too. RCX becomes the offset in the operand, where the instruction finds nothing to add.
 */
static bool bit_string(struct translation *x, unsigned int n)
{
    const struct insn *i = x->i;
    struct emit *e = &x->e;
    const uint8_t *retry = e->p;
    bool wide = i->opsize == 8;
    struct emit_mem m;
    uint8_t a;
    if (i->opsize < 4 || i->addrsize != 8 || !tr_effective(x, &a))
        return false; /* the offset counts before the address is cut */
    uint8_t s = tr_use(x, i->reg, RCX);
    if (wide)
        emit_mov(e, RCX, s);
    else
        emit_rr(e, 0x63, EMIT_W, RCX, s); /* movsxd */
    emit_mov_imm(e, R10, wide ? 6 : 5);
    emit_vex_rr(e, EMIT_OP(0xF3, 2, 0xF7), true, false, RCX, R10, RCX); /* sarx */
    emit_lea(e, R11, emit_indexed(a, RCX, wide ? 3 : 2, 0));
    tr_memory_found(x, retry, i->opsize, n != 0, lock_align(i, i->opsize), &m);
    s = tr_use(x, i->reg, RCX);
    size_t mask = offsetof(struct frame, mask_bit) + (wide ? 8 : 0);
    emit_vex_rm(e, EMIT_OP(0xF3, 2, 0xF5), true, false, RCX, s, emit_frame(mask)); /* pext */
    emit_rm(e, EMIT_OP(0, 1, 0xA3 + 8 * n), emit_size(i->opsize) | lock_flag(i), RCX, m);
    return true;
}

static bool tr_bit_test(struct translation *x)
{
    const struct insn *i = x->i;
    unsigned int n = (unsigned int)(i->op - INSN_BT);
    bool writes = n != 0;
    if (i->form == INSN_FORM_RM_IMM) {
        if (!rm_extended(x, EMIT_OP(0, 1, 0xBA), (uint8_t)(4 + n), writes,
                         lock_align(i, i->opsize)))
            return false;
        emit8(&x->e, (uint8_t)i->imm);
        if (writes)
            rm_written(x);
        return true;
    }
    if (is_memory(i))
        return bit_string(x, n);
    uint8_t s = tr_use(x, i->reg, RCX), d = tr_use(x, i->rm, R11);
    emit_rr(&x->e, EMIT_OP(0, 1, 0xA3 + 8 * n), emit_size(i->opsize), s, d);
    if (writes)
        tr_put(x, i->rm, d);
    return true;
}

/* BSF and BSR leave their destination alone if the source is 0. */
static bool tr_scan(struct translation *x)
{
    const struct insn *i = x->i;
    const struct x86_level *level = x->t->cpu->level;
    uint32_t op;
    switch (i->op) {
    case INSN_BSF:
        op = EMIT_OP(0, 1, 0xBC);
        break;
    case INSN_BSR:
        op = EMIT_OP(0, 1, 0xBD);
        break;
    case INSN_TZCNT:
        if (!x86_level_has(level, INSN_FEATURE_BMI1))
            return false;
        op = EMIT_OP(0xF3, 1, 0xBC);
        break;
    case INSN_LZCNT:
        if (!x86_level_has(level, INSN_FEATURE_LZCNT))
            return false;
        op = EMIT_OP(0xF3, 1, 0xBD);
        break;
    default:
        op = EMIT_OP(0xF3, 1, 0xB8);
        break;
    }
    return reg_rm(x, op, false, true);
}

static bool tr_crc32(struct translation *x)
{
    const struct insn *i = x->i;
    if (has_high_byte(i))
        return false;
    uint32_t op = EMIT_OP(0xF2, 2, i->srcsize == 1 ? 0xF0 : 0xF1);
    unsigned int flags = (i->srcsize == 2 ? EMIT_66 : 0u) | (i->opsize == 8 ? EMIT_W : 0u) |
                         (i->srcsize == 1 ? EMIT_RM_BYTE : 0u);
    return reg_rm_sized(x, op, flags, i->srcsize, false, true);
}

/* --- multiplication --- */

static bool tr_mul(struct translation *x)
{
    const struct insn *i = x->i;
    return rm_extended(x, 0xF6 | (i->opsize != 1), i->op == INSN_MUL ? 4 : 5, false, 1);
}

/*
 * DIV and IDIV where they cannot raise #DE: the divisor is not 0, and the dividend has nothing in its
 * upper half (IDIV: is positive). Otherwise the interpreter does it. No flag is touched before.
 */
static bool tr_div(struct translation *x)
{
    const struct insn *i = x->i;
    struct emit *e = &x->e;
    bool wide = i->opsize == 8, is_signed = i->op == INSN_IDIV;
    unsigned int flags = wide ? EMIT_W : 0;
    struct emit_mem m;
    uint8_t d = R11;
    if (i->opsize < 4)
        return false;
    if (is_memory(i)) {
        if (!tr_memory(x, i->opsize, false, 1, &m))
            return false;
        emit_rm(e, 0x8B, flags, R11, m);
    } else {
        d = tr_use(x, i->rm, R11);
    }
    emit_rr(e, 0x8B, flags, RCX, d);
    uint8_t *zero = emit_jrcxz(e);
    emit_rr(e, 0x8B, flags, RCX, RDX);
    uint8_t *narrow = emit_jrcxz(e);
    emit_patch8(zero, e->p);
    uint8_t *slow = e->p;
    tr_call_interpreter(x); /* goes on behind this instruction */
    emit_patch8(narrow, e->p);
    if (is_signed) {
        size_t mask = offsetof(struct frame, mask_sign) + (wide ? 8 : 0);
        emit_vex_rm(e, EMIT_OP(0xF3, 2, 0xF5), true, false, RCX, RAX, emit_frame(mask));
        uint8_t *positive = emit_jrcxz(e);
        emit8(e, 0xEB);
        emit8(e, 0);
        emit_patch8(e->p - 1, slow);
        emit_patch8(positive, e->p);
    }
    emit_rr(e, 0xF7, flags, is_signed ? 7 : 6, d);
    return true;
}

static bool tr_imul2(struct translation *x)
{
    const struct insn *i = x->i;
    if (i->form == INSN_FORM_REG_RM)
        return reg_rm(x, EMIT_OP(0, 1, 0xAF), false, true);
    struct emit_mem m;
    uint8_t s = RCX;
    if (is_memory(i) && !tr_memory(x, i->opsize, false, 1, &m))
        return false;
    if (!is_memory(i))
        s = tr_use(x, i->rm, RCX);
    uint8_t d = R11;
    if (i->opsize >= 4)
        d = tr_target(i->reg, is_memory(i) ? RCX : R11);
    else
        d = tr_use(x, i->reg, is_memory(i) ? RCX : R11);
    if (is_memory(i))
        emit_rm(&x->e, 0x69, emit_size(i->opsize), d, m);
    else
        emit_rr(&x->e, 0x69, emit_size(i->opsize), d, s);
    put_imm(x, i->opsize == 2 ? 2 : 4);
    tr_put(x, i->reg, d);
    return true;
}

/* --- moves --- */

/* MOV between memory and AH, DH, BH: by way of CL, since the operand's registers need REX. */
static bool mov_high_byte(struct translation *x)
{
    const struct insn *i = x->i;
    struct emit_mem m;
    if (i->reg == 17 || !tr_memory(x, 1, i->form == INSN_FORM_RM_REG, 1, &m))
        return false;
    if (i->form == INSN_FORM_RM_REG) {
        emit_rr(&x->e, 0x88, 0, i->reg, RCX);
        emit_rm(&x->e, 0x88, 0, RCX, m);
    } else {
        emit_rm(&x->e, 0x8A, 0, RCX, m);
        emit_rr(&x->e, 0x8A, 0, i->reg, RCX);
    }
    return true;
}

static bool tr_mov_imm(struct translation *x)
{
    const struct insn *i = x->i;
    uint8_t size = i->opsize;
    if (!is_memory(i) && size >= 4) {
        uint8_t d = tr_target(i->rm, R11);
        emit_mov_imm(&x->e, d, size == 4 ? (uint32_t)i->imm : i->imm);
        tr_put(x, i->rm, d);
        return true;
    }
    if (!rm_extended(x, 0xC6 | (size != 1), 0, true, 1))
        return false;
    put_imm(x, size);
    rm_written(x);
    return true;
}

static bool tr_mov(struct translation *x)
{
    const struct insn *i = x->i;
    if (i->form == INSN_FORM_RM_IMM)
        return tr_mov_imm(x);
    if (is_memory(i) && i->reg >= 16)
        return mov_high_byte(x);
    if (i->form == INSN_FORM_REG_RM)
        return reg_rm(x, 0x8A | (i->opsize != 1), true, true);
    if (is_memory(i) || i->opsize < 4)
        return rm_reg(x, 0x88, true, 1);
    uint8_t s = tr_use(x, i->reg, RCX), d = tr_target(i->rm, R11);
    emit_rr(&x->e, 0x89, emit_size(i->opsize), s, d);
    tr_put(x, i->rm, d);
    return true;
}

/* MOVZX, MOVSX, MOVSXD */
static bool tr_extend(struct translation *x)
{
    const struct insn *i = x->i;
    uint32_t op = EMIT_OP(0, 1, (i->op == INSN_MOVZX ? 0xB6 : 0xBE) | (i->srcsize != 1));
    if (i->srcsize == 4)
        op = 0x63;
    if (!is_memory(i) && i->rm >= 16 &&
        (i->opsize == 8 || !high_byte_is_encodable(i, false, true)))
        return false;
    unsigned int flags = emit_size(i->opsize) & ~(unsigned int)EMIT_RM_BYTE;
    if (i->srcsize == 1)
        flags |= EMIT_RM_BYTE;
    return reg_rm_sized(x, op, flags, i->srcsize, true, true);
}

static bool tr_movbe(struct translation *x)
{
    const struct insn *i = x->i;
    if (!x->t->has_movbe) /* which no level asks of its host */
        return false;
    if (i->form == INSN_FORM_REG_RM)
        return reg_rm(x, EMIT_OP(0, 2, 0xF0), true, true);
    struct emit_mem m;
    if (!tr_memory(x, i->opsize, true, 1, &m))
        return false;
    emit_rm(&x->e, EMIT_OP(0, 2, 0xF1), emit_size(i->opsize), tr_use(x, i->reg, RCX), m);
    return true;
}

static bool tr_movnti(struct translation *x)
{
    struct emit_mem m;
    if (!tr_memory(x, x->i->opsize, true, 1, &m))
        return false;
    emit_rm(&x->e, EMIT_OP(0, 1, 0xC3), emit_size(x->i->opsize), tr_use(x, x->i->reg, RCX), m);
    return true;
}

static bool tr_lea(struct translation *x)
{
    const struct insn *i = x->i;
    struct emit *e = &x->e;
    if (i->opsize < 4 || i->flags & INSN_MOFFS)
        return false;
    unsigned int flags = i->opsize == 8 && i->addrsize == 8 ? EMIT_W : 0;
    uint8_t d = tr_target(i->reg, R11);
    if (i->flags & INSN_RIPREL) {
        int64_t off = (int64_t)i->disp + x->at + i->length;
        if (off != (int32_t)off)
            return false;
        emit_load(e, R11, emit_frame(offsetof(struct frame, page)));
        emit_rm(e, 0x8D, flags, d, emit_at(R11, (int32_t)off));
    } else {
        struct emit_mem m = {EMIT_NO_REG, EMIT_NO_REG, i->scale, false, i->disp};
        if (i->index != INSN_NO_REG)
            m.index = tr_use(x, i->index, RCX);
        if (i->base != INSN_NO_REG)
            m.base = tr_use(x, i->base, R11);
        emit_rm(e, 0x8D, flags, d, m);
    }
    tr_put(x, i->reg, d);
    return true;
}

static bool tr_xchg(struct translation *x)
{
    const struct insn *i = x->i;
    uint8_t size = i->opsize;
    uint32_t op = 0x86 | (size != 1);
    if (has_high_byte(i))
        return false;
    if (is_memory(i)) {
        struct emit_mem m;
        if (!tr_memory(x, size, true, size, &m))
            return false;
        uint8_t r = tr_use(x, i->reg, RCX);
        emit_rm(&x->e, op, emit_size(size), r, m);
        tr_put(x, i->reg, r);
        return true;
    }
    uint8_t a = tr_use(x, i->reg, RCX), b = tr_use(x, i->rm, R11);
    emit_rr(&x->e, op, emit_size(size), a, b);
    if (i->reg != i->rm)
        tr_put(x, i->reg, a);
    tr_put(x, i->rm, b);
    return true;
}

static bool tr_bswap(struct translation *x)
{
    const struct insn *i = x->i;
    if (i->opsize < 4)
        return false;
    uint8_t d = tr_use(x, i->rm, R11);
    unsigned int rex = (i->opsize == 8 ? 8u : 0) | (d & 8 ? 1u : 0);
    if (rex)
        emit8(&x->e, 0x40 | rex);
    emit8(&x->e, 0x0F);
    emit8(&x->e, 0xC8 | (d & 7u));
    tr_put(x, i->rm, d);
    return true;
}

static bool tr_cmov(struct translation *x)
{
    return reg_rm(x, EMIT_OP(0, 1, 0x40 | (x->i->opcode & 15)), false, true);
}

static bool tr_setcc(struct translation *x)
{
    if (!rm_extended(x, EMIT_OP(0, 1, 0x90 | (x->i->opcode & 15)), 0, true, 1))
        return false;
    rm_written(x);
    return true;
}

/* Instructions without operands, on RAX, RDX and flags: emitted as they are. */
static bool tr_plain(struct translation *x)
{
    const struct insn *i = x->i;
    if (i->op == INSN_CBW || i->op == INSN_CWD) {
        if (i->opsize == 2)
            emit8(&x->e, 0x66);
        if (i->opsize == 8)
            emit8(&x->e, 0x48);
    }
    emit8(&x->e, i->opcode);
    return true;
}

static bool tr_fence(struct translation *x)
{
    emit8(&x->e, 0x0F);
    emit8(&x->e, 0xAE);
    emit8(&x->e, x->i->modrm);
    return true;
}

static bool tr_nothing(struct translation *x)
{
    (void)x;
    return true;
}

/* --- stack --- */

static void push_value(struct translation *x, uint8_t guest)
{
    struct emit_mem m;
    tr_memory_at(x, RSP, -8, 8, true, &m);
    emit_store(&x->e, m, tr_use(x, guest, RCX));
    emit_mov(&x->e, tr_host_of[RSP], R11);
}

static bool push_memory(struct translation *x)
{
    struct emit_mem m;
    struct emit_mem kept = emit_frame(offsetof(struct frame, kept));
    if (!tr_memory(x, 8, false, 1, &m))
        return false;
    emit_load(&x->e, RCX, m);
    emit_store(&x->e, kept, RCX);
    tr_memory_at(x, RSP, -8, 8, true, &m);
    emit_load(&x->e, RCX, kept);
    emit_store(&x->e, m, RCX);
    emit_mov(&x->e, tr_host_of[RSP], R11);
    return true;
}

static bool tr_push(struct translation *x)
{
    const struct insn *i = x->i;
    struct emit_mem m;
    if (i->opsize != 8)
        return false;
    if (i->form == INSN_FORM_IMM) {
        tr_memory_at(x, RSP, -8, 8, true, &m);
        emit_rm(&x->e, 0xC7, EMIT_W, 0, m);
        emit32(&x->e, (uint32_t)i->imm);
        emit_mov(&x->e, tr_host_of[RSP], R11);
        return true;
    }
    if (is_memory(i))
        return push_memory(x);
    push_value(x, i->rm);
    return true;
}

static bool tr_pop(struct translation *x)
{
    const struct insn *i = x->i;
    struct emit_mem m;
    if (i->opsize != 8 || is_memory(i))
        return false;
    tr_memory_at(x, RSP, 0, 8, false, &m);
    if (i->rm == RSP) {
        emit_load(&x->e, tr_host_of[RSP], m);
        return true;
    }
    uint8_t d = tr_target(i->rm, RCX);
    emit_load(&x->e, d, m);
    tr_put(x, i->rm, d);
    emit_lea(&x->e, tr_host_of[RSP], emit_at(tr_host_of[RSP], 8));
    return true;
}

static bool tr_leave(struct translation *x)
{
    struct emit_mem m;
    if (x->i->opsize != 8)
        return false;
    tr_memory_at(x, RBP, 0, 8, false, &m);
    emit_load(&x->e, RCX, m);
    emit_lea(&x->e, tr_host_of[RSP], emit_at(RBP, 8));
    emit_mov(&x->e, RBP, RCX);
    return true;
}

/* --- atomic --- */

static bool tr_xadd(struct translation *x)
{
    const struct insn *i = x->i;
    if (!is_memory(i) || has_high_byte(i))
        return false;
    struct emit_mem m;
    if (!tr_memory(x, i->opsize, true, lock_align(i, i->opsize), &m))
        return false;
    uint8_t r = tr_use(x, i->reg, RCX);
    emit_rm(&x->e, EMIT_OP(0, 1, 0xC0 | (i->opsize != 1)), emit_size(i->opsize) | lock_flag(i), r, m);
    tr_put(x, i->reg, r);
    return true;
}

static bool tr_cmpxchg(struct translation *x)
{
    if (!is_memory(x->i))
        return false;
    return rm_reg(x, EMIT_OP(0, 1, 0xB0), true, lock_align(x->i, x->i->opsize));
}

static bool tr_cmpxchg_pair(struct translation *x)
{
    const struct insn *i = x->i;
    bool wide = i->op == INSN_CMPXCHG16B;
    uint32_t size = wide ? 16 : 8;
    struct emit_mem m;
    if (!tr_memory(x, size, true, wide ? 16 : lock_align(i, 8), &m))
        return false;
    emit_mov(&x->e, RCX, tr_host_of[RCX]);
    emit_rm(&x->e, EMIT_OP(0, 1, 0xC7), (wide ? EMIT_W : 0u) | lock_flag(i), 1, m);
    return true;
}

/* table */
tr_fn *tr_find_integer(const struct insn *i)
{
    static tr_fn *const table[INSN_OP_COUNT] = {
        [INSN_ADD] = tr_alu,       [INSN_OR] = tr_alu,        [INSN_ADC] = tr_alu,
        [INSN_SBB] = tr_alu,       [INSN_AND] = tr_alu,       [INSN_SUB] = tr_alu,
        [INSN_XOR] = tr_alu,       [INSN_CMP] = tr_alu,       [INSN_TEST] = tr_test,
        [INSN_INC] = tr_unary,     [INSN_DEC] = tr_unary,     [INSN_NOT] = tr_unary,
        [INSN_NEG] = tr_unary,     [INSN_ROL] = tr_shift,     [INSN_ROR] = tr_shift,
        [INSN_RCL] = tr_shift,     [INSN_RCR] = tr_shift,     [INSN_SHL] = tr_shift,
        [INSN_SHR] = tr_shift,     [INSN_SAL] = tr_shift,     [INSN_SAR] = tr_shift,
        [INSN_SHLD] = tr_double_shift, [INSN_SHRD] = tr_double_shift,
        [INSN_RORX] = tr_vex,      [INSN_SARX] = tr_vex,      [INSN_SHLX] = tr_vex,
        [INSN_SHRX] = tr_vex,      [INSN_ANDN] = tr_vex,      [INSN_BEXTR] = tr_vex,
        [INSN_BLSR] = tr_vex,      [INSN_BLSMSK] = tr_vex,    [INSN_BLSI] = tr_vex,
        [INSN_BZHI] = tr_vex,      [INSN_PDEP] = tr_vex,      [INSN_PEXT] = tr_vex,
        [INSN_MULX] = tr_mulx,     [INSN_BT] = tr_bit_test,   [INSN_BTS] = tr_bit_test,
        [INSN_BTR] = tr_bit_test,  [INSN_BTC] = tr_bit_test,  [INSN_BSF] = tr_scan,
        [INSN_BSR] = tr_scan,      [INSN_TZCNT] = tr_scan,    [INSN_LZCNT] = tr_scan,
        [INSN_POPCNT] = tr_scan,   [INSN_CRC32] = tr_crc32,   [INSN_MUL] = tr_mul,
        [INSN_DIV] = tr_div,       [INSN_IDIV] = tr_div,
        [INSN_IMUL] = tr_mul,      [INSN_IMUL2] = tr_imul2,   [INSN_MOV] = tr_mov,
        [INSN_MOVZX] = tr_extend,  [INSN_MOVSX] = tr_extend,  [INSN_MOVBE] = tr_movbe,
        [INSN_MOVNTI] = tr_movnti, [INSN_LEA] = tr_lea,       [INSN_XCHG] = tr_xchg,
        [INSN_BSWAP] = tr_bswap,   [INSN_CMOVCC] = tr_cmov,   [INSN_SETCC] = tr_setcc,
        [INSN_CBW] = tr_plain,     [INSN_CWD] = tr_plain,     [INSN_LAHF] = tr_plain,
        [INSN_SAHF] = tr_plain,    [INSN_CMC] = tr_plain,     [INSN_CLC] = tr_plain,
        [INSN_STC] = tr_plain,     [INSN_NOP] = tr_nothing,   [INSN_PUSH] = tr_push,
        [INSN_POP] = tr_pop,       [INSN_LEAVE] = tr_leave,   [INSN_XADD] = tr_xadd,
        [INSN_CMPXCHG] = tr_cmpxchg, [INSN_CMPXCHG8B] = tr_cmpxchg_pair,
        [INSN_CMPXCHG16B] = tr_cmpxchg_pair,
        [INSN_LFENCE] = tr_fence,  [INSN_MFENCE] = tr_fence,  [INSN_SFENCE] = tr_fence,
    };
    return table[i->op];
}
