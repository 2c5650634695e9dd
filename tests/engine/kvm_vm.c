/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * How the kvm engine makes a VM, against a KVM that fails where it is told to
 * (tests/lib/fake_kvm.h): what is asked of it, that every failure is an error with everything
 * undone, and which interrupts' ends KVM is asked to report.
 */
#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "core/err.h"
#include "device/ioapic.h"
#include "engine/kvm/kvm_private.h"
#include "tests/lib/fake_kvm.h"
#include "tests/lib/pc_env.h"
#include "tests/lib/unit.h"

static struct pc_env env;

static void prepare(uint32_t vcpus)
{
    fake_kvm_reset(true);
    pc_env_create(&env, vcpus);
    env.engine = &engine_kvm;
}

static unsigned int open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned int n = 0;

    if (!d)
        return 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static const struct fake_kvm_vm *machine(void)
{
    for (uint32_t i = 0; i < fake_kvm.vms && i < FAKE_KVM_VMS; i++)
        if (fake_kvm.vm[i].is_machine)
            return &fake_kvm.vm[i];
    return NULL;
}

/* --- what is asked of KVM --- */

static void test_departures_from_the_manuals_are_off(void)
{
    const uint64_t quirks = KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE |
                            KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS;

    prepare(1);
    CHECK_EQ(pc_env_build(&env), OK);
    CHECK_EQ(machine()->enabled[KVM_CAP_DISABLE_QUIRKS2], quirks);
    CHECK_EQ(machine()->enabled[KVM_CAP_PMU_CAPABILITY], KVM_PMU_CAP_DISABLE);
    CHECK_EQ(machine()->enabled[KVM_CAP_X86_NOTIFY_VMEXIT], KVM_X86_NOTIFY_VMEXIT_ENABLED);
    CHECK_EQ(machine()->enabled[KVM_CAP_EXCEPTION_PAYLOAD], 1);
    CHECK_EQ(machine()->enabled[KVM_CAP_X86_USER_SPACE_MSR], KVM_MSR_EXIT_REASON_FILTER);
    pc_env_destroy(&env);

    prepare(1); /* Linux before 5.18 */
    fake_kvm.missing = KVM_CAP_DISABLE_QUIRKS2;
    CHECK_EQ(pc_env_build(&env), OK);
    CHECK_EQ(machine()->enabled[KVM_CAP_DISABLE_QUIRKS2], FAKE_KVM_NOT_ASKED);
    CHECK_EQ(machine()->enabled[KVM_CAP_DISABLE_QUIRKS], quirks);
    pc_env_destroy(&env);
}

/* What Linux 5.10 does not have may be missing. */
static void test_what_may_be_missing(void)
{
    static const int optional[] = {
        KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_PMU_CAPABILITY, KVM_CAP_X86_NOTIFY_VMEXIT,
        KVM_CAP_VCPU_ATTRIBUTES, KVM_CAP_SREGS2,         KVM_CAP_ENFORCE_PV_FEATURE_CPUID};

    for (size_t i = 0; i < ARRAY_SIZE(optional); i++) {
        prepare(2);
        fake_kvm.missing = optional[i];
        unit_context("capability %d", optional[i]);
        CHECK_EQ(pc_env_build(&env), OK);
        CHECK_EQ(pc_env_boot(&env), OK);
        CHECK_EQ(machine()->enabled[optional[i]], FAKE_KVM_NOT_ASKED);
        unit_context(NULL);
        pc_env_destroy(&env);
    }
}

/* --- failures --- */

struct failure {
    unsigned long request;
    uint32_t nth;
    int error, err;
};

