/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Random states of a processor. Each begins as after power-on; then a mode is chosen, and all else
 * at random within what that mode and the level allow. MSRs are written by WRMSR, so they are what
 * a guest could have written.
 */
#include "tests/kvm/random_state.h"

#include "core/err.h"
#include "core/mem.h"
#include "tests/lib/unit.h"
#include "x86/lapic.h"
#include "x86/level.h"
#include "x86/msr.h"
#include "x86/simd.h"

enum mode { REAL, PROTECTED, PAGED, PAE, V86, COMPATIBILITY, LONG, MODES };

static uint64_t canonical(struct rng *r)
{
    return (uint64_t)((int64_t)(rng_next(r) << 16) >> 16);
}

/* Any subset of the bits. */
static uint64_t some_of(struct rng *r, uint64_t bits)
{
    return rng_next(r) & bits;
}

void random_wrmsr(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    int status = x86_msr_write(cpu, index, value);

    if (status != X86_OK)
        printf("  WRMSR %x, %llx\n", index, (unsigned long long)value);
    CHECK_EQ(status, X86_OK);
}

/* --- control registers ------------------------------------------------------------------------ */

static void random_control(struct x86_cpu *cpu, struct rng *r, enum mode mode)
{
    bool paged =
        mode == PAGED || mode == PAE || mode >= COMPATIBILITY || (mode == V86 && rng_one_in(r, 2));
    bool pae = mode == PAE || mode >= COMPATIBILITY;
    uint64_t cr4 = some_of(r, cpu->level->cr4_mask & ~(X86_CR4_PAE | X86_CR4_PCIDE));

    cpu->cr0 = X86_CR0_ET | some_of(r, X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_NE |
                                           X86_CR0_WP | X86_CR0_AM | X86_CR0_CD);
    if (cpu->cr0 & X86_CR0_CD)
        cpu->cr0 |= some_of(r, X86_CR0_NW);
    if (mode != REAL)
        cpu->cr0 |= X86_CR0_PE;
    if (paged)
        cpu->cr0 |= X86_CR0_PG;
    cpu->cr4 = cr4 | (pae || (!paged && rng_one_in(r, 2)) ? X86_CR4_PAE : 0);
    cpu->efer = some_of(r, cpu->level->efer_mask & (X86_EFER_SCE | X86_EFER_NXE));
    if (mode >= COMPATIBILITY)
        cpu->efer |= X86_EFER_LME | X86_EFER_LMA;
    else if (!paged)
        cpu->efer |= some_of(r, X86_EFER_LME);
    cpu->cr2 = rng_next(r);
    cpu->cr3 = (uint64_t)RANDOM_PAGES + (rng_below(r, 16) << 12);
    cpu->cr3 |= some_of(r, X86_CR3_PWT | X86_CR3_PCD);
    cpu->xcr0 = rng_one_in(r, 3) ? X86_XCR0_X87 : cpu->level->xcr0_mask;
}

/* In memory as well: AMD's processors with nested paging read them from there. */
static void random_pdptes(struct x86_cpu *cpu, struct rng *r)
{
    cpu->cr3 = RANDOM_PDPT + cpu->vcpu.id * 32;
    for (unsigned int i = 0; i < 4; i++) {
        uint64_t page = RANDOM_PAGES + ((uint64_t)rng_below(r, 16) << 12);

        cpu->pdpte[i] = rng_one_in(r, 3) ? 0 : page | 1 | some_of(r, 0x18);
        CHECK_EQ(guest_mem_write(&cpu->vcpu.vm->mem, gpa(cpu->cr3 + i * 8), &cpu->pdpte[i], 8), OK);
    }
}

/* --- segments ----------------------------------------------------------------------------------
 */

static void set_limit(struct x86_segment *s, struct rng *r)
{
    if (rng_one_in(r, 2)) {
        s->limit = rng_below(r, 1 << 20);
        s->attr &= ~(uint32_t)X86_ATTR_G;
    } else {
        s->limit = rng_one_in(r, 2) ? UINT32_MAX : (rng_below(r, 1 << 20) << 12 | 0xFFF);
        s->attr |= X86_ATTR_G;
    }
}

static void set_null(struct x86_segment *s, uint32_t dpl)
{
    *s = (struct x86_segment){.attr = X86_ATTR_UNUSABLE | dpl << X86_ATTR_DPL_SHIFT,
                              .selector = (uint16_t)dpl};
}

