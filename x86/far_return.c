/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Far RET and IRET in all their forms (SDM 2B, RET; 2A, IRET): real mode, from and to virtual-8086
 * mode, protected mode to the same and to outer levels, 64-bit mode, which always pops SS:RSP.
 * IRET with NT set is a task switch (x86/task.c).
 *
 * Everything is popped from a copy of the stack pointer and checked before a register changes.
 *
 * IRET brings NMIs back, also when it faults (SDM 3A, 6.7.1): the one thing that changes before the
 * checks. RF is taken from the image only while a breakpoint is enabled: nobody else can see it but
 * an image of RFLAGS pushed before the next instruction, and the run loop need not clear it after
 * every instruction then.
 */
#include "x86/far.h"

/* --- real mode and virtual-8086 mode
 * -------------------------------------------------------------- */

static int return_real(struct x86_cpu *cpu, uint8_t size, uint16_t release, uint64_t *flags)
{
    struct x86_stack st;
    uint64_t rip, cs;
    x86_stack_current(cpu, 0, &st);
    int s = x86_stack_pop(cpu, &st, size, &rip);
    if (s == X86_OK)
        s = x86_stack_pop(cpu, &st, size, &cs);
    if (s == X86_OK && flags)
        s = x86_stack_pop(cpu, &st, size, flags);
    if (s != X86_OK)
        return s;
    if (rip > cpu->seg[SEG_CS].limit)
        return x86_fault(cpu, X86_GP, 0);
    x86_stack_skip(&st, release);
    x86_stack_commit(cpu, &st);
    x86_segment_set_real(cpu, &cpu->seg[SEG_CS], (uint16_t)cs);
    cpu->rip = rip;
    return X86_OK;
}

/* --- code and stack segments that a return leads to
 * ------------------------------------------------ */

struct far_frame {
    struct x86_descriptor code;
    uint64_t rip, rsp;
    uint64_t flags; /* IRET only */
    uint16_t cs, ss;
    struct x86_segment stack; /* what SS becomes */
};

static int check_return_code(struct x86_cpu *cpu, struct far_frame *f)
{
    if (x86_selector_is_null(f->cs))
        return x86_fault(cpu, X86_GP, 0);
    int s = x86_descriptor_fetch(cpu, f->cs, X86_GP, 0, &f->code);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(f->code.low);
    uint8_t rpl = f->cs & 3, dpl = x86_attr_dpl(attr);
    bool bad = !x86_attr_is_code(attr) || rpl < cpu->cpl || x86_attr_is_bad_long(cpu, attr) ||
               (x86_attr_is_conforming(attr) ? dpl > rpl : dpl != rpl);
    if (unlikely(bad))
        return x86_fault(cpu, X86_GP, x86_selector_error(f->cs, 0));
    if (unlikely(!(attr & X86_ATTR_P)))
        return x86_fault(cpu, X86_NP, x86_selector_error(f->cs, 0));
    return X86_OK;
}

static int check_return_stack(struct x86_cpu *cpu, struct far_frame *f)
{
    uint8_t cpl = f->cs & 3;
    if (x86_selector_is_null(f->ss)) {
        bool to_64 = x86_attr_is_64(cpu, x86_descriptor_attr(f->code.low));
        if (!to_64 || cpl == 3 || f->ss != cpl)
            return x86_fault(cpu, X86_GP, 0);
        x86_segment_set_null(&f->stack, f->ss, cpl);
        return X86_OK;
    }
    struct x86_descriptor d;
    int s = x86_descriptor_fetch(cpu, f->ss, X86_GP, 0, &d);
    if (unlikely(s != X86_OK))
        return s;
    uint32_t attr = x86_descriptor_attr(d.low);
    if (unlikely((f->ss & 3) != cpl || x86_attr_dpl(attr) != cpl || !x86_attr_is_writable(attr)))
        return x86_fault(cpu, X86_GP, x86_selector_error(f->ss, 0));
    if (unlikely(!(attr & X86_ATTR_P)))
        return x86_fault(cpu, X86_SS, x86_selector_error(f->ss, 0));
    s = x86_descriptor_access(cpu, &d);
    x86_segment_set(&f->stack, f->ss, &d);
    return s;
}

/* --- far RET
 * --------------------------------------------------------------------------------------- */

