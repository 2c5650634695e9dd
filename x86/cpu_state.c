/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The processor's saved state: section "cpu", one instance per vCPU, version 3 (1 had no event in
 * flight, 2 an XSTATE_BV that nothing kept up). The local APIC has a section of its own, the VM
 * clock another; the TSC is saved as its offset against that clock.
 *
 * The fields are a table of member, width and count, which save, check and load all walk: the order
 * of the table is the format. What is derived (mode, CPL, TLB, native fragments) is not saved;
 * a fault on its way cannot be, since saving happens at an instruction boundary.
 *
 * Check reads into a scratch processor and asks whether a guest could have got there: combinations
 * of control bits that MOV to CR and WRMSR refuse, addresses that are not canonical, reserved bits.
 * MSRs are judged by the MSR table itself: what WRMSR would not take is not loaded.
 *
 * Requests that were posted and not yet taken (NMI, INIT, SIPI, kick) are saved too, else a
 * restored guest would wait for them for ever. VCPU_REQ_INTR is not among them: it says no more
 * than that the local APIC is to be looked at, and loading that one asks for it in any case.
 */
#include "core/err.h"
#include "core/state.h"
#include "x86/level.h"
#include "x86/mem.h"
#include "x86/msr.h"

enum { SAVED_REQUESTS = VCPU_REQ_NMI | VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_PV_KICK };

/* --- the format --- */

enum field_kind { FIELD_BOOL, FIELD_INTEGER };

struct field {
    uint16_t offset; /* in struct x86_cpu */
    uint16_t count;
    uint8_t size;
    uint8_t kind; /* enum field_kind */
};

#define MEMBER_SIZE(m) sizeof(((struct x86_cpu *)NULL)->m)
#define INTEGER(m)                                                                                 \
    {                                                                                              \
        offsetof(struct x86_cpu, m), 1, MEMBER_SIZE(m), FIELD_INTEGER                              \
    }
#define BOOLEAN(m)                                                                                 \
    {                                                                                              \
        offsetof(struct x86_cpu, m), 1, 1, FIELD_BOOL                                              \
    }
#define INTEGERS(m, size)                                                                          \
    {                                                                                              \
        offsetof(struct x86_cpu, m), MEMBER_SIZE(m) / (size), size, FIELD_INTEGER                  \
    }
#define SEGMENT(m) INTEGER(m.base), INTEGER(m.limit), INTEGER(m.attr), INTEGER(m.selector)
#define TABLE(m)   INTEGER(m.base), INTEGER(m.limit)

/* table */
static const struct field fields[] = {
    INTEGERS(gpr, 8),
    INTEGER(rip),
    INTEGER(rflags),
    INTEGER(shadow),
    INTEGER(activity),
    BOOLEAN(nmi_masked),
    BOOLEAN(nmi_pending),
    BOOLEAN(pv_kick),
    INTEGER(debug_pending),
    INTEGER(event.kind),
    INTEGER(event.vector),
    BOOLEAN(event.has_error),
    BOOLEAN(event.has_payload),
    INTEGER(event.error),
    INTEGER(event.payload),
    SEGMENT(seg[SEG_ES]),
    SEGMENT(seg[SEG_CS]),
    SEGMENT(seg[SEG_SS]),
    SEGMENT(seg[SEG_DS]),
    SEGMENT(seg[SEG_FS]),
    SEGMENT(seg[SEG_GS]),
    SEGMENT(ldtr),
    SEGMENT(tr),
    TABLE(gdtr),
    TABLE(idtr),
    INTEGER(cr0),
    INTEGER(cr2),
    INTEGER(cr3),
    INTEGER(cr4),
    INTEGER(xcr0),
    INTEGER(efer),
    INTEGERS(pdpte, 8),
    INTEGERS(dr, 8),
    INTEGER(dr6),
    INTEGER(dr7),
    INTEGER(msr.star),
    INTEGER(msr.lstar),
    INTEGER(msr.cstar),
    INTEGER(msr.sfmask),
    INTEGER(msr.kernel_gs_base),
    INTEGER(msr.sysenter_cs),
    INTEGER(msr.sysenter_esp),
    INTEGER(msr.sysenter_eip),
    INTEGER(msr.pat),
    INTEGER(msr.tsc_aux),
    INTEGER(msr.tsc_adjust),
    INTEGER(msr.misc_enable),
    INTEGER(msr.spec_ctrl),
    INTEGER(msr.mtrr_def_type),
    INTEGERS(msr.mtrr_fixed, 8),
    INTEGERS(msr.mtrr_base, 8),
    INTEGERS(msr.mtrr_mask, 8),
    INTEGER(msr.mcg_status),
    INTEGER(msr.kvm_system_time),
    INTEGER(msr.kvm_wall_clock),
    INTEGER(msr.kvm_steal_time),
    INTEGER(tsc_offset),
    INTEGER(fpu.fcw),
    INTEGER(fpu.fsw),
    INTEGER(fpu.ftw),
    INTEGER(fpu.fop),
    INTEGER(fpu.fip),
    INTEGER(fpu.fdp),
    INTEGER(fpu.mxcsr),
    INTEGERS(fpu.st, 1),
    INTEGERS(fpu.xmm, 1),
    INTEGERS(fpu.ymm_high, 1),
};

