/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * SIMD moves without a fragment: loads, stores and copies of vector registers, to and from general
 * registers, and clearing a register by XOR with itself. They are by far the most frequent SIMD
 * instructions, and only bytes move. What is not in the table at the end goes the general way
 * (x86/op_simd.c), with the same result.
 *
 * Memory is accessed in as large pieces as the guest's instruction does: 4 and 8 bytes by general
 * registers, 16 and 32 through native_copy16, since software relies on aligned accesses of up to 16
 * bytes being atomic (SDM 3A, 9.1.1).
 */
#include "x86/simd.h"

static always_inline void put_xmm(struct x86_cpu *cpu, uint8_t n, uint64_t low, uint64_t high)
{
    store_u64(cpu->fpu.xmm[n & 15], low);
    store_u64(cpu->fpu.xmm[n & 15] + 8, high);
}

/* What VEX.128 does to the upper half of its destination. */
static always_inline void clear_high(struct x86_cpu *cpu, uint8_t n)
{
    memset(cpu->fpu.ymm_high[n & 15], 0, 16);
}

/* --- whole vectors --- */

enum shape { SSE_128, VEX_128, VEX_256 };

static always_inline int load_vector(struct x86_cpu *cpu, const struct insn *i, enum shape shape)
{
    uint8_t bounce[32];
    void *source;
    uint8_t n = i->reg & 15;
    int s = simd_check(cpu, shape != SSE_128);
    if (likely(s == X86_OK))
        s = simd_source(cpu, i, bounce, &source);
    if (unlikely(s != X86_OK))
        return s;
    native_copy16(cpu->fpu.xmm[n], source);
    if (shape == VEX_256)
        native_copy16(cpu->fpu.ymm_high[n], (const uint8_t *)source + 16);
    else if (shape == VEX_128)
        clear_high(cpu, n);
    return X86_OK;
}

static always_inline int store_vector(struct x86_cpu *cpu, const struct insn *i, enum shape shape)
{
    uint8_t bounce[32];
    uint64_t linear;
    void *host;
    uint8_t n = i->reg & 15;
    int s = simd_check(cpu, shape != SSE_128);
    if (likely(s == X86_OK))
        s = simd_destination(cpu, i, &linear, &host);
    if (unlikely(s != X86_OK))
        return s;
    uint8_t *to = host ? host : bounce;
    native_copy16(to, cpu->fpu.xmm[n]);
    if (shape == VEX_256)
        native_copy16(to + 16, cpu->fpu.ymm_high[n]);
    return simd_stored(cpu, i, linear, host, bounce);
}

static always_inline int copy_vector(struct x86_cpu *cpu, uint8_t to, uint8_t from,
                                     enum shape shape)
{
    int s = simd_check(cpu, shape != SSE_128);
    if (unlikely(s != X86_OK))
        return s;
    memmove(cpu->fpu.xmm[to & 15], cpu->fpu.xmm[from & 15], 16);
    if (shape == VEX_256)
        memmove(cpu->fpu.ymm_high[to & 15], cpu->fpu.ymm_high[from & 15], 16);
    else if (shape == VEX_128)
        clear_high(cpu, to);
    return X86_OK;
}

static always_inline int clear_vector(struct x86_cpu *cpu, const struct insn *i, enum shape shape)
{
    int s = simd_check(cpu, shape != SSE_128);
    if (unlikely(s != X86_OK))
        return s;
    put_xmm(cpu, i->reg, 0, 0);
    if (shape != SSE_128)
        clear_high(cpu, i->reg);
    return X86_OK;
}

#define VECTOR_HANDLERS(shape)                                                                     \
    static int load_##shape(struct x86_cpu *cpu, const struct insn *i)                             \
    {                                                                                              \
        return load_vector(cpu, i, shape);                                                         \
    }                                                                                              \
    static int store_##shape(struct x86_cpu *cpu, const struct insn *i)                            \
    {                                                                                              \
        return store_vector(cpu, i, shape);                                                        \
    }                                                                                              \
    static int copy_rm_##shape(struct x86_cpu *cpu, const struct insn *i)                          \
    {                                                                                              \
        return copy_vector(cpu, i->reg, i->rm, shape);                                             \
    }                                                                                              \
    static int copy_reg_##shape(struct x86_cpu *cpu, const struct insn *i)                         \
    {                                                                                              \
        return copy_vector(cpu, i->rm, i->reg, shape);                                             \
    }                                                                                              \
    static int clear_##shape(struct x86_cpu *cpu, const struct insn *i)                            \
    {                                                                                              \
        return clear_vector(cpu, i, shape);                                                        \
    }
VECTOR_HANDLERS(SSE_128)
VECTOR_HANDLERS(VEX_128)
VECTOR_HANDLERS(VEX_256)

/* --- four or eight bytes --- */

