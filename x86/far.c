/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Far JMP and CALL (SDM 2A, CALL and JMP): to code segments, through call gates with or without a
 * change of privilege, and what all far transfers share. Tasks are x86/task.c's, returns
 * x86/far_return.c's.
 *
 * The checks stand in the order of the manual's pseudocode. Pushes go to a stack on the side
 * (struct x86_stack), registers change when nothing can fault any more.
 */
#include "x86/far.h"

int x86_check_target(struct x86_cpu *cpu, const struct x86_descriptor *code, uint64_t rip,
                     uint32_t ext)
{
    bool ok = x86_attr_is_64(cpu, x86_descriptor_attr(code->low))
                  ? x86_is_canonical(rip)
                  : rip <= x86_descriptor_limit(code->low);
    return ok ? X86_OK : x86_fault(cpu, X86_GP, ext);
}

void x86_set_code(struct x86_cpu *cpu, const struct x86_descriptor *code, uint16_t selector,
                  uint8_t cpl, uint64_t rip)
{
    x86_segment_set(&cpu->seg[SEG_CS], (uint16_t)((selector & 0xFFFC) | cpl), code);
    cpu->rip = rip;
}

int x86_far_done(struct x86_cpu *cpu)
{
    cpu->shadow = 0;
    x86_update_mode(cpu);
    return X86_JUMP;
}

/* --- real and virtual-8086 mode ------------------------------------------------------------------
 */

static int transfer_real(struct x86_cpu *cpu, uint8_t size, uint16_t selector, uint64_t offset,
                         bool call)
{
    struct x86_stack st;
    x86_stack_current(cpu, 0, &st);
    if (call) {
        int s = x86_stack_check(cpu, &st, 2, size);
        if (s != X86_OK)
            return s;
    }
    if (offset > cpu->seg[SEG_CS].limit)
        return x86_fault(cpu, X86_GP, 0);
    if (call) {
        int s = x86_stack_push(cpu, &st, size, cpu->seg[SEG_CS].selector);
        if (s == X86_OK)
            s = x86_stack_push(cpu, &st, size, cpu->rip);
        if (s != X86_OK)
            return s;
        x86_stack_commit(cpu, &st);
    }
    x86_segment_set_real(cpu, &cpu->seg[SEG_CS], selector);
    cpu->rip = offset;
    return x86_far_done(cpu);
}

/* --- to a code segment ---------------------------------------------------------------------------
 */

static int check_code(struct x86_cpu *cpu, uint16_t selector, uint32_t attr)
{
    uint8_t dpl = x86_attr_dpl(attr);
    bool allowed = x86_attr_is_conforming(attr) ? dpl <= cpu->cpl
                                                : (selector & 3) <= cpu->cpl && dpl == cpu->cpl;
    if (!allowed || x86_attr_is_bad_long(cpu, attr))
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    if (!(attr & X86_ATTR_P))
        return x86_fault(cpu, X86_NP, x86_selector_error(selector, 0));
    return X86_OK;
}

/* Room, target, return address: the tail of all calls that stay on their level. */
static int call_same(struct x86_cpu *cpu, struct x86_descriptor *code, uint16_t selector,
                     uint64_t rip, uint8_t size, struct x86_stack *st)
{
    int s = x86_stack_check(cpu, st, 2, size);
    if (s == X86_OK)
        s = x86_check_target(cpu, code, rip, 0);
    if (s == X86_OK)
        s = x86_descriptor_access(cpu, code);
    if (s == X86_OK)
        s = x86_stack_push(cpu, st, size, cpu->seg[SEG_CS].selector);
    if (s == X86_OK)
        s = x86_stack_push(cpu, st, size, cpu->rip);
    if (s != X86_OK)
        return s;
    x86_stack_commit(cpu, st);
    x86_set_code(cpu, code, selector, cpu->cpl, rip);
    return x86_far_done(cpu);
}

static int jump_same(struct x86_cpu *cpu, struct x86_descriptor *code, uint16_t selector,
                     uint64_t rip)
{
    int s = x86_check_target(cpu, code, rip, 0);
    if (s == X86_OK)
        s = x86_descriptor_access(cpu, code);
    if (s != X86_OK)
        return s;
    x86_set_code(cpu, code, selector, cpu->cpl, rip);
    return x86_far_done(cpu);
}

