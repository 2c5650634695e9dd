/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Encoding host instructions (SDM 2A, chapter 2). */
#include "engine/soft/emit.h"

#include "core/assert.h"
#include "core/mem.h"

void emit16(struct emit *e, uint16_t v)
{
    store_u16(e->p, v);
    e->p += 2;
}

void emit32(struct emit *e, uint32_t v)
{
    store_u32(e->p, v);
    e->p += 4;
}

void emit64(struct emit *e, uint64_t v)
{
    store_u64(e->p, v);
    e->p += 8;
}

/* --- prefixes and opcode --- */

enum { REX = 0x40, REX_B = 1, REX_X = 2, REX_R = 4, REX_W = 8 };

static bool needs_rex_for_byte(uint8_t reg)
{
    return reg >= 4 && reg < 8;
}

static void put_head(struct emit *e, uint32_t op, unsigned int flags, unsigned int rex)
{
    uint8_t prefix = EMIT_PREFIX(op);
    if (flags & EMIT_LOCK)
        emit8(e, 0xF0);
    if (flags & EMIT_66)
        emit8(e, 0x66);
    if (prefix)
        emit8(e, prefix);
    if (flags & EMIT_W)
        rex |= REX_W;
    if (rex)
        emit8(e, REX | rex);
    if (EMIT_MAP(op) >= 1)
        emit8(e, 0x0F);
    if (EMIT_MAP(op) == 2)
        emit8(e, 0x38);
    if (EMIT_MAP(op) == 3)
        emit8(e, 0x3A);
    emit8(e, EMIT_OPCODE(op));
}

/* Number of a register in the encoding: AH and its like are 4..7 without REX. */
static unsigned int code_of(uint8_t reg)
{
    return reg >= 16 ? reg - 12u : reg;
}

void emit_rr(struct emit *e, uint32_t op, unsigned int flags, uint8_t reg, uint8_t rm)
{
    unsigned int r = code_of(reg), b = code_of(rm);
    unsigned int rex = (r & 8 ? REX_R : 0) | (b & 8 ? REX_B : 0);
    if (((flags & EMIT_REG_BYTE) && needs_rex_for_byte(reg)) ||
        ((flags & EMIT_RM_BYTE) && needs_rex_for_byte(rm)))
        rex |= REX;
    assert(!(rex || flags & EMIT_W) || (reg < 16 && rm < 16));
    put_head(e, op, flags, rex);
    emit8(e, 0xC0 | (r & 7) << 3 | (b & 7));
}

/* ModRM, SIB and displacement. */
static void put_memory(struct emit *e, unsigned int reg, struct emit_mem m)
{
    unsigned int r = (reg & 7) << 3;
    if (m.base == EMIT_NO_REG) { /* [disp32] or [index + disp32], by way of SIB */
        unsigned int index = m.index == EMIT_NO_REG ? 4 : m.index & 7u;
        emit8(e, r | 4);
        emit8(e, (unsigned int)m.scale << 6 | index << 3 | 5);
        emit32(e, (uint32_t)m.disp);
        return;
    }
    unsigned int b = m.base & 7u;
    bool small = m.disp >= -128 && m.disp < 128;
    unsigned int mod = small ? 0x40 : 0x80;
    if (m.disp == 0 && b != 5)
        mod = 0;
    if (m.index == EMIT_NO_REG && b != 4) {
        emit8(e, mod | r | b);
    } else {
        unsigned int index = m.index == EMIT_NO_REG ? 4 : m.index & 7u;
        emit8(e, mod | r | 4);
        emit8(e, (unsigned int)m.scale << 6 | index << 3 | b);
    }
    if (mod == 0x40)
        emit8(e, (uint8_t)m.disp);
    else if (mod == 0x80)
        emit32(e, (uint32_t)m.disp);
}

static unsigned int rex_of_memory(struct emit_mem m)
{
    unsigned int rex = 0;
    if (m.base != EMIT_NO_REG && m.base & 8)
        rex |= REX_B;
    if (m.index != EMIT_NO_REG && m.index & 8)
        rex |= REX_X;
    return rex;
}

void emit_rm(struct emit *e, uint32_t op, unsigned int flags, uint8_t reg, struct emit_mem m)
{
    unsigned int r = code_of(reg);
    unsigned int rex = (r & 8 ? REX_R : 0) | rex_of_memory(m);
    if ((flags & EMIT_REG_BYTE) && needs_rex_for_byte(reg))
        rex |= REX;
    assert(!(rex || flags & EMIT_W) || reg < 16);
    if (m.frame)
        emit8(e, 0x65);
    put_head(e, op, flags, rex);
    put_memory(e, r, m);
}

