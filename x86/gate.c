/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Delivery through the IDT: interrupt, trap and task gates (SDM 3A, 6.10 to 6.14; the order of
 * checks is that of the INT instruction's pseudocode, SDM 2A).
 *
 * Two functions: protected mode with its 16- and 32-bit gates and the frame that leaves
 * virtual-8086 mode, and long mode, whose delivery from user and kernel code is the hottest far
 * transfer there is and therefore written straight: one 16-byte gate, one code descriptor, one
 * stack pointer from the TSS, one block of pushes.
 *
 * Everything is checked and the frame is written below the stack pointer before any register
 * changes, so a fault on the way leaves the processor as it was. The frame's bytes may then be in
 * memory already; the next delivery writes them again.
 */
#include "x86/far.h"

uint32_t x86_event_idt_error(const struct x86_event *ev)
{
    return (uint32_t)ev->vector << 3 | (uint32_t)X86_ERROR_IDT | ev->ext;
}

static bool is_software(const struct x86_event *ev)
{
    return ev->kind == X86_EVENT_INT_N || ev->kind == X86_EVENT_INT3;
}

uint64_t x86_event_flags(const struct x86_cpu *cpu, const struct x86_event *ev)
{
    switch (ev->kind) {
    case X86_EVENT_EXCEPTION:
        /* Faults set RF in the image, so that an instruction breakpoint does not hit twice; traps
         * and #DB itself do not (SDM 3B, 17.3.1.1). */
        if (ev->vector == X86_DB || ev->vector == X86_BP || ev->vector == X86_OF)
            return cpu->rflags;
        return cpu->rflags | X86_FLAG_RF;
    case X86_EVENT_INT_N:
    case X86_EVENT_INT3:
    case X86_EVENT_INT1:
        return cpu->rflags & ~X86_FLAG_RF; /* the instruction has completed */
    case X86_EVENT_EXTERNAL:
    case X86_EVENT_NMI:
    default:
        return cpu->rflags;
    }
}

/* --- long mode ----------------------------------------------------------------------------------
 */

/* The frame, lowest address first. Where it cannot be stored at once it is pushed item by item from
 * the top, so that a page fault names the address that hardware would name. */
static int write_frame(struct x86_cpu *cpu, uint64_t linear, const uint64_t *frame, uint32_t count,
                       int access)
{
    struct x86_tlb_entry *table = access ? cpu->tlb_table[X86_TLB_KERNEL] : cpu->tlb;
    const struct x86_tlb_entry *e = &table[(linear >> PAGE_SHIFT) & (X86_TLB_SIZE - 1)];
    uint32_t size = count * 8;
    if (likely(e->write_tag == x86_tlb_tag(cpu, linear) &&
               (linear & ~PAGE_MASK) <= PAGE_SIZE - size)) {
        volatile x86_u64 *host = (volatile x86_u64 *)(uintptr_t)(linear + e->addend);
        for (uint32_t n = 0; n < count; n++)
            host[n] = frame[n];
        x86_note_store(cpu, (const void *)(uintptr_t)host);
        return X86_OK;
    }
    int s = X86_OK;
    for (uint32_t n = count; s == X86_OK && n > 0; n--)
        s = x86_write_slow(cpu, linear + (n - 1) * 8, &frame[n - 1], 8, X86_WRITE | access);
    return s;
}

/* RSP from the 64-bit TSS: RSPn or ISTn, by its offset (SDM 3A, figure 7-11). */
static int tss_rsp(struct x86_cpu *cpu, uint32_t offset, uint32_t ext, uint64_t *rsp)
{
    if (offset + 7 > cpu->tr.limit || cpu->tr.attr & X86_ATTR_UNUSABLE)
        return x86_fault(cpu, X86_TS, x86_selector_error(cpu->tr.selector, ext));
    return x86_system_read64(cpu, cpu->tr.base + offset, rsp);
}

/* Reads the gate and checks it against the event. */
static int long_gate(struct x86_cpu *cpu, const struct x86_event *ev, uint64_t *low, uint64_t *high)
{
    uint32_t offset = (uint32_t)ev->vector * 16;
    if (unlikely(offset + 15 > cpu->idtr.limit))
        return x86_fault(cpu, X86_GP, x86_event_idt_error(ev));
    int s = x86_system_read64(cpu, cpu->idtr.base + offset, low);
    if (s == X86_OK)
        s = x86_system_read64(cpu, cpu->idtr.base + offset + 8, high);
    if (unlikely(s != X86_OK))
        return s;
    uint32_t attr = x86_descriptor_attr(*low);
    uint32_t type = attr & (X86_ATTR_S | X86_ATTR_TYPE);
    if (unlikely(type != X86_TYPE_INTERRUPT_GATE && type != X86_TYPE_TRAP_GATE))
        return x86_fault(cpu, X86_GP, x86_event_idt_error(ev));
    if (unlikely(is_software(ev) && x86_attr_dpl(attr) < cpu->cpl))
        return x86_fault(cpu, X86_GP, x86_event_idt_error(ev));
    if (unlikely(!(attr & X86_ATTR_P)))
        return x86_fault(cpu, X86_NP, x86_event_idt_error(ev));
    return X86_OK;
}

static int long_code(struct x86_cpu *cpu, uint16_t selector, uint32_t ext, struct x86_descriptor *d)
{
    if (unlikely(x86_selector_is_null(selector)))
        return x86_fault(cpu, X86_GP, ext);
    int s = x86_descriptor_fetch(cpu, selector, X86_GP, ext, d);
    if (unlikely(s != X86_OK))
        return s;
    uint32_t attr = x86_descriptor_attr(d->low);
    if (unlikely(!x86_attr_is_code(attr) || x86_attr_dpl(attr) > cpu->cpl ||
                 (attr & (X86_ATTR_L | X86_ATTR_DB)) != X86_ATTR_L))
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, ext));
    if (unlikely(!(attr & X86_ATTR_P)))
        return x86_fault(cpu, X86_NP, x86_selector_error(selector, ext));
    return x86_descriptor_access(cpu, d);
}

