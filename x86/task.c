/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Hardware task switch (SDM 3A, chapter 7): by far JMP and CALL to a TSS or task gate, by a task
 * gate of the IDT, by IRET with NT. Both formats of TSS; there is none of this in long mode.
 *
 * A switch has a point of no return (7.3, step 12). Before it everything is checked and every
 * place in memory that will be written is probed, so that a fault leaves the old task as it was
 * (bad-inputs J13). After it faults belong to the new task: its selectors and RIP are loaded, what
 * could not be qualified is unusable, and the exception is delivered in its context.
 *
 * Not done: the locked bus around the whole of it. Another processor that looks at the TSS
 * meanwhile sees the old or the new value of each field.
 */
#include "x86/far.h"

/* Where things are in the two formats (SDM 3A, figures 7-2 and 7-10). A table. */
struct tss_format {
    uint8_t limit;    /* the least that a TSS of this format must have */
    uint8_t item;     /* size of registers: 2 or 4 */
    uint8_t rip;      /* RIP, flags and eight registers follow one another from here */
    uint8_t segments; /* ES, CS, SS, DS and (32-bit) FS, GS, an item each */
    uint8_t segment_count;
    uint8_t ldt;
};

static const struct tss_format tss16 = {0x2B, 2, 0x0E, 0x22, 4, 0x2A};
static const struct tss_format tss32 = {0x67, 4, 0x20, 0x48, 6, 0x60};

enum { TSS_CR3 = 0x1C, TSS_TRAP = 0x64, TSS_MAX = 0x68 };

static const struct tss_format *format_of(uint32_t attr)
{
    return x86_attr_system_type(attr) & 8 ? &tss32 : &tss16;
}

static void put_item(const struct tss_format *f, uint8_t *at, uint64_t v)
{
    if (f->item == 4)
        store_u32(at, (uint32_t)v);
    else
        store_u16(at, (uint16_t)v);
}

static uint32_t get_item(const struct tss_format *f, const uint8_t *at)
{
    return f->item == 4 ? load_u32(at) : load_u16(at);
}

/* --- before the point of no return
 * ----------------------------------------------------------------- */

static int probe(struct x86_cpu *cpu, uint64_t linear, uint32_t size)
{
    uint8_t byte;
    /* Both ends: an access of up to 104 bytes touches two pages at most. */
    for (int end = 0; end < 2; end++) {
        void *host;
        uint64_t a = (uint32_t)(linear + (end ? size - 1 : 0));
        int s = x86_mem_host_slow(cpu, a, 1, X86_WRITE | X86_SYSTEM, &host);
        if (s == X86_OK)
            s = x86_system_read(cpu, a, &byte, 1);
        if (s != X86_OK)
            return s;
    }
    return X86_OK;
}

static int read_tss(struct x86_cpu *cpu, uint64_t base, const struct tss_format *f, uint8_t *image)
{
    uint32_t size = f->limit + 1u;
    uint32_t half = size / 2;
    int s = x86_system_read(cpu, base, image, half);
    return s == X86_OK ? x86_system_read(cpu, base + half, image + half, size - half) : s;
}

/* The registers that a task switch saves, from RIP to the last segment. */
static int save_old(struct x86_cpu *cpu, uint64_t flags)
{
    const struct tss_format *f = format_of(cpu->tr.attr);
    uint8_t image[64];
    uint8_t *at = image;
    put_item(f, at, cpu->rip);
    put_item(f, at += f->item, flags);
    for (unsigned int n = 0; n < 8; n++)
        put_item(f, at += f->item, cpu->gpr[n]);
    for (unsigned int n = 0; n < f->segment_count; n++)
        put_item(f, at += f->item, cpu->seg[n].selector);
    uint32_t size = (uint32_t)(at + f->item - image);
    return x86_system_write(cpu, cpu->tr.base + f->rip, image, size);
}