static int return_outer(struct x86_cpu *cpu, uint8_t size, uint16_t release, struct x86_stack *st,
                        struct far_frame *f)
{
    uint64_t ss;
    x86_stack_skip(st, release);
    int s = x86_stack_pop(cpu, st, size, &f->rsp);
    if (s == X86_OK)
        s = x86_stack_pop(cpu, st, size, &ss);
    if (s != X86_OK)
        return s;
    f->ss = (uint16_t)ss;
    s = check_return_stack(cpu, f);
    if (s == X86_OK)
        s = x86_check_target(cpu, &f->code, f->rip, 0);
    if (s == X86_OK)
        s = x86_descriptor_access(cpu, &f->code);
    if (s != X86_OK)
        return s;
    struct x86_stack outer = {.ss = f->stack, .sp = f->rsp};
    outer.width = x86_stack_width(x86_attr_is_64(cpu, x86_descriptor_attr(f->code.low)), &f->stack);
    x86_stack_skip(&outer, release); /* the parameters lie on both stacks */
    cpu->seg[SEG_SS] = f->stack;
    x86_stack_commit(cpu, &outer);
    x86_set_code(cpu, &f->code, f->cs, f->cs & 3, f->rip);
    s = x86_far_done(cpu);
    x86_segments_drop(cpu);
    return s;
}

int x86_far_return(struct x86_cpu *cpu, uint8_t size, uint16_t release)
{
    struct far_frame f;
    struct x86_stack st;
    uint64_t cs;
    int s;
    if (!cpu->protected_mode) {
        s = return_real(cpu, size, release, NULL);
        return s == X86_OK ? x86_far_done(cpu) : s;
    }
    x86_stack_current(cpu, 0, &st);
    s = x86_stack_pop(cpu, &st, size, &f.rip);
    if (s == X86_OK)
        s = x86_stack_pop(cpu, &st, size, &cs);
    if (s != X86_OK)
        return s;
    f.cs = (uint16_t)cs;
    s = check_return_code(cpu, &f);
    if (s != X86_OK)
        return s;
    if ((f.cs & 3) > cpu->cpl)
        return return_outer(cpu, size, release, &st, &f);
    s = x86_check_target(cpu, &f.code, f.rip, 0);
    if (s == X86_OK)
        s = x86_descriptor_access(cpu, &f.code);
    if (s != X86_OK)
        return s;
    x86_stack_skip(&st, release);
    x86_stack_commit(cpu, &st);
    x86_set_code(cpu, &f.code, f.cs, cpu->cpl, f.rip);
    return x86_far_done(cpu);
}

/* --- IRET
 * ------------------------------------------------------------------------------------------ */

enum {
    FLAGS_ALL = X86_FLAGS_STATUS | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT,
    FLAGS_WIDE = X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID, /* in images of 32 and 64 bits */
};

static void load_flags(struct x86_cpu *cpu, uint64_t image, uint64_t mask)
{
    cpu->rflags = (cpu->rflags & ~mask) | (image & mask);
    if (!(cpu->dr7 & 0xFF))
        cpu->rflags &= ~X86_FLAG_RF;
}

/* What IRET in protected mode may change at the CPL that it starts from. */
static uint64_t flags_mask(const struct x86_cpu *cpu, uint8_t size)
{
    uint64_t mask = FLAGS_ALL;
    if (size != 2)
        mask |= FLAGS_WIDE;
    if (cpu->cpl <= (cpu->rflags >> X86_FLAG_IOPL_SHIFT & 3))
        mask |= X86_FLAG_IF;
    if (cpu->cpl == 0) {
        mask |= X86_FLAG_IOPL;
        if (size != 2)
            mask |= X86_FLAG_VIF | X86_FLAG_VIP;
    }
    return mask;
}

static int iret_real(struct x86_cpu *cpu, uint8_t size)
{
    uint64_t flags;
    uint64_t mask = FLAGS_ALL | X86_FLAG_IF;
    if (cpu->v86 && (cpu->rflags & X86_FLAG_IOPL) != X86_FLAG_IOPL)
        return x86_fault(cpu, X86_GP, 0);
    if (!cpu->v86)
        mask |= X86_FLAG_IOPL;
    if (size != 2)
        mask |= FLAGS_WIDE;
    int s = return_real(cpu, size, 0, &flags);
    if (s != X86_OK)
        return s;
    load_flags(cpu, flags, mask);
    return x86_far_done(cpu);
}

