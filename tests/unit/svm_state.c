/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Registers between struct x86_cpu and the VMCB (engine/svm/state.c, vmcb.c): that what goes in comes out, what the
 * processor has otherwise than the guest, events in flight, what may never be taken from the intercepts. The VMCB is
 * memory as any other here; what needs a processor is replaced.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/svm/svm_private.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/level.h"

static struct cpu_env e;
static struct svm_vm vm;
static struct svm_vcpu *s;

/* --- what needs a processor ------------------------------------------------------------------------------------ */

static unsigned int stores;

uint64_t hw_phys(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

uint64_t nested_root(const struct nested *n)
{
    return (uint64_t)(uintptr_t)n;
}

void hw_on_switch(void (*leave)(void *owner), void *owner)
{
    (void)leave;
    (void)owner;
}

void svm_fpu_store(struct x86_cpu *cpu)
{
    stores++;
    svm_vcpu_of(cpu)->todo |= SVM_LOAD;
}

void svm_debug_store(struct x86_cpu *cpu)
{
    svm_vcpu_of(cpu)->debug_here = false;
}

void svm_debug_fetch(struct x86_cpu *cpu)
{
    (void)cpu;
}

void svm_debug_load(struct x86_cpu *cpu)
{
    svm_vcpu_of(cpu)->debug_here = true;
}

/* --- a vCPU ---------------------------------------------------------------------------------------------------- */

static void begin(enum cpu_env_mode mode)
{
    cpu_env_create(&e, mode);
    vm = (struct svm_vm){.tsc_base = 1000};
    s = calloc(1, sizeof(*s));
    s->vmcb = aligned_alloc(4096, sizeof(*s->vmcb));
    memset(s->vmcb, 0, sizeof(*s->vmcb));
    e.vm.engine = &vm;
    e.cpu->engine = s;
    svm_vmcb_init(e.cpu);
}

static void end(void)
{
    free(s->vmcb);
    free(s);
    e.vm.engine = e.cpu->engine = NULL;
    cpu_env_destroy(&e);
}

static void hand_over(void)
{
    (void)svm_vcpu_set_state(e.cpu, ENGINE_STATE_ALL);
    svm_vcpu_state_changed(e.cpu);
    svm_hand_over(e.cpu);
    CHECK_EQ(s->changed, 0);
    s->fetched = 0; /* as an entry does */
    s->vmcb->control.clean = CLEAN_ALL;
}

static uint64_t next_random(void)
{
    static uint64_t x = 88172645463325252u;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

/* As a struct of its own, so that it can be compared. */
struct registers {
    uint64_t rsp, rip, rflags, cr0, cr2, cr3, efer, dr6, dr7, star, lstar, cstar, sfmask, kernel_gs_base;
    struct x86_segment seg[SEG_COUNT], ldtr, tr;
    struct x86_table gdtr, idtr;
    uint8_t shadow, cpl, mode;
};

static struct registers registers(void)
{
    const struct x86_cpu *c = e.cpu;
    struct registers r;

    memset(&r, 0, sizeof(r));
    r.rsp = c->gpr[RSP];
    r.rip = c->rip;
    r.rflags = c->rflags;
    r.cr0 = c->cr0;
    r.cr2 = c->cr2;
    r.cr3 = c->cr3;
    r.efer = c->efer;
    r.dr6 = c->dr6;
    r.dr7 = c->dr7;
    r.star = c->msr.star;
    r.lstar = c->msr.lstar;
    r.cstar = c->msr.cstar;
    r.sfmask = c->msr.sfmask;
    r.kernel_gs_base = c->msr.kernel_gs_base;
    memcpy(r.seg, c->seg, sizeof(r.seg));
    memcpy(&r.ldtr, &c->ldtr, sizeof(r.ldtr));
    memcpy(&r.tr, &c->tr, sizeof(r.tr));
    memcpy(&r.gdtr, &c->gdtr, sizeof(r.gdtr));
    memcpy(&r.idtr, &c->idtr, sizeof(r.idtr));
    r.shadow = c->shadow;
    r.cpl = c->cpl;
    r.mode = c->mode;
    return r;
}

static void randomize(void)
{
    struct x86_cpu *c = e.cpu;

    c->gpr[RSP] = next_random();
    c->rip = next_random();
    c->rflags = (next_random() & 0xCD5) | X86_FLAG_ONE;
    c->cr2 = next_random();
    c->dr6 = X86_DR6_FIXED | (next_random() & 0xF);
    c->dr7 = X86_DR7_FIXED | (next_random() & 0xFF);
    c->msr.star = next_random();
    c->msr.lstar = next_random();
    c->msr.cstar = next_random();
    c->msr.sfmask = next_random() & UINT32_MAX;
    c->msr.kernel_gs_base = next_random();
    c->seg[SEG_FS].base = next_random();
    c->seg[SEG_GS].base = next_random();
    c->seg[SEG_DS].attr = (uint32_t)next_random() & 0xF0EF;
    c->seg[SEG_DS].attr |= X86_ATTR_P;
    c->seg[SEG_ES].attr = X86_ATTR_UNUSABLE;
    c->seg[SEG_DS].limit = (uint32_t)next_random();
    c->seg[SEG_DS].selector = (uint16_t)next_random();
    c->gdtr = (struct x86_table){next_random(), (uint16_t)next_random()};
    c->idtr = (struct x86_table){next_random(), (uint16_t)next_random()};
    c->shadow = next_random() & 1 ? X86_SHADOW_STI : 0;
}

/* Everything that struct x86_cpu has of these, gone. */
static void wipe(void)
{
    struct x86_cpu *c = e.cpu;

    c->gpr[RSP] = c->rip = c->rflags = c->cr0 = c->cr2 = c->cr3 = c->efer = c->dr6 = c->dr7 = 0;
    memset(&c->msr.star, 0, offsetof(struct x86_msrs, sysenter_cs));
    memset(c->seg, 0, sizeof(c->seg));
    memset(&c->ldtr, 0, sizeof(c->ldtr));
    memset(&c->tr, 0, sizeof(c->tr));
    c->gdtr = c->idtr = (struct x86_table){0, 0};
    c->shadow = 0;
}

static void test_round_trip(void)
{
    for (int mode = CPU_ENV_REAL; mode <= CPU_ENV_LONG; mode++) {
        begin((enum cpu_env_mode)mode);
        for (int i = 0; i < 200; i++) {
            struct registers before, after;

            randomize();
            x86_update_mode(e.cpu);
            before = registers();
            hand_over();
            wipe();
            CHECK_EQ(svm_vcpu_get_state(e.cpu, ENGINE_STATE_ALL), OK);
            after = registers();
            unit_context("mode %d, round %d", mode, i);
            CHECK(memcmp(&before, &after, sizeof(before)) == 0);
        }
        unit_context(NULL);
        end();
    }
}

/* What is newer in struct x86_cpu is not overwritten; what was fetched is not fetched again. */
static void test_newest_wins(void)
{
    begin(CPU_ENV_LONG);
    hand_over();
    e.cpu->rip = 0x1234;
    svm_changed(e.cpu, ENGINE_STATE_GPR);
    svm_fetch(e.cpu, ENGINE_STATE_ALL);
    CHECK_EQ(e.cpu->rip, 0x1234);
    svm_hand_over(e.cpu);
    CHECK_EQ(s->vmcb->save.rip, 0x1234);
    s->fetched = 0;
    s->vmcb->save.rip = 0x5678;
    svm_fetch(e.cpu, ENGINE_STATE_GPR);
    CHECK_EQ(e.cpu->rip, 0x5678);
    s->vmcb->save.rip = 0x9ABC;
    svm_fetch(e.cpu, ENGINE_STATE_GPR);
    CHECK_EQ(e.cpu->rip, 0x5678);
    stores = 0;
    s->todo &= ~(uint32_t)SVM_LOAD;
    (void)svm_vcpu_get_state(e.cpu, ENGINE_STATE_FPU);
    CHECK_EQ(stores, 1);
    end();
}

/* Caching stays on and machine checks too, and the guest does not see it. */
static void test_hidden_bits(void)
{
    begin(CPU_ENV_LONG);
    e.cpu->cr0 |= X86_CR0_CD | X86_CR0_NW;
    e.cpu->cr4 &= ~(uint64_t)X86_CR4_MCE;
    hand_over();
    CHECK(!(s->vmcb->save.cr0 & (X86_CR0_CD | X86_CR0_NW)));
    CHECK(s->vmcb->save.cr4 & X86_CR4_MCE);
    CHECK(s->vmcb->save.efer & EFER_SVME);
    CHECK_EQ(s->vmcb->control.intercept[VMCB_CR] & 0x11, 0x11);
    wipe();
    svm_fetch(e.cpu, ENGINE_STATE_ALL);
    CHECK((e.cpu->cr0 & (X86_CR0_CD | X86_CR0_NW)) == (X86_CR0_CD | X86_CR0_NW));
    CHECK(!(e.cpu->efer & EFER_SVME));
    CHECK(!(e.cpu->cr4 & X86_CR4_MCE));
    e.cpu->cr0 &= ~(uint64_t)(X86_CR0_CD | X86_CR0_NW);
    e.cpu->cr4 |= X86_CR4_MCE;
    hand_over();
    CHECK_EQ(s->vmcb->control.intercept[VMCB_CR] & 0x11, 0);
    end();
}

static void test_flush(void)
{
    begin(CPU_ENV_LONG);
    hand_over();
    s->todo &= ~(uint32_t)SVM_FLUSH;
    e.cpu->cr2 = 1;
    e.cpu->cr0 ^= X86_CR0_TS;
    svm_changed(e.cpu, ENGINE_STATE_CONTROL);
    svm_hand_over(e.cpu);
    CHECK(!(s->todo & SVM_FLUSH));
    e.cpu->cr4 ^= X86_CR4_PGE;
    svm_changed(e.cpu, ENGINE_STATE_CONTROL);
    svm_hand_over(e.cpu);
    CHECK(s->todo & SVM_FLUSH);
    CHECK(!(s->vmcb->control.clean & CLEAN_CR));
    CHECK(s->vmcb->control.clean & CLEAN_SEGMENTS);
    end();
}

static void check_event(struct x86_in_flight in, uint64_t expected)
{
    struct x86_in_flight back;

    e.cpu->event = in;
    hand_over();
    CHECK_EQ(s->vmcb->control.inject, expected);
    svm_fetch(e.cpu, ENGINE_STATE_EVENTS);
    back = e.cpu->event;
    CHECK_EQ(back.kind, in.kind);
    CHECK_EQ(back.vector, in.vector);
    CHECK_EQ(back.has_error, in.has_error);
    CHECK_EQ(back.error, in.error);
}

static void test_events(void)
{
    begin(CPU_ENV_LONG);
    check_event((struct x86_in_flight){.kind = X86_FLIGHT_NONE}, 0);
    check_event((struct x86_in_flight){.kind = X86_FLIGHT_INTERRUPT, .vector = 0x31}, 0x80000031);
    check_event((struct x86_in_flight){.kind = X86_FLIGHT_NMI, .vector = 2}, 0x80000202);
    check_event((struct x86_in_flight){.kind = X86_FLIGHT_EXCEPTION, .vector = 6}, 0x80000306);
    check_event((struct x86_in_flight){.kind = X86_FLIGHT_EXCEPTION, .vector = 14, .has_error = true, .error = 7},
                0x0000000780000B0E);
    /* software's own are done again with their instruction */
    CHECK_EQ(svm_event_to(0x80000431).kind, X86_FLIGHT_NONE);
    CHECK_EQ(svm_event_to(0x80000303).kind, X86_FLIGHT_NONE);
    CHECK_EQ(svm_event_to(0x31).kind, X86_FLIGHT_NONE);
    /* one whose CR2 is still to be set stays: the emulator delivers it */
    e.cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_FAULT, .vector = 14};
    hand_over();
    CHECK_EQ(s->vmcb->control.inject, 0);
    CHECK_EQ(e.cpu->event.kind, X86_FLIGHT_FAULT);
    /* an NMI's end is waited for */
    e.cpu->event.kind = X86_FLIGHT_NONE;
    e.cpu->nmi_masked = true;
    hand_over();
    CHECK(s->vmcb->control.intercept[VMCB_MISC1] & INTERCEPT_IRET);
    e.cpu->nmi_masked = false;
    hand_over();
    CHECK(!(s->vmcb->control.intercept[VMCB_MISC1] & INTERCEPT_IRET));
    end();
}

/* What the hypervisor's safety hangs on stays, whoever asks. */
static void test_forced_intercepts(void)
{
    const uint32_t misc1 = INTERCEPT_INTR | INTERCEPT_NMI | INTERCEPT_INIT | INTERCEPT_IO | INTERCEPT_MSR |
                           INTERCEPT_INVD | INTERCEPT_SHUTDOWN;

    begin(CPU_ENV_LONG);
    hand_over();
    for (unsigned int word = 0; word < VMCB_WORDS; word++)
        svm_intercept(s, word, UINT32_MAX, false);
    CHECK_EQ(s->vmcb->control.intercept[VMCB_MISC1] & misc1, misc1);
    CHECK_EQ(s->vmcb->control.intercept[VMCB_MISC2] & 0x207D, 0x207D);
    CHECK_EQ(s->vmcb->control.intercept[VMCB_EXCEPTIONS], 1u << X86_DB | 1u << X86_AC | 1u << X86_MC);
    CHECK(!(s->vmcb->control.clean & CLEAN_INTERCEPTS));
    end();
}

/* Default: deny. 15.11: two bits an MSR, C0000000H on from 800H. */
static void test_permission_maps(void)
{
    static const uint32_t open[] = {MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK, MSR_FS_BASE, MSR_GS_BASE,
                                    MSR_KERNEL_GS_BASE};
    const uint8_t *io, *msr;
    uint32_t denied = 0;

    begin(CPU_ENV_LONG);
    io = (const uint8_t *)(uintptr_t)s->vmcb->control.io_map;
    msr = (const uint8_t *)(uintptr_t)s->vmcb->control.msr_map;
    CHECK(((uintptr_t)io & 4095) == 0 && ((uintptr_t)msr & 4095) == 0);
    for (unsigned int i = 0; i < 12 << 10; i++)
        denied += io[i] == 0xFF;
    CHECK_EQ(denied, 12 << 10);
    for (unsigned int i = 0; i < sizeof(open) / sizeof(open[0]); i++) {
        uint32_t n = open[i] - 0xC0000000;

        CHECK_EQ(msr[0x800 + n / 4] >> n % 4 * 2 & 3, 0);
    }
    denied = 0;
    for (unsigned int bit = 0; bit < 8 * (8 << 10); bit++)
        denied += msr[bit / 8] >> bit % 8 & 1;
    CHECK_EQ(denied, 8 * (8 << 10) - 2 * sizeof(open) / sizeof(open[0]));
    end();
}

int main(void)
{
    UNIT_RUN(test_round_trip);
    UNIT_RUN(test_newest_wins);
    UNIT_RUN(test_hidden_bits);
    UNIT_RUN(test_flush);
    UNIT_RUN(test_events);
    UNIT_RUN(test_forced_intercepts);
    UNIT_RUN(test_permission_maps);
    return unit_done();
}