/* --- VEX --- */

static void put_vex(struct emit *e, uint32_t op, bool w, bool l, unsigned int rex, uint8_t vvvv)
{
    uint8_t prefix = EMIT_PREFIX(op);
    unsigned int pp = prefix == 0x66 ? 1u : prefix == 0xF3 ? 2u : prefix == 0xF2 ? 3u : 0u;
    emit8(e, 0xC4);
    emit8(e, (~rex & (REX_R | REX_X | REX_B)) << 5 | EMIT_MAP(op));
    emit8(e, (w ? 0x80u : 0) | (~(unsigned int)vvvv & 15) << 3 | (l ? 4u : 0) | pp);
    emit8(e, EMIT_OPCODE(op));
}

void emit_vex_rr(struct emit *e, uint32_t op, bool w, bool l, uint8_t reg, uint8_t vvvv, uint8_t rm)
{
    put_vex(e, op, w, l, (reg & 8 ? REX_R : 0) | (rm & 8 ? REX_B : 0), vvvv);
    emit8(e, 0xC0 | (reg & 7u) << 3 | (rm & 7u));
}

void emit_vex_rm(struct emit *e, uint32_t op, bool w, bool l, uint8_t reg, uint8_t vvvv,
                 struct emit_mem m)
{
    if (m.frame)
        emit8(e, 0x65);
    put_vex(e, op, w, l, (reg & 8 ? REX_R : 0) | rex_of_memory(m), vvvv);
    put_memory(e, reg, m);
}

/* --- single instructions --- */

void emit_mov(struct emit *e, uint8_t to, uint8_t from)
{
    emit_rr(e, 0x8B, EMIT_W, to, from);
}

void emit_load(struct emit *e, uint8_t to, struct emit_mem m)
{
    emit_rm(e, 0x8B, EMIT_W, to, m);
}

void emit_store(struct emit *e, struct emit_mem m, uint8_t from)
{
    emit_rm(e, 0x89, EMIT_W, from, m);
}

void emit_load32(struct emit *e, uint8_t to, struct emit_mem m)
{
    emit_rm(e, 0x8B, 0, to, m);
}

void emit_lea(struct emit *e, uint8_t to, struct emit_mem m)
{
    emit_rm(e, 0x8D, EMIT_W, to, m);
}

void emit_lea_self(struct emit *e, uint8_t to, const uint8_t *target)
{
    emit8(e, REX | REX_W | (to & 8 ? REX_R : 0));
    emit8(e, 0x8D);
    emit8(e, (to & 7u) << 3 | 5);
    emit32(e, 0);
    emit_patch(e->p - 4, target);
}

void emit_mov_imm(struct emit *e, uint8_t to, uint64_t v)
{
    if (v <= UINT32_MAX) {
        if (to & 8)
            emit8(e, REX | REX_B);
        emit8(e, 0xB8 | (to & 7u));
        emit32(e, (uint32_t)v);
    } else if ((uint64_t)(int64_t)(int32_t)v == v) {
        emit_rr(e, 0xC7, EMIT_W, 0, to);
        emit32(e, (uint32_t)v);
    } else {
        emit8(e, REX | REX_W | (to & 8 ? REX_B : 0));
        emit8(e, 0xB8 | (to & 7u));
        emit64(e, v);
    }
}

void emit_call(struct emit *e, const uint8_t *target)
{
    emit8(e, 0xE8);
    emit32(e, 0);
    emit_patch(e->p - 4, target);
}

void emit_jmp_mem(struct emit *e, struct emit_mem m)
{
    emit_rm(e, 0xFF, 0, 4, m);
}

uint8_t *emit_jmp(struct emit *e)
{
    emit8(e, 0xE9);
    emit32(e, 0);
    return e->p - 4;
}

uint8_t *emit_jcc(struct emit *e, unsigned int condition)
{
    emit8(e, 0x0F);
    emit8(e, 0x80 | condition);
    emit32(e, 0);
    return e->p - 4;
}

void emit_patch(uint8_t *at, const uint8_t *target)
{
    store_u32(at, (uint32_t)(target - (at + 4)));
}

uint8_t *emit_jrcxz(struct emit *e)
{
    emit8(e, 0xE3);
    emit8(e, 0);
    return e->p - 1;
}

void emit_patch8(uint8_t *at, const uint8_t *target)
{
    int64_t distance = target - (at + 1);
    assert(distance >= -128 && distance < 128);
    *at = (uint8_t)distance;
}