static void test_every_failure_is_an_error(void)
{
    static const struct failure failures[] = {
        /* table */
        {KVM_CREATE_VM, 1, ENOMEM, ERR_NO_MEMORY},
        {KVM_CREATE_VM, 1, EBUSY, ERR_BUSY},
        {KVM_CREATE_VM, 1, EINVAL, ERR_UNSUPPORTED},
        {KVM_CREATE_VM, 1, EMFILE, ERR_NO_MEMORY},
        {KVM_GET_VCPU_MMAP_SIZE, 1, EINVAL, ERR_UNSUPPORTED},
        {KVM_SET_TSS_ADDR, 1, EINVAL, ERR_UNSUPPORTED},
        {KVM_SET_IDENTITY_MAP_ADDR, 1, EINVAL, ERR_UNSUPPORTED},
        {KVM_ENABLE_CAP, 1, EINVAL, ERR_UNSUPPORTED},
        {KVM_ENABLE_CAP, 2, EINVAL, ERR_UNSUPPORTED},
        {KVM_ENABLE_CAP, 3, EINVAL, ERR_UNSUPPORTED},
        {KVM_ENABLE_CAP, 4, EINVAL, ERR_UNSUPPORTED},
        {KVM_SET_USER_MEMORY_REGION, 1, ENOMEM, ERR_NO_MEMORY},
        {KVM_SET_USER_MEMORY_REGION, 1, EINVAL, ERR_UNSUPPORTED},
        {KVM_CREATE_VCPU, 1, ENOMEM, ERR_NO_MEMORY},
        {KVM_CREATE_VCPU, 1, EEXIST, ERR_UNSUPPORTED},
        {KVM_CREATE_VCPU, 1, EBUSY, ERR_BUSY},
        {KVM_CREATE_VCPU, 2, EINVAL, ERR_UNSUPPORTED},
        {KVM_CREATE_VCPU, 3, EMFILE, ERR_NO_MEMORY},
        {KVM_GET_TSC_KHZ, 1, EIO, ERR_UNSUPPORTED},
        {KVM_X86_SET_MSR_FILTER, 1, ENOMEM, ERR_NO_MEMORY},
    };

    prepare(3); /* whatever is opened once and for all */
    CHECK_EQ(pc_env_build(&env), OK);
    pc_env_destroy(&env);
    for (size_t i = 0; i < ARRAY_SIZE(failures); i++) {
        const struct failure *f = &failures[i];
        unsigned int before = open_files();

        prepare(3);
        fake_kvm_fail(f->request, f->nth, f->error);
        unit_context("row %zu", i);
        CHECK_EQ(pc_env_build(&env), f->err);
        CHECK(env.message[0] && !strchr(env.message, '\n'));
        pc_env_destroy(&env);
        CHECK_EQ(open_files(), before);
        unit_context(NULL);
    }
}

/* A signal in the middle of a request is nobody's failure. */
static void test_interrupted_requests_are_repeated(void)
{
    static const unsigned long requests[] = {KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_ENABLE_CAP,
                                             KVM_SET_USER_MEMORY_REGION, KVM_X86_SET_MSR_FILTER};

    prepare(2);
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
        fake_kvm_fail(requests[i], 1, EINTR);
    CHECK_EQ(pc_env_build(&env), OK);
    pc_env_destroy(&env);
}

static void test_tsc_rates(void)
{
    static const struct {
        uint32_t khz;
        int missing, err;
    } rows[] = {
        {2000000, KVM_CAP_TSC_CONTROL, OK},              /* the host's own */
        {2000500, KVM_CAP_TSC_CONTROL, OK},              /* 250 ppm */
        {2000501, KVM_CAP_TSC_CONTROL, ERR_UNSUPPORTED}, /* more */
        {1999499, KVM_CAP_TSC_CONTROL, ERR_UNSUPPORTED},
        {1000000, 0, OK}, /* scaled */
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        prepare(1);
        env.config.tsc_khz = rows[i].khz;
        fake_kvm.missing = rows[i].missing;
        unit_context("%u kHz", rows[i].khz);
        CHECK_EQ(pc_env_build(&env), rows[i].err);
        unit_context(NULL);
        pc_env_destroy(&env);
    }
}

/* --- ends of level-triggered interrupts --- */

static void send(uint8_t vector)
{
    const struct apic_message m = {.vector = vector, .level = true};

    CHECK_EQ(kvm_send_message(&env.vm, &m), OK);
}

