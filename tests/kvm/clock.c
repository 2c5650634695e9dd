/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The guest's clocks under kvm against the VM clock (engine/kvm/clock.c), as KVM has them: at the
 * start of a VM of any age, after a rest, with vCPUs whose TSCs differ, also by less than a second;
 * with KVM_VCPU_TSC_OFFSET and, as on hosts before Linux 5.16, without.
 */
#include <string.h>
#include <unistd.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "tests/kvm/vm_env.h"
#include "tests/lib/unit.h"
#include "x86/msr.h"

enum {
    VCPUS = 3,
    MEMORY = 32 << 20,
    TOLERANCE_NS = 2000000, /* between two looks, in an emulated host that is switched away */
    REST_US = 30000,
    TRIES = 5,
};

static struct vm_shape shape;
static struct vm_env env;
static bool host_has_offset;

static struct x86_cpu *cpu_of(uint32_t id)
{
    return pc_cpu(vm_env_vm(&env), id);
}

static uint64_t offset_in_kvm(uint32_t id)
{
    uint64_t offset = 0;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};

    CHECK(kvm_ioctl(kvm_vcpu_of(cpu_of(id))->fd, KVM_GET_DEVICE_ATTR, &attr) >= 0);
    return offset;
}

static uint64_t tolerance_ticks(void)
{
    return scale_u64(TOLERANCE_NS, x86_tsc_ratio(vm_env_vm(&env)), UINT64_C(1) << 32);
}

/* KVM's TSC is what x86_tsc says, or a little behind; of several tries the best counts, since this
 * thread may be interrupted. */
static void check_tsc(uint32_t id)
{
    uint64_t best = UINT64_MAX;

    for (int i = 0; i < TRIES; i++) {
        uint64_t tsc, after;

        CHECK_EQ(kvm_get_msr(cpu_of(id), MSR_TSC, &tsc), OK);
        after = x86_tsc(cpu_of(id));
        if (after - tsc < best)
            best = after - tsc;
    }
    CHECK(best <= tolerance_ticks());
}

/* To the tick: of all vCPUs, or without the attribute of those that are alike. */
static void check_distance(uint32_t id, uint64_t offset_of_first)
{
    uint64_t distance = cpu_of(id)->tsc_offset - offset_of_first;

    if (host_has_offset && (kvm_vm_of(vm_env_vm(&env))->has_tsc_offset || distance == 0))
        CHECK_EQ(offset_in_kvm(id) - offset_in_kvm(0), distance);
}

static uint64_t kvm_clock(void)
{
    struct kvm_clock_data clock = {0};

    CHECK(kvm_ioctl(kvm_vm_of(vm_env_vm(&env))->fd, KVM_GET_CLOCK, &clock) >= 0);
    return clock.clock;
}

static void check_running(void)
{
    struct vm *vm = vm_env_vm(&env);
    bool is_right = false;

    for (uint32_t id = 0; id < VCPUS; id++) {
        check_tsc(id);
        check_distance(id, cpu_of(0)->tsc_offset);
    }
    for (int i = 0; i < TRIES; i++) {
        uint64_t before = vm_clock_ns(vm), clock = kvm_clock();

        is_right |= clock + TOLERANCE_NS >= before && clock <= vm_clock_ns(vm) + TOLERANCE_NS;
    }
    CHECK(is_right);
}

/* What a guest may have seen last, and that no clock is behind it afterwards. */
struct seen {
    uint64_t tsc[VCPUS], clock;
};

static struct seen look(void)
{
    struct seen s = {.clock = kvm_clock()};

    for (uint32_t id = 0; id < VCPUS; id++)
        CHECK_EQ(kvm_get_msr(cpu_of(id), MSR_TSC, &s.tsc[id]), OK);
    return s;
}

static void check_stopped(const struct seen *s)
{
    CHECK(vm_clock_ns(vm_env_vm(&env)) >= s->clock);
    for (uint32_t id = 0; id < VCPUS; id++)
        CHECK((int64_t)(x86_tsc(cpu_of(id)) - s->tsc[id]) >= 0);
}

/* A machine of this age, whose vCPUs' TSCs are as far from the first one's. */
static void one_machine(uint64_t age, const uint64_t adjust[VCPUS])
{
    struct vm *vm = vm_env_vm(&env);

    vm_env_create(&env, &shape, &engine_kvm);
    host_has_offset = kvm_vm_of(vm)->has_tsc_offset;
    vm_clock_set(vm, age);
    for (uint32_t id = 0; id < VCPUS; id++)
        cpu_of(id)->tsc_offset = cpu_of(id)->msr.tsc_adjust = adjust[id];
    CHECK_EQ(pc_hand_over_vcpus(vm), OK);
}

static void run(uint64_t age, const uint64_t adjust[VCPUS], bool with_offset)
{
    struct vm *vm = vm_env_vm(&env);

    unit_context("age %llu ns, TSC_ADJUST %llx %llx %llx, offset attribute %d",
                 (unsigned long long)age, (unsigned long long)adjust[0],
                 (unsigned long long)adjust[1], (unsigned long long)adjust[2], with_offset);
    one_machine(age, adjust);
    kvm_vm_of(vm)->has_tsc_offset &= with_offset;
    for (int round = 0; round < 3; round++) {
        struct seen s;

        pc_start_clock(vm);
        CHECK(!vm_is_stopped(vm));
        for (uint32_t id = 0; id < VCPUS; id++)
            CHECK_EQ(kvm_flush_state(cpu_of(id)), OK);
        check_running();
        s = look();
        pc_stop_clock(vm);
        check_stopped(&s);
        usleep(REST_US); /* which is not to be seen */
        CHECK_EQ(pc_fetch_vcpus(vm), OK);
        for (uint32_t id = 0; id < VCPUS; id++)
            CHECK_EQ(cpu_of(id)->tsc_offset, adjust[id]);
        if (round == 1) /* as after loading */
            CHECK_EQ(pc_hand_over_vcpus(vm), OK);
    }
    vm_env_destroy(&env);
}

static void run_all(bool with_offset)
{
    static const uint64_t ages[] = {0, 1000, 50000000, 400000000, UINT64_C(86400000000000)};
    static const uint64_t adjusts[][VCPUS] = {
        {0, 0, 0},
        {0, 1000, 1000},
        {5000000, 0, 5000000},
        {0, UINT64_C(0) - 1234567, UINT64_C(0x123456789ABCDE)},
    };

    for (size_t a = 0; a < ARRAY_SIZE(ages); a++)
        for (size_t j = 0; j < ARRAY_SIZE(adjusts); j++)
            run(ages[a], adjusts[j], with_offset);
}

static void test_with_offset(void)
{
    run_all(true);
}

static void test_without_offset(void)
{
    run_all(false);
}

int main(void)
{
    vm_shape_init(&shape, VCPUS, MEMORY, &engine_kvm);
    UNIT_RUN(test_with_offset);
    UNIT_RUN(test_without_offset);
    return unit_done();
}
