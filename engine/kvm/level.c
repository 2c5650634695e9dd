/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Levels under kvm: whether this host can give one, what of its mitigation profile is true here,
 * and how it is told to KVM.
 *
 * A level is all or nothing: a feature bit that KVM does not support on this host is an error that
 * names it. Not asked of KVM are bits that are only hints (fast strings), those that we or KVM make
 * true by ourselves (hypervisor, x2APIC, the TSC-deadline timer, topology), and the mitigation
 * profile, which is not the level's alone: what is claimed of leaks must be true of the processor
 * that runs the guest, so a VM that is made under kvm claims what the level and the host have in
 * common. KVM says what its host is free of (the feature MSR IA32_ARCH_CAPABILITIES); leaks that
 * only processors of Intel ever had are added for others, whose KVM need not mention them.
 * IA32_SPEC_CTRL is offered where writing it does something.
 *
 * Kicks of halted vCPUs (PV_UNHALT) need a hypercall, for which guests of vendor Intel execute
 * VMCALL. On AMD's processors that is an undefined instruction, which KVM replaces by VMMCALL in
 * the guest's memory: a write that faults where the guest keeps its code read-only, as Linux does.
 * So there it is not offered; guests then spin as on a processor of their own.
 */
#include <stdlib.h>

#include "core/err.h"
#include "core/fmt.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/cpuid_bits.h"

enum { MAX_ENTRIES = 256 };

union cpuid_table { /* the entries follow their head */
    struct kvm_cpuid2 head;
    uint8_t room[sizeof(struct kvm_cpuid2) + MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2)];
};

/* --- what the host can do ----------------------------------------------------------------------
 */

/* x86_cpuid_bits_fn */
static uint32_t supported(const void *table, uint32_t leaf, uint32_t subleaf, uint8_t reg)
{
    const union cpuid_table *t = table;

    for (uint32_t i = 0; i < t->head.nent; i++) {
        const struct kvm_cpuid_entry2 *e = &t->head.entries[i];
        const uint32_t value[4] = {e->eax, e->ebx, e->ecx, e->edx};

        if (e->function == leaf && e->index == subleaf)
            return value[reg];
    }
    return 0;
}

static union cpuid_table *supported_table(int kvm_fd)
{
    union cpuid_table *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->head.nent = MAX_ENTRIES;
    if (kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, t) < 0) {
        free(t);
        return NULL;
    }
    return t;
}

int kvm_check_level(int kvm_fd, const struct x86_level *level, char *why, size_t size)
{
    union cpuid_table *t = supported_table(kvm_fd);
    const char *missing;
    uint32_t physical;
    int err = ERR_UNSUPPORTED;

    if (!t) {
        (void)fmt(why, size, "KVM does not say which processor features it supports");
        return ERR_UNSUPPORTED;
    }
    missing = x86_level_lacks(level, supported, t, false);
    physical = supported(t, 0x80000008, 0, 0) & 0xFF;
    if (missing)
        (void)fmt(why, size, "KVM does not offer %s here, which level %s needs", missing,
                  level->name);
    else if (physical < level->physical_bits)
        (void)fmt(why, size, "KVM has %u physical address bits here, level %s needs %u", physical,
                  level->name, level->physical_bits);
    else
        err = OK;
    free(t);
    return err;
}

/* --- the mitigation profile --------------------------------------------------------------------
 */

/* Leaf 0 of what KVM supports is the host's own. */
static bool host_is_intel(const union cpuid_table *t)
{
    return supported(t, 0, 0, 1) == 0x756E6547; /* Genu */
}

static uint64_t host_capabilities(int kvm_fd, bool intel)
{
    const uint64_t only_intel = X86_ARCH_TAA_NO | X86_ARCH_SBDR_SSDP_NO | X86_ARCH_FBSDP_NO |
                                X86_ARCH_PSDP_NO | X86_ARCH_BHI_NO | X86_ARCH_PBRSB_NO |
                                X86_ARCH_GDS_NO | X86_ARCH_RFDS_NO | X86_ARCH_ITS_NO;
    uint64_t value;

    if (kvm_read_msr(kvm_fd, MSR_ARCH_CAPABILITIES, &value) != OK)
        value = 0;
    return intel ? value : value | only_intel;
}

/* Of a host about which KVM says nothing (no memory), nothing is claimed. */
void kvm_adapt_profile(int kvm_fd, struct x86_level *level)
{
    const uint32_t spec_ctrl = CPUID_7D_IBRS | CPUID_7D_STIBP;
    union cpuid_table *t = supported_table(kvm_fd);
    bool ibrs = t && (supported(t, 7, 0, 3) & spec_ctrl) == spec_ctrl;
    bool bhi = t && supported(t, 7, 2, 3) & CPUID_72D_BHI_CTRL;
    bool intel = t && host_is_intel(t);

    level->arch_capabilities &= t ? host_capabilities(kvm_fd, intel) : 0;
    free(t);
    level->spec_ctrl = level->spec_ctrl && ibrs;
    if (!ibrs)
        x86_level_clear(level, 7, 0, 3, spec_ctrl);
    if (!bhi)
        x86_level_clear(level, 7, 2, 3, CPUID_72D_BHI_CTRL);
    if (!intel)
        x86_level_clear(level, 0x40000001, 0, 0, CPUID_KVM_PV_UNHALT);
}

/* --- telling KVM --------------------------------------------------------------------------------
 */

/* In the order of leaves: KVM looks through the table from its begin, also for what it wants to know
 * itself, and most often for the low ones. */
static void add_entry(union cpuid_table *t, const struct x86_cpu *cpu, uint32_t leaf,
                      uint32_t subleaf, bool has_subleaf)
{
    struct kvm_cpuid_entry2 *e = &t->head.entries[t->head.nent++];
    uint32_t out[4];

    for (; e > t->head.entries && e[-1].function > leaf; e--)
        *e = e[-1];
    x86_cpuid(cpu, leaf, subleaf, out);
    *e = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = subleaf,
        .flags = has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
        .eax = out[0],
        .ebx = out[1],
        .ecx = out[2],
        .edx = out[3],
    };
}

/* Bits that follow the vCPU's state (OSXSAVE, the size of enabled XSAVE state) KVM keeps itself.
 * The table (10 KiB) is on the stack: libc's malloc, on its ninth thread, opens a file of /sys to
 * see how many processors there are, and the sandbox lets a vCPU's thread open nothing. */
int kvm_set_cpuid(const struct x86_cpu *cpu)
{
    const struct x86_level *level = cpu->level;
    union cpuid_table t = {.room = {0}};
    int result;

    for (uint32_t i = 0; i < level->count; i++)
        add_entry(&t, cpu, level->row[i].leaf, level->row[i].subleaf, level->row[i].has_subleaf);
    result = kvm_ioctl(kvm_vcpu_of(cpu)->fd, KVM_SET_CPUID2, &t);
    return result < 0 ? kvm_err(result) : OK;
}
