/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The MSRs that KVM keeps, by a table of index and place in struct x86_cpu. What x86/msr.c keeps
 * under kvm too (see msr_filter.c) is already where it belongs. The TSC's own are in state_clock.c.
 */
#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/level.h"
#include "x86/msr.h"

#define AT(member) offsetof(struct x86_cpu, member)

static const struct {
    uint32_t index, count;
    size_t offset; /* of the first, the others follow */
    uint32_t step; /* from one index to the next */
} rows[] = {
    /* table */
    {MSR_SYSENTER_CS, 1, AT(msr.sysenter_cs), 1},
    {MSR_SYSENTER_ESP, 1, AT(msr.sysenter_esp), 1},
    {MSR_SYSENTER_EIP, 1, AT(msr.sysenter_eip), 1},
    {MSR_STAR, 1, AT(msr.star), 1},
    {MSR_LSTAR, 1, AT(msr.lstar), 1},
    {MSR_CSTAR, 1, AT(msr.cstar), 1},
    {MSR_SFMASK, 1, AT(msr.sfmask), 1},
    {MSR_KERNEL_GS_BASE, 1, AT(msr.kernel_gs_base), 1},
    {MSR_TSC_AUX, 1, AT(msr.tsc_aux), 1},
    {MSR_PAT, 1, AT(msr.pat), 1},
    {MSR_MTRR_DEF_TYPE, 1, AT(msr.mtrr_def_type), 1},
    {MSR_MTRR_FIX64K, 1, AT(msr.mtrr_fixed[0]), 1},
    {MSR_MTRR_FIX16K_80000, 2, AT(msr.mtrr_fixed[1]), 1},
    {MSR_MTRR_FIX4K_C0000, 8, AT(msr.mtrr_fixed[3]), 1},
    {MSR_MTRR_PHYSBASE0, 8, AT(msr.mtrr_base[0]), 2},
    {MSR_MTRR_PHYSBASE0 + 1, 8, AT(msr.mtrr_mask[0]), 2},
    {MSR_KVM_SYSTEM_TIME_NEW, 1, AT(msr.kvm_system_time), 1},
    {MSR_KVM_STEAL_TIME, 1, AT(msr.kvm_steal_time), 1},
    {MSR_SPEC_CTRL, 1, AT(msr.spec_ctrl), 1}, /* last: not every level has it */
};

enum { MAX_MSRS = 64 };

union msr_list { /* the entries follow their head */
    struct kvm_msrs head;
    uint8_t room[sizeof(struct kvm_msrs) + MAX_MSRS * sizeof(struct kvm_msr_entry)];
};

static uint64_t *place(const struct x86_cpu *cpu, size_t row, uint32_t n)
{
    return (uint64_t *)(void *)((uint8_t *)(uintptr_t)cpu + rows[row].offset) + n;
}

static size_t rows_of(const struct x86_cpu *cpu)
{
    return ARRAY_SIZE(rows) - (cpu->level->spec_ctrl ? 0 : 1);
}

static void add(union msr_list *l, uint32_t index, uint64_t value)
{
    l->head.entries[l->head.nmsrs++] = (struct kvm_msr_entry){.index = index, .data = value};
}

static void list(const struct x86_cpu *cpu, union msr_list *l)
{
    l->head.nmsrs = 0;
    for (size_t i = 0; i < rows_of(cpu); i++) {
        for (uint32_t n = 0; n < rows[i].count; n++)
            add(l, rows[i].index + n * rows[i].step, *place(cpu, i, n));
    }
}

/* All or nothing: KVM stops at the first that it does not take and says how many it did. */
static int move(int fd, unsigned long request, union msr_list *l)
{
    return kvm_ioctl(fd, request, l) == (int)l->head.nmsrs ? OK : ERR_UNSUPPORTED;
}

int kvm_get_msrs(struct x86_cpu *cpu)
{
    union msr_list l;
    uint32_t at = 0;
    int err;

    list(cpu, &l);
    err = move(kvm_vcpu_of(cpu)->fd, KVM_GET_MSRS, &l);
    for (size_t i = 0; i < rows_of(cpu) && !err; i++) {
        for (uint32_t n = 0; n < rows[i].count; n++)
            *place(cpu, i, n) = l.head.entries[at++].data;
    }
    cpu->msr.sysenter_cs &= UINT32_MAX; /* on AMD's, KVM or the processor may take all 64 bits */
    cpu->msr.sfmask &= UINT32_MAX;
    cpu->msr.tsc_aux &= UINT32_MAX;
    if (!err)
        x86_kvm_fetch_steal(cpu);
    return err;
}

int kvm_set_msrs(const struct x86_cpu *cpu)
{
    union msr_list l;

    list(cpu, &l);
    return move(kvm_vcpu_of(cpu)->fd, KVM_SET_MSRS, &l);
}

int kvm_read_msr(int fd, uint32_t index, uint64_t *value)
{
    union msr_list l = {.head = {.nmsrs = 0}};
    int err;

    add(&l, index, 0);
    err = move(fd, KVM_GET_MSRS, &l);
    if (!err)
        *value = l.head.entries[0].data;
    return err;
}

int kvm_get_msr(const struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    return kvm_read_msr(kvm_vcpu_of(cpu)->fd, index, value);
}

int kvm_set_msr(const struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    union msr_list l = {.head = {.nmsrs = 0}};

    add(&l, index, value);
    return move(kvm_vcpu_of(cpu)->fd, KVM_SET_MSRS, &l);
}
