/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Model-specific registers, by a table sorted by index: where the value lives, which bits may be
 * written, functions for those with effects. An MSR that the table does not name faults, and so
 * does a write of a bit that the mask does not name (bad-inputs C7).
 *
 * What needs a feature of the level looks for it in its function or by the row's `needs`.
 *
 * The time-stamp counter. TSC = VM clock (ns) * ratio / 2^32 + tsc_offset, with ratio = kHz * 2^32
 * / 10^6: one multiplication, no division by the rate, and the same rounding everywhere. All vCPUs
 * start with offset 0, so they agree to the tick. tsc_offset holds everything that moves one
 * vCPU's TSC against the VM clock, TSC_ADJUST included.
 *
 * Not done: machine-check banks (there are none), performance counters, branch records. DEBUGCTL
 * takes LBR and BTF and forgets them: stepping by branches becomes stepping by instructions.
 */
#include "x86/msr.h"

#include "core/err.h"
#include "x86/cpuid_bits.h"
#include "x86/lapic.h"
#include "x86/level.h"
#include "x86/mem.h"

enum {
    MSR_DEBUGCTL = 0x1D9,
    DEBUGCTL_WRITABLE = 3, /* LBR, BTF */
    MTRR_COUNT = 8,
    MTRRCAP_VALUE = MTRR_COUNT | 1 << 8 | 1 << 10, /* fixed ranges and WC too */
    MCG_STATUS_WRITABLE = 7,
    FEATURE_CONTROL_LOCKED = 1,
};
#define SPEC_CTRL_WRITABLE (X86_SPEC_CTRL_IBRS | X86_SPEC_CTRL_STIBP | X86_SPEC_CTRL_BHI_DIS_S)
#define UCODE_REVISION     ((uint64_t)1 << 32)

struct msr_row {
    uint32_t first, last;
    uint16_t offset;   /* of a uint64_t in struct x86_cpu; NOWHERE */
    uint64_t writable; /* bits that WRMSR may set */
    uint64_t value;    /* what RDMSR gives when there is neither storage nor function */
    bool (*needs)(const struct x86_level *level); /* NULL: every level */
    /* Effects. false is #GP(0). The mask has been checked. */
    bool (*read)(struct x86_cpu *cpu, uint32_t index, uint64_t *value);
    bool (*write)(struct x86_cpu *cpu, uint32_t index, uint64_t value);
};

enum { NOWHERE = 0xFFFF };
#define STORED(member) (uint16_t) offsetof(struct x86_cpu, member)
#define ALL_BITS       UINT64_MAX

_Static_assert(offsetof(struct x86_cpu, msr) + sizeof(struct x86_msrs) < NOWHERE &&
                   offsetof(struct x86_cpu, efer) < NOWHERE,
               "offsets of stored MSRs fit their type");

static uint64_t *storage(struct x86_cpu *cpu, const struct msr_row *row)
{
    return (uint64_t *)(void *)((uint8_t *)cpu + row->offset);
}

/* --- the time-stamp counter --- */

uint32_t x86_tsc_khz(const struct vm *vm)
{
    return vm->tsc_khz ? vm->tsc_khz : 1000000;
}

uint64_t x86_tsc_ratio(const struct vm *vm)
{
    return ((uint64_t)x86_tsc_khz(vm) << 32) / 1000000;
}

uint64_t x86_tsc(const struct x86_cpu *cpu)
{
    unsigned __int128 product =
        (unsigned __int128)vm_clock_ns(cpu->vcpu.vm) * x86_tsc_ratio(cpu->vcpu.vm);
    return (uint64_t)(product >> 32) + cpu->tsc_offset;
}

uint64_t x86_tsc_to_clock(const struct x86_cpu *cpu, uint64_t tsc)
{
    uint64_t now = vm_clock_ns(cpu->vcpu.vm);
    unsigned __int128 product = (unsigned __int128)now * x86_tsc_ratio(cpu->vcpu.vm);
    uint64_t ahead = tsc - ((uint64_t)(product >> 32) + cpu->tsc_offset);
    if ((int64_t)ahead <= 0)
        return now;
    uint64_t ns = scale_u64(ahead, UINT64_C(1) << 32, x86_tsc_ratio(cpu->vcpu.vm));
    if (ns >= INT64_MAX || now >= INT64_MAX)
        return VM_TIMER_NEVER;
    return now + ns + 1; /* rounded down: one more, not to be early */
}

