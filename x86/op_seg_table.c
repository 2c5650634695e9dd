/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Handlers of group SEG that are about descriptor tables: LGDT and its kin, LLDT, LTR, and those
 * that look at a descriptor without loading it (VERR, VERW, LAR, LSL, ARPL). SDM 2A and 2B.
 *
 * CR4.UMIP takes SGDT, SIDT, SLDT and STR from CPL 1 to 3.
 */
#include "x86/op_seg.h"
#include "x86/segment.h"

static bool is_umip_barred(const struct x86_cpu *cpu)
{
    return cpu->cr4 & X86_CR4_UMIP && cpu->cpl != 0;
}

/* --- GDTR and IDTR
 * ---------------------------------------------------------------------------------- */

int x86_op_load_table(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear, limit, base;
    uint8_t base_size = cpu->mode == INSN_MODE_64 ? 8 : 4;
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    int s = x86_operand(cpu, i, base_size + 2u, X86_READ, &linear);
    if (s == X86_OK)
        s = x86_read_size(cpu, linear, 2, &limit);
    if (s == X86_OK)
        s = x86_read_size(cpu, x86_linear_add(cpu, linear, 2), base_size, &base);
    if (s != X86_OK)
        return s;
    if (base_size == 4 && i->opsize == 2)
        base &= 0xFFFFFF;
    if (!x86_is_canonical(base))
        return x86_fault(cpu, X86_GP, 0);
    struct x86_table *t = i->op == INSN_LGDT ? &cpu->gdtr : &cpu->idtr;
    t->base = base;
    t->limit = (uint16_t)limit;
    return X86_OK;
}

/* All of the base, whatever the operand size: processors do that, though the manual says that 24
 * bits are stored with 16-bit operand size. */
int x86_op_store_table(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear;
    void *host;
    uint8_t image[10];
    uint32_t size = cpu->mode == INSN_MODE_64 ? 10 : 6;
    const struct x86_table *t = i->op == INSN_SGDT ? &cpu->gdtr : &cpu->idtr;
    if (is_umip_barred(cpu))
        return x86_fault(cpu, X86_GP, 0);
    int s = x86_operand(cpu, i, size, X86_WRITE, &linear);
    if (s == X86_OK)
        s = x86_mem_host(cpu, linear, size, X86_WRITE | X86_UNALIGNED, &host);
    /* stored as a word and what follows: aligned where address MOD 4 is 2 (SDM 3A, 3.5.1) */
    if (s == X86_OK)
        s = x86_check_alignment(cpu, linear + 2, size - 2);
    if (s != X86_OK)
        return s;
    store_u16(image, t->limit);
    store_u64(image + 2, t->base);
    return x86_write_slow(cpu, linear, image, size, X86_WRITE | X86_UNALIGNED);
}

/* --- LDTR and TR
 * ------------------------------------------------------------------------------------ */

/* What LLDT and LTR have in common: the source and its descriptor, GDT only. */
static int system_descriptor(struct x86_cpu *cpu, uint16_t selector, struct x86_descriptor *d)
{
    if (selector & 4)
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    int s = x86_descriptor_fetch(cpu, selector, X86_GP, 0, d);
    return s == X86_OK ? x86_descriptor_fetch_high(cpu, selector, X86_GP, 0, d) : s;
}

static int check_system(struct x86_cpu *cpu, const struct insn *i, uint16_t *selector)
{
    if (!cpu->protected_mode)
        return x86_fault(cpu, X86_UD, 0);
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    return x86_seg_load16(cpu, i, selector);
}

/* Presence, and a base that can be used. */
static int check_present(struct x86_cpu *cpu, uint16_t selector, const struct x86_descriptor *d)
{
    if (!(x86_descriptor_attr(d->low) & X86_ATTR_P))
        return x86_fault(cpu, X86_NP, x86_selector_error(selector, 0));
    if (!x86_is_canonical(x86_descriptor_base(d->low) | (d->high & 0xFFFFFFFF) << 32))
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    return X86_OK;
}

int x86_op_lldt(struct x86_cpu *cpu, const struct insn *i)
{
    uint16_t selector = 0;
    struct x86_descriptor d;
    int s = check_system(cpu, i, &selector);
    if (s != X86_OK)
        return s;
    if (x86_selector_is_null(selector)) {
        x86_segment_set_null(&cpu->ldtr, selector, 0);
        return X86_OK;
    }
    s = system_descriptor(cpu, selector, &d);
    if (s != X86_OK)
        return s;
    if (x86_attr_system_type(x86_descriptor_attr(d.low)) != X86_TYPE_LDT)
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    s = check_present(cpu, selector, &d);
    if (s == X86_OK)
        x86_segment_set(&cpu->ldtr, selector, &d);
    return s;
}

int x86_op_ltr(struct x86_cpu *cpu, const struct insn *i)
{
    uint16_t selector = 0;
    struct x86_descriptor d;
    int s = check_system(cpu, i, &selector);
    if (s != X86_OK)
        return s;
    if (x86_selector_is_null(selector))
        return x86_fault(cpu, X86_GP, 0);
    s = system_descriptor(cpu, selector, &d);
    if (s != X86_OK)
        return s;
    uint8_t type = x86_attr_system_type(x86_descriptor_attr(d.low));
    if (type != X86_TYPE_TSS && (type != X86_TYPE_TSS16 || cpu->long_mode))
        return x86_fault(cpu, X86_GP, x86_selector_error(selector, 0));
    s = check_present(cpu, selector, &d);
    if (s == X86_OK)
        s = x86_descriptor_set_bits(cpu, &d, 2);
    if (s == X86_OK)
        x86_segment_set(&cpu->tr, selector, &d);
    return s;
}

