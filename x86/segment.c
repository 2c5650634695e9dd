/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Segmentation (SDM 3A, chapters 3 and 5): from segment and offset to a linear address, descriptor
 * tables, loading of data segment registers, and stacks.
 *
 * The hidden part of a segment register is kept in the form of the descriptor (x86_segment.attr),
 * so that checks look like the manual's. Two invariants hold everywhere: CS.selector's RPL and
 * SS's DPL both equal the CPL in protected mode, also when SS is null (it then is unusable, with
 * that DPL).
 *
 * Order on a load: everything that can fault comes first, the accessed bit in memory next (that
 * may fault too), the register last. As on hardware, an accessed bit may therefore be set by an
 * instruction that faults later.
 *
 * In real mode neither type nor presence is checked and a load changes selector and base only,
 * which is what "unreal mode" code relies on. Where the manual leaves the choice (accesses that
 * wrap at 4 GiB in a flat segment, SDM 3A 5.3), we fault.
 */
#include "x86/segment.h"

/* --- logical to linear --------------------------------------------------------------------------
 */

bool x86_segment_permits(const struct x86_cpu *cpu, const struct x86_segment *s, uint64_t offset,
                         uint32_t size, int access)
{
    uint64_t last = offset + size - 1;
    if (cpu->protected_mode) {
        if (s->attr & X86_ATTR_UNUSABLE)
            return false;
        if (access & X86_WRITE ? !x86_attr_is_writable(s->attr)
                               : !(access & X86_EXEC) && !x86_attr_is_readable(s->attr))
            return false;
        /* expand-down data: valid are the offsets above the limit */
        if ((s->attr & (8 | 4)) == 4) {
            uint64_t top = s->attr & X86_ATTR_DB ? 0xFFFFFFFF : 0xFFFF;
            return offset > s->limit && last <= top && last >= offset;
        }
    }
    return last <= s->limit && last >= offset;
}

int x86_linear_slow(struct x86_cpu *cpu, uint8_t seg, uint64_t offset, uint32_t size, int access,
                    uint64_t *linear)
{
    const struct x86_segment *s = &cpu->seg[seg];
    uint8_t vector = seg == SEG_SS ? X86_SS : X86_GP;
    if (cpu->mode == INSN_MODE_64) {
        uint64_t a = seg >= SEG_FS ? offset + s->base : offset;
        if (!x86_is_canonical(a) || !x86_is_canonical(a + size - 1))
            return x86_fault(cpu, vector, 0);
        *linear = a;
        return X86_OK;
    }
    if (!x86_segment_permits(cpu, s, offset, size, access))
        return x86_fault(cpu, vector, 0);
    *linear = (uint32_t)(s->base + offset);
    return X86_OK;
}

/* --- implicit supervisor accesses ---------------------------------------------------------------
 */

/* Tables may be placed so that an entry lies at a non-canonical address: #GP(0), as for any other
 * access. Outside of long mode linear addresses have 32 bits. */
static int system_linear(struct x86_cpu *cpu, uint64_t *linear, uint32_t size)
{
    if (!cpu->long_mode) {
        *linear = (uint32_t)*linear;
        return X86_OK;
    }
    if (!x86_is_canonical(*linear) || !x86_is_canonical(*linear + size - 1))
        return x86_fault(cpu, X86_GP, 0);
    return X86_OK;
}

int x86_system_read(struct x86_cpu *cpu, uint64_t linear, void *buf, uint32_t size)
{
    int s = system_linear(cpu, &linear, size);
    return s == X86_OK ? x86_read_slow(cpu, linear, buf, size, X86_READ | X86_SYSTEM) : s;
}

int x86_system_write(struct x86_cpu *cpu, uint64_t linear, const void *buf, uint32_t size)
{
    int s = system_linear(cpu, &linear, size);
    return s == X86_OK ? x86_write_slow(cpu, linear, buf, size, X86_WRITE | X86_SYSTEM) : s;
}

/* --- descriptor tables --------------------------------------------------------------------------
 */