/* All that can fault before the switch, but for the store of the old state. */
static int check_switch(struct x86_cpu *cpu, uint16_t selector, const struct x86_descriptor *d,
                        uint32_t ext, uint8_t *image)
{
    uint32_t attr = x86_descriptor_attr(d->low);
    const struct tss_format *from = format_of(cpu->tr.attr), *to = format_of(attr);
    if (!(attr & X86_ATTR_P))
        return x86_fault(cpu, X86_NP, x86_selector_error(selector, ext));
    if (x86_descriptor_limit(d->low) < to->limit)
        return x86_fault(cpu, X86_TS, x86_selector_error(selector, ext));
    if (cpu->tr.attr & X86_ATTR_UNUSABLE || cpu->tr.limit < from->limit)
        return x86_fault(cpu, X86_TS, x86_selector_error(cpu->tr.selector, ext));
    uint64_t old;
    uint64_t base = x86_descriptor_base(d->low);
    int s = read_tss(cpu, base, to, image);
    if (s == X86_OK)
        s = probe(cpu, base, 2);
    if (s == X86_OK)
        s = probe(cpu, d->linear + 5, 1);
    if (s == X86_OK && x86_descriptor_find(cpu, cpu->tr.selector, 8, &old))
        s = probe(cpu, old + 5, 1);
    return s;
}

/* --- after it
 * --------------------------------------------------------------------------------------- */

static int load_ldt(struct x86_cpu *cpu, uint16_t selector, uint32_t ext)
{
    struct x86_descriptor d;
    x86_segment_set_null(&cpu->ldtr, selector, 0);
    if (x86_selector_is_null(selector))
        return X86_OK;
    uint32_t error = x86_selector_error(selector, ext);
    if (selector & 4)
        return x86_fault(cpu, X86_TS, error);
    int s = x86_descriptor_fetch(cpu, selector, X86_TS, ext, &d);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(d.low);
    if (x86_attr_system_type(attr) != X86_TYPE_LDT || !(attr & X86_ATTR_P))
        return x86_fault(cpu, X86_TS, error);
    x86_segment_set(&cpu->ldtr, selector, &d);
    return X86_OK;
}

/* May the segment be in that register of a task with CPL `cpl` (SDM 3A, table 7-1)? */
static bool is_valid(uint8_t seg, uint16_t selector, uint32_t attr, uint8_t cpl)
{
    uint8_t dpl = x86_attr_dpl(attr), rpl = selector & 3;
    bool conforming = x86_attr_is_code(attr) && x86_attr_is_conforming(attr);
    if (seg == SEG_CS)
        return x86_attr_is_code(attr) && (conforming ? dpl <= rpl : dpl == rpl);
    if (seg == SEG_SS)
        return x86_attr_is_writable(attr) && dpl == cpl && rpl == cpl;
    return x86_attr_is_readable(attr) && (conforming || (dpl >= cpl && dpl >= rpl));
}

static int load_segment(struct x86_cpu *cpu, uint8_t seg, uint8_t cpl, uint32_t ext)
{
    uint16_t selector = cpu->seg[seg].selector;
    uint32_t error = x86_selector_error(selector, ext);
    struct x86_descriptor d;
    if (x86_selector_is_null(selector))
        return seg == SEG_CS || seg == SEG_SS ? x86_fault(cpu, X86_TS, error) : X86_OK;
    int s = x86_descriptor_fetch(cpu, selector, X86_TS, ext, &d);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(d.low);
    if (!is_valid(seg, selector, attr, cpl))
        return x86_fault(cpu, X86_TS, error);
    if (!(attr & X86_ATTR_P))
        return x86_fault(cpu, seg == SEG_SS ? X86_SS : X86_NP, error);
    s = x86_descriptor_access(cpu, &d);
    if (s == X86_OK)
        x86_segment_set(&cpu->seg[seg], selector, &d);
    return s;
}

static void load_registers(struct x86_cpu *cpu, const struct tss_format *f, const uint8_t *image)
{
    /* Those that have a meaning; the rest of the image is ignored. */
    const uint64_t flags_mask = 0x3F7FD5;
    const uint8_t *at = image + f->rip;
    cpu->rip = get_item(f, at);
    cpu->rflags = (get_item(f, at += f->item) & flags_mask) | X86_FLAG_ONE;
    for (unsigned int n = 0; n < 8; n++)
        cpu->gpr[n] = get_item(f, at += f->item);
}

