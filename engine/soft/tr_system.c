/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The few privileged instructions that kernels execute at every turn, in ring 0: CLI, STI, SWAPGS, MOV
 * from CR2 and CR3; PUSHF, CLD and MOV from segment registers in all rings. They work on struct x86_cpu in memory, since the flags that are not status
 * flags live there.
 *
 * Bits are cleared by PEXT and PDEP with the same mask, which leaves the host's flags alone.
 *
 * STI keeps interrupts away for one more instruction. That is emitted too, with a look at the vCPU's
 * requests behind it; where it cannot be (it leaves the block by itself), STI is interpreted. frame.go
 * would not do: it has gone off when the request came, and is armed again since.
 */
#include "engine/soft/translator.h"

#define OP_PEXT EMIT_OP(0xF3, 2, 0xF5)
#define OP_PDEP EMIT_OP(0xF2, 2, 0xF5)

static void keep_bits(struct translation *x, uint8_t reg, size_t mask)
{
    emit_vex_rm(&x->e, OP_PEXT, true, false, reg, reg, emit_frame(mask));
    emit_vex_rm(&x->e, OP_PDEP, true, false, reg, reg, emit_frame(mask));
}

/* Leaves struct x86_cpu in RCX and RFLAGS without a flag in R10. */
static struct emit_mem load_flags_without(struct translation *x, size_t mask)
{
    struct emit_mem rflags = emit_at(RCX, (int32_t)offsetof(struct x86_cpu, rflags));
    emit_load(&x->e, RCX, emit_frame(offsetof(struct frame, cpu)));
    emit_load(&x->e, R10, rflags);
    keep_bits(x, R10, mask);
    return rflags;
}

static bool tr_cli(struct translation *x)
{
    struct emit_mem rflags = load_flags_without(x, offsetof(struct frame, mask_not_if));
    emit_store(&x->e, rflags, R10);
    return true;
}

static bool tr_cld(struct translation *x)
{
    struct emit_mem rflags = load_flags_without(x, offsetof(struct frame, mask_not_df));
    emit_store(&x->e, rflags, R10);
    return true;
}

/* Is the next instruction one behind which the block goes on? */
static bool next_stays(const struct translation *x)
{
    struct insn next;
    uint32_t at = x->at - (uint32_t)(x->b->host & ~PAGE_MASK) + x->i->length;
    if (at >= x->code_size || x->b->insns + 2 >= TBLOCK_INSNS ||
        insn_decode(&next, x->code + at, x->code_size - at, INSN_MODE_64) != INSN_DECODE_OK)
        return false;
    enum insn_group g = insn_op_group((enum insn_op)next.op);
    return next.op != INSN_INVALID && !(next.flags & INSN_ENDS) && g != INSN_GROUP_BRANCH &&
           g != INSN_GROUP_FPSTATE && g != INSN_GROUP_STRING && g != INSN_GROUP_SYSTEM;
}

static bool tr_sti(struct translation *x)
{
    if (x->shadow || x->b->second || !next_stays(x))
        return false;
    struct emit_mem rflags = load_flags_without(x, offsetof(struct frame, mask_not_if));
    emit_lea(&x->e, R10, emit_at(R10, (int32_t)X86_FLAG_IF));
    emit_store(&x->e, rflags, R10);
    x->shadow = true;
    return true;
}

void tr_end_shadow(struct translation *x)
{
    uint16_t at = x->at;
    emit_load(&x->e, RCX, emit_frame(offsetof(struct frame, cpu)));
    emit_load32(&x->e, RCX, emit_at(RCX, (int32_t)offsetof(struct x86_cpu, vcpu.requests)));
    uint8_t *none = emit_jrcxz(&x->e);
    x->at = (uint16_t)(x->at + x->i->length);
    (void)tr_call_stub(x, STUB_POLL);
    x->at = at;
    emit_patch8(none, x->e.p);
}