static void tsc_moved(struct x86_cpu *cpu)
{
    lapic_tsc_changed(cpu);
    x86_kvm_refresh(cpu);
}

static bool read_tsc(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)index;
    *value = x86_tsc(cpu);
    return true;
}

/* A write to either moves the other by as much (SDM 3B 17.17.3). */
static bool write_tsc(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    uint64_t delta = value - x86_tsc(cpu);
    cpu->tsc_offset += delta;
    cpu->msr.tsc_adjust += delta;
    tsc_moved(cpu);
    return true;
}

static bool write_tsc_adjust(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    cpu->tsc_offset += value - cpu->msr.tsc_adjust;
    cpu->msr.tsc_adjust = value;
    tsc_moved(cpu);
    return true;
}

/* --- the local APIC's --- */

static bool read_lapic(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    return lapic_msr_read(cpu, index, value) == OK;
}

static bool write_lapic(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    return lapic_msr_write(cpu, index, value) == OK;
}

/* The page may have moved, come or gone. */
static bool write_apic_base(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    bool done = write_lapic(cpu, index, value);
    x86_tlb_flush(cpu);
    return done;
}

/* --- mitigations --- */

static bool needs_spec_ctrl(const struct x86_level *level)
{
    return level->spec_ctrl;
}

static bool has_bhi_ctrl(const struct x86_level *level)
{
    const struct x86_cpuid_row *row = x86_level_row(level, 7, 2);

    return row && row->edx & CPUID_72D_BHI_CTRL;
}

/* Engines on hardware write it to the processor: no bit that it need not have. */
static bool write_spec_ctrl(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    if (value & X86_SPEC_CTRL_BHI_DIS_S && !has_bhi_ctrl(cpu->level))
        return false;
    cpu->msr.spec_ctrl = value;
    return true;
}

static bool read_arch_capabilities(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)index;
    *value = cpu->level->arch_capabilities;
    return true;
}

/* Write-only: there is nothing to flush. */
static bool read_never(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)cpu;
    (void)index;
    (void)value;
    return false;
}

/* --- taken and forgotten --- */

static bool write_ignored(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    (void)cpu;
    (void)index;
    (void)value;
    return true;
}

/* --- memory types (SDM 3A 11.11 and 11.12): kept consistent, of no effect here --- */

static bool is_memory_type(uint8_t type)
{
    return type <= 1 || (type >= 4 && type <= 6); /* UC WC WT WP WB */
}

static uint64_t above_physical(const struct x86_cpu *cpu)
{
    return ~(BIT(cpu->level->physical_bits) - 1);
}

static uint64_t *mtrr_register(struct x86_cpu *cpu, uint32_t index)
{
    uint32_t n = (index - MSR_MTRR_PHYSBASE0) / 2;
    return index & 1 ? &cpu->msr.mtrr_mask[n] : &cpu->msr.mtrr_base[n];
}

static bool read_mtrr(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    *value = *mtrr_register(cpu, index);
    return true;
}

static bool write_mtrr(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    bool is_mask = index & 1;
    uint64_t reserved = above_physical(cpu) | (is_mask ? 0x7FFu : 0xF00u);
    if (value & reserved || (!is_mask && !is_memory_type((uint8_t)value)))
        return false;
    *mtrr_register(cpu, index) = value;
    return true;
}

static uint64_t *mtrr_fixed_register(struct x86_cpu *cpu, uint32_t index)
{
    uint32_t n = 0; /* 64-KiB ranges */
    if (index >= MSR_MTRR_FIX4K_C0000)
        n = 3 + index - MSR_MTRR_FIX4K_C0000;
    else if (index >= MSR_MTRR_FIX16K_80000)
        n = 1 + index - MSR_MTRR_FIX16K_80000;
    return &cpu->msr.mtrr_fixed[n];
}

static bool read_mtrr_fixed(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    *value = *mtrr_fixed_register(cpu, index);
    return true;
}

static bool write_mtrr_fixed(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        if (!is_memory_type((uint8_t)(value >> i * 8)))
            return false;
    }
    *mtrr_fixed_register(cpu, index) = value;
    return true;
}

static bool write_mtrr_def_type(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    if (!is_memory_type((uint8_t)value))
        return false;
    cpu->msr.mtrr_def_type = value;
    return true;
}

static bool write_pat(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    for (int i = 0; i < 8; i++) {
        uint8_t type = (uint8_t)(value >> i * 8);
        if (!is_memory_type(type) && type != 7) /* UC- */
            return false;
    }
    cpu->msr.pat = value;
    return true;
}