/* Selectors first, so that a fault's handler finds the new ones; then what they stand for. */
static int load_segments(struct x86_cpu *cpu, const struct tss_format *f, const uint8_t *image,
                         uint32_t ext)
{
    static const uint8_t order[] = {SEG_CS, SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    const uint8_t *at = image + f->segments;
    uint16_t cs = load_u16(at + SEG_CS * f->item);
    bool v86 = cpu->rflags & X86_FLAG_VM;
    x86_update_mode(cpu); /* of the flags; x86_segment_set_real asks for v86 */
    for (uint8_t seg = 0; seg < SEG_COUNT; seg++) {
        uint16_t selector = seg < f->segment_count ? load_u16(at + seg * f->item) : 0;
        if (v86)
            x86_segment_set_real(cpu, &cpu->seg[seg], selector);
        else
            x86_segment_set_null(&cpu->seg[seg], selector, cs & 3);
    }
    int s = load_ldt(cpu, load_u16(image + f->ldt), ext);
    for (unsigned int n = 0; s == X86_OK && !v86 && n < sizeof(order); n++)
        s = load_segment(cpu, order[n], cs & 3, ext);
    x86_update_mode(cpu);
    if (s == X86_OK && cpu->rip > cpu->seg[SEG_CS].limit)
        s = x86_fault(cpu, X86_GP, ext);
    return s;
}

/* Busy bits and the back link: SDM 3A, table 7-2. */
static int update_links(struct x86_cpu *cpu, enum x86_task_reason reason, struct x86_descriptor *d)
{
    uint64_t old;
    int s = X86_OK;
    bool nested = reason == X86_TASK_CALL || reason == X86_TASK_EVENT;
    if (!nested && x86_descriptor_find(cpu, cpu->tr.selector, 8, &old))
        s = x86_descriptor_clear_bits(cpu, old, 2);
    if (s == X86_OK && reason != X86_TASK_IRET)
        s = x86_descriptor_set_bits(cpu, d, 2);
    if (s == X86_OK && nested) {
        uint16_t link = cpu->tr.selector;
        s = x86_system_write(cpu, x86_descriptor_base(d->low), &link, 2);
    }
    return s;
}

int x86_task_switch(struct x86_cpu *cpu, enum x86_task_reason reason, uint16_t selector,
                    struct x86_descriptor *d, uint64_t flags, uint32_t ext, bool *switched)
{
    uint8_t image[TSS_MAX];
    const struct tss_format *f = format_of(x86_descriptor_attr(d->low));
    uint64_t base = x86_descriptor_base(d->low);
    bool nested = reason == X86_TASK_CALL || reason == X86_TASK_EVENT;
    *switched = false;
    int s = check_switch(cpu, selector, d, ext, image);
    if (s == X86_OK)
        s = save_old(cpu, reason == X86_TASK_IRET ? flags & ~X86_FLAG_NT : flags);
    if (s == X86_OK)
        s = update_links(cpu, reason, d);
    if (s == X86_OK)
        s = read_tss(cpu, base, f, image); /* again: it may overlap what was saved */
    if (s != X86_OK)
        return s;

    *switched = true;
    x86_segment_set(&cpu->tr, selector, d);
    cpu->cr0 |= X86_CR0_TS;
    cpu->dr7 &= ~(uint64_t)0x155; /* local breakpoints: SDM 3B, 17.2.4 */
    load_registers(cpu, f, image);
    if (nested)
        cpu->rflags |= X86_FLAG_NT;
    cpu->shadow = 0;
    if (f == &tss32 && cpu->cr0 & X86_CR0_PG)
        s = x86_write_cr3(cpu, load_u32(image + TSS_CR3)); /* #GP: PDPTEs with reserved bits */
    if (s == X86_OK)
        s = load_segments(cpu, f, image, ext);
    if (s != X86_OK)
        return s;
    /* A task that could not even be loaded does not trap: its fault's handler would see that. */
    if (f == &tss32 && image[TSS_TRAP] & 1)
        cpu->debug_pending |= X86_DR6_BT;
    return X86_JUMP;
}

/* --- the ways to a task
 * ----------------------------------------------------------------------------- */

/* For instructions: the new task's fault is not theirs, so it is delivered here; so is the debug
 * trap of its T bit, which comes before its first instruction. */
static int switch_by_instruction(struct x86_cpu *cpu, enum x86_task_reason reason,
                                 uint16_t selector, struct x86_descriptor *d)
{
    bool switched;
    uint64_t flags = cpu->rflags & ~X86_FLAG_RF;
    int s = x86_task_switch(cpu, reason, selector, d, flags, 0, &switched);
    if (s == X86_FAULT)
        return switched ? x86_raise(cpu) : s;
    if (cpu->debug_pending & X86_DR6_BT) {
        (void)x86_fault_debug(cpu, cpu->debug_pending);
        cpu->debug_pending = 0;
        return x86_raise(cpu);
    }
    return s;
}

/* The TSS that a task gate names: in the GDT, available. */
static int fetch_gate_target(struct x86_cpu *cpu, uint16_t selector, uint32_t ext,
                             struct x86_descriptor *d)
{
    uint32_t error = x86_selector_error(selector, ext);
    if (selector & 4)
        return x86_fault(cpu, X86_GP, error);
    int s = x86_descriptor_fetch(cpu, selector, X86_GP, ext, d);
    if (s != X86_OK)
        return s;
    uint8_t type = x86_attr_system_type(x86_descriptor_attr(d->low));
    if (type != X86_TYPE_TSS && type != X86_TYPE_TSS16)
        return x86_fault(cpu, X86_GP, error);
    return X86_OK;
}

int x86_task_transfer(struct x86_cpu *cpu, enum x86_task_reason reason, uint16_t selector,
                      struct x86_descriptor *d)
{
    uint32_t attr = x86_descriptor_attr(d->low);
    uint8_t dpl = x86_attr_dpl(attr);
    if (dpl < cpu->cpl || dpl < (selector & 3))
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    if (x86_attr_system_type(attr) == X86_TYPE_TASK_GATE) {
        if (!(attr & X86_ATTR_P))
            return x86_fault(cpu, X86_NP, x86_selector_error(selector, 0));
        selector = x86_gate_selector(d->low);
        int s = fetch_gate_target(cpu, selector, 0, d);
        if (s != X86_OK)
            return s;
    } else if (selector & 4) {
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    }
    return switch_by_instruction(cpu, reason, selector, d);
}

int x86_task_return(struct x86_cpu *cpu)
{
    uint16_t link;
    struct x86_descriptor d;
    int s = x86_system_read(cpu, cpu->tr.base, &link, 2);
    if (s != X86_OK)
        return s;
    uint32_t error = x86_selector_error(link, 0);
    if (link & 4)
        return x86_fault(cpu, X86_TS, error);
    s = x86_descriptor_fetch(cpu, link, X86_TS, 0, &d);
    if (s != X86_OK)
        return s;
    uint8_t type = x86_attr_system_type(x86_descriptor_attr(d.low));
    if (type != X86_TYPE_TSS_BUSY && type != X86_TYPE_TSS16_BUSY)
        return x86_fault(cpu, X86_TS, error);
    return switch_by_instruction(cpu, X86_TASK_IRET, link, &d);
}

int x86_task_deliver(struct x86_cpu *cpu, struct x86_event *ev, uint16_t selector)
{
    struct x86_descriptor d;
    struct x86_stack st;
    int s = fetch_gate_target(cpu, selector, ev->ext, &d);
    if (s != X86_OK)
        return s;
    uint8_t item = format_of(x86_descriptor_attr(d.low))->item;
    s = x86_task_switch(cpu, X86_TASK_EVENT, selector, &d, x86_event_flags(cpu, ev), ev->ext,
                        &ev->switched);
    if (s == X86_FAULT || !ev->has_error)
        return s;
    x86_stack_current(cpu, ev->ext, &st);
    s = x86_stack_push(cpu, &st, item, ev->error);
    if (s != X86_OK)
        return s;
    x86_stack_commit(cpu, &st);
    return X86_JUMP;
}