static bool tr_swapgs(struct translation *x)
{
    const int32_t gs = (int32_t)(offsetof(struct x86_cpu, seg) + SEG_GS * sizeof(struct x86_segment) +
                                 offsetof(struct x86_segment, base));
    const int32_t other = (int32_t)offsetof(struct x86_cpu, msr.kernel_gs_base);
    emit_load(&x->e, RCX, emit_frame(offsetof(struct frame, cpu)));
    emit_load(&x->e, R10, emit_at(RCX, gs));
    emit_load(&x->e, R11, emit_at(RCX, other));
    emit_store(&x->e, emit_at(RCX, gs), R11);
    emit_store(&x->e, emit_at(RCX, other), R10);
    emit_store(&x->e, emit_frame(offsetof(struct frame, segment_base) + 8), R11);
    return true;
}

/* The host's PUSHF has the status flags. */
static bool tr_pushf(struct translation *x)
{
    struct emit_mem m;
    if (x->i->opsize != 8)
        return false;
    tr_memory_at(x, RSP, -8, 8, true, &m);
    emit_lea(&x->e, R10, m);
    emit8(&x->e, 0x9C); /* pushfq; pop rcx */
    emit8(&x->e, 0x59);
    keep_bits(x, RCX, offsetof(struct frame, mask_status));
    emit_load(&x->e, R11, emit_frame(offsetof(struct frame, cpu)));
    emit_load(&x->e, R11, emit_at(R11, (int32_t)offsetof(struct x86_cpu, rflags)));
    keep_bits(x, R11, offsetof(struct frame, mask_system));
    emit_lea(&x->e, RCX, emit_indexed(RCX, R11, 0, 0));
    emit_store(&x->e, emit_at(R10, 0), RCX);
    emit_lea(&x->e, tr_host_of[RSP], emit_at(tr_host_of[RSP], -8));
    return true;
}

/* MOV r, Sreg */
static bool tr_from_segment(struct translation *x)
{
    const struct insn *i = x->i;
    const size_t selector = offsetof(struct x86_cpu, seg) + i->reg * sizeof(struct x86_segment) +
                            offsetof(struct x86_segment, selector);
    if (i->flags & INSN_MEM || i->opsize < 4 || i->reg >= SEG_COUNT)
        return false;
    uint8_t d = tr_target(i->rm, R11);
    emit_load(&x->e, RCX, emit_frame(offsetof(struct frame, cpu)));
    emit_rm(&x->e, EMIT_OP(0, 1, 0xB7), 0, d, emit_at(RCX, (int32_t)selector));
    tr_put(x, i->rm, d);
    return true;
}

/* MOV r, CR2 and CR3, which are what was written. */
static bool tr_from_control(struct translation *x)
{
    const struct insn *i = x->i;
    size_t at = i->reg == 2 ? offsetof(struct x86_cpu, cr2) : offsetof(struct x86_cpu, cr3);
    if (i->reg != 2 && i->reg != 3)
        return false;
    uint8_t d = tr_target(i->rm, R11);
    emit_load(&x->e, RCX, emit_frame(offsetof(struct frame, cpu)));
    emit_load(&x->e, d, emit_at(RCX, (int32_t)at));
    tr_put(x, i->rm, d);
    return true;
}

tr_fn *tr_find_system(const struct translation *x)
{
    bool kernel = x->context != X86_TLB_USER;
    switch (x->i->op) {
    case INSN_CLI:
        return kernel ? tr_cli : NULL;
    case INSN_STI:
        return kernel ? tr_sti : NULL;
    case INSN_SWAPGS:
        return kernel ? tr_swapgs : NULL;
    case INSN_MOV_FROM_CR:
        return kernel ? tr_from_control : NULL;
    case INSN_MOV_FROM_SEG:
        return tr_from_segment;
    case INSN_CLD:
        return tr_cld;
    case INSN_PUSHF:
        return tr_pushf;
    default:
        return NULL;
    }
}