bool x86_descriptor_find(const struct x86_cpu *cpu, uint16_t selector, uint32_t size,
                         uint64_t *linear)
{
    uint32_t offset = selector & 0xFFF8;
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit;
    if (selector & 4) {
        if (cpu->ldtr.attr & X86_ATTR_UNUSABLE)
            return false;
        base = cpu->ldtr.base;
        limit = cpu->ldtr.limit;
    }
    if (offset + size - 1 > limit)
        return false;
    *linear = base + offset;
    return true;
}

int x86_descriptor_fetch(struct x86_cpu *cpu, uint16_t selector, uint8_t vector, uint32_t ext,
                         struct x86_descriptor *d)
{
    if (!x86_descriptor_find(cpu, selector, 8, &d->linear))
        return x86_fault(cpu, vector, x86_selector_error(selector, ext));
    d->high = 0;
    return x86_system_read64(cpu, d->linear, &d->low);
}

int x86_descriptor_fetch_high(struct x86_cpu *cpu, uint16_t selector, uint8_t vector, uint32_t ext,
                              struct x86_descriptor *d)
{
    if (!cpu->long_mode)
        return X86_OK;
    uint64_t linear;
    if (!x86_descriptor_find(cpu, selector, 16, &linear))
        return x86_fault(cpu, vector, x86_selector_error(selector, ext));
    int s = x86_system_read64(cpu, linear + 8, &d->high);
    if (s != X86_OK)
        return s;
    if (d->high >> 40 & 0x1F)
        return x86_fault(cpu, vector, x86_selector_error(selector, ext));
    return X86_OK;
}

/* One locked operation on byte 5. Where there is no host pointer (ROM, MMIO, a data breakpoint)
 * nobody else's locked operation can be meant: read and write. */
static int modify_type_byte(struct x86_cpu *cpu, uint64_t linear, uint8_t set, uint8_t clear)
{
    void *host;
    linear += 5;
    int s = system_linear(cpu, &linear, 1);
    if (s != X86_OK)
        return s;
    s = x86_mem_host_slow(cpu, linear, 1, X86_WRITE | X86_SYSTEM, &host);
    if (s != X86_OK)
        return s;
    if (host) {
        if (set)
            __atomic_fetch_or((uint8_t *)host, set, __ATOMIC_SEQ_CST);
        if (clear)
            __atomic_fetch_and((uint8_t *)host, (uint8_t)~clear, __ATOMIC_SEQ_CST);
        x86_note_store(cpu, host);
        return X86_OK;
    }
    uint8_t v;
    s = x86_system_read(cpu, linear, &v, 1);
    if (s != X86_OK)
        return s;
    v = (uint8_t)((v | set) & ~clear);
    return x86_system_write(cpu, linear, &v, 1);
}

int x86_descriptor_set_bits(struct x86_cpu *cpu, struct x86_descriptor *d, uint8_t bits)
{
    if ((d->low >> 40 & bits) == bits)
        return X86_OK;
    int s = modify_type_byte(cpu, d->linear, bits, 0);
    if (s == X86_OK)
        d->low |= (uint64_t)bits << 40;
    return s;
}

int x86_descriptor_clear_bits(struct x86_cpu *cpu, uint64_t linear, uint8_t bits)
{
    return modify_type_byte(cpu, linear, 0, bits);
}

/* --- segment registers --------------------------------------------------------------------------
 */

void x86_segment_set(struct x86_segment *s, uint16_t selector, const struct x86_descriptor *d)
{
    s->base = x86_descriptor_base(d->low) | (d->high & 0xFFFFFFFF) << 32;
    s->limit = x86_descriptor_limit(d->low);
    s->attr = x86_descriptor_attr(d->low);
    s->selector = selector;
}

void x86_segment_set_null(struct x86_segment *s, uint16_t selector, uint8_t dpl)
{
    s->base = 0;
    s->limit = 0;
    s->attr = X86_ATTR_UNUSABLE | (uint32_t)dpl << X86_ATTR_DPL_SHIFT;
    s->selector = selector;
}