/* --- through a call gate -------------------------------------------------------------------------
 */

struct call_gate {
    struct x86_descriptor code;
    uint64_t rip;
    uint16_t selector;
    uint8_t size;       /* of the items that it pushes */
    uint8_t parameters; /* items to copy from the outer stack */
};

static int gate_code(struct x86_cpu *cpu, struct call_gate *g, bool jump)
{
    if (x86_selector_is_null(g->selector))
        return x86_fault(cpu, X86_GP, 0);
    int s = x86_descriptor_fetch(cpu, g->selector, X86_GP, 0, &g->code);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(g->code.low);
    uint8_t dpl = x86_attr_dpl(attr);
    bool bad = !x86_attr_is_code(attr) || dpl > cpu->cpl;
    bad |= jump && !x86_attr_is_conforming(attr) && dpl != cpu->cpl;
    bad |= cpu->long_mode && (attr & (X86_ATTR_L | X86_ATTR_DB)) != X86_ATTR_L;
    if (bad)
        return x86_fault(cpu, X86_GP, x86_selector_error(g->selector, 0));
    if (!(attr & X86_ATTR_P))
        return x86_fault(cpu, X86_NP, x86_selector_error(g->selector, 0));
    return X86_OK;
}

static int open_gate(struct x86_cpu *cpu, uint16_t selector, struct x86_descriptor *d, bool jump,
                     struct call_gate *g)
{
    uint32_t attr = x86_descriptor_attr(d->low);
    uint8_t dpl = x86_attr_dpl(attr);
    int s = x86_descriptor_fetch_high(cpu, selector, X86_GP, 0, d);
    if (s != X86_OK)
        return s;
    if (dpl < cpu->cpl || dpl < (selector & 3))
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    if (!(attr & X86_ATTR_P))
        return x86_fault(cpu, X86_NP, x86_selector_error(selector, 0));
    g->selector = x86_gate_selector(d->low);
    if (x86_attr_system_type(attr) == X86_TYPE_CALL_GATE) {
        g->size = cpu->long_mode ? 8 : 4;
        g->rip = x86_gate_offset(d->low) | d->high << 32;
    } else {
        g->size = 2;
        g->rip = d->low & 0xFFFF;
    }
    g->parameters = cpu->long_mode ? 0 : d->low >> 32 & 31;
    return gate_code(cpu, g, jump);
}

/* SS:rSP, parameters and return address onto the inner stack. */
static int push_inner_frame(struct x86_cpu *cpu, const struct call_gate *g, struct x86_stack *st)
{
    uint64_t parameter[31];
    struct x86_stack outer;
    int s = X86_OK;
    x86_stack_current(cpu, 0, &outer);
    for (unsigned int n = 0; s == X86_OK && n < g->parameters; n++)
        s = x86_stack_pop(cpu, &outer, g->size, &parameter[n]);
    if (s == X86_OK)
        s = x86_stack_push(cpu, st, g->size, cpu->seg[SEG_SS].selector);
    if (s == X86_OK)
        s = x86_stack_push(cpu, st, g->size, cpu->gpr[RSP]);
    for (unsigned int n = g->parameters; s == X86_OK && n > 0; n--)
        s = x86_stack_push(cpu, st, g->size, parameter[n - 1]);
    if (s == X86_OK)
        s = x86_stack_push(cpu, st, g->size, cpu->seg[SEG_CS].selector);
    if (s == X86_OK)
        s = x86_stack_push(cpu, st, g->size, cpu->rip);
    return s;
}

static int call_inner(struct x86_cpu *cpu, struct call_gate *g)
{
    uint8_t cpl = x86_attr_dpl(x86_descriptor_attr(g->code.low));
    struct x86_stack st;
    int s = x86_tss_stack(cpu, cpl, 0, &st);
    if (s == X86_OK)
        s = x86_stack_check(cpu, &st, 4u + g->parameters, g->size);
    if (s == X86_OK)
        s = x86_check_target(cpu, &g->code, g->rip, 0);
    if (s == X86_OK)
        s = x86_descriptor_access(cpu, &g->code);
    if (s == X86_OK)
        s = push_inner_frame(cpu, g, &st);
    if (s != X86_OK)
        return s;
    cpu->seg[SEG_SS] = st.ss;
    x86_stack_commit(cpu, &st);
    x86_set_code(cpu, &g->code, g->selector, cpl, g->rip);
    return x86_far_done(cpu);
}

