/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Neutral state goes into KVM and comes out again as it was.
 *
 *   state [--seed N] [--count N]
 *
 * Random states that a guest could have reached are made in a machine under soft, saved, loaded
 * into a machine under kvm, and taken over by KVM: KVM_RUN is entered, and left again before the
 * first instruction. Then the machine's own copy is overwritten, everything is fetched back from
 * KVM, and saved again. The sections "cpu" and "lapic" of both are the same byte for byte, but for
 * what excuse() lists, with a reason each.
 *
 * Only the entry is not what a machine does: it would execute an instruction.
 */
#include <stdlib.h>
#include <string.h>

#include "core/err.h"
#include "core/mem.h"
#include "engine/kvm/kvm_private.h"
#include "tests/kvm/random_state.h"
#include "tests/kvm/vm_env.h"
#include "tests/lib/unit.h"
#include "x86/lapic_private.h"
#include "x86/msr.h"

enum {
    VCPUS = 2,
    MEMORY = 32 << 20,
    SHOWN = 3,                     /* states of which all is printed */
    CLOCK_TOLERANCE_NS = 50000000, /* between two looks at running clocks, in an emulated host */
};

static struct vm_shape shape;
static struct vm_env source, target;
static uint64_t seed = 1, count = 300;
static unsigned int shown;

/* --- there and back --------------------------------------------------------------------------- */

/* KVM takes over what struct x86_cpu has, and would now run the guest. */
static void enter(struct x86_cpu *cpu)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    CHECK_EQ(kvm_flush_state(cpu), OK);
    k->run->immediate_exit = 1;
    CHECK(ioctl(k->fd, KVM_RUN, 0) < 0);
    k->run->immediate_exit = 0;
    CHECK_EQ(k->run->kvm_dirty_regs, 0);
}

/* What is left in struct x86_cpu must not pass for what KVM gave; but for what KVM does not have:
 * x86/msr.c keeps it under every engine. */
static void overwrite(struct x86_cpu *cpu)
{
    struct x86_msrs kept = cpu->msr;

    x86_cpu_reset(cpu);
    memset(cpu->gpr, 0xAA, sizeof(cpu->gpr));
    atomic_store(&cpu->steal_ns, 0);
    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    cpu->msr.misc_enable = kept.misc_enable;
    cpu->msr.mcg_status = kept.mcg_status;
    cpu->msr.kvm_wall_clock = kept.kvm_wall_clock;
    if (!cpu->level->spec_ctrl)
        cpu->msr.spec_ctrl = kept.spec_ctrl;
}

static bool there_and_back(const struct vm_state *before)
{
    struct vm *vm = vm_env_vm(&target);
    int err = state_load_all(&vm->state, before->bytes, before->size);

    CHECK_EQ(err, OK);
    if (err)
        return false;
    CHECK_EQ(pc_hand_over_vcpus(vm), OK);
    pc_start_clock(vm);
    for (uint32_t id = 0; id < VCPUS; id++)
        enter(pc_cpu(vm, id));
    pc_stop_clock(vm);
    for (uint32_t id = 0; id < VCPUS; id++)
        overwrite(pc_cpu(vm, id));
    CHECK_EQ(pc_fetch_vcpus(vm), OK);
    return true;
}

/* --- what may differ -------------------------------------------------------------------------- */

/* SVM keeps no G bit: it says of every limit whether it needs one. An unusable segment has nothing
 * but its selector and base. */
static void excuse_segment(struct x86_segment *got, const struct x86_segment *put)
{
    uint32_t other = got->attr ^ put->attr;

    if (put->limit <= 0xFFFFF && other == X86_ATTR_G)
        got->attr = put->attr;
    if (put->attr & got->attr & X86_ATTR_UNUSABLE) {
        got->attr = put->attr;
        got->limit = put->limit;
    }
}

/* AMD's processors keep the x87's last opcode and pointers only while an exception waits, TCG
 * never; then they are 0. */
static void excuse_fpu(struct x86_fpu *got, const struct x86_fpu *put)
{
    if (got->fop == 0)
        got->fop = put->fop;
    if (got->fip == 0)
        got->fip = put->fip;
    if (got->fdp == 0)
        got->fdp = put->fdp;
}

static bool is_near(uint64_t a, uint64_t b, uint64_t tolerance)
{
    return a - b <= tolerance || b - a <= tolerance;
}

static void excuse_cpu(struct x86_cpu *got, const struct x86_cpu *put)
{
    for (unsigned int s = 0; s < SEG_COUNT; s++)
        excuse_segment(&got->seg[s], &put->seg[s]);
    excuse_segment(&got->ldtr, &put->ldtr);
    excuse_segment(&got->tr, &put->tr);
    excuse_fpu(&got->fpu, &put->fpu);
    got->pv_kick = put->pv_kick; /* KVM does not say (engine/kvm/state_event.c) */
    /* KVM takes no L bit outside of long mode, where it means nothing. */
    if (!(put->efer & X86_EFER_LMA))
        got->seg[SEG_CS].attr |= put->seg[SEG_CS].attr & X86_ATTR_L;
    /* AMD's processors know one interrupt shadow; KVM reports it as both. */
    if (put->shadow && got->shadow == (X86_SHADOW_STI | X86_SHADOW_MOV_SS))
        got->shadow = put->shadow;
}

