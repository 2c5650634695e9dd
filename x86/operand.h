/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Operands for instruction handlers: what x86/mem.h offers, cut to what most instructions of a
 * 64-bit kernel need. Everything else goes to the functions of x86/operand.c, out of line.
 *
 * The fast path serves operands with 64-bit addresses. It makes no canonical check: the software
 * TLB never holds a page whose address is not canonical, so such an address misses and the slow
 * path finds it. 64-bit address size exists only in 64-bit mode, where DS, ES, CS and SS have no
 * base and no limit.
 *
 * Handlers are compiled per operand size and per kind of address; `size` and `kind` are constants
 * wherever these functions are called.
 */
#ifndef LODGE_X86_OPERAND_H
#define LODGE_X86_OPERAND_H

#include "x86/flags.h"
#include "x86/mem.h"

/* Known when the handler is selected. */
enum operand_kind {
    OPERAND_BASE, /* 64-bit [base + disp], no segment base: nothing to decide */
    OPERAND_ANY,
    OPERAND_KINDS,
};

static inline enum operand_kind operand_kind_of(const struct insn *i)
{
    bool plain = i->addrsize == 8 && i->base != INSN_NO_REG && i->index == INSN_NO_REG &&
                 i->seg < SEG_FS && !(i->flags & (INSN_RIPREL | INSN_MOFFS));
    return plain ? OPERAND_BASE : OPERAND_ANY;
}

/* Index of an operand size in a handler table: 1, 2, 4, 8 -> 0..3. */
static inline unsigned operand_size_index(uint8_t size)
{
    return size >= 8 ? 3 : size >= 4 ? 2 : size >= 2 ? 1 : 0;
}

/* Parts of x86_select_mov (x86/op_movcc.c). */
x86_op_fn *x86_select_cmovcc(const struct insn *i);
x86_op_fn *x86_select_setcc(const struct insn *i);

/* --- registers --- */

/*
 * A register as a 64-bit value whose low `size` bytes are the operand; the rest is what a native
 * instruction of that size needs to find in its destination, so that it merges (8 and 16 bits) or
 * clears (32 bits) by itself. operand_put_reg takes back what it left.
 */
static always_inline uint64_t operand_get_reg(const struct x86_cpu *cpu, uint8_t n, uint8_t size)
{
    if (size == 1 && unlikely(n >= 16))
        return cpu->gpr[n & 3] >> 8;
    return cpu->gpr[n & 15];
}

static always_inline void operand_put_reg(struct x86_cpu *cpu, uint8_t n, uint8_t size, uint64_t v)
{
    if (size == 1 && unlikely(n >= 16))
        cpu->gpr[n & 3] = (cpu->gpr[n & 3] & ~(uint64_t)0xFF00) | (v & 0xFF) << 8;
    else
        cpu->gpr[n & 15] = v;
}

/* Writes a plain value of `size` bytes with the architecture's merging. Always a 64-bit store,
 * which the empty asm makes sure of: after a byte store the next 64-bit load of the register would
 * have to wait until it has left the store queue. */
static always_inline void operand_set_reg(struct x86_cpu *cpu, uint8_t n, uint8_t size, uint64_t v)
{
    uint64_t *r = &cpu->gpr[n & 15];
    if (size == 1 && unlikely(n >= 16)) {
        operand_put_reg(cpu, n, 1, v);
    } else if (size <= 2) {
        uint64_t mask = size == 1 ? 0xFF : 0xFFFF;
        uint64_t whole = (*r & ~mask) | (v & mask);
        __asm__("" : "+r"(whole));
        *r = whole;
    } else {
        *r = size == 4 ? (uint32_t)v : v;
    }
}

/* --- addresses --- */

/* Linear address in 64-bit mode with 64-bit address size; not moffs, not VSIB. */
static always_inline uint64_t operand_linear64(const struct x86_cpu *cpu, const struct insn *i,
                                               enum operand_kind kind)
{
    uint64_t a = (uint64_t)(int64_t)i->disp;
    if (kind == OPERAND_BASE)
        return a + cpu->gpr[i->base & 15];
    if (i->base != INSN_NO_REG)
        a += cpu->gpr[i->base & 15];
    if (i->index != INSN_NO_REG)
        a += cpu->gpr[i->index & 15] << i->scale;
    if (i->flags & INSN_RIPREL)
        a += cpu->rip;
    if (unlikely(i->seg >= SEG_FS))
        a += cpu->seg[i->seg].base;
    return a;
}

/* Does the fast path serve i's memory operand? */
static always_inline bool operand_is_fast(const struct insn *i, enum operand_kind kind)
{
    return kind == OPERAND_BASE || likely(i->addrsize == 8 && !(i->flags & INSN_MOFFS));
}

/* The tag that makes all of [linear, linear + size) a hit: an access that crosses into the next
 * page has another page number at its end, so it misses. */
static always_inline uint64_t operand_tag(const struct x86_cpu *cpu, uint64_t linear, uint8_t size)
{
    return ((linear + size - 1) & PAGE_MASK) | cpu->tlb_generation[linear >> 63];
}

/* --- loads and stores through host pointers --- */

static always_inline uint64_t operand_host_load(const void *host, uint8_t size)
{
    if (size == 1)
        return *(const volatile uint8_t *)host;
    if (size == 2)
        return *(const volatile x86_u16 *)host;
    if (size == 4)
        return *(const volatile x86_u32 *)host;
    return *(const volatile x86_u64 *)host;
}