static bool is_watched(uint8_t vector)
{
    for (uint32_t i = 0; i < machine()->routes; i++)
        if ((machine()->route[i].u.msi.data & 0xFF) == vector)
            return true;
    return false;
}

/* One input is served for long, while others' messages change all the time. */
static void test_ends_are_watched(void)
{
    enum { SLOW = 0x40, FIRST = 0x50, OTHERS = 160, INPUTS = 24 };

    prepare(1);
    CHECK_EQ(pc_env_build(&env), OK);
    for (uint8_t i = 0; i < OTHERS; i++) {
        if (i % INPUTS == 0)
            send(SLOW);
        send((uint8_t)(FIRST + i));
        CHECK(is_watched(SLOW) && is_watched((uint8_t)(FIRST + i)));
    }
    CHECK(!is_watched(FIRST));
    CHECK(machine()->routes <= KVM_LEVEL_ROUTES);
    CHECK_EQ(machine()->messages, OTHERS + (OTHERS + INPUTS - 1) / INPUTS);
    pc_env_destroy(&env);
}

static void test_the_table_changes_only_when_it_must(void)
{
    prepare(1);
    CHECK_EQ(pc_env_build(&env), OK);
    for (int i = 0; i < 100; i++)
        send((uint8_t)(0x40 + i % 4));
    CHECK_EQ(machine()->routings, 4);
    pc_env_destroy(&env);
}

static void test_no_memory_for_the_table(void)
{
    prepare(1);
    CHECK_EQ(pc_env_build(&env), OK);
    fake_kvm_fail(KVM_SET_GSI_ROUTING, 1, ENOMEM);
    send(0x40); /* is sent all the same */
    CHECK_EQ(machine()->messages, 1);
    CHECK_EQ(machine()->routes, 0);
    send(0x40);
    CHECK(is_watched(0x40));
    pc_env_destroy(&env);
}

/* KVM has heard of an end and was kept from reporting it; then the state is fetched. */
static void test_missed_end(void)
{
    enum { PIN = 9, VECTOR = 0x41, IN_SERVICE = 0x100 + VECTOR / 32 * 16, SPURIOUS = 0xF0 };
    struct ioapic *a;
    char *page;

    prepare(1);
    CHECK_EQ(pc_env_build(&env), OK);
    a = env.vm.apic_bus->io_apic;
    page = fake_kvm.vcpu[fake_kvm.vcpus - 1].lapic.regs;
    a->redirect[PIN] = 0x8000 | VECTOR;
    lock_take(&env.vm.board_lock);
    ioapic_set_pin(a, PIN, true);
    lock_release(&env.vm.board_lock);
    CHECK_EQ(machine()->messages, 1);
    page[IN_SERVICE] = 1 << VECTOR % 32;
    CHECK_EQ(pc_fetch_vcpus(&env.vm), OK);
    CHECK_EQ(machine()->messages, 1);
    page[IN_SERVICE] = 0;
    page[SPURIOUS + 1] = 0x10; /* ends are told to the I/O APIC by the guest */
    CHECK_EQ(pc_fetch_vcpus(&env.vm), OK);
    CHECK_EQ(machine()->messages, 1);
    page[SPURIOUS + 1] = 0;
    CHECK_EQ(pc_fetch_vcpus(&env.vm), OK);
    CHECK_EQ(machine()->messages, 2);
    pc_env_destroy(&env);
}

int main(void)
{
    UNIT_RUN(test_departures_from_the_manuals_are_off);
    UNIT_RUN(test_what_may_be_missing);
    UNIT_RUN(test_every_failure_is_an_error);
    UNIT_RUN(test_interrupted_requests_are_repeated);
    UNIT_RUN(test_tsc_rates);
    UNIT_RUN(test_ends_are_watched);
    UNIT_RUN(test_the_table_changes_only_when_it_must);
    UNIT_RUN(test_no_memory_for_the_table);
    UNIT_RUN(test_missed_end);
    return unit_done();
}