static void random_data(struct x86_segment *s, struct rng *r, uint32_t dpl, bool stack)
{
    static const uint8_t types[] = {3, 7, 1, 5, 0xB, 0xF}; /* the first two may be a stack's */

    s->attr = types[rng_below(r, stack ? 2 : 6)] | X86_ATTR_S | X86_ATTR_P |
              dpl << X86_ATTR_DPL_SHIFT | (uint32_t)some_of(r, X86_ATTR_AVL | X86_ATTR_DB);
    s->base = (uint32_t)rng_next(r);
    s->selector = (uint16_t)((rng_next(r) & 0xFFF8) | dpl);
    set_limit(s, r);
}

static void random_protected_segments(struct x86_cpu *cpu, struct rng *r, enum mode mode)
{
    uint32_t cpl = rng_one_in(r, 2) ? 0 : rng_below(r, 4);
    bool conforming = rng_one_in(r, 4);
    struct x86_segment *cs = &cpu->seg[SEG_CS];

    random_data(cs, r, cpl, true);
    cs->attr &= ~(uint32_t)(X86_ATTR_TYPE | 3 << X86_ATTR_DPL_SHIFT);
    cs->attr |= 9 | (uint32_t)some_of(r, 2) | (conforming ? 4 : 0);
    cs->attr |= (conforming ? rng_below(r, cpl + 1) : cpl) << X86_ATTR_DPL_SHIFT;
    if (mode == LONG) {
        cs->attr = (cs->attr | X86_ATTR_L) & ~(uint32_t)X86_ATTR_DB;
        cs->base = 0;
    }
    if (mode == PROTECTED && rng_one_in(r, 4))
        cs->attr |= X86_ATTR_L;
    for (unsigned int s = 0; s < SEG_COUNT; s++) {
        if (s == SEG_CS)
            continue;
        random_data(&cpu->seg[s], r, s == SEG_SS ? cpl : rng_below(r, 4), s == SEG_SS);
        if (s != SEG_SS && rng_one_in(r, 3))
            set_null(&cpu->seg[s], 0);
        if (mode == LONG && s != SEG_FS && s != SEG_GS)
            cpu->seg[s].base = 0;
    }
    if (mode == LONG && cpl < 3 && rng_one_in(r, 3))
        set_null(&cpu->seg[SEG_SS], cpl);
    if (mode == LONG) {
        cpu->seg[SEG_FS].base = canonical(r);
        cpu->seg[SEG_GS].base = canonical(r);
    }
}

static void random_real_segments(struct x86_cpu *cpu, struct rng *r, enum mode mode)
{
    for (unsigned int s = 0; s < SEG_COUNT; s++) {
        struct x86_segment *g = &cpu->seg[s];

        g->selector = (uint16_t)rng_next(r);
        g->base = (uint64_t)g->selector << 4;
        g->limit = 0xFFFF;
        g->attr = mode == V86 ? 0xF3 : s == SEG_CS ? 0x9B : 0x93;
        if (mode == REAL && s != SEG_CS && rng_one_in(r, 4)) { /* left over from protected mode */
            g->attr |= X86_ATTR_G | X86_ATTR_DB;
            g->limit = UINT32_MAX;
        }
    }
}

static void random_tables(struct x86_cpu *cpu, struct rng *r, enum mode mode)
{
    bool wide = mode >= COMPATIBILITY;

    cpu->gdtr = (struct x86_table){wide ? canonical(r) : (uint32_t)rng_next(r), 0xFF};
    cpu->idtr = (struct x86_table){wide ? canonical(r) : (uint32_t)rng_next(r), 0xFFF};
    cpu->gdtr.limit = (uint16_t)rng_next(r);
    if (mode == REAL)
        return; /* as after power-on */
    cpu->tr.base = wide ? canonical(r) : (uint32_t)rng_next(r);
    cpu->tr.selector = (uint16_t)(rng_next(r) & 0xFFF8);
    cpu->tr.attr = X86_ATTR_P | (wide || rng_one_in(r, 2) ? 0xB : 3);
    set_limit(&cpu->tr, r);
    if (rng_one_in(r, 2)) {
        set_null(&cpu->ldtr, 0);
    } else {
        cpu->ldtr.base = wide ? canonical(r) : (uint32_t)rng_next(r);
        cpu->ldtr.selector = (uint16_t)(rng_next(r) & 0xFFF8);
        cpu->ldtr.attr = X86_ATTR_P | 2;
        set_limit(&cpu->ldtr, r);
    }
}

static void random_position(struct x86_cpu *cpu, struct rng *r, enum mode mode)
{
    for (unsigned int i = 0; i < 16; i++)
        cpu->gpr[i] = rng_next(r);
    cpu->rip = mode == LONG                  ? canonical(r)
               : mode == REAL || mode == V86 ? (uint16_t)rng_next(r)
                                             : (uint32_t)rng_next(r);
    cpu->rflags = X86_FLAG_ONE | some_of(r, X86_FLAGS_STATUS | X86_FLAG_TF | X86_FLAG_IF |
                                                X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT |
                                                X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID);
    if (mode == V86)
        cpu->rflags |= X86_FLAG_VM;
}

