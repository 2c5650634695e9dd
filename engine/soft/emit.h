/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Writing host instructions, byte by byte. Nothing here knows what a guest is.
 *
 * Registers are numbered as in the manuals, 0..15; a byte operand with a number of 16..19 is AH, CH,
 * DH or BH, which exist only where no REX prefix is needed. Memory operands are [base + index << scale
 * + disp], or GS:[disp], which is how emitted code reaches the translator's frame.
 *
 * The buffer's end is looked at by who begins a block (EMIT_BLOCK_MAX), not for each byte.
 */
#ifndef LODGE_ENGINE_SOFT_EMIT_H
#define LODGE_ENGINE_SOFT_EMIT_H

#include "core/types.h"
#include "isa/x86.h"

struct emit {
    uint8_t *p;
};

enum { EMIT_NO_REG = 0xFF };

struct emit_mem {
    uint8_t base, index, scale; /* EMIT_NO_REG: none */
    bool frame;                 /* GS:[disp] */
    int32_t disp;
};

/* An opcode with its map (0: one byte, 1: 0F, 2: 0F38, 3: 0F3A) and mandatory prefix. */
#define EMIT_OP(prefix, map, opcode) ((uint32_t)(opcode) | (uint32_t)(map) << 8 | (uint32_t)(prefix) << 16)
#define EMIT_OPCODE(op)              ((uint8_t)(op))
#define EMIT_MAP(op)                 ((op) >> 8 & 3)
#define EMIT_PREFIX(op)              ((uint8_t)((op) >> 16))

/* How the encoding of an instruction is to be completed. */
enum {
    EMIT_W = 1 << 0,       /* REX.W */
    EMIT_66 = 1 << 1,      /* operand size prefix */
    EMIT_LOCK = 1 << 2,
    EMIT_REG_BYTE = 1 << 3, /* the register operand is a byte: SPL BPL SIL DIL need REX */
    EMIT_RM_BYTE = 1 << 4,  /* the same of the rm operand */
};

static inline void emit8(struct emit *e, unsigned int v)
{
    *e->p++ = (uint8_t)v;
}

void emit16(struct emit *e, uint16_t v);
void emit32(struct emit *e, uint32_t v);
void emit64(struct emit *e, uint64_t v);

static inline struct emit_mem emit_at(uint8_t base, int32_t disp)
{
    return (struct emit_mem){base, EMIT_NO_REG, 0, false, disp};
}

static inline struct emit_mem emit_indexed(uint8_t base, uint8_t index, uint8_t scale, int32_t disp)
{
    return (struct emit_mem){base, index, scale, false, disp};
}

static inline struct emit_mem emit_frame(size_t offset)
{
    return (struct emit_mem){EMIT_NO_REG, EMIT_NO_REG, 0, true, (int32_t)offset};
}

static inline struct emit_mem emit_frame_indexed(uint8_t index, uint8_t scale, size_t offset)
{
    return (struct emit_mem){EMIT_NO_REG, index, scale, true, (int32_t)offset};
}

/* Flags for an integer operand of 1, 2, 4 or 8 bytes on both sides. */
static inline unsigned int emit_size(uint8_t size)
{
    static const uint8_t flags[] = {
        [1] = EMIT_REG_BYTE | EMIT_RM_BYTE, [2] = EMIT_66, [4] = 0, [8] = EMIT_W};
    return flags[size];
}

/* op reg, rm  with rm a register, or memory; `reg` may be an opcode's extension. */
void emit_rr(struct emit *e, uint32_t op, unsigned int flags, uint8_t reg, uint8_t rm);
void emit_rm(struct emit *e, uint32_t op, unsigned int flags, uint8_t reg, struct emit_mem m);

/* The same with VEX; vvvv 0 where the instruction has none. `l`: 256 bits. */
void emit_vex_rr(struct emit *e, uint32_t op, bool w, bool l, uint8_t reg, uint8_t vvvv, uint8_t rm);
void emit_vex_rm(struct emit *e, uint32_t op, bool w, bool l, uint8_t reg, uint8_t vvvv,
                 struct emit_mem m);

/* 64-bit moves, and what else the translator itself needs. None of them touches flags. */
void emit_mov(struct emit *e, uint8_t to, uint8_t from);
void emit_load(struct emit *e, uint8_t to, struct emit_mem m);
void emit_store(struct emit *e, struct emit_mem m, uint8_t from);
void emit_load32(struct emit *e, uint8_t to, struct emit_mem m);
void emit_lea(struct emit *e, uint8_t to, struct emit_mem m);
void emit_lea_self(struct emit *e, uint8_t to, const uint8_t *target); /* by RIP: of the code itself */
void emit_mov_imm(struct emit *e, uint8_t to, uint64_t v); /* the shortest that does not need flags */
void emit_call(struct emit *e, const uint8_t *target); /* in the written mapping, as e */
void emit_jmp_mem(struct emit *e, struct emit_mem m);

/* Jumps with a 32-bit displacement to be filled in; return where it is. */
uint8_t *emit_jmp(struct emit *e);
uint8_t *emit_jcc(struct emit *e, unsigned int condition);
/* Sets the displacement at `at` so that the jump goes to `target` (both in the written mapping). */
void emit_patch(uint8_t *at, const uint8_t *target);
/* JRCXZ with an 8-bit displacement; the target is patched. */
uint8_t *emit_jrcxz(struct emit *e);
void emit_patch8(uint8_t *at, const uint8_t *target);

#endif