/* MOVD, MOVQ, MOVSS, MOVSD from memory: the rest of the register becomes zero. */
static always_inline int load_low(struct x86_cpu *cpu, const struct insn *i, uint8_t size, bool vex)
{
    uint64_t linear, v;
    int s = simd_check(cpu, vex);
    if (likely(s == X86_OK))
        s = x86_operand(cpu, i, size, X86_READ, &linear);
    if (likely(s == X86_OK))
        s = x86_read_size(cpu, linear, size, &v);
    if (unlikely(s != X86_OK))
        return s;
    put_xmm(cpu, i->reg, v, 0);
    if (vex)
        clear_high(cpu, i->reg);
    return X86_OK;
}

/* To memory; `from`: which byte of the register on (MOVHPS: 8). */
static always_inline int store_part(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                    bool vex, unsigned int from)
{
    uint64_t linear;
    int s = simd_check(cpu, vex);
    if (likely(s == X86_OK))
        s = x86_operand(cpu, i, size, X86_WRITE, &linear);
    if (unlikely(s != X86_OK))
        return s;
    return x86_write_size(cpu, linear, size, load_u64(cpu->fpu.xmm[i->reg & 15] + from));
}

static always_inline int from_gpr(struct x86_cpu *cpu, const struct insn *i, uint8_t size, bool vex)
{
    int s = simd_check(cpu, vex);
    if (unlikely(s != X86_OK))
        return s;
    put_xmm(cpu, i->reg, x86_get_gpr(cpu, i->rm, size), 0);
    if (vex)
        clear_high(cpu, i->reg);
    return X86_OK;
}

static always_inline int to_gpr(struct x86_cpu *cpu, const struct insn *i, uint8_t size, bool vex)
{
    int s = simd_check(cpu, vex);
    if (unlikely(s != X86_OK))
        return s;
    x86_set_gpr(cpu, i->rm, size, load_u64(cpu->fpu.xmm[i->reg & 15]));
    return X86_OK;
}

#define LOW_HANDLERS(name, vex)                                                                    \
    static int load4_##name(struct x86_cpu *cpu, const struct insn *i)                             \
    {                                                                                              \
        return load_low(cpu, i, 4, vex);                                                           \
    }                                                                                              \
    static int load8_##name(struct x86_cpu *cpu, const struct insn *i)                             \
    {                                                                                              \
        return load_low(cpu, i, 8, vex);                                                           \
    }                                                                                              \
    static int store4_##name(struct x86_cpu *cpu, const struct insn *i)                            \
    {                                                                                              \
        return store_part(cpu, i, 4, vex, 0);                                                      \
    }                                                                                              \
    static int store8_##name(struct x86_cpu *cpu, const struct insn *i)                            \
    {                                                                                              \
        return store_part(cpu, i, 8, vex, 0);                                                      \
    }                                                                                              \
    static int store_high8_##name(struct x86_cpu *cpu, const struct insn *i)                       \
    {                                                                                              \
        return store_part(cpu, i, 8, vex, 8);                                                      \
    }                                                                                              \
    static int from_gpr4_##name(struct x86_cpu *cpu, const struct insn *i)                         \
    {                                                                                              \
        return from_gpr(cpu, i, 4, vex);                                                           \
    }                                                                                              \
    static int from_gpr8_##name(struct x86_cpu *cpu, const struct insn *i)                         \
    {                                                                                              \
        return from_gpr(cpu, i, 8, vex);                                                           \
    }                                                                                              \
    static int to_gpr4_##name(struct x86_cpu *cpu, const struct insn *i)                           \
    {                                                                                              \
        return to_gpr(cpu, i, 4, vex);                                                             \
    }                                                                                              \
    static int to_gpr8_##name(struct x86_cpu *cpu, const struct insn *i)                           \
    {                                                                                              \
        return to_gpr(cpu, i, 8, vex);                                                             \
    }
LOW_HANDLERS(sse, false)
LOW_HANDLERS(vex, true)

/* MOVQ between registers */
static always_inline int copy_low8(struct x86_cpu *cpu, const struct insn *i, uint8_t to,
                                   uint8_t from)
{
    bool vex = i->flags & INSN_VEX;
    int s = simd_check(cpu, vex);
    if (unlikely(s != X86_OK))
        return s;
    put_xmm(cpu, to, load_u64(cpu->fpu.xmm[from & 15]), 0);
    if (vex)
        clear_high(cpu, to);
    return X86_OK;
}

static int movq_load_copy(struct x86_cpu *cpu, const struct insn *i)
{
    return copy_low8(cpu, i, i->reg, i->rm);
}

static int movq_store_copy(struct x86_cpu *cpu, const struct insn *i)
{
    return copy_low8(cpu, i, i->rm, i->reg);
}

/* --- choice --- */

/* Which mandatory prefixes a row holds for. */
enum { NP = 1 << 0, P66 = 1 << 1, PF3 = 1 << 2, PF2 = 1 << 3 };

struct move {
    uint8_t map, opcode, prefixes;
    uint8_t memory; /* 1: memory form */
    x86_op_fn *sse, *vex128, *vex256;
};