/* --- debug, x87, vectors, MSRs -----------------------------------------------------------------
 */

static void random_debug(struct x86_cpu *cpu, struct rng *r)
{
    for (unsigned int i = 0; i < 4; i++)
        cpu->dr[i] = rng_next(r);
    cpu->dr6 = X86_DR6_FIXED | some_of(r, 0xF | X86_DR6_BD | X86_DR6_BS | X86_DR6_BT);
    cpu->dr7 = X86_DR7_FIXED | some_of(r, UINT64_C(0xFFFF23FF));
}

static void random_bytes(void *to, size_t size, struct rng *r)
{
    uint8_t *p = to;

    while (size-- > 0)
        *p++ = (uint8_t)(rng_next(r) >> 40);
}

static void random_fpu(struct x86_cpu *cpu, struct rng *r)
{
    struct x86_fpu *f = &cpu->fpu;
    bool avx = cpu->level->xcr0_mask & X86_XCR0_AVX;

    f->fcw = x87_normal_fcw((uint16_t)rng_next(r));
    f->fsw = x87_normal_fsw((uint16_t)rng_next(r), f->fcw);
    f->ftw = (uint8_t)rng_next(r);
    f->fop = (uint16_t)some_of(r, 0x7FF);
    f->fip = canonical(r);
    f->fdp = canonical(r);
    f->mxcsr = (uint32_t)some_of(r, 0xFFFF);
    for (unsigned int i = 0; i < 8; i++)
        random_bytes(f->st[i], 10, r);
    random_bytes(f->xmm, sizeof(f->xmm), r);
    if (avx)
        random_bytes(f->ymm_high, sizeof(f->ymm_high), r);
}

static uint64_t types(struct rng *r, const uint8_t *of, uint32_t count)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++)
        value = value << 8 | of[rng_below(r, count)];
    return value;
}

static void random_memory_types(struct x86_cpu *cpu, struct rng *r)
{
    static const uint8_t pat[] = {0, 1, 4, 5, 6, 7}, mtrr[] = {0, 1, 4, 5, 6};

    random_wrmsr(cpu, MSR_PAT, types(r, pat, 6));
    random_wrmsr(cpu, MSR_MTRR_DEF_TYPE, mtrr[rng_below(r, 5)] | some_of(r, 0xC00));
    for (uint32_t i = 0; i < 16; i += 2) {
        random_wrmsr(cpu, MSR_MTRR_PHYSBASE0 + i,
                     mtrr[rng_below(r, 5)] | some_of(r, UINT64_C(0x7FFFFFF000)));
        random_wrmsr(cpu, MSR_MTRR_PHYSBASE0 + i + 1, some_of(r, UINT64_C(0x7FFFFFF800)));
    }
    random_wrmsr(cpu, MSR_MTRR_FIX64K, types(r, mtrr, 5));
    random_wrmsr(cpu, MSR_MTRR_FIX16K_80000, types(r, mtrr, 5));
    random_wrmsr(cpu, MSR_MTRR_FIX16K_A0000, types(r, mtrr, 5));
    for (uint32_t i = 0; i < 8; i++)
        random_wrmsr(cpu, MSR_MTRR_FIX4K_C0000 + i, types(r, mtrr, 5));
}

static void random_msrs(struct x86_cpu *cpu, struct rng *r)
{
    uint64_t page = RANDOM_PAGES + 0x20000 + cpu->vcpu.id * PAGE_SIZE;

    random_memory_types(cpu, r);
    random_wrmsr(cpu, MSR_STAR, rng_next(r));
    random_wrmsr(cpu, MSR_LSTAR, canonical(r));
    random_wrmsr(cpu, MSR_CSTAR, canonical(r));
    random_wrmsr(cpu, MSR_SFMASK, (uint32_t)rng_next(r));
    random_wrmsr(cpu, MSR_KERNEL_GS_BASE, canonical(r));
    random_wrmsr(cpu, MSR_SYSENTER_CS, (uint32_t)rng_next(r));
    random_wrmsr(cpu, MSR_SYSENTER_ESP, canonical(r));
    random_wrmsr(cpu, MSR_SYSENTER_EIP, canonical(r));
    random_wrmsr(cpu, MSR_TSC_AUX, (uint32_t)rng_next(r));
    random_wrmsr(cpu, MSR_MCG_STATUS, some_of(r, 7));
    if (cpu->level->spec_ctrl)
        random_wrmsr(cpu, MSR_SPEC_CTRL, some_of(r, X86_SPEC_CTRL_IBRS | X86_SPEC_CTRL_STIBP));
    random_wrmsr(cpu, MSR_TSC_ADJUST, rng_one_in(r, 2) ? 0 : rng_next(r) >> (1 + rng_below(r, 60)));
    if (rng_one_in(r, 4))
        random_wrmsr(cpu, MSR_TSC, rng_next(r) >> (1 + rng_below(r, 60)));
    random_wrmsr(cpu, MSR_KVM_SYSTEM_TIME_NEW, rng_one_in(r, 3) ? 0 : page | 1);
    random_wrmsr(cpu, MSR_KVM_WALL_CLOCK_NEW, page + 0x100);
    random_wrmsr(cpu, MSR_KVM_STEAL_TIME, rng_one_in(r, 3) ? 0 : (page + 0x200) | 1);
    atomic_store(&cpu->steal_ns, cpu->msr.kvm_steal_time & 1 ? rng_next(r) >> 24 : 0);
    x86_kvm_refresh(cpu);
}

