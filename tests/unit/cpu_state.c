/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The processor's saved state: that it comes back whole, that what is cut short, damaged or could
 * not have been reached is refused and changes nothing; reset, INIT and SIPI; the dump.
 */
#include <string.h>

#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/cpuid_bits.h"
#include "x86/level.h"
#include "x86/mem.h"

enum { STATE_MAX = 8192 };

static struct cpu_env e;
static uint8_t state[STATE_MAX], again[STATE_MAX];

static size_t save(uint8_t *buf)
{
    struct state_writer w = {.buf = buf, .size = STATE_MAX};
    x86_cpu_state_ops.save(e.cpu, &w);
    CHECK(w.used <= STATE_MAX);
    return w.used;
}

static int check(const uint8_t *buf, size_t size)
{
    struct state_reader r = {.buf = buf, .size = size, .version = x86_cpu_state_ops.version};
    return x86_cpu_state_ops.check(e.cpu, &r);
}

static int load(const uint8_t *buf, size_t size)
{
    struct state_reader r = {.buf = buf, .size = size, .version = x86_cpu_state_ops.version};
    return x86_cpu_state_ops.load(e.cpu, &r);
}

static void test_round_trip(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    for (int i = 0; i < 16; i++)
        e.cpu->gpr[i] = 0x1111111111111111u * (uint64_t)i;
    e.cpu->dr[1] = 0x1234;
    e.cpu->nmi_masked = true;
    e.cpu->shadow = X86_SHADOW_STI;
    e.cpu->activity = X86_HALTED;
    e.cpu->fpu.ymm_high[15][15] = 0xAB;
    e.cpu->msr.lstar = 0xFFFFFFFF81000000;
    e.cpu->tsc_offset = 77;
    atomic_store(&e.cpu->steal_ns, 88);
    vcpu_request(&e.cpu->vcpu, VCPU_REQ_NMI | VCPU_REQ_KICK);
    size_t n = save(state);
    CHECK_EQ(check(state, n), OK);

    cpu_env_reset(&e);
    (void)vcpu_take_requests(&e.cpu->vcpu, ~0u);
    CHECK_EQ(load(state, n), OK);
    CHECK_EQ(e.cpu->gpr[15], 0xFFFFFFFFFFFFFFFF);
    CHECK_EQ(e.cpu->dr[1], 0x1234);
    CHECK(e.cpu->nmi_masked && e.cpu->activity == X86_HALTED);
    CHECK_EQ(e.cpu->fpu.ymm_high[15][15], 0xAB);
    CHECK_EQ(e.cpu->tsc_offset, 77);
    CHECK_EQ(atomic_load(&e.cpu->steal_ns), 88);
    CHECK_EQ(vcpu_requests(&e.cpu->vcpu), VCPU_REQ_NMI); /* KICK was for that run only */
    CHECK_EQ(e.cpu->mode, INSN_MODE_64);
    CHECK_EQ(save(again), n);
    CHECK(memcmp(state, again, n) == 0);
    cpu_env_destroy(&e);
}

/* Each mode that the processor can be in passes its own check. */
static void test_modes(void)
{
    for (int mode = CPU_ENV_REAL; mode <= CPU_ENV_LONG; mode++) {
        cpu_env_create(&e, (enum cpu_env_mode)mode);
        unit_context("mode %d", mode);
        CHECK_EQ(check(state, save(state)), OK);
        if (mode != CPU_ENV_REAL) {
            cpu_env_set_cpl(&e, 3);
            CHECK_EQ(check(state, save(state)), OK);
        }
        x86_cpu_reset(e.cpu);
        CHECK_EQ(check(state, save(state)), OK);
        x86_cpu_init(e.cpu);
        CHECK_EQ(check(state, save(state)), OK);
        cpu_env_destroy(&e);
    }
    unit_context(NULL);
}

static void test_truncated(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    size_t n = save(state);
    for (size_t i = 0; i < n; i++)
        CHECK(check(state, i) != OK);
    state[n] = 0;
    CHECK(check(state, n + 1) != OK);
    cpu_env_destroy(&e);
}

/* What cannot be reached: a change to a good long-mode state. */
#define BAD(name, statement)                                                                       \
    static void bad_##name(struct x86_cpu *c)                                                      \
    {                                                                                              \
        statement;                                                                                 \
    }
