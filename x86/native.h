/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Native fragments: SIMD and x87 instructions are executed by the host's own processor, one at a
 * time, in a prepared frame, with the memory operand redirected to where we say and general
 * registers to the frame. So their results are the hardware's own, bit for bit. x86/native.c
 * explains how. Fragments are cached per vCPU by what distinguishes the instructions.
 */
#ifndef LODGE_X86_NATIVE_H
#define LODGE_X86_NATIVE_H

#include "x86/cpu.h"

int must_check native_create(struct x86_cpu *cpu);
void native_destroy(struct x86_cpu *cpu);

/* What a fragment and the handler that calls it exchange. */
struct native_frame {
    /* Stands in for a memory operand that has no host address. */
    uint8_t bounce[64] __attribute__((aligned(64)));
    uint64_t flags;      /* out: RFLAGS after an instruction with SIMD_FLAGS */
    uint64_t rax;        /* in: RAX of PCMPESTRx */
    uint32_t mxcsr;      /* in: to run with */
    uint32_t mxcsr_out;  /* out */
    uint32_t unmasked;   /* in: if one of these flags is raised, no register is stored */
    uint32_t mxcsr_host; /* the home's own, put back by every fragment that changes it */
};

/*
 * gpr: value of the general register that is read (PCMPESTRx: RDX; FCMOVcc: RFLAGS); memory: where
 * the memory operand is. Returns the general register that is written. Vector registers are
 * caller-saved and so may be used; the x87 is left as FNINIT does.
 */
typedef uint64_t native_fn(struct native_frame *frame, struct x86_fpu *fpu, uint64_t gpr,
                           void *memory);

enum {
    NATIVE_SLOTS_BITS = 12,
    NATIVE_SLOTS = 1 << NATIVE_SLOTS_BITS,
    NATIVE_FRAGMENTS_MAX = NATIVE_SLOTS / 2,
    NATIVE_CODE_SIZE = 256 << 10,
    NATIVE_FRAGMENT_SIZE = 256, /* none is longer */
};

struct native_slot {
    uint64_t key; /* 0: empty */
    native_fn *fn;
};

struct native {
    struct native_frame frame;
    struct seam_exec exec;
    uint32_t used;  /* bytes of exec */
    uint32_t count; /* slots in use */
    uint64_t flushes;
    bool serialise_by_cpuid;
    struct native_slot slot[NATIVE_SLOTS];
};

/* x86/native_emit.c: writes the fragment for i, at most NATIVE_FRAGMENT_SIZE bytes; returns its
 * length. */
uint32_t native_emit(const struct insn *i, uint8_t *code);
uint32_t native_emit_x87(const struct insn *i, uint8_t *code);

/* Makes the fragment and enters it; never fails (it drops all others when there is no room). */
native_fn *native_find_slow(struct x86_cpu *cpu, const struct insn *i, uint64_t key);

/* Everything that tells two fragments apart. Not 0. */
static always_inline uint64_t native_key(const struct insn *i)
{
    const uint64_t flags = INSN_MEM | INSN_VEX | INSN_REX_W | INSN_VEX_L | INSN_OPSIZE_PREFIX |
                           INSN_PREFIX_F3 | INSN_PREFIX_F2;
    uint64_t rm = i->op == INSN_X87 ? i->modrm : i->flags & INSN_MEM ? 0 : i->rm;
    return (uint64_t)i->opcode | (uint64_t)i->map << 8 | (uint64_t)i->reg << 16 | rm << 24 |
           (uint64_t)i->vvvv << 32 | (i->imm & 0xFF) << 40 | (i->flags & flags) << 48;
}

static always_inline uint32_t native_hash(uint64_t key)
{
    return (uint32_t)(key * 0x9E3779B97F4A7C15u >> (64 - NATIVE_SLOTS_BITS));
}

static always_inline native_fn *native_find(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t key = native_key(i);
    const struct native_slot *slot = &cpu->native->slot[native_hash(key)];
    if (likely(slot->key == key))
        return slot->fn;
    return native_find_slow(cpu, i, key);
}

/* Executes a serialising instruction that needs no privilege: after generated code was written that may
 * have been executed before. Own thread. */
void native_serialise(const struct x86_cpu *cpu);

/* Copies of 16 and 32 bytes, each 16 of them in one access, as the guest's own moves are. */
void native_copy16(void *dst, const void *src);
void native_copy32(void *dst, const void *src);

#endif