/* A count is a number of ticks in KVM and a point in time here. */
static void excuse_timer(struct lapic *got, const struct lapic *put)
{
    if (is_near(got->timer_deadline, put->timer_deadline, CLOCK_TOLERANCE_NS))
        got->timer_deadline = put->timer_deadline;
    if (is_near(got->timer_start, put->timer_start, CLOCK_TOLERANCE_NS) ||
        put->timer_deadline == VM_TIMER_NEVER || put->tsc_deadline != 0) /* has no meaning */
        got->timer_start = put->timer_start;
    /* One-shot, expired: with its initial count, KVM would have it expire once more. */
    if (lapic_timer_mode(put) == LAPIC_ONE_SHOT && put->timer_deadline == VM_TIMER_NEVER &&
        lapic_reg(got, LAPIC_TIMER_INITIAL) == 0)
        lapic_set_reg(got, LAPIC_TIMER_INITIAL, lapic_reg(put, LAPIC_TIMER_INITIAL));
}

/* KVM has one ESR, without what waits for the guest's next write to it. */
static void excuse_errors(struct lapic *got, const struct lapic *put)
{
    uint32_t pending = atomic_load(&put->esr_pending);

    if (lapic_reg(got, LAPIC_ESR) == (lapic_reg(put, LAPIC_ESR) | pending)) {
        lapic_set_reg(got, LAPIC_ESR, lapic_reg(put, LAPIC_ESR));
        atomic_store(&got->esr_pending, pending);
    }
}

static void excuse(struct x86_cpu *got, const struct x86_cpu *put)
{
    excuse_cpu(got, put);
    excuse_timer(got->lapic, put->lapic);
    excuse_errors(got->lapic, put->lapic);
}

/* --- comparing -------------------------------------------------------------------------------- */

static void show_one(const char *what, const struct x86_cpu *cpu)
{
    const struct lapic *l = cpu->lapic;
    char text[4096];

    x86_cpu_dump(cpu, text, sizeof(text));
    printf("%s, VM clock %llu:\n%s", what, (unsigned long long)vm_clock_ns(cpu->vcpu.vm), text);
    printf("APIC_BASE %llx, timer %x, initial %x, started %llu, due %lld, TSC deadline %llu\n",
           (unsigned long long)lapic_get_base(l), lapic_reg(l, LAPIC_LVT_TIMER),
           lapic_reg(l, LAPIC_TIMER_INITIAL), (unsigned long long)l->timer_start,
           (long long)l->timer_deadline, (unsigned long long)l->tsc_deadline);
}

static void show(const struct x86_cpu *put, const struct x86_cpu *got)
{
    if (shown++ >= SHOWN)
        return;
    show_one("put", put);
    show_one("got", got);
}

static void compare(const struct vm_state *put, const struct vm_state *got, const char *name,
                    uint32_t id)
{
    size_t put_size, got_size;
    const uint8_t *a = vm_state_section(put, name, id, &put_size);
    const uint8_t *b = vm_state_section(got, name, id, &got_size);
    bool differs = false;

    CHECK_EQ(put_size, got_size);
    for (size_t i = 0; i < put_size && i < got_size; i++) {
        if (a[i] == b[i])
            continue;
        if (i == 0 || a[i - 1] == b[i - 1])
            printf("  seed %llu: %s %u differs at byte %zu: %02x, %02x\n", (unsigned long long)seed,
                   name, id, i, a[i], b[i]);
        differs = true;
    }
    CHECK(!differs);
    if (differs)
        show(pc_cpu(vm_env_vm(&source), id), pc_cpu(vm_env_vm(&target), id));
}

/* KVM takes INIT and SIPI at once, as a processor would. */
static void take_requests(struct x86_cpu *cpu)
{
    uint32_t requests = vcpu_take_requests(&cpu->vcpu, VCPU_REQ_INIT | VCPU_REQ_SIPI);

    if (requests & VCPU_REQ_INIT)
        x86_cpu_init(cpu);
    if (requests & VCPU_REQ_SIPI)
        x86_cpu_sipi(cpu, (uint8_t)atomic_load(&cpu->vcpu.sipi_vector));
}

static void one_state(void)
{
    static struct vm_state before, after;
    struct rng r = {.state = seed * UINT64_C(0x9E3779B97F4A7C15) | 1};
    struct vm *vm = vm_env_vm(&source);

    vm_clock_set(vm, rng_next(&r) >> (20 + rng_below(&r, 20)));
    for (uint32_t id = 0; id < VCPUS; id++)
        random_state(pc_cpu(vm, id), &r);
    vm_env_save(&source, &before);
    if (!there_and_back(&before))
        return;
    for (uint32_t id = 0; id < VCPUS; id++)
        take_requests(pc_cpu(vm, id));
    vm_env_save(&source, &before);
    for (uint32_t id = 0; id < VCPUS; id++)
        excuse(pc_cpu(vm_env_vm(&target), id), pc_cpu(vm, id));
    vm_env_save(&target, &after);
    for (uint32_t id = 0; id < VCPUS; id++) {
        compare(&before, &after, "cpu", id);
        compare(&before, &after, "lapic", id);
    }
}

static void test_there_and_back(void)
{
    for (uint64_t n = 0; n < count; n++, seed++) {
        unit_context("seed %llu", (unsigned long long)seed);
        one_state();
    }
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--count") == 0)
            count = strtoull(argv[i + 1], NULL, 0);
    }
    printf("seeds %llu to %llu\n", (unsigned long long)seed,
           (unsigned long long)(seed + count - 1));
    vm_shape_init(&shape, VCPUS, MEMORY, &engine_kvm);
    vm_env_create(&source, &shape, &engine_soft);
    vm_env_create(&target, &shape, &engine_kvm);
    UNIT_RUN(test_there_and_back);
    vm_env_destroy(&source);
    vm_env_destroy(&target);
    return unit_done();
}