static always_inline void operand_host_store(void *host, uint8_t size, uint64_t v)
{
    if (size == 1)
        *(volatile uint8_t *)host = (uint8_t)v;
    else if (size == 2)
        *(volatile x86_u16 *)host = (uint16_t)v;
    else if (size == 4)
        *(volatile x86_u32 *)host = (uint32_t)v;
    else
        *(volatile x86_u64 *)host = v;
}

/* --- the memory operand of i: fast paths --- */

/*
 * These look into the TLB and nothing else. When they fail the handler goes on, by a tail call, to
 * its slow form, which does the whole instruction anew: so that handlers need no stack frame.
 */

/* The operand's value, zero-extended, if a load is all that it takes. */
static always_inline bool operand_try_load(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                           enum operand_kind kind, uint64_t *v)
{
    if (!operand_is_fast(i, kind))
        return false;
    uint64_t linear = operand_linear64(cpu, i, kind);
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    if (unlikely(e->read_tag != operand_tag(cpu, linear, size)))
        return false;
    *v = operand_host_load((const void *)(uintptr_t)(linear + e->addend), size);
    return true;
}

/* Where it lies on the host, for writing (call x86_note_store after), or NULL. */
static always_inline void *operand_try_host(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                            enum operand_kind kind)
{
    if (!operand_is_fast(i, kind))
        return NULL;
    uint64_t linear = operand_linear64(cpu, i, kind);
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    if (unlikely(e->write_tag != operand_tag(cpu, linear, size)))
        return NULL;
    return (void *)(uintptr_t)(linear + e->addend);
}

static always_inline void *operand_try_host_locked(struct x86_cpu *cpu, const struct insn *i,
                                                   uint8_t size)
{
    void *host = operand_try_host(cpu, i, size, OPERAND_ANY);
    /* Across a cache line LOCK is left to x86_lock_begin (split locks cost the whole host). */
    return ((uintptr_t)host & 63) + size <= 64 ? host : NULL;
}

/* --- the memory operand of i: complete --- */

int operand_load(struct x86_cpu *cpu, const struct insn *i, uint8_t size, uint64_t *v);
int operand_store(struct x86_cpu *cpu, const struct insn *i, uint8_t size, uint64_t v);

/* --- the stack in 64-bit mode, where SS has no base and no limit --- */

static always_inline int operand_push64(struct x86_cpu *cpu, uint64_t v)
{
    uint64_t linear = cpu->gpr[RSP] - 8;
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    if (unlikely(e->write_tag != operand_tag(cpu, linear, 8)))
        return x86_push(cpu, 8, v);
    void *host = (void *)(uintptr_t)(linear + e->addend);
    operand_host_store(host, 8, v);
    x86_note_store(cpu, host);
    cpu->gpr[RSP] = linear;
    return X86_OK;
}

/* The topmost item, which stays there. */
static always_inline bool operand_try_top64(struct x86_cpu *cpu, uint64_t *v)
{
    uint64_t linear = cpu->gpr[RSP];
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    if (unlikely(e->read_tag != operand_tag(cpu, linear, 8)))
        return false;
    *v = operand_host_load((const void *)(uintptr_t)(linear + e->addend), 8);
    return true;
}

/* Adds to the stack pointer in its current width. */
static always_inline void operand_add_sp(struct x86_cpu *cpu, uint64_t n)
{
    operand_set_reg(cpu, RSP, cpu->stack_size, cpu->gpr[RSP] + n);
}

/* --- read-modify-write --- */

/*
 * One operation of one size on a register image (operand_get_reg) or in place on host memory. Takes
 * the source and RFLAGS as they were before, returns the carrier of flags (x86/flags.h).
 */
typedef uint64_t operand_reg_fn(uint64_t *dst, uint64_t src, uint64_t rflags);
typedef uint64_t operand_mem_fn(void *host, uint64_t src, uint64_t rflags);

/* mem <- mem op src at `linear`, LOCKed or not; faults are a write's. Takes no flags over. */
int operand_rmw_at(struct x86_cpu *cpu, uint64_t linear, operand_reg_fn *op, uint64_t src,
                   uint8_t size, bool locked, uint64_t *carrier);
/* The whole of an instruction mem <- mem op src, LOCKed if i is. */
int operand_rmw_slow(struct x86_cpu *cpu, const struct insn *i, operand_reg_fn *op, uint64_t src,
                     uint8_t size, uint64_t flag_mask);

/* mem <- mem op src, flags in flag_mask taken over. Constants but for cpu, i, src. */
static always_inline int operand_rmw(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                     enum operand_kind kind, operand_reg_fn *reg_op,
                                     operand_mem_fn *mem_op, uint64_t src, uint64_t flag_mask)
{
    void *host = operand_try_host(cpu, i, size, kind);
    if (unlikely(!host))
        return operand_rmw_slow(cpu, i, reg_op, src, size, flag_mask);
    uint64_t carrier = mem_op(host, src, cpu->rflags);
    x86_note_store(cpu, host);
    if (flag_mask)
        x86_flags_merge(cpu, flag_mask, carrier);
    return X86_OK;
}

/* The same with LOCK: lock_op is mem_op with the prefix. */
static always_inline int operand_rmw_locked(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                            operand_reg_fn *reg_op, operand_mem_fn *lock_op,
                                            uint64_t src, uint64_t flag_mask)
{
    void *host = operand_try_host_locked(cpu, i, size);
    if (unlikely(!host))
        return operand_rmw_slow(cpu, i, reg_op, src, size, flag_mask);
    uint64_t carrier = lock_op(host, src, cpu->rflags);
    x86_note_store(cpu, host);
    if (flag_mask)
        x86_flags_merge(cpu, flag_mask, carrier);
    return X86_OK;
}

#endif