int x86_gate_deliver_long(struct x86_cpu *cpu, const struct x86_event *ev)
{
    uint64_t low, high;
    struct x86_descriptor code;
    int s = long_gate(cpu, ev, &low, &high);
    if (unlikely(s != X86_OK))
        return s;
    uint16_t selector = x86_gate_selector(low);
    s = long_code(cpu, selector, ev->ext, &code);
    if (unlikely(s != X86_OK))
        return s;

    uint32_t attr = x86_descriptor_attr(code.low);
    uint8_t cpl = x86_attr_is_conforming(attr) ? cpu->cpl : x86_attr_dpl(attr);
    uint32_t ist = low >> 32 & 7;
    uint64_t rsp = cpu->gpr[RSP];
    if (ist || cpl != cpu->cpl) {
        s = tss_rsp(cpu, ist ? 28 + ist * 8 : 4 + cpl * 8u, ev->ext, &rsp);
        if (unlikely(s != X86_OK))
            return s;
    }
    rsp &= ~(uint64_t)15;

    uint64_t rip = x86_gate_offset(low) | high << 32;
    uint64_t frame[6] = {
        ev->error,
        cpu->rip,
        cpu->seg[SEG_CS].selector,
        x86_event_flags(cpu, ev),
        cpu->gpr[RSP],
        cpu->seg[SEG_SS].selector,
    };
    uint32_t first = ev->has_error ? 0 : 1;
    uint64_t top = rsp;
    rsp -= (6 - first) * 8;
    if (unlikely(!x86_is_canonical(rsp) || !x86_is_canonical(top - 1)))
        return x86_fault(cpu, X86_SS, ev->ext);
    if (unlikely(!x86_is_canonical(rip)))
        return x86_fault(cpu, X86_GP, ev->ext);
    s = write_frame(cpu, rsp, frame + first, 6 - first, cpl != cpu->cpl ? X86_SYSTEM : 0);
    if (unlikely(s != X86_OK))
        return s;

    if (cpl != cpu->cpl)
        x86_segment_set_null(&cpu->seg[SEG_SS], cpl, cpl);
    cpu->gpr[RSP] = rsp;
    cpu->rflags &= ~(X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM);
    if (x86_attr_system_type(x86_descriptor_attr(low)) == X86_TYPE_INTERRUPT_GATE)
        cpu->rflags &= ~X86_FLAG_IF;
    x86_set_code(cpu, &code, selector, cpl, rip);
    return x86_far_done(cpu);
}

