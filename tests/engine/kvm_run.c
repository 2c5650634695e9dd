/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The kvm engine's run loop against a KVM that does what it is told (tests/lib/fake_kvm.h): every
 * way in which KVM_RUN can end that is not a guest's ordinary doing ends the VM, once, with a
 * reason and the registers; and what is under way when a VM stops is not carried into its next
 * life.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "tests/lib/fake_kvm.h"
#include "tests/lib/pc_env.h"
#include "tests/lib/unit.h"

#define HOLE UINT64_C(0xFE000000) /* no RAM, no device */

enum { RIP = 0x123450, LIMIT = 100000 };

static struct pc_env env;

static struct fake_kvm_vcpu *machine_vcpu(uint32_t id)
{
    for (uint32_t i = 0; i < fake_kvm.vcpus; i++)
        if (fake_kvm.vm[fake_kvm.vcpu[i].vm].is_machine && fake_kvm.vcpu[i].id == id)
            return &fake_kvm.vcpu[i];
    return NULL;
}

static void begin(uint32_t vcpus)
{
    fake_kvm_reset(false);
    pc_env_create(&env, vcpus);
    env.engine = &engine_kvm;
    env.config.exit_port = true;
    CHECK_EQ(pc_env_build(&env), OK);
    CHECK_EQ(pc_env_boot(&env), OK);
}

static void end(void)
{
    pc_env_destroy(&env);
}

/* Runs the boot processor until the VM stops. */
static void run_with(int (*run)(struct fake_kvm_vcpu *v, void *owner), void *owner)
{
    fake_kvm.run = run;
    fake_kvm.run_owner = owner;
    pc_run_vcpu(&env.vm, 0);
}

static void again(void)
{
    vm_clear_stop(&env.vm);
    CHECK_EQ(pc_env_boot(&env), OK);
}

/* --- unexpected ends --- */

struct ending {
    uint32_t reason;  /* KVM_EXIT_ */
    int error;        /* or KVM_RUN's errno */
    uint64_t word[8]; /* what is in the union, from its beginning */
    uint32_t stop;
    const char *text;
};

static int end_as(struct fake_kvm_vcpu *v, void *owner)
{
    const struct ending *e = owner;

    if (v->entries > LIMIT)
        abort(); /* it loops */
    v->regs.rip = RIP;
    v->run->exit_reason = e->reason;
    memset(v->run->padding, 0, sizeof(v->run->padding));
    memcpy(&v->run->hw, e->word, sizeof(e->word));
    return -e->error;
}

#define INTERNAL(suberror, count) (suberror) | (uint64_t)(count) << 32
#define UNKNOWN_REASON            "KVM gave no known reason"
#define LEFT_UNKNOWN              "the processor left the guest for a reason that KVM does not know"
#define NO_PAGE                   "a page of guest RAM"