_Static_assert(offsetof(struct x86_cpu, tlb_table) <= UINT16_MAX,
               "saved members stand before the TLB, within reach of an offset");

static void put_field(struct state_writer *w, const struct field *f, const uint8_t *p)
{
    for (uint32_t i = 0; i < f->count; i++, p += f->size) {
        if (f->kind == FIELD_BOOL)
            state_put_bool(w, *p);
        else
            state_put_bytes(w, p, f->size); /* little-endian, as the processor is */
    }
}

static void get_field(struct state_reader *r, const struct field *f, uint8_t *p)
{
    for (uint32_t i = 0; i < f->count; i++, p += f->size) {
        if (f->kind == FIELD_BOOL)
            *p = state_get_bool(r);
        else
            state_get_bytes(r, p, f->size);
    }
}

/* What stands outside of the table. */
struct rest {
    char level[sizeof(((struct x86_level *)NULL)->name)];
    uint64_t steal_ns;
    uint32_t requests;
    uint8_t sipi_vector;
};

static void get_all(struct state_reader *r, struct x86_cpu *cpu, struct rest *rest)
{
    state_get_bytes(r, rest->level, sizeof(rest->level));
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        get_field(r, &fields[i], (uint8_t *)cpu + fields[i].offset);
    rest->steal_ns = state_get_u64(r);
    rest->requests = state_get_u32(r);
    rest->sipi_vector = state_get_u8(r);
}

static void save(const void *object, struct state_writer *w)
{
    const struct x86_cpu *cpu = object;
    state_put_bytes(w, cpu->level->name, sizeof(cpu->level->name));
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        put_field(w, &fields[i], (const uint8_t *)cpu + fields[i].offset);
    state_put_u64(w, atomic_load(&cpu->steal_ns));
    state_put_u32(w, vcpu_requests(&cpu->vcpu) & SAVED_REQUESTS);
    state_put_u8(w, (uint8_t)atomic_load(&cpu->vcpu.sipi_vector));
}

/* --- what a guest could have reached --- */

static bool is_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static bool control_is_reachable(const struct x86_cpu *c)
{
    const uint64_t cr0_defined = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET |
                                 X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD |
                                 X86_CR0_PG;
    bool pg = c->cr0 & X86_CR0_PG, lma = c->efer & X86_EFER_LMA;
    if (c->cr0 & ~cr0_defined || !(c->cr0 & X86_CR0_ET))
        return false;
    if ((pg && !(c->cr0 & X86_CR0_PE)) || (c->cr0 & X86_CR0_NW && !(c->cr0 & X86_CR0_CD)))
        return false;
    if (c->cr4 & ~c->level->cr4_mask || c->efer & ~c->level->efer_mask)
        return false;
    if (lma != (pg && c->efer & X86_EFER_LME) || (lma && !(c->cr4 & X86_CR4_PAE)))
        return false;
    if (c->cr4 & X86_CR4_PCIDE && !lma)
        return false;
    return !(c->cr3 >> c->level->physical_bits);
}