#define VECTOR(name) name##_SSE_128, name##_VEX_128, name##_VEX_256
#define LOW(name)    name##_sse, name##_vex, NULL
#define SCALAR(name) name##_sse, name##_vex, name##_vex /* VEX.L is ignored */

/* table */
static const struct move moves[] = {
    {1, 0x10, NP | P66, 1, VECTOR(load)},
    {1, 0x10, NP | P66, 0, VECTOR(copy_rm)},
    {1, 0x10, PF3, 1, SCALAR(load4)},
    {1, 0x10, PF2, 1, SCALAR(load8)},
    {1, 0x11, NP | P66, 1, VECTOR(store)},
    {1, 0x11, NP | P66, 0, VECTOR(copy_reg)},
    {1, 0x11, PF3, 1, SCALAR(store4)},
    {1, 0x11, PF2, 1, SCALAR(store8)},
    {1, 0x13, NP | P66, 1, LOW(store8)},
    {1, 0x17, NP | P66, 1, LOW(store_high8)},
    {1, 0x28, NP | P66, 1, VECTOR(load)},
    {1, 0x28, NP | P66, 0, VECTOR(copy_rm)},
    {1, 0x29, NP | P66, 1, VECTOR(store)},
    {1, 0x29, NP | P66, 0, VECTOR(copy_reg)},
    {1, 0x2B, NP | P66, 1, VECTOR(store)},
    {1, 0x6F, P66 | PF3, 1, VECTOR(load)},
    {1, 0x6F, P66 | PF3, 0, VECTOR(copy_rm)},
    {1, 0x7E, PF3, 1, LOW(load8)},
    {1, 0x7E, PF3, 0, movq_load_copy, movq_load_copy, NULL},
    {1, 0x7F, P66 | PF3, 1, VECTOR(store)},
    {1, 0x7F, P66 | PF3, 0, VECTOR(copy_reg)},
    {1, 0xD6, P66, 1, LOW(store8)},
    {1, 0xD6, P66, 0, movq_store_copy, movq_store_copy, NULL},
    {1, 0xE7, P66, 1, VECTOR(store)},
    {1, 0xF0, PF2, 1, VECTOR(load)},
    {2, 0x2A, P66, 1, VECTOR(load)},
};

static uint8_t prefix_bit(const struct insn *i)
{
    if (i->flags & INSN_PREFIX_F3)
        return PF3;
    if (i->flags & INSN_PREFIX_F2)
        return PF2;
    return i->flags & INSN_OPSIZE_PREFIX ? P66 : NP;
}

/* MOVD and MOVQ with general registers or memory (66 0F 6E, 66 0F 7E) */
static x86_op_fn *select_gpr_move(const struct insn *i)
{
    /* [memory][8 bytes][VEX] */
    static x86_op_fn *const to_xmm[2][2][2] = {
        {{from_gpr4_sse, from_gpr4_vex}, {from_gpr8_sse, from_gpr8_vex}},
        {{load4_sse, load4_vex}, {load8_sse, load8_vex}},
    };
    static x86_op_fn *const from_xmm[2][2][2] = {
        {{to_gpr4_sse, to_gpr4_vex}, {to_gpr8_sse, to_gpr8_vex}},
        {{store4_sse, store4_vex}, {store8_sse, store8_vex}},
    };
    bool memory = i->flags & INSN_MEM, vex = i->flags & INSN_VEX;
    bool wide = memory ? i->memsize == 8 : (i->simd & SIMD_GPR_64) != 0;
    return i->opcode == 0x6E ? to_xmm[memory][wide][vex] : from_xmm[memory][wide][vex];
}

/* XORPS, XORPD, PXOR of a register with itself */
static x86_op_fn *select_clear(const struct insn *i)
{
    bool vex = i->flags & INSN_VEX;
    if ((i->flags & INSN_MEM) || i->rm != (vex ? i->vvvv : i->reg))
        return NULL;
    if (!vex)
        return clear_SSE_128;
    return i->flags & INSN_VEX_L ? clear_VEX_256 : clear_VEX_128;
}

x86_op_fn *simd_select_move(const struct insn *i)
{
    uint8_t prefix = prefix_bit(i), memory = (i->flags & INSN_MEM) != 0;
    if (i->map == 1 && prefix == P66 && (i->opcode == 0x6E || i->opcode == 0x7E))
        return select_gpr_move(i);
    if (i->map == 1 && (i->opcode == 0x57 || (i->opcode == 0xEF && prefix == P66)))
        return select_clear(i);
    for (size_t n = 0; n < sizeof(moves) / sizeof(moves[0]); n++) {
        const struct move *m = &moves[n];
        if (m->map != i->map || m->opcode != i->opcode || m->memory != memory ||
            !(m->prefixes & prefix))
            continue;
        if (!(i->flags & INSN_VEX))
            return m->sse;
        return i->flags & INSN_VEX_L ? m->vex256 : m->vex128;
    }
    return NULL;
}