static void test_endings(void)
{
    static const struct ending endings[] = {
        /* table */
        {KVM_EXIT_UNKNOWN, 0, {0x61}, VM_STOP_ENGINE, LEFT_UNKNOWN " (61)"},
        {KVM_EXIT_EXCEPTION, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_HYPERCALL, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_DEBUG, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_HLT, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_SET_TPR, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_TPR_ACCESS, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_NMI, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_SYSTEM_EVENT, 0, {KVM_SYSTEM_EVENT_CRASH}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_HYPERV, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON},
        {KVM_EXIT_X86_BUS_LOCK, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON " for an exit (21)"},
        {1000, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON " for an exit (3e8)"},
        {UINT32_MAX, 0, {0}, VM_STOP_ENGINE, UNKNOWN_REASON " for an exit (ffffffff)"},
        {KVM_EXIT_NOTIFY, 0, {1}, VM_STOP_ENGINE, "kept the processor from taking interrupts (1)"},
        {KVM_EXIT_FAIL_ENTRY,
         0,
         {0x80000021},
         VM_STOP_ENGINE,
         "refused to enter the guest (80000021)"},
        {KVM_EXIT_SHUTDOWN, 0, {0}, VM_STOP_TRIPLE_FAULT, "vCPU 0 at"},
        {KVM_EXIT_INTERNAL_ERROR,
         0,
         {INTERNAL(1, 0)},
         VM_STOP_ENGINE,
         "cannot emulate an instruction of the guest (0)"},
        {KVM_EXIT_INTERNAL_ERROR,
         0,
         {INTERNAL(1, 3), 1, 0xF4D90F, 7},
         VM_STOP_ENGINE,
         "the guest (f4d90f)"},
        {KVM_EXIT_INTERNAL_ERROR,
         0,
         {INTERNAL(2, 0)},
         VM_STOP_ENGINE,
         "exceptions that it cannot deliver"},
        {KVM_EXIT_INTERNAL_ERROR,
         0,
         {INTERNAL(3, 4), 0x80000B0E},
         VM_STOP_ENGINE,
         "deliver an event (80000b0e)"},
        {KVM_EXIT_INTERNAL_ERROR, 0, {INTERNAL(4, 2), 0x4D}, VM_STOP_ENGINE, LEFT_UNKNOWN " (4d)"},
        {KVM_EXIT_INTERNAL_ERROR, 0, {INTERNAL(99, -1)}, VM_STOP_ENGINE, "internal error (63)"},
        {KVM_EXIT_IO, 0, {UINT64_C(1) << 32 | 0x00F40001}, VM_STOP_ENGINE, "unknown size (0)"},
        {KVM_EXIT_IO, 0, {UINT64_C(1) << 32 | 0x00F4FF01}, VM_STOP_ENGINE, "unknown size (ff)"},
        {KVM_EXIT_MMIO, 0, {0xE0000000, 0, 0}, VM_STOP_ENGINE, "unknown size (0)"},
        {KVM_EXIT_MMIO, 0, {0xE0000000, 0, 9}, VM_STOP_ENGINE, "unknown size (9)"},
        {KVM_EXIT_MMIO, 0, {0xE0000000, 0, 0x1FFFFFFFF}, VM_STOP_ENGINE, "unknown size (ffffffff)"},
        {KVM_EXIT_IO, EFAULT, {0}, VM_STOP_NO_MEMORY, NO_PAGE},
        {KVM_EXIT_IO, ENOMEM, {0}, VM_STOP_NO_MEMORY, NO_PAGE},
        {KVM_EXIT_IO, EIO, {0}, VM_STOP_ENGINE, "KVM has given the VM up"},
        {KVM_EXIT_IO, EBUSY, {0}, VM_STOP_ENGINE, "KVM_RUN failed, error number (10)"},
        {KVM_EXIT_IO, EINVAL, {0}, VM_STOP_ENGINE, "KVM_RUN failed, error number (16)"},
        {KVM_EXIT_IO, ENODEV, {0}, VM_STOP_ENGINE, "KVM_RUN failed, error number (13)"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
        begin(1);
        run_with(end_as, (void *)(uintptr_t)&endings[i]);
        unit_context("exit %u, errno %d, said: %s", endings[i].reason, endings[i].error,
                     env.vm.stop_text);
        CHECK_EQ(env.vm.stop_reason, endings[i].stop);
        CHECK(strstr(env.vm.stop_text, endings[i].text));
        CHECK(strstr(env.vm.stop_text, "123450")); /* where it stood */
        CHECK_EQ(machine_vcpu(0)->entries, 1);
        unit_context(NULL);
        end();
    }
}

/* What a guest does to itself is not reported as a failure of ours. */
struct failing_at {
    struct ending ending;
    uint64_t rip;
    uint16_t flags; /* KVM_RUN_ */
};

static int fail_at(struct fake_kvm_vcpu *v, void *owner)
{
    const struct failing_at *f = owner;
    int result = end_as(v, (void *)(uintptr_t)&f->ending);

    v->regs.rip = f->rip;
    v->run->flags = f->flags;
    return result;
}

#define FAILING(suberror, stop, text)                                                              \
    {                                                                                              \
        KVM_EXIT_INTERNAL_ERROR, 0, {INTERNAL(suberror, 0)}, stop, text                            \
    }

static void test_whose_doing_it_is(void)
{
    static const struct failing_at endings[] = {
        {FAILING(1, VM_STOP_ENGINE, "emulate"), RIP, 0},
        {FAILING(1, VM_STOP_GUEST_ERROR, "not RAM"), HOLE, 0},
        {FAILING(1, VM_STOP_GUEST_ERROR, "an SMI"), RIP, KVM_RUN_X86_SMM},
        {FAILING(2, VM_STOP_ENGINE, "deliver"), HOLE, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
        begin(1);
        run_with(fail_at, (void *)(uintptr_t)&endings[i]);
        unit_context("ending %zu said: %s", i, env.vm.stop_text);
        CHECK_EQ(env.vm.stop_reason, endings[i].ending.stop);
        CHECK(strstr(env.vm.stop_text, endings[i].ending.text));
        unit_context(NULL);
        end();
    }
}

/* What is left unsaid when KVM does not even give the registers: the reason comes all the same. */
static void test_registers_that_cannot_be_had(void)
{
    static const struct ending fails = {KVM_EXIT_FAIL_ENTRY, 0, {7}, VM_STOP_ENGINE, ""};

    begin(1);
    fake_kvm_fail(KVM_GET_SREGS2, 0, EIO);
    run_with(end_as, (void *)(uintptr_t)&fails);
    CHECK_EQ(env.vm.stop_reason, VM_STOP_ENGINE);
    CHECK(strstr(env.vm.stop_text, "refused to enter the guest (7)"));
    end();
}

static void test_state_that_is_not_taken(void)
{
    static const unsigned long requests[] = {KVM_SET_CPUID2,   KVM_SET_SREGS2,   KVM_SET_XCRS,
                                             KVM_SET_XSAVE,    KVM_SET_MSRS,     KVM_SET_LAPIC,
                                             KVM_SET_MP_STATE, KVM_SET_DEBUGREGS};

    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        begin(1);
        fake_kvm_fail(requests[i], 0, EINVAL);
        pc_run_vcpu(&env.vm, 0);
        unit_context("request %zu", i);
        CHECK_EQ(env.vm.stop_reason, VM_STOP_ENGINE);
        CHECK(strstr(env.vm.stop_text, "KVM does not take the vCPU's state"));
        CHECK_EQ(machine_vcpu(0)->entries, 0);
        unit_context(NULL);
        end();
    }
}

static int interrupted(struct fake_kvm_vcpu *v, void *owner)
{
    const int *error = owner;

    v->run->exit_reason = KVM_EXIT_INTR;
    if (v->entries == 5000)
        vm_stop(&env.vm, VM_STOP_USER, 0, "enough");
    return -*error;
}

static void test_storms_of_signals(void)
{
    static const int errors[] = {EINTR, EAGAIN, 0};

    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        begin(1);
        run_with(interrupted, (void *)(uintptr_t)&errors[i]);
        CHECK_EQ(env.vm.stop_reason, VM_STOP_USER);
        CHECK_EQ(machine_vcpu(0)->entries, 5000);
        end();
    }
}