static bool pdptes_are_reachable(const struct x86_cpu *c)
{
    uint64_t reserved = ~(BIT(c->level->physical_bits) - 1) | 0x1E6;
    for (int i = 0; i < 4; i++) {
        if (c->pdpte[i] & X86_PTE_P && c->pdpte[i] & reserved)
            return false;
    }
    return true;
}

static bool flags_are_reachable(const struct x86_cpu *c)
{
    const uint64_t defined = X86_FLAGS_STATUS | X86_FLAG_ONE | X86_FLAG_TF | X86_FLAG_IF |
                             X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM |
                             X86_FLAG_AC | X86_FLAG_VIF | X86_FLAG_VIP | X86_FLAG_ID;
    if (c->rflags & ~defined || !(c->rflags & X86_FLAG_ONE))
        return false;
    if (!(c->rflags & X86_FLAG_VM))
        return true;
    return c->cr0 & X86_CR0_PE && !(c->efer & X86_EFER_LMA);
}

static bool segments_are_reachable(const struct x86_cpu *c)
{
    const uint32_t defined = 0xF0FF | X86_ATTR_UNUSABLE;
    for (unsigned int s = 0; s < SEG_COUNT; s++) {
        const struct x86_segment *g = &c->seg[s];
        bool wide = s == SEG_FS || s == SEG_GS;
        if (g->attr & ~defined || (wide ? !is_canonical(g->base) : g->base > UINT32_MAX))
            return false;
    }
    const uint32_t long_and_default = X86_ATTR_L | X86_ATTR_DB;
    bool lma = c->efer & X86_EFER_LMA;
    if (lma && (c->seg[SEG_CS].attr & long_and_default) == long_and_default)
        return false;
    return !((c->ldtr.attr | c->tr.attr) & ~defined) && is_canonical(c->ldtr.base) &&
           is_canonical(c->tr.base) && is_canonical(c->gdtr.base) && is_canonical(c->idtr.base);
}

/* Exceptions have vectors below 32. */
static bool event_is_reachable(const struct x86_in_flight *e)
{
    switch ((enum x86_flight)e->kind) {
    case X86_FLIGHT_NONE:
        return true;
    case X86_FLIGHT_FAULT:
    case X86_FLIGHT_EXCEPTION:
        return e->vector < 32 && e->vector != X86_NMI && (e->has_error || e->error == 0);
    case X86_FLIGHT_NMI:
        return e->vector == X86_NMI;
    case X86_FLIGHT_INTERRUPT: /* the 8259 may be programmed to any vector */
        return true;
    }
    return false;
}

static bool position_is_reachable(const struct x86_cpu *c)
{
    bool wide = c->efer & X86_EFER_LMA && c->seg[SEG_CS].attr & X86_ATTR_L;
    if (wide ? !is_canonical(c->rip) : c->rip > UINT32_MAX)
        return false;
    if (!event_is_reachable(&c->event))
        return false;
    return c->activity <= X86_SHUTDOWN && !(c->shadow & ~(X86_SHADOW_STI | X86_SHADOW_MOV_SS));
}

static bool debug_is_reachable(const struct x86_cpu *c)
{
    const uint64_t traps = 0xF | X86_DR6_BS | X86_DR6_BT;
    const uint64_t dr7_zero = ~(uint64_t)UINT32_MAX | 0xD800; /* bits 11, 12, 14, 15 */
    return (c->dr6 & ~(traps | X86_DR6_BD)) == X86_DR6_FIXED && !(c->dr7 & dr7_zero) &&
           c->dr7 & X86_DR7_FIXED && !(c->debug_pending & ~traps);
}

/* The native fragments load this state into the host's registers, which would fault on reserved
 * bits. */
static bool fpu_is_reachable(const struct x86_cpu *c)
{
    uint64_t mask = c->level->xcr0_mask;
    if (c->xcr0 & ~mask || !(c->xcr0 & X86_XCR0_X87))
        return false;
    if (c->xcr0 & X86_XCR0_AVX && !(c->xcr0 & X86_XCR0_SSE))
        return false;
    return !(c->fpu.mxcsr & ~0xFFFFu) && !(c->fpu.fop & ~0x7FF);
}