/* --- bases --- */

static bool is_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static bool write_canonical(struct x86_cpu *cpu, uint32_t index, uint64_t value);

/* --- extended features --- */

static bool write_efer(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    uint64_t changed = value ^ cpu->efer;
    if (value & ~cpu->level->efer_mask)
        return false;
    if (changed & X86_EFER_LME && cpu->cr0 & X86_CR0_PG)
        return false;
    cpu->efer = (value & ~X86_EFER_LMA) | (cpu->efer & X86_EFER_LMA);
    x86_update_mode(cpu);
    return true;
}

static bool needs_tsc_aux(const struct x86_level *level)
{
    return x86_level_has(level, INSN_FEATURE_RDTSCP) || x86_level_has(level, INSN_FEATURE_RDPID);
}

static bool write_kvm(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    return x86_kvm_msr_write(cpu, index, value) == X86_OK;
}

/* --- the table --- */

/* clang-format off */
/* table */
static const struct msr_row rows[] = {
    {MSR_TSC, MSR_TSC, NOWHERE, ALL_BITS, 0, NULL, read_tsc, write_tsc},
    {MSR_PLATFORM_ID, MSR_PLATFORM_ID, NOWHERE, 0, 0, NULL, NULL, NULL},
    {MSR_APIC_BASE, MSR_APIC_BASE, NOWHERE, ALL_BITS, 0, NULL, read_lapic, write_apic_base},
    {MSR_FEATURE_CONTROL, MSR_FEATURE_CONTROL, NOWHERE, 0, FEATURE_CONTROL_LOCKED, NULL, NULL,
     NULL},
    {MSR_TSC_ADJUST, MSR_TSC_ADJUST, STORED(msr.tsc_adjust), ALL_BITS, 0, NULL, NULL,
     write_tsc_adjust},
    {MSR_SPEC_CTRL, MSR_SPEC_CTRL, STORED(msr.spec_ctrl), SPEC_CTRL_WRITABLE, 0, needs_spec_ctrl,
     NULL, write_spec_ctrl},
    {MSR_PRED_CMD, MSR_PRED_CMD, NOWHERE, X86_PRED_CMD_IBPB, 0, needs_spec_ctrl, read_never,
     write_ignored},
    {MSR_UCODE_REV, MSR_UCODE_REV, NOWHERE, ALL_BITS, UCODE_REVISION, NULL, NULL, write_ignored},
    {MSR_MTRRCAP, MSR_MTRRCAP, NOWHERE, 0, MTRRCAP_VALUE, NULL, NULL, NULL},
    {MSR_ARCH_CAPABILITIES, MSR_ARCH_CAPABILITIES, NOWHERE, 0, 0, NULL, read_arch_capabilities,
     NULL},
    {MSR_SYSENTER_CS, MSR_SYSENTER_CS, STORED(msr.sysenter_cs), UINT32_MAX, 0, NULL, NULL, NULL},
    {MSR_SYSENTER_ESP, MSR_SYSENTER_ESP, STORED(msr.sysenter_esp), ALL_BITS, 0, NULL, NULL,
     write_canonical},
    {MSR_SYSENTER_EIP, MSR_SYSENTER_EIP, STORED(msr.sysenter_eip), ALL_BITS, 0, NULL, NULL,
     write_canonical},
    {MSR_MCG_CAP, MSR_MCG_CAP, NOWHERE, 0, 0, NULL, NULL, NULL},
    {MSR_MCG_STATUS, MSR_MCG_STATUS, STORED(msr.mcg_status), MCG_STATUS_WRITABLE, 0, NULL, NULL,
     NULL},
    {MSR_MISC_ENABLE, MSR_MISC_ENABLE, STORED(msr.misc_enable), X86_MISC_ENABLE_RESET, 0, NULL,
     NULL, NULL},
    {MSR_DEBUGCTL, MSR_DEBUGCTL, NOWHERE, DEBUGCTL_WRITABLE, 0, NULL, NULL, write_ignored},
    {MSR_MTRR_PHYSBASE0, MSR_MTRR_PHYSBASE0 + 2 * MTRR_COUNT - 1, NOWHERE, ALL_BITS, 0, NULL,
     read_mtrr, write_mtrr},
    {MSR_MTRR_FIX64K, MSR_MTRR_FIX64K, NOWHERE, ALL_BITS, 0, NULL, read_mtrr_fixed,
     write_mtrr_fixed},
    {MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000, NOWHERE, ALL_BITS, 0, NULL, read_mtrr_fixed,
     write_mtrr_fixed},
    {MSR_MTRR_FIX4K_C0000, MSR_MTRR_FIX4K_C0000 + 7, NOWHERE, ALL_BITS, 0, NULL, read_mtrr_fixed,
     write_mtrr_fixed},
    {MSR_PAT, MSR_PAT, STORED(msr.pat), ALL_BITS, 0, NULL, NULL, write_pat},
    {MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE, STORED(msr.mtrr_def_type), 0xCFF, 0, NULL, NULL,
     write_mtrr_def_type},
    {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE, NOWHERE, ALL_BITS, 0, NULL, read_lapic, write_lapic},
    {MSR_X2APIC_FIRST, MSR_X2APIC_LAST, NOWHERE, ALL_BITS, 0, NULL, read_lapic, write_lapic},
    {MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_WALL_CLOCK_NEW, STORED(msr.kvm_wall_clock), ALL_BITS, 0, NULL,
     NULL, write_kvm},
    {MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_SYSTEM_TIME_NEW, STORED(msr.kvm_system_time), ALL_BITS, 0,
     NULL, NULL, write_kvm},
    {MSR_KVM_STEAL_TIME, MSR_KVM_STEAL_TIME, STORED(msr.kvm_steal_time), ALL_BITS, 0, NULL, NULL,
     write_kvm},
    {MSR_EFER, MSR_EFER, STORED(efer), ALL_BITS, 0, NULL, NULL, write_efer},
    {MSR_STAR, MSR_STAR, STORED(msr.star), ALL_BITS, 0, NULL, NULL, NULL},
    {MSR_LSTAR, MSR_LSTAR, STORED(msr.lstar), ALL_BITS, 0, NULL, NULL, write_canonical},
    {MSR_CSTAR, MSR_CSTAR, STORED(msr.cstar), ALL_BITS, 0, NULL, NULL, write_canonical},
    {MSR_SFMASK, MSR_SFMASK, STORED(msr.sfmask), UINT32_MAX, 0, NULL, NULL, NULL},
    {MSR_FS_BASE, MSR_FS_BASE, STORED(seg[SEG_FS].base), ALL_BITS, 0, NULL, NULL, write_canonical},
    {MSR_GS_BASE, MSR_GS_BASE, STORED(seg[SEG_GS].base), ALL_BITS, 0, NULL, NULL, write_canonical},
    {MSR_KERNEL_GS_BASE, MSR_KERNEL_GS_BASE, STORED(msr.kernel_gs_base), ALL_BITS, 0, NULL, NULL,
     write_canonical},
    {MSR_TSC_AUX, MSR_TSC_AUX, STORED(msr.tsc_aux), UINT32_MAX, 0, needs_tsc_aux, NULL, NULL},
};
/* clang-format on */