static int call_gate(struct x86_cpu *cpu, uint16_t selector, struct x86_descriptor *d)
{
    struct call_gate g;
    struct x86_stack st;
    int s = open_gate(cpu, selector, d, false, &g);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(g.code.low);
    if (!x86_attr_is_conforming(attr) && x86_attr_dpl(attr) < cpu->cpl)
        return call_inner(cpu, &g);
    x86_stack_current(cpu, 0, &st);
    if (cpu->long_mode)
        st.width = 8; /* the gate leads to 64-bit mode, also from compatibility mode */
    return call_same(cpu, &g.code, g.selector, g.rip, g.size, &st);
}

static int jump_gate(struct x86_cpu *cpu, uint16_t selector, struct x86_descriptor *d)
{
    struct call_gate g;
    int s = open_gate(cpu, selector, d, true, &g);
    return s == X86_OK ? jump_same(cpu, &g.code, g.selector, g.rip) : s;
}

/* --- the instructions ----------------------------------------------------------------------------
 */

/* What a system descriptor is to a far JMP or CALL. */
enum system_target { TARGET_NONE, TARGET_CALL_GATE, TARGET_TASK };

static enum system_target system_target_of(const struct x86_cpu *cpu, uint32_t attr)
{
    switch (x86_attr_system_type(attr)) {
    case X86_TYPE_CALL_GATE:
        return TARGET_CALL_GATE;
    case X86_TYPE_CALL_GATE16:
        return cpu->long_mode ? TARGET_NONE : TARGET_CALL_GATE;
    case X86_TYPE_TSS:
    case X86_TYPE_TSS16:
    case X86_TYPE_TASK_GATE:
        return cpu->long_mode ? TARGET_NONE : TARGET_TASK;
    default:
        return TARGET_NONE;
    }
}

int x86_far_jump(struct x86_cpu *cpu, uint8_t size, uint16_t selector, uint64_t offset)
{
    offset &= x86_size_mask(size);
    if (!cpu->protected_mode)
        return transfer_real(cpu, size, selector, offset, false);
    if (x86_selector_is_null(selector))
        return x86_fault(cpu, X86_GP, 0);
    struct x86_descriptor d;
    int s = x86_descriptor_fetch(cpu, selector, X86_GP, 0, &d);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(d.low);
    if (x86_attr_is_code(attr)) {
        s = check_code(cpu, selector, attr);
        return s == X86_OK ? jump_same(cpu, &d, selector, offset) : s;
    }
    switch (system_target_of(cpu, attr)) {
    case TARGET_CALL_GATE:
        return jump_gate(cpu, selector, &d);
    case TARGET_TASK:
        return x86_task_transfer(cpu, X86_TASK_JUMP, selector, &d);
    case TARGET_NONE:
    default:
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    }
}

int x86_far_call(struct x86_cpu *cpu, uint8_t size, uint16_t selector, uint64_t offset)
{
    offset &= x86_size_mask(size);
    if (!cpu->protected_mode)
        return transfer_real(cpu, size, selector, offset, true);
    if (x86_selector_is_null(selector))
        return x86_fault(cpu, X86_GP, 0);
    struct x86_descriptor d;
    int s = x86_descriptor_fetch(cpu, selector, X86_GP, 0, &d);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(d.low);
    if (x86_attr_is_code(attr)) {
        struct x86_stack st;
        s = check_code(cpu, selector, attr);
        if (s != X86_OK)
            return s;
        x86_stack_current(cpu, 0, &st);
        return call_same(cpu, &d, selector, offset, size, &st);
    }
    switch (system_target_of(cpu, attr)) {
    case TARGET_CALL_GATE:
        return call_gate(cpu, selector, &d);
    case TARGET_TASK:
        return x86_task_transfer(cpu, X86_TASK_CALL, selector, &d);
    case TARGET_NONE:
    default:
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    }
}