/* --- events ----------------------------------------------------------------------------------- */

static bool has_error(uint8_t vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void random_exception(struct x86_in_flight *e, struct rng *r)
{
    static const uint8_t vectors[] = {X86_DE, X86_DB, 5,  X86_UD, 7,  X86_DF, 10,
                                      11,     12,     13, X86_PF, 16, 17,     19};

    e->vector = vectors[rng_below(r, sizeof(vectors))];
    e->has_error = has_error(e->vector);
    e->error = e->has_error ? (uint32_t)some_of(r, 0xFFFF) : 0;
    if (e->kind == X86_FLIGHT_FAULT && (e->vector == X86_PF || e->vector == X86_DB)) {
        e->has_payload = true;
        e->payload = e->vector == X86_PF ? rng_next(r) : some_of(r, 0xF | X86_DR6_BS);
    }
}

static void random_events(struct x86_cpu *cpu, struct rng *r)
{
    struct x86_in_flight *e = &cpu->event;

    cpu->nmi_pending = rng_one_in(r, 4);
    cpu->nmi_masked = rng_one_in(r, 4);
    if (cpu->vcpu.id != 0 && rng_one_in(r, 4)) {
        cpu->activity = X86_WAIT_SIPI;
        return;
    }
    cpu->activity = X86_RUNNING;
    if (rng_one_in(r, 4)) {
        cpu->activity = X86_HALTED;
        return;
    }
    if (rng_one_in(r, 3)) {
        cpu->shadow = rng_one_in(r, 2) ? X86_SHADOW_MOV_SS : X86_SHADOW_STI;
        cpu->rflags |= cpu->shadow == X86_SHADOW_STI ? X86_FLAG_IF : 0;
        return;
    }
    e->kind = (uint8_t)rng_below(r, X86_FLIGHT_INTERRUPT + 1);
    switch ((enum x86_flight)e->kind) {
    case X86_FLIGHT_NONE:
        break;
    case X86_FLIGHT_FAULT:
    case X86_FLIGHT_EXCEPTION:
        random_exception(e, r);
        break;
    case X86_FLIGHT_NMI:
        e->vector = X86_NMI;
        cpu->nmi_masked = true;
        break;
    case X86_FLIGHT_INTERRUPT:
        e->vector = (uint8_t)(0x10 + rng_below(r, 0xF0));
        cpu->rflags |= X86_FLAG_IF;
    }
}

/* Saved requests: the one who loads the state takes them. */
static void random_requests(struct x86_cpu *cpu, struct rng *r)
{
    (void)vcpu_take_requests(&cpu->vcpu, ~0u);
    atomic_store(&cpu->vcpu.sipi_vector, 0);
    if (rng_one_in(r, 8))
        vcpu_request(&cpu->vcpu, VCPU_REQ_NMI);
    if (cpu->activity != X86_WAIT_SIPI || rng_one_in(r, 2))
        return;
    atomic_store(&cpu->vcpu.sipi_vector, rng_below(r, 256));
    vcpu_request(&cpu->vcpu, VCPU_REQ_SIPI | (rng_one_in(r, 2) ? VCPU_REQ_INIT : 0));
}

void random_state(struct x86_cpu *cpu, struct rng *r)
{
    enum mode mode = (enum mode)rng_below(r, MODES);

    x86_cpu_reset(cpu);
    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    random_control(cpu, r, mode);
    if (mode == PAE)
        random_pdptes(cpu, r);
    if (mode == REAL || mode == V86)
        random_real_segments(cpu, r, mode);
    else
        random_protected_segments(cpu, r, mode);
    random_tables(cpu, r, mode);
    random_position(cpu, r, mode);
    random_debug(cpu, r);
    random_fpu(cpu, r);
    random_msrs(cpu, r);
    random_apic(cpu, r);
    random_events(cpu, r);
    random_requests(cpu, r);
    x86_update_mode(cpu);
}