void x86_segment_set_real(const struct x86_cpu *cpu, struct x86_segment *s, uint16_t selector)
{
    s->selector = selector;
    s->base = (uint64_t)selector << 4;
    if (cpu->v86 || s->attr & X86_ATTR_UNUSABLE) {
        s->limit = 0xFFFF;
        s->attr = cpu->v86 ? X86_ATTR_DATA_V86 : X86_ATTR_DATA_REAL;
    }
}

static int load_null(struct x86_cpu *cpu, uint8_t seg, uint16_t selector)
{
    /* Only 64-bit code of CPL 0-2 may have a null SS (SDM 2B, MOV). */
    if (seg == SEG_SS && (cpu->mode != INSN_MODE_64 || cpu->cpl == 3 || selector != cpu->cpl))
        return x86_fault(cpu, X86_GP, 0);
    x86_segment_set_null(&cpu->seg[seg], selector, seg == SEG_SS ? cpu->cpl : 0);
    return X86_OK;
}

/* May this descriptor be loaded into SS, or into a data segment register? */
static bool is_loadable(const struct x86_cpu *cpu, uint8_t seg, uint16_t selector, uint32_t attr)
{
    uint8_t dpl = x86_attr_dpl(attr), rpl = selector & 3;
    if (seg == SEG_SS)
        return rpl == cpu->cpl && dpl == cpu->cpl && x86_attr_is_writable(attr);
    if (!x86_attr_is_readable(attr))
        return false;
    if (x86_attr_is_code(attr) && x86_attr_is_conforming(attr))
        return true;
    return dpl >= rpl && dpl >= cpu->cpl;
}

int x86_segment_load(struct x86_cpu *cpu, uint8_t seg, uint16_t selector)
{
    struct x86_segment *s = &cpu->seg[seg];
    if (!cpu->protected_mode) {
        x86_segment_set_real(cpu, s, selector);
        x86_update_mode(cpu);
        return X86_OK;
    }
    int status;
    if (x86_selector_is_null(selector)) {
        status = load_null(cpu, seg, selector);
    } else {
        struct x86_descriptor d;
        status = x86_descriptor_fetch(cpu, selector, X86_GP, 0, &d);
        if (status != X86_OK)
            return status;
        uint32_t attr = x86_descriptor_attr(d.low);
        if (!is_loadable(cpu, seg, selector, attr))
            return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
        if (!(attr & X86_ATTR_P))
            return x86_fault(cpu, seg == SEG_SS ? X86_SS : X86_NP, x86_selector_error(selector, 0));
        status = x86_descriptor_access(cpu, &d);
        if (status == X86_OK)
            x86_segment_set(s, selector, &d);
    }
    /* In 64-bit mode nothing is derived from these registers. */
    if (status == X86_OK && cpu->mode != INSN_MODE_64)
        x86_update_mode(cpu);
    return status;
}

void x86_segments_drop(struct x86_cpu *cpu)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    bool dropped = false;
    for (unsigned int i = 0; i < sizeof(data); i++) {
        struct x86_segment *s = &cpu->seg[data[i]];
        if (s->attr & X86_ATTR_UNUSABLE || x86_attr_dpl(s->attr) >= cpu->cpl)
            continue;
        if (x86_attr_is_code(s->attr) && x86_attr_is_conforming(s->attr))
            continue;
        /* The base stays: in 64-bit mode FS and GS have theirs from MSRs. */
        s->selector = 0;
        s->attr = X86_ATTR_UNUSABLE;
        dropped = true;
    }
    if (dropped)
        x86_update_mode(cpu);
}

/* --- stacks -------------------------------------------------------------------------------------
 */

uint8_t x86_stack_width(bool mode_64, const struct x86_segment *ss)
{
    if (mode_64)
        return 8;
    return ss->attr & X86_ATTR_DB ? 4 : 2;
}

void x86_stack_current(const struct x86_cpu *cpu, uint32_t ext, struct x86_stack *st)
{
    st->ss = cpu->seg[SEG_SS];
    st->sp = cpu->gpr[RSP];
    st->width = cpu->stack_size;
    st->access = 0;
    st->error = ext;
}