/* --- stacks of inner levels ---------------------------------------------------------------------
 */

/* SS:ESP for CPL `dpl` as the TSS has it (SDM 3A, figures 7-2 and 7-10). */
static int tss_pointer(struct x86_cpu *cpu, uint8_t dpl, uint32_t ext, uint16_t *ss, uint32_t *esp)
{
    bool wide = x86_attr_system_type(cpu->tr.attr) & 8;
    uint32_t offset = wide ? dpl * 8u + 4 : dpl * 4u + 2;
    uint32_t last = offset + (wide ? 5 : 3);
    if (last > cpu->tr.limit || cpu->tr.attr & X86_ATTR_UNUSABLE)
        return x86_fault(cpu, X86_TS, x86_selector_error(cpu->tr.selector, ext));
    uint8_t raw[6];
    int s = x86_system_read(cpu, cpu->tr.base + offset, raw, wide ? 6 : 4);
    if (s != X86_OK)
        return s;
    *esp = wide ? load_u32(raw) : load_u16(raw);
    *ss = wide ? load_u16(raw + 4) : load_u16(raw + 2);
    return X86_OK;
}

static int tss_stack_long(struct x86_cpu *cpu, uint8_t dpl, uint32_t ext, struct x86_stack *st)
{
    x86_segment_set_null(&st->ss, dpl, dpl);
    st->width = 8;
    st->access = X86_SYSTEM;
    st->error = ext;
    return tss_rsp(cpu, 4 + dpl * 8u, ext, &st->sp);
}

int x86_tss_stack(struct x86_cpu *cpu, uint8_t dpl, uint32_t ext, struct x86_stack *st)
{
    if (cpu->long_mode)
        return tss_stack_long(cpu, dpl, ext, st);
    uint16_t selector = 0;
    uint32_t esp = 0;
    struct x86_descriptor d;
    int s = tss_pointer(cpu, dpl, ext, &selector, &esp);
    if (s != X86_OK)
        return s;
    if (x86_selector_is_null(selector))
        return x86_fault(cpu, X86_TS, ext);
    uint32_t error = x86_selector_error(selector, ext);
    s = x86_descriptor_fetch(cpu, selector, X86_TS, ext, &d);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(d.low);
    if ((selector & 3) != dpl || x86_attr_dpl(attr) != dpl || !x86_attr_is_writable(attr))
        return x86_fault(cpu, X86_TS, error);
    if (!(attr & X86_ATTR_P))
        return x86_fault(cpu, X86_SS, error);
    s = x86_descriptor_access(cpu, &d);
    if (s != X86_OK)
        return s;
    x86_segment_set(&st->ss, selector, &d);
    st->sp = esp;
    st->width = x86_stack_width(false, &st->ss);
    st->access = X86_SYSTEM;
    st->error = error;
    return X86_OK;
}

/* --- protected mode and virtual-8086 mode -------------------------------------------------------
 */

static int legacy_gate(struct x86_cpu *cpu, const struct x86_event *ev, uint64_t *gate)
{
    uint32_t offset = (uint32_t)ev->vector * 8;
    if (offset + 7 > cpu->idtr.limit)
        return x86_fault(cpu, X86_GP, x86_event_idt_error(ev));
    int s = x86_system_read64(cpu, cpu->idtr.base + offset, gate);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(*gate);
    uint8_t type = x86_attr_system_type(attr);
    if (type != X86_TYPE_TASK_GATE && (type & 6) != 6)
        return x86_fault(cpu, X86_GP, x86_event_idt_error(ev));
    if (is_software(ev) && x86_attr_dpl(attr) < cpu->cpl)
        return x86_fault(cpu, X86_GP, x86_event_idt_error(ev));
    if (!(attr & X86_ATTR_P))
        return x86_fault(cpu, X86_NP, x86_event_idt_error(ev));
    return X86_OK;
}