BAD(pg_without_pe, c->cr0 &= ~X86_CR0_PE)
BAD(nw_without_cd, c->cr0 |= X86_CR0_NW)
BAD(no_et, c->cr0 &= ~X86_CR0_ET)
BAD(cr0_reserved, c->cr0 |= BIT(10))
BAD(cr0_high, c->cr0 |= BIT(32))
BAD(lma_without_lme, c->efer &= ~X86_EFER_LME)
BAD(lme_pg_without_lma, c->efer &= ~X86_EFER_LMA)
BAD(lma_without_pae, c->cr4 &= ~X86_CR4_PAE)
BAD(lma_without_pg, c->cr0 &= ~X86_CR0_PG)
BAD(cr4_reserved, c->cr4 |= X86_CR4_LA57)
BAD(cr4_not_in_level, c->cr4 |= X86_CR4_UMIP)
BAD(efer_reserved, c->efer |= BIT(12))
BAD(cr3_high, c->cr3 |= BIT(40))
BAD(pdpte, c->pdpte[2] = 1 | BIT(50))
BAD(flags_reserved, c->rflags |= BIT(22))
BAD(flags_bit_1, c->rflags &= ~BIT(1))
BAD(vm_in_long_mode, c->rflags |= X86_FLAG_VM)
BAD(rip, c->rip = BIT(50))
BAD(activity, c->activity = 4)
BAD(shadow, c->shadow = 4)
BAD(fs_base, c->seg[SEG_FS].base = BIT(47))
BAD(ds_base, c->seg[SEG_DS].base = BIT(32))
BAD(attr, c->seg[SEG_ES].attr |= BIT(17))
BAD(l_and_d, c->seg[SEG_CS].attr |= X86_ATTR_DB)
BAD(gdtr, c->gdtr.base = BIT(63))
BAD(tr_base, c->tr.base = BIT(62))
BAD(dr6, c->dr6 &= ~BIT(4))
BAD(dr7, c->dr7 |= BIT(40))
BAD(dr7_fixed, c->dr7 = 0)
BAD(debug_pending, c->debug_pending = BIT(13))
BAD(xcr0_zero, c->xcr0 = 0)
BAD(xcr0_avx_alone, c->xcr0 = 5)
BAD(xcr0_level, c->xcr0 = 0xE7)
BAD(mxcsr, c->fpu.mxcsr |= 0x10000)
BAD(fop, c->fpu.fop = 0x800)
BAD(pat, c->msr.pat = 2)
BAD(mtrr, c->msr.mtrr_fixed[3] = 0xFF)
BAD(mtrr_def, c->msr.mtrr_def_type = 0xC03)
BAD(lstar, c->msr.lstar = BIT(55))
BAD(kernel_gs, c->msr.kernel_gs_base = BIT(60))
BAD(sysenter_cs, c->msr.sysenter_cs = BIT(33))
BAD(tsc_aux, c->msr.tsc_aux = BIT(32))
BAD(spec_ctrl, c->msr.spec_ctrl = 0x80)
BAD(misc_enable, c->msr.misc_enable = BIT(34))
BAD(steal_time, c->msr.kvm_steal_time = 3)

/* table */
static const struct {
    const char *name;
    void (*spoil)(struct x86_cpu *c);
} bad_states[] = {
#define ROW(name)                                                                                  \
    {                                                                                              \
#name, bad_##name                                                                          \
    }
    ROW(pg_without_pe),
    ROW(nw_without_cd),
    ROW(no_et),
    ROW(cr0_reserved),
    ROW(cr0_high),
    ROW(lma_without_lme),
    ROW(lme_pg_without_lma),
    ROW(lma_without_pae),
    ROW(lma_without_pg),
    ROW(cr4_reserved),
    ROW(cr4_not_in_level),
    ROW(efer_reserved),
    ROW(cr3_high),
    ROW(pdpte),
    ROW(flags_reserved),
    ROW(flags_bit_1),
    ROW(vm_in_long_mode),
    ROW(rip),
    ROW(activity),
    ROW(shadow),
    ROW(fs_base),
    ROW(ds_base),
    ROW(attr),
    ROW(l_and_d),
    ROW(gdtr),
    ROW(tr_base),
    ROW(dr6),
    ROW(dr7),
    ROW(dr7_fixed),
    ROW(debug_pending),
    ROW(xcr0_zero),
    ROW(xcr0_avx_alone),
    ROW(xcr0_level),
    ROW(mxcsr),
    ROW(fop),
    ROW(pat),
    ROW(mtrr),
    ROW(mtrr_def),
    ROW(lstar),
    ROW(kernel_gs),
    ROW(sysenter_cs),
    ROW(tsc_aux),
    ROW(spec_ctrl),
    ROW(misc_enable),
    ROW(steal_time),
#undef ROW
};