int x86_op_store_selector(struct x86_cpu *cpu, const struct insn *i)
{
    if (!cpu->protected_mode)
        return x86_fault(cpu, X86_UD, 0);
    if (is_umip_barred(cpu))
        return x86_fault(cpu, X86_GP, 0);
    return x86_seg_store16(cpu, i, i->op == INSN_SLDT ? cpu->ldtr.selector : cpu->tr.selector);
}

/* --- questions about a selector
 * --------------------------------------------------------------------- */

static void set_zf(struct x86_cpu *cpu, bool on)
{
    cpu->rflags = on ? cpu->rflags | X86_FLAG_ZF : cpu->rflags & ~X86_FLAG_ZF;
}

/* May CPL and RPL see the descriptor? */
static bool is_visible(const struct x86_cpu *cpu, uint16_t selector, uint32_t attr)
{
    if (x86_attr_is_code(attr) && x86_attr_is_conforming(attr))
        return true;
    uint8_t dpl = x86_attr_dpl(attr);
    return dpl >= cpu->cpl && dpl >= (selector & 3);
}

/* Reads the descriptor that rm selects. X86_OK: *found says whether there is one in the table that
 * is visible here; nothing faults but the operand and the table's memory. */
static int look_up(struct x86_cpu *cpu, const struct insn *i, struct x86_descriptor *d, bool *found)
{
    uint16_t selector = 0;
    *found = false;
    if (!cpu->protected_mode)
        return x86_fault(cpu, X86_UD, 0);
    int s = x86_seg_load16(cpu, i, &selector);
    if (s != X86_OK || x86_selector_is_null(selector))
        return s;
    if (!x86_descriptor_find(cpu, selector, 8, &d->linear))
        return X86_OK;
    s = x86_system_read64(cpu, d->linear, &d->low);
    *found = s == X86_OK && is_visible(cpu, selector, x86_descriptor_attr(d->low));
    return s;
}

int x86_op_verify(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_descriptor d = {0};
    bool found;
    int s = look_up(cpu, i, &d, &found);
    if (s != X86_OK)
        return s;
    uint32_t attr = x86_descriptor_attr(d.low);
    set_zf(cpu,
           found && (i->op == INSN_VERR ? x86_attr_is_readable(attr) : x86_attr_is_writable(attr)));
    return X86_OK;
}

/* Types of system descriptors that LAR and LSL answer for, as bit masks by type (SDM 2A, tables
 * 3-53 and 3-65): with and without long mode. */
enum {
    LAR_TYPES = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12,
    LAR_TYPES_LONG = 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12,
    LSL_TYPES = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11,
    LSL_TYPES_LONG = 1 << 2 | 1 << 9 | 1 << 11,
};

static bool has_type(const struct x86_cpu *cpu, uint32_t attr, unsigned int legacy,
                     unsigned int in_long)
{
    if (attr & X86_ATTR_S)
        return true;
    return (cpu->long_mode ? in_long : legacy) >> (attr & X86_ATTR_TYPE) & 1;
}

int x86_op_lar(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_descriptor d = {0};
    bool found;
    int s = look_up(cpu, i, &d, &found);
    if (s != X86_OK)
        return s;
    found = found && has_type(cpu, x86_descriptor_attr(d.low), LAR_TYPES, LAR_TYPES_LONG);
    if (found)
        x86_set_gpr(cpu, i->reg, i->opsize, d.low >> 32 & 0x00FFFF00);
    set_zf(cpu, found);
    return X86_OK;
}

int x86_op_lsl(struct x86_cpu *cpu, const struct insn *i)
{
    struct x86_descriptor d = {0};
    bool found;
    int s = look_up(cpu, i, &d, &found);
    if (s != X86_OK)
        return s;
    found = found && has_type(cpu, x86_descriptor_attr(d.low), LSL_TYPES, LSL_TYPES_LONG);
    if (found)
        x86_set_gpr(cpu, i->reg, i->opsize, x86_descriptor_limit(d.low));
    set_zf(cpu, found);
    return X86_OK;
}

int x86_op_arpl(struct x86_cpu *cpu, const struct insn *i)
{
    struct insn word = *i;
    uint16_t destination = 0;
    if (!cpu->protected_mode)
        return x86_fault(cpu, X86_UD, 0);
    int s = x86_seg_load16(cpu, i, &destination);
    if (s != X86_OK)
        return s;
    uint16_t rpl = cpu->gpr[i->reg & 15] & 3;
    bool raise = (destination & 3) < rpl;
    if (raise) {
        word.opsize = 2; /* always, whatever the prefixes say */
        s = x86_seg_store16(cpu, &word, (uint16_t)((destination & 0xFFFC) | rpl));
        if (s != X86_OK)
            return s;
    }
    set_zf(cpu, raise);
    return X86_OK;
}