/* Would WRMSR take the value that RDMSR gives? The scratch processor belongs to no guest, and none
 * of these has an effect beyond it. What the level does not have is as after reset. */
static bool msrs_are_reachable(struct x86_cpu *scratch)
{
    /* table: first and last */
    static const uint32_t ranges[][2] = {
        {MSR_SPEC_CTRL, MSR_SPEC_CTRL},
        {MSR_SYSENTER_CS, MSR_SYSENTER_EIP},
        {MSR_MCG_STATUS, MSR_MCG_STATUS},
        {MSR_MISC_ENABLE, MSR_MISC_ENABLE},
        {MSR_MTRR_PHYSBASE0, MSR_MTRR_PHYSBASE0 + 15},
        {MSR_MTRR_FIX64K, MSR_MTRR_FIX64K},
        {MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000},
        {MSR_MTRR_FIX4K_C0000, MSR_MTRR_FIX4K_C0000 + 7},
        {MSR_PAT, MSR_PAT},
        {MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE},
        {MSR_STAR, MSR_SFMASK},
        {MSR_KERNEL_GS_BASE, MSR_TSC_AUX},
    };
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        for (uint32_t index = ranges[i][0]; index <= ranges[i][1]; index++) {
            uint64_t value;
            if (x86_msr_read(scratch, index, &value) == X86_OK &&
                x86_msr_write(scratch, index, value) != X86_OK)
                return false;
        }
    }
    if (!scratch->level->spec_ctrl && scratch->msr.spec_ctrl != 0)
        return false;
    if (scratch->msr.tsc_aux > UINT32_MAX) /* also of a level without it: engines load it */
        return false;
    return !(scratch->msr.kvm_steal_time & 0x3E);
}

static bool is_reachable(struct x86_cpu *scratch, const struct rest *rest)
{
    return control_is_reachable(scratch) && pdptes_are_reachable(scratch) &&
           flags_are_reachable(scratch) && segments_are_reachable(scratch) &&
           position_is_reachable(scratch) && debug_is_reachable(scratch) &&
           fpu_is_reachable(scratch) && msrs_are_reachable(scratch) &&
           !(rest->requests & ~(uint32_t)SAVED_REQUESTS);
}

static int check(const void *object, struct state_reader *r)
{
    enum { PAGES = (sizeof(struct x86_cpu) + 4095) / 4096 };
    const struct x86_cpu *cpu = object;
    struct rest rest;
    struct x86_cpu *scratch = seam_pages_alloc(PAGES);
    if (!scratch)
        return ERR_NO_MEMORY;
    scratch->level = cpu->level;
    scratch->vcpu.vm = cpu->vcpu.vm;
    get_all(r, scratch, &rest);
    int err = state_get_end(r);
    if (err == OK && memcmp(rest.level, cpu->level->name, sizeof(rest.level)) != 0)
        err = ERR_UNSUPPORTED; /* saved at another level than this machine's */
    if (err == OK && !is_reachable(scratch, &rest))
        err = ERR_CORRUPT;
    seam_pages_free(scratch, PAGES);
    return err;
}

static int load(void *object, struct state_reader *r)
{
    struct x86_cpu *cpu = object;
    struct rest rest;
    get_all(r, cpu, &rest);
    memset(cpu->fpu.reserved1, 0, sizeof(cpu->fpu.reserved1));
    cpu->fpu.xcomp_bv = 0;
    cpu->fault = (struct x86_fault){0};
    cpu->code_page = ~(uint64_t)0;
    cpu->code_written = false;
    atomic_store(&cpu->steal_ns, rest.steal_ns);
    atomic_store(&cpu->vcpu.sipi_vector, rest.sipi_vector);
    (void)vcpu_take_requests(&cpu->vcpu, SAVED_REQUESTS);
    if (rest.requests)
        vcpu_request(&cpu->vcpu, rest.requests);
    x86_update_mode(cpu);
    x86_tlb_flush(cpu);
    return state_get_end(r);
}

const struct state_ops x86_cpu_state_ops = {
    .name = "cpu",
    .version = 3,
    .save = save,
    .check = check,
    .load = load,
};