static void test_unreachable(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    for (size_t i = 0; i < ARRAY_SIZE(bad_states); i++) {
        unit_context("%s", bad_states[i].name);
        cpu_env_reset(&e);
        bad_states[i].spoil(e.cpu);
        size_t n = save(state);
        cpu_env_reset(&e);
        CHECK_EQ(check(state, n), ERR_CORRUPT);
        CHECK_EQ(save(again), n); /* nothing has changed */
        CHECK(memcmp(state, again, n) != 0);
        CHECK_EQ(check(again, n), OK);
    }
    unit_context(NULL);
    CHECK_EQ(check(state, save(state)), OK);
    state[0] = 'w'; /* another level's name */
    CHECK_EQ(check(state, save(again)), ERR_UNSUPPORTED);
    fake_seam_fail_allocation(1);
    CHECK_EQ(check(again, save(again)), ERR_NO_MEMORY);
    cpu_env_destroy(&e);
}

/* A level whose host has no IA32_SPEC_CTRL: its state is one without. */
static void test_without_spec_ctrl(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    struct x86_level level = *e.cpu->level;
    level.spec_ctrl = false;
    e.cpu->level = &level;
    CHECK_EQ(check(state, save(state)), OK);
    e.cpu->msr.spec_ctrl = 1;
    CHECK_EQ(check(state, save(state)), ERR_CORRUPT);
    cpu_env_destroy(&e);
}

/* A level without RDTSCP and RDPID has no IA32_TSC_AUX to be read or written, and engines load it all the same. */
static void test_without_tsc_aux(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    struct x86_level level = *e.cpu->level;
    level.insn_features &= ~(BIT(INSN_FEATURE_RDTSCP) | BIT(INSN_FEATURE_RDPID));
    e.cpu->level = &level;
    CHECK_EQ(check(state, save(state)), OK);
    e.cpu->msr.tsc_aux = UINT32_MAX;
    CHECK_EQ(check(state, save(state)), OK);
    e.cpu->msr.tsc_aux = BIT(32);
    CHECK_EQ(check(state, save(state)), ERR_CORRUPT);
    e.cpu->msr.tsc_aux = UINT64_MAX;
    CHECK_EQ(check(state, save(state)), ERR_CORRUPT);
    cpu_env_destroy(&e);
}

/* A level without BHI_CTRL: a value with BHI_DIS_S would not have been taken. */
static void test_without_bhi_ctrl(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    struct x86_level level = *e.cpu->level;
    e.cpu->msr.spec_ctrl = X86_SPEC_CTRL_BHI_DIS_S;
    CHECK_EQ(check(state, save(state)), OK);
    for (uint32_t i = 0; i < level.count; i++) {
        if (level.row[i].leaf == 7 && level.row[i].subleaf == 2)
            level.row[i].edx &= ~CPUID_72D_BHI_CTRL;
    }
    e.cpu->level = &level;
    CHECK_EQ(check(state, save(state)), ERR_CORRUPT);
    cpu_env_destroy(&e);
}

/* Any byte changed: refused, or a state that the emulator can run from. */
static void test_damaged(void)
{
    uint64_t seed = 4711;
    cpu_env_create(&e, CPU_ENV_LONG);
    size_t n = save(state);
    unsigned int accepted = 0;
    for (size_t at = 0; at < n; at++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        memcpy(again, state, n);
        again[at] ^= (uint8_t)(1 + (seed >> 40) % 255);
        if (check(again, n) != OK)
            continue;
        accepted++;
        CHECK_EQ(load(again, n), OK);
        for (int i = 0; i < 3; i++) {
            if (x86_step(e.cpu) == X86_FAULT)
                (void)x86_raise(e.cpu);
        }
        (void)vcpu_take_requests(&e.cpu->vcpu, ~0u);
        CHECK_EQ(load(state, n), OK);
    }
    CHECK(accepted > 0 && accepted < n);
    cpu_env_destroy(&e);
}

/* --- reset --- */

