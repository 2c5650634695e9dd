/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What is left over in KVM. What a guest had in store there (INIT, SIPI, SMI, NMI) does not reach into
 * the life after a reset; and what KVM let it set beyond its level does not get into a saved state,
 * which every engine can load.
 */
#include <string.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "tests/kvm/vm_env.h"
#include "tests/lib/unit.h"
#include "x86/msr.h"

enum { VCPUS = 2, MEMORY = 32 << 20, START = 0x1234, SIPI_VECTOR = 0x42 };

#define EFER_LMSLE (UINT64_C(1) << 13)

static struct vm_shape shape;
static struct vm_env env;

static struct x86_cpu *cpu_of(uint32_t id)
{
    return pc_cpu(vm_env_vm(&env), id);
}

/* As after power-on, but for where vCPU 0 begins. */
static void reset(void)
{
    struct vm *vm = vm_env_vm(&env);

    for (uint32_t id = 0; id < VCPUS; id++)
        x86_cpu_reset(cpu_of(id));
    cpu_of(0)->rip = START;
    CHECK_EQ(pc_hand_over_vcpus(vm), OK);
    pc_start_clock(vm);
    CHECK(!vm_is_stopped(vm));
}

static void send(uint32_t id, enum apic_delivery delivery, uint8_t vector)
{
    const struct apic_message m = {
        .destination = id, .delivery = (uint8_t)delivery, .vector = vector};

    CHECK_EQ(apic_send(vm_env_vm(&env), &m), OK);
}

static void check_new_life(void)
{
    struct vm *vm = vm_env_vm(&env);

    pc_stop_clock(vm);
    reset();
    for (uint32_t id = 0; id < VCPUS; id++) {
        struct kvm_vcpu_events v = {0};

        CHECK(kvm_ioctl(kvm_vcpu_of(cpu_of(id))->fd, KVM_GET_VCPU_EVENTS, &v) >= 0);
        CHECK_EQ(v.smi.pending, 0);
        CHECK_EQ(v.nmi.pending, 0);
    }
    pc_stop_clock(vm);
    CHECK_EQ(pc_fetch_vcpus(vm), OK);
    CHECK_EQ(cpu_of(0)->activity, X86_RUNNING);
    CHECK_EQ(cpu_of(0)->rip, START);
    CHECK_EQ(cpu_of(1)->activity, X86_WAIT_SIPI);
}

static void test_reset_forgets(void)
{
    static const enum apic_delivery kind[] = {APIC_INIT, APIC_SIPI, APIC_SMI, APIC_NMI};

    for (uint32_t id = 0; id < VCPUS; id++) {
        for (uint32_t set = 0; set < 1u << ARRAY_SIZE(kind); set++) {
            unit_context("vCPU %u, messages %x", id, set);
            vm_env_create(&env, &shape, &engine_kvm);
            reset();
            for (size_t i = 0; i < ARRAY_SIZE(kind); i++)
                if (set >> i & 1)
                    send(id, kind[i], kind[i] == APIC_SIPI ? SIPI_VECTOR : 0);
            check_new_life();
            vm_env_destroy(&env);
        }
    }
    unit_context(NULL);
}

/* As the guest could have done. What this host's KVM does not take need not be tried. */
static void go_beyond(struct x86_cpu *cpu)
{
    int fd = kvm_vcpu_of(cpu)->fd;
    struct kvm_debugregs d = {.dr6 = X86_DR6_FIXED, .dr7 = X86_DR7_FIXED | 1 << 11};
    struct kvm_sregs s;

    CHECK(kvm_ioctl(fd, KVM_SET_DEBUGREGS, &d) >= 0);
    CHECK(kvm_ioctl(fd, KVM_GET_SREGS, &s) >= 0);
    s.cr3 = BIT(cpu->level->physical_bits) | 0x1000;
    CHECK(kvm_ioctl(fd, KVM_SET_SREGS, &s) >= 0);
    (void)kvm_set_msr(cpu, MSR_EFER, EFER_LMSLE);
    (void)kvm_set_msr(cpu, MSR_SFMASK, UINT64_MAX);
    (void)kvm_set_msr(cpu, MSR_SYSENTER_CS, UINT64_MAX);
}

static void test_beyond_level(void)
{
    static struct vm_env soft;
    static struct vm_state state;

    vm_env_create(&env, &shape, &engine_kvm);
    reset();
    go_beyond(cpu_of(0));
    pc_stop_clock(vm_env_vm(&env));
    CHECK_EQ(pc_fetch_vcpus(vm_env_vm(&env)), OK);
    CHECK_EQ(cpu_of(0)->cr3, 0x1000);
    CHECK_EQ(cpu_of(0)->dr7, X86_DR7_FIXED);
    CHECK_EQ(cpu_of(0)->efer, 0);
    vm_env_save(&env, &state);
    vm_env_destroy(&env);
    vm_env_create(&soft, &shape, &engine_soft);
    CHECK_EQ(state_load_all(&vm_env_vm(&soft)->state, state.bytes, state.size), OK);
    vm_env_destroy(&soft);
}

int main(void)
{
    vm_shape_init(&shape, VCPUS, MEMORY, &engine_kvm);
    UNIT_RUN(test_reset_forgets);
    UNIT_RUN(test_beyond_level);
    return unit_done();
}
