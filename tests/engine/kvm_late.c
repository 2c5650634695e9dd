/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * RAM that is missing when the guest begins (struct guest_mem_late), under a KVM that does what it
 * is told (tests/lib/fake_kvm.h): it cannot reach what is not there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "tests/lib/fake_kvm.h"
#include "tests/lib/pc_env.h"
#include "tests/lib/unit.h"

enum { ADDRESS = 0x100000, LIMIT = 1000 };

#define CLOCK UINT64_C(0x200001) /* enabled, at 2 MiB */

static struct pc_env env;
static struct guest_mem_late late;
static bool may_be_had;

static bool bring(struct guest_mem_late *l, uint32_t pieces)
{
    if (may_be_had)
        atomic_fetch_and(&l->missing, ~pieces);
    else
        vm_stop(&env.vm, VM_STOP_ENGINE, 0, "gone");
    return may_be_had;
}

static void begin(void)
{
    static const struct guest_mem_piece piece = {.base = ADDRESS, .size = 0x1000};

    fake_kvm_reset(false);
    pc_env_create(&env, 1);
    env.engine = &engine_kvm;
    CHECK_EQ(pc_env_build(&env), OK);
    CHECK_EQ(pc_env_boot(&env), OK);
    late = (struct guest_mem_late){.bring = bring};
    env.vm.mem.late = &late;
    guest_mem_add_late(&env.vm.mem, &piece);
    guest_mem_add_late(&env.vm.mem, &piece);
}

static uint64_t *clock_msr(struct fake_kvm_vcpu *v)
{
    for (uint32_t i = 0; i < v->msrs; i++)
        if (v->msr[i].index == MSR_KVM_SYSTEM_TIME_NEW)
            return (uint64_t *)&v->msr[i].data;
    abort();
}

/* The guest has kvm-clock's page where nothing is yet, and touches what is missing until it is
 * there; then KVM's emulator, which had begun before that, writes there. Then the VM ends. */
struct guest {
    uint32_t faults, accesses;
};

static int touch(struct fake_kvm_vcpu *v, void *owner)
{
    struct guest *g = owner;

    if (v->entries > LIMIT)
        abort(); /* it loops */
    if (atomic_load(&late.missing)) {
        *clock_msr(v) = CLOCK;
        v->msr_sets = 0;
        g->faults++;
        return -EFAULT;
    }
    CHECK_EQ(*clock_msr(v), CLOCK);
    CHECK_EQ(v->msr_sets, 1);
    if (g->accesses++ > 1)
        return -EFAULT;
    v->run->exit_reason = KVM_EXIT_MMIO;
    v->run->mmio.phys_addr = ADDRESS;
    v->run->mmio.len = 4;
    if (g->accesses == 1) {
        v->run->mmio.is_write = 1;
        memcpy(v->run->mmio.data, "late", 4);
    } else {
        v->run->mmio.is_write = 0;
    }
    return 0;
}

static void run(struct guest *g)
{
    fake_kvm.run = touch;
    fake_kvm.run_owner = g;
    pc_run_vcpu(&env.vm, 0);
}

/* Every piece is brought, one for each time that KVM could not go on, and accesses to RAM that KVM
 * took for a device's are ones to RAM. When all is there, the same error is the host's lack of
 * memory. */
static void test_all_comes(void)
{
    struct guest g = {0};
    char got[4];

    begin();
    may_be_had = true;
    run(&g);
    CHECK_EQ(g.faults, 2);
    CHECK_EQ(guest_mem_missing(&env.vm.mem), 0);
    CHECK_EQ(guest_mem_read(&env.vm.mem, gpa(ADDRESS), got, 4), OK);
    CHECK(memcmp(got, "late", 4) == 0);
    CHECK(memcmp(fake_kvm.vcpu[fake_kvm.vcpus - 1].run->mmio.data, "late", 4) == 0);
    CHECK_EQ(atomic_load(&env.vm.stop_reason), VM_STOP_NO_MEMORY);
    pc_env_destroy(&env);
}

/* The home has stopped the VM, with its reason. */
static void test_what_cannot_be_had(void)
{
    struct guest g = {0};

    begin();
    may_be_had = false;
    run(&g);
    CHECK_EQ(g.faults, 1);
    CHECK_EQ(atomic_load(&env.vm.stop_reason), VM_STOP_ENGINE);
    CHECK_STR(env.vm.stop_text, "gone");
    pc_env_destroy(&env);
}

/* KVM does not see it being written. */
static void test_dirty_pages(void)
{
    begin();
    may_be_had = false;
    CHECK_EQ(engine_kvm.vm_dirty_track(&env.vm, true), (uint64_t)ERR_IO);
    vm_clear_stop(&env.vm);
    may_be_had = true;
    CHECK_EQ(engine_kvm.vm_dirty_track(&env.vm, true), OK);
    CHECK_EQ(guest_mem_missing(&env.vm.mem), 0);
    pc_env_destroy(&env);
}

int main(void)
{
    UNIT_RUN(test_all_comes);
    UNIT_RUN(test_what_cannot_be_had);
    UNIT_RUN(test_dirty_pages);
    return unit_done();
}