static void test_reset(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    struct x86_cpu *c = e.cpu;
    e.cpu->msr.lstar = 5;
    x86_cpu_reset(c);
    CHECK_EQ(c->rip, 0xFFF0);
    CHECK_EQ(c->rflags, 2);
    CHECK_EQ(c->cr0, 0x60000010);
    CHECK_EQ(c->seg[SEG_CS].selector, 0xF000);
    CHECK_EQ(c->seg[SEG_CS].base, 0xFFFF0000);
    CHECK_EQ(c->gpr[RDX], 0xF0651);
    CHECK_EQ(c->gpr[RAX] | c->gpr[RSP] | c->gpr[R15], 0);
    CHECK_EQ(c->dr6, 0xFFFF0FF0);
    CHECK_EQ(c->dr7, 0x400);
    CHECK_EQ(c->fpu.fcw, 0x40);
    CHECK_EQ(c->fpu.mxcsr, 0x1F80);
    CHECK_EQ(c->xcr0, 1);
    CHECK_EQ(c->efer | c->cr2 | c->cr3 | c->cr4 | c->msr.lstar, 0);
    CHECK(c->mode == INSN_MODE_16 && c->cpl == 0 && !c->protected_mode && !c->long_mode);
    CHECK_EQ(c->activity, X86_RUNNING);

    /* INIT keeps x87, vectors, MSRs, CD and NW */
    c->fpu.fcw = 0x37F;
    c->msr.lstar = 0x1000;
    c->cr0 = X86_CR0_ET | X86_CR0_PE | X86_CR0_CD;
    c->gpr[RBX] = 1;
    c->xcr0 = 3;
    x86_cpu_init(c);
    CHECK_EQ(c->fpu.fcw, 0x37F);
    CHECK_EQ(c->msr.lstar, 0x1000);
    CHECK_EQ(c->cr0, X86_CR0_ET | X86_CR0_CD);
    CHECK_EQ(c->gpr[RBX], 0);
    CHECK_EQ(c->xcr0, 3);
    CHECK_EQ(c->activity, X86_RUNNING); /* the boot processor does not wait */
    cpu_env_destroy(&e);
}

static void test_sipi(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    struct x86_cpu *ap;
    CHECK_EQ(x86_cpu_create(&ap, &e.vm, 1, x86_level_find("v3")), OK);
    CHECK_EQ(ap->activity, X86_WAIT_SIPI);
    x86_cpu_sipi(ap, 0x9A);
    CHECK_EQ(ap->activity, X86_RUNNING);
    CHECK_EQ(ap->seg[SEG_CS].selector, 0x9A00);
    CHECK_EQ(ap->seg[SEG_CS].base, 0x9A000);
    CHECK_EQ(ap->rip, 0);
    x86_cpu_sipi(ap, 0x10); /* it does not wait any more */
    CHECK_EQ(ap->seg[SEG_CS].selector, 0x9A00);
    x86_cpu_init(ap);
    CHECK_EQ(ap->activity, X86_WAIT_SIPI);
    x86_cpu_destroy(ap);
    cpu_env_destroy(&e);
}

/* The Nth allocation fails: an error, and nothing is left behind. */
static void test_create_fails(void)
{
    struct vm vm;
    struct x86_cpu *cpu;
    vm_init(&vm, "test");
    unsigned int before = fake_seam_allocations(), n;
    int err = ERR_NO_MEMORY;
    for (n = 1; n < 50; n++) {
        fake_seam_fail_allocation(n);
        err = x86_cpu_create(&cpu, &vm, 0, x86_level_find("v2"));
        if (err == OK)
            break;
        CHECK_EQ(err, ERR_NO_MEMORY);
        CHECK_EQ(fake_seam_allocations(), before);
    }
    fake_seam_fail_allocation(0);
    CHECK(n > 1 && err == OK);
    x86_cpu_destroy(cpu);
    CHECK_EQ(fake_seam_allocations(), before);
    x86_cpu_destroy(NULL);
}

static void test_dump(void)
{
    char text[4096], small[10];
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->gpr[R9] = 0xFEEDFACE;
    size_t n = x86_cpu_dump(e.cpu, text, sizeof(text));
    CHECK_EQ(n, strlen(text));
    CHECK(n < 2048);
    CHECK(strstr(text, "vCPU 0: running, 64-bit mode, CPL 0") != NULL);
    CHECK(strstr(text, "00000000feedface") != NULL);
    CHECK_EQ(x86_cpu_dump(e.cpu, small, sizeof(small)), sizeof(small) - 1);
    CHECK_EQ(strlen(small), sizeof(small) - 1);
    cpu_env_destroy(&e);
}

int main(void)
{
    UNIT_RUN(test_round_trip);
    UNIT_RUN(test_modes);
    UNIT_RUN(test_truncated);
    UNIT_RUN(test_unreachable);
    UNIT_RUN(test_without_spec_ctrl);
    UNIT_RUN(test_without_tsc_aux);
    UNIT_RUN(test_without_bhi_ctrl);
    UNIT_RUN(test_damaged);
    UNIT_RUN(test_reset);
    UNIT_RUN(test_sipi);
    UNIT_RUN(test_create_fails);
    UNIT_RUN(test_dump);
    return unit_done();
}