/* To virtual-8086 mode: CPL 0, VM set in the image. */
static int iret_to_v86(struct x86_cpu *cpu, struct x86_stack *st, const struct far_frame *f)
{
    enum { ITEMS = 6 };
    static const uint8_t order[ITEMS] = {0, SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint64_t item[ITEMS];
    for (unsigned int n = 0; n < ITEMS; n++) {
        int s = x86_stack_pop(cpu, st, 4, &item[n]);
        if (s != X86_OK)
            return s;
    }
    if (f->rip > 0xFFFF)
        return x86_fault(cpu, X86_GP, 0);
    load_flags(cpu, f->flags, flags_mask(cpu, 4) | X86_FLAG_VM);
    x86_update_mode(cpu); /* v86 from here on: that is how segments are loaded */
    x86_segment_set_real(cpu, &cpu->seg[SEG_CS], f->cs);
    for (unsigned int n = 1; n < ITEMS; n++)
        x86_segment_set_real(cpu, &cpu->seg[order[n]], (uint16_t)item[n]);
    cpu->gpr[RSP] = item[0];
    cpu->rip = f->rip;
    return x86_far_done(cpu);
}

/* The frame is popped and not one of virtual-8086 mode. with_stack: SS:rSP were popped too. */
static int iret_finish(struct x86_cpu *cpu, uint8_t size, struct far_frame *f, bool with_stack)
{
    int s = X86_OK;
    if (with_stack)
        s = check_return_stack(cpu, f);
    if (s == X86_OK)
        s = x86_check_target(cpu, &f->code, f->rip, 0);
    if (s == X86_OK)
        s = x86_descriptor_access(cpu, &f->code);
    if (unlikely(s != X86_OK))
        return s;
    uint8_t cpl = f->cs & 3;
    bool outer = cpl > cpu->cpl;
    load_flags(cpu, f->flags, flags_mask(cpu, size));
    if (with_stack)
        cpu->seg[SEG_SS] = f->stack;
    cpu->gpr[RSP] = f->rsp;
    x86_set_code(cpu, &f->code, f->cs, cpl, f->rip);
    s = x86_far_done(cpu);
    if (outer)
        x86_segments_drop(cpu);
    return s;
}

/* 64-bit mode, 64-bit operand size: five qwords, read in one piece. */
static int iret_64(struct x86_cpu *cpu)
{
    uint64_t frame[5];
    uint64_t linear = cpu->gpr[RSP];
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    if (likely(e->read_tag == x86_tlb_tag(cpu, linear) &&
               (linear & ~PAGE_MASK) <= PAGE_SIZE - sizeof(frame))) {
        const volatile x86_u64 *host = (const volatile x86_u64 *)(uintptr_t)(linear + e->addend);
        for (unsigned int n = 0; n < 5; n++)
            frame[n] = host[n];
    } else {
        int s = x86_linear(cpu, SEG_SS, linear, sizeof(frame), X86_READ, &linear);
        if (s == X86_OK)
            s = x86_read_slow(cpu, linear, frame, sizeof(frame), X86_READ);
        if (s != X86_OK)
            return s;
    }
    struct far_frame f = {
        .rip = frame[0],
        .cs = (uint16_t)frame[1],
        .flags = frame[2],
        .rsp = frame[3],
        .ss = (uint16_t)frame[4],
    };
    int s = check_return_code(cpu, &f);
    return likely(s == X86_OK) ? iret_finish(cpu, 8, &f, true) : s;
}

static int iret_protected(struct x86_cpu *cpu, uint8_t size)
{
    struct far_frame f;
    struct x86_stack st;
    uint64_t cs, ss;
    x86_stack_current(cpu, 0, &st);
    int s = x86_stack_pop(cpu, &st, size, &f.rip);
    if (s == X86_OK)
        s = x86_stack_pop(cpu, &st, size, &cs);
    if (s == X86_OK)
        s = x86_stack_pop(cpu, &st, size, &f.flags);
    if (s != X86_OK)
        return s;
    f.cs = (uint16_t)cs;
    if (f.flags & X86_FLAG_VM && size == 4 && cpu->cpl == 0 && !cpu->long_mode)
        return iret_to_v86(cpu, &st, &f);
    s = check_return_code(cpu, &f);
    if (s != X86_OK)
        return s;
    bool with_stack = cpu->mode == INSN_MODE_64 || (f.cs & 3) > cpu->cpl;
    if (!with_stack) {
        f.rsp = st.sp;
        return iret_finish(cpu, size, &f, false);
    }
    s = x86_stack_pop(cpu, &st, size, &f.rsp);
    if (s == X86_OK)
        s = x86_stack_pop(cpu, &st, size, &ss);
    if (s != X86_OK)
        return s;
    f.ss = (uint16_t)ss;
    return iret_finish(cpu, size, &f, true);
}

int x86_iret(struct x86_cpu *cpu, uint8_t size)
{
    cpu->nmi_masked = false;
    if (likely(cpu->long_mode)) {
        if (unlikely(cpu->rflags & X86_FLAG_NT))
            return x86_fault(cpu, X86_GP, 0);
        if (likely(size == 8))
            return iret_64(cpu);
        return iret_protected(cpu, size);
    }
    if (!cpu->protected_mode)
        return iret_real(cpu, size);
    if (cpu->rflags & X86_FLAG_NT)
        return x86_task_return(cpu);
    return iret_protected(cpu, size);
}