/* --- kicks --- */

static int sleep_long(struct fake_kvm_vcpu *v, void *owner)
{
    struct timespec long_time = {.tv_sec = 20};

    (void)owner;
    v->run->exit_reason = KVM_EXIT_INTR;
    return nanosleep(&long_time, NULL) == 0 ? 0 : -errno;
}

static void *stop_soon(void *arg)
{
    (void)arg;
    (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    vm_stop(&env.vm, VM_STOP_USER, 0, "enough");
    return NULL;
}

/* The kernel queues no more signals for this user: a kick gets through nevertheless. */
static void test_kick_without_room_for_signals(void)
{
    struct rlimit old, none;
    struct timespec before, after;
    pthread_t thread;

    begin(1);
    CHECK(getrlimit(RLIMIT_SIGPENDING, &old) == 0);
    none = (struct rlimit){0, old.rlim_max};
    CHECK(setrlimit(RLIMIT_SIGPENDING, &none) == 0);
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(pthread_create(&thread, NULL, stop_soon, NULL) == 0);
    run_with(sleep_long, NULL);
    pthread_join(thread, NULL);
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK(after.tv_sec - before.tv_sec < 10);
    CHECK(setrlimit(RLIMIT_SIGPENDING, &old) == 0);
    end();
}

/* --- accesses that are not finished --- */

enum { IN_PIECES = 1000 };

/* A REP instruction on device memory, which KVM hands out piece by piece. */
static int rep_on_device(struct fake_kvm_vcpu *v, void *owner)
{
    const uint32_t *pieces = owner;

    v->pieces = *pieces;
    v->regs.rip = RIP;
    v->run->exit_reason = KVM_EXIT_MMIO;
    v->run->mmio.phys_addr = 0xE0000000;
    v->run->mmio.len = 4;
    v->run->mmio.is_write = 0;
    vm_stop(&env.vm, VM_STOP_RESET, 0, "somebody else resets the machine meanwhile");
    return 0;
}

static int first_entry(struct fake_kvm_vcpu *v, void *owner)
{
    uint64_t *rip = owner;

    *rip = v->regs.rip;
    vm_stop(&env.vm, VM_STOP_USER, 0, "seen");
    return -EINTR;
}

static void test_reset_in_the_middle_of_an_access(void)
{
    static const uint32_t pieces = IN_PIECES;
    uint64_t rip = 0;
    uint32_t entries;

    begin(1);
    run_with(rep_on_device, (void *)(uintptr_t)&pieces);
    CHECK_EQ(env.vm.stop_reason, VM_STOP_RESET);
    CHECK_EQ(machine_vcpu(0)->pieces, 0); /* nothing of the old life is left */
    entries = machine_vcpu(0)->entries;
    again();
    run_with(first_entry, &rip);
    CHECK_EQ(machine_vcpu(0)->entries, entries + 1);
    CHECK_EQ(rip, pc_cpu(&env.vm, 0)->rip);
    CHECK(rip != RIP);
    end();
}

static void test_access_without_end(void)
{
    static const uint32_t pieces = UINT32_MAX;
    uint64_t rip = 0;

    begin(1);
    run_with(rep_on_device, (void *)(uintptr_t)&pieces);
    CHECK_EQ(env.vm.stop_reason, VM_STOP_RESET);
    CHECK_EQ(machine_vcpu(0)->entries, 1);
    again(); /* the new life does not begin in the old one's access */
    run_with(first_entry, &rip);
    CHECK_EQ(env.vm.stop_reason, VM_STOP_ENGINE);
    CHECK(strstr(env.vm.stop_text, "KVM does not come to the end of an access"));
    CHECK_EQ(machine_vcpu(0)->entries, 1);
    end();
}

/* --- the 8259's interrupts --- */

enum { VECTOR = 0x30 };

static int acknowledged;

static int acknowledge(void *pic)
{
    (void)pic;
    acknowledged++;
    atomic_store(&env.vm.apic_bus->extint, false);
    return VECTOR;
}

/* Somebody stops the VM just when the vector was fetched. */
static int acknowledge_and_stop(void *pic)
{
    vm_stop(&env.vm, VM_STOP_USER, 0, "enough");
    return acknowledge(pic);
}

/* The first entry ends when an interrupt is wanted and could be taken; the second sees what came.
 */
static int want_extint(struct fake_kvm_vcpu *v, void *owner)
{
    struct kvm_vcpu_events *seen = owner;

    v->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
    if (v->entries == 1) {
        atomic_store(&env.vm.apic_bus->extint, true);
        v->run->ready_for_interrupt_injection = 1;
        v->mp.mp_state = KVM_MP_STATE_HALTED;
        return 0;
    }
    *seen = v->events;
    CHECK_EQ(v->mp.mp_state == KVM_MP_STATE_RUNNABLE, acknowledged > 0);
    vm_stop(&env.vm, VM_STOP_USER, 0, "seen");
    return 0;
}

static void test_extint(void)
{
    struct kvm_vcpu_events seen = {0};

    acknowledged = 0;
    begin(1);
    env.vm.apic_bus->ack_extint = acknowledge;
    run_with(want_extint, &seen);
    CHECK_EQ(acknowledged, 1);
    CHECK(seen.interrupt.injected == 1 && seen.interrupt.nr == VECTOR && !seen.interrupt.soft);
    CHECK(!(seen.flags & KVM_VCPUEVENT_VALID_NMI_PENDING)); /* one may just be coming */
    end();
}

static void test_extint_is_part_of_the_state(void)
{
    struct kvm_vcpu_events seen = {0};
    struct x86_cpu *cpu;

    acknowledged = 0;
    begin(1);
    env.vm.apic_bus->ack_extint = acknowledge_and_stop;
    run_with(want_extint, &seen);
    cpu = pc_cpu(&env.vm, 0);
    CHECK_EQ(acknowledged, 1);
    CHECK_EQ(pc_fetch_vcpus(&env.vm), OK);
    CHECK_EQ(cpu->event.kind, X86_FLIGHT_INTERRUPT);
    CHECK_EQ(cpu->event.vector, VECTOR);
    again(); /* and is gone after a reset */
    env.vm.apic_bus->ack_extint = acknowledge;
    atomic_store(&env.vm.apic_bus->extint, false);
    machine_vcpu(0)->entries = 1;
    run_with(want_extint, &seen);
    CHECK(!seen.interrupt.injected);
    end();
}

/* KVM before 5.15 says that it is ready while an exception is pending. */
static int want_extint_at_exception(struct fake_kvm_vcpu *v, void *owner)
{
    if (v->entries == 1)
        v->events.exception.pending = 1;
    return want_extint(v, owner);
}

static void test_extint_waits_for_an_exception(void)
{
    struct kvm_vcpu_events seen = {0};

    acknowledged = 0;
    begin(1);
    env.vm.apic_bus->ack_extint = acknowledge;
    run_with(want_extint_at_exception, &seen);
    CHECK_EQ(acknowledged, 0);
    CHECK(!seen.interrupt.injected && seen.exception.pending);
    CHECK_EQ(machine_vcpu(0)->run->request_interrupt_window, 1);
    end();
}

/* --- others' INIT --- */

/* KVM takes a latched INIT when it is asked for the vCPU's run state: what is fetched is all from
 * before or all from after it. */
static void test_init_while_state_is_fetched(void)
{
    struct x86_cpu *cpu;

    begin(2);
    run_with(interrupted, &(int){EINTR});
    cpu = pc_cpu(&env.vm, 0);
    machine_vcpu(0)->regs.rip = RIP;
    machine_vcpu(0)->init_pending = true;
    CHECK_EQ(pc_fetch_vcpus(&env.vm), OK);
    CHECK_EQ(cpu->activity, X86_WAIT_SIPI);
    CHECK_EQ(cpu->rip, 0xFFF0);
    CHECK_EQ(cpu->cr0, 0x60000010);
    end();
}

int main(void)
{
    UNIT_RUN(test_endings);
    UNIT_RUN(test_whose_doing_it_is);
    UNIT_RUN(test_registers_that_cannot_be_had);
    UNIT_RUN(test_state_that_is_not_taken);
    UNIT_RUN(test_storms_of_signals);
    UNIT_RUN(test_kick_without_room_for_signals);
    UNIT_RUN(test_reset_in_the_middle_of_an_access);
    UNIT_RUN(test_access_without_end);
    UNIT_RUN(test_extint);
    UNIT_RUN(test_extint_is_part_of_the_state);
    UNIT_RUN(test_extint_waits_for_an_exception);
    UNIT_RUN(test_init_while_state_is_fetched);
    return unit_done();
}