static const struct msr_row *find_row(const struct x86_cpu *cpu, uint32_t index)
{
    size_t low = 0, high = ARRAY_SIZE(rows);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct msr_row *row = &rows[middle];
        if (index > row->last)
            low = middle + 1;
        else if (index < row->first)
            high = middle;
        else
            return !row->needs || row->needs(cpu->level) ? row : NULL;
    }
    return NULL;
}

/* Addresses: stored if canonical. */
static bool write_canonical(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    const struct msr_row *row = find_row(cpu, index);
    if (!is_canonical(value) || !row)
        return false;
    *storage(cpu, row) = value;
    return true;
}

int x86_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    const struct msr_row *row = find_row(cpu, index);
    if (!row)
        return x86_fault(cpu, X86_GP, 0);
    if (row->read)
        return row->read(cpu, index, value) ? X86_OK : x86_fault(cpu, X86_GP, 0);
    *value = row->offset == NOWHERE ? row->value : *storage(cpu, row);
    return X86_OK;
}

/* Without any writable bit an MSR is read-only, and writing even its own value faults. */
int x86_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    const struct msr_row *row = find_row(cpu, index);
    if (!row || !row->writable || value & ~row->writable)
        return x86_fault(cpu, X86_GP, 0);
    if (row->write)
        return row->write(cpu, index, value) ? X86_OK : x86_fault(cpu, X86_GP, 0);
    *storage(cpu, row) = value;
    return X86_OK;
}