/* The gate's code segment; *cpl is the level that the handler will have. */
static int legacy_code(struct x86_cpu *cpu, uint16_t selector, uint32_t ext,
                       struct x86_descriptor *d, uint8_t *cpl)
{
    if (x86_selector_is_null(selector))
        return x86_fault(cpu, X86_GP, ext);
    int s = x86_descriptor_fetch(cpu, selector, X86_GP, ext, d);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(d->low);
    if (!x86_attr_is_code(attr) || x86_attr_dpl(attr) > cpu->cpl)
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, ext));
    if (!(attr & X86_ATTR_P))
        return x86_fault(cpu, X86_NP, x86_selector_error(selector, ext));
    *cpl = x86_attr_is_conforming(attr) ? cpu->cpl : x86_attr_dpl(attr);
    /* virtual-8086 mode is left to CPL 0 only */
    if (cpu->v86 && *cpl != 0)
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, ext));
    return x86_descriptor_access(cpu, d);
}

/* Pushes the frame of `size`-byte items: SS:ESP if the stack is another one, before that the data
 * segments if virtual-8086 mode is left, after it the error code if there is one. */
static int push_frame(struct x86_cpu *cpu, const struct x86_event *ev, struct x86_stack *st,
                      uint8_t size, bool inner)
{
    uint64_t item[10];
    uint32_t count = 0;
    if (cpu->v86) {
        item[count++] = cpu->seg[SEG_GS].selector;
        item[count++] = cpu->seg[SEG_FS].selector;
        item[count++] = cpu->seg[SEG_DS].selector;
        item[count++] = cpu->seg[SEG_ES].selector;
    }
    if (inner) {
        item[count++] = cpu->seg[SEG_SS].selector;
        item[count++] = cpu->gpr[RSP];
    }
    item[count++] = x86_event_flags(cpu, ev);
    item[count++] = cpu->seg[SEG_CS].selector;
    item[count++] = cpu->rip;
    if (ev->has_error)
        item[count++] = ev->error;
    int s = x86_stack_check(cpu, st, count, size);
    for (uint32_t n = 0; s == X86_OK && n < count; n++)
        s = x86_stack_push(cpu, st, size, item[n]);
    return s;
}

int x86_gate_deliver(struct x86_cpu *cpu, struct x86_event *ev)
{
    uint64_t gate;
    struct x86_descriptor code;
    struct x86_stack st;
    uint8_t cpl = 0;
    int s = legacy_gate(cpu, ev, &gate);
    if (s != X86_OK)
        return s;
    uint16_t selector = x86_gate_selector(gate);
    uint8_t type = x86_attr_system_type(x86_descriptor_attr(gate));
    if (type == X86_TYPE_TASK_GATE)
        return x86_task_deliver(cpu, ev, selector);
    s = legacy_code(cpu, selector, ev->ext, &code, &cpl);
    if (s != X86_OK)
        return s;

    bool inner = cpl != cpu->cpl;
    if (inner)
        s = x86_tss_stack(cpu, cpl, ev->ext, &st);
    else
        x86_stack_current(cpu, ev->ext, &st);
    if (s != X86_OK)
        return s;
    uint64_t rip = type & 8 ? x86_gate_offset(gate) : (uint16_t)gate;
    s = x86_check_target(cpu, &code, rip, ev->ext);
    if (s == X86_OK)
        s = push_frame(cpu, ev, &st, type & 8 ? 4 : 2, inner);
    if (s != X86_OK)
        return s;

    if (cpu->v86) {
        static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
        for (unsigned int n = 0; n < sizeof(data); n++)
            x86_segment_set_null(&cpu->seg[data[n]], 0, 0);
    }
    if (inner)
        cpu->seg[SEG_SS] = st.ss;
    x86_stack_commit(cpu, &st);
    cpu->rflags &= ~(X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM);
    if (!(type & 1))
        cpu->rflags &= ~X86_FLAG_IF;
    x86_set_code(cpu, &code, selector, cpl, rip);
    return x86_far_done(cpu);
}