static bool stack_permits(const struct x86_cpu *cpu, const struct x86_stack *st, uint64_t offset,
                          uint32_t size, int access)
{
    if (st->width == 8)
        return x86_is_canonical(offset) && x86_is_canonical(offset + size - 1);
    return x86_segment_permits(cpu, &st->ss, offset, size, access);
}

static uint64_t stack_linear(const struct x86_stack *st, uint64_t offset)
{
    return st->width == 8 ? offset : (uint32_t)(st->ss.base + offset);
}

int x86_stack_check(struct x86_cpu *cpu, const struct x86_stack *st, uint32_t items, uint8_t size)
{
    uint64_t mask = x86_size_mask(st->width);
    for (uint32_t n = 1; n <= items; n++) {
        if (!stack_permits(cpu, st, (st->sp - (uint64_t)n * size) & mask, size, X86_WRITE))
            return x86_fault(cpu, X86_SS, st->error);
    }
    return X86_OK;
}

static void set_sp(uint64_t *rsp, uint8_t width, uint64_t v)
{
    if (width == 2)
        *rsp = (*rsp & ~(uint64_t)0xFFFF) | (v & 0xFFFF);
    else
        *rsp = width == 4 ? (uint32_t)v : v;
}

int x86_stack_push(struct x86_cpu *cpu, struct x86_stack *st, uint8_t size, uint64_t v)
{
    uint64_t offset = (st->sp - size) & x86_size_mask(st->width);
    if (!stack_permits(cpu, st, offset, size, X86_WRITE))
        return x86_fault(cpu, X86_SS, st->error);
    uint64_t linear = stack_linear(st, offset);
    int s = st->access & X86_SYSTEM ? x86_system_write(cpu, linear, &v, size)
                                    : x86_write_size(cpu, linear, size, v);
    if (s == X86_OK)
        set_sp(&st->sp, st->width, offset);
    return s;
}

int x86_stack_pop(struct x86_cpu *cpu, struct x86_stack *st, uint8_t size, uint64_t *v)
{
    uint64_t offset = st->sp & x86_size_mask(st->width);
    if (!stack_permits(cpu, st, offset, size, X86_READ))
        return x86_fault(cpu, X86_SS, st->error);
    int s = x86_read_size(cpu, stack_linear(st, offset), size, v);
    if (s == X86_OK)
        set_sp(&st->sp, st->width, offset + size);
    return s;
}

void x86_stack_skip(struct x86_stack *st, uint64_t bytes)
{
    set_sp(&st->sp, st->width, st->sp + bytes);
}

void x86_stack_commit(struct x86_cpu *cpu, const struct x86_stack *st)
{
    /* The upper part of ESP under a 16-bit stack: the copy has it, be it old or out of a TSS. */
    cpu->gpr[RSP] = st->sp;
}

int x86_push(struct x86_cpu *cpu, uint8_t size, uint64_t v)
{
    uint64_t linear;
    uint64_t offset = (cpu->gpr[RSP] - size) & x86_size_mask(cpu->stack_size);
    int s = x86_linear(cpu, SEG_SS, offset, size, X86_WRITE, &linear);
    if (s != X86_OK)
        return s;
    s = x86_write_size(cpu, linear, size, v);
    if (s == X86_OK)
        set_sp(&cpu->gpr[RSP], cpu->stack_size, offset);
    return s;
}

int x86_pop(struct x86_cpu *cpu, uint8_t size, uint64_t *v)
{
    uint64_t linear;
    uint64_t offset = cpu->gpr[RSP] & x86_size_mask(cpu->stack_size);
    int s = x86_linear(cpu, SEG_SS, offset, size, X86_READ, &linear);
    if (s != X86_OK)
        return s;
    s = x86_read_size(cpu, linear, size, v);
    if (s == X86_OK)
        set_sp(&cpu->gpr[RSP], cpu->stack_size, offset + size);
    return s;
}
