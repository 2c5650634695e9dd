/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What this processor's VT-x can do, and what we ask of it (SDM 3D, appendix A).
 *
 * Each set of controls has a capability MSR that says which bits must be 1 and which may be. Two tables of ours
 * stand against it, apart from each other: what is *forced*, for the hypervisor's safety or because the engine
 * is not written to do without (a processor that lacks one is refused by name), and what is policy, used where
 * it is to be had. Nothing else in the engine can take a forced bit away: vmx_adjust ORs it in last.
 *
 * Processors since 2010 (Westmere) have all that is forced.
 */
#include "core/err.h"
#include "core/fmt.h"
#include "engine/vmx/vmx_private.h"

/* --- the tables -------------------------------------------------------------------------------- */

#define FORCED_PIN (VMX_PIN_INTERRUPT_EXIT | VMX_PIN_NMI_EXIT | VMX_PIN_VIRTUAL_NMIS)
#define FORCED_PRIMARY                                                                                                 \
    (VMX_USE_TSC_OFFSET | VMX_HLT_EXIT | VMX_MWAIT_EXIT | VMX_RDPMC_EXIT | VMX_CR8_LOAD_EXIT | VMX_CR8_STORE_EXIT |    \
     VMX_MOV_DR_EXIT | VMX_ALL_IO_EXIT | VMX_USE_MSR_BITMAP | VMX_MONITOR_EXIT | VMX_SECONDARY)
#define FORCED_SECONDARY (VMX2_EPT | VMX2_UNRESTRICTED | VMX2_WBINVD_EXIT)
#define FORCED_EXIT      (VMX_EXIT_SAVE_DEBUG | VMX_EXIT_HOST_64 | VMX_EXIT_LOAD_PAT | VMX_EXIT_LOAD_EFER)
#define FORCED_ENTRY     (VMX_ENTRY_LOAD_DEBUG | VMX_ENTRY_LOAD_PAT | VMX_ENTRY_LOAD_EFER)

static const uint32_t forced[VMX_CONTROLS] = {
    [VMX_PIN] = FORCED_PIN,
    [VMX_PRIMARY] = FORCED_PRIMARY,
    [VMX_SECONDARY_SET] = FORCED_SECONDARY,
    [VMX_EXIT] = FORCED_EXIT,
    [VMX_ENTRY] = FORCED_ENTRY,
};

/* The names of those that a processor with VT-x may lack, and of what is only missed. table */
static const struct {
    enum vmx_controls set;
    uint32_t bit;
    bool needed;
    const char *name;
} named[] = {
    {VMX_PIN, VMX_PIN_NMI_EXIT, true, "NMI exits"},
    {VMX_PIN, VMX_PIN_VIRTUAL_NMIS, true, "virtual NMIs"},
    {VMX_PRIMARY, (uint32_t)VMX_SECONDARY, true, "secondary controls"},
    {VMX_PRIMARY, VMX_USE_MSR_BITMAP, true, "MSR bitmaps"},
    {VMX_PRIMARY, VMX_NMI_WINDOW, true, "NMI windows"},
    {VMX_PRIMARY, VMX_INTERRUPT_WINDOW, true, "interrupt windows"},
    {VMX_SECONDARY_SET, VMX2_EPT, true, "extended page tables (EPT)"},
    {VMX_SECONDARY_SET, VMX2_UNRESTRICTED, true, "unrestricted guests"},
    {VMX_SECONDARY_SET, VMX2_WBINVD_EXIT, true, "WBINVD exits"},
    {VMX_EXIT, VMX_EXIT_LOAD_EFER, true, "loading of EFER on exits"},
    {VMX_EXIT, VMX_EXIT_LOAD_PAT, true, "loading of PAT on exits"},
    {VMX_ENTRY, VMX_ENTRY_LOAD_EFER, true, "loading of EFER on entries"},
    {VMX_ENTRY, VMX_ENTRY_LOAD_PAT, true, "loading of PAT on entries"},
    {VMX_SECONDARY_SET, VMX2_VPID, false, "VPIDs"},
    {VMX_SECONDARY_SET, VMX2_RDTSCP, false, "RDTSCP in guests"},
    {VMX_SECONDARY_SET, VMX2_INVPCID, false, "INVPCID in guests"},
    {VMX_SECONDARY_SET, VMX2_PAUSE_LOOP, false, "pause-loop exits"},
    {VMX_SECONDARY_SET, VMX2_TSC_SCALING, false, "TSC scaling"},
    {VMX_PIN, VMX_PIN_PREEMPTION_TIMER, false, "the preemption timer"},
};

uint32_t vmx_forced(enum vmx_controls set)
{
    return forced[set];
}

/* --- reading ----------------------------------------------------------------------------------- */

static struct vmx_choice choice(uint32_t msr)
{
    uint64_t v = vmx_rdmsr(msr);

    return (struct vmx_choice){.must = (uint32_t)v, .may = (uint32_t)(v >> 32)};
}

static bool has_rdtscp(void)
{
    enum { RDTSCP = 27 };
    uint32_t r[4];

    vmx_cpuid(0x80000000, 0, r);
    if (r[0] < 0x80000001)
        return false;
    vmx_cpuid(0x80000001, 0, r);
    return r[3] >> RDTSCP & 1;
}

static bool has_spec_ctrl(void)
{
    enum { IBRS = 26 };
    uint32_t r[4];

    vmx_cpuid(0, 0, r);
    if (r[0] < 7)
        return false;
    vmx_cpuid(7, 0, r);
    return r[3] >> IBRS & 1;
}

void vmx_caps_read(struct vmx_caps *c)
{
    memset(c, 0, sizeof(*c));
    c->basic = vmx_rdmsr(MSR_VMX_BASIC);
    c->misc = vmx_rdmsr(MSR_VMX_MISC);
    bool true_ones = c->basic & VMX_BASIC_TRUE; /* which let more bits be 0 */

    c->pin = choice(true_ones ? MSR_VMX_TRUE_PIN : MSR_VMX_PIN);
    c->primary = choice(true_ones ? MSR_VMX_TRUE_PRIMARY : MSR_VMX_PRIMARY);
    c->exit = choice(true_ones ? MSR_VMX_TRUE_EXIT : MSR_VMX_EXIT);
    c->entry = choice(true_ones ? MSR_VMX_TRUE_ENTRY : MSR_VMX_ENTRY);
    if (c->primary.may & VMX_SECONDARY) {
        c->secondary = choice(MSR_VMX_SECONDARY);
        if (c->secondary.may & (VMX2_EPT | VMX2_VPID))
            c->ept_vpid = vmx_rdmsr(MSR_VMX_EPT_VPID);
    }
    c->cr0_fixed0 = vmx_rdmsr(MSR_VMX_CR0_FIXED0);
    c->cr0_fixed1 = vmx_rdmsr(MSR_VMX_CR0_FIXED1);
    c->cr4_fixed0 = vmx_rdmsr(MSR_VMX_CR4_FIXED0);
    c->cr4_fixed1 = vmx_rdmsr(MSR_VMX_CR4_FIXED1);
    c->rdtscp = has_rdtscp();
    c->spec_ctrl = has_spec_ctrl();
}

/* --- judging ----------------------------------------------------------------------------------- */

int vmx_adjust(const struct vmx_choice *c, uint32_t must, uint32_t wanted, uint32_t *value, uint32_t *missing)
{
    *missing = must & ~c->may;
    *value = (wanted & c->may) | c->must | must;
    return *missing ? ERR_UNSUPPORTED : OK;
}

static const struct vmx_choice *choice_of(const struct vmx_caps *c, enum vmx_controls set)
{
    const struct vmx_choice *const sets[VMX_CONTROLS] = {
        [VMX_PIN] = &c->pin,   [VMX_PRIMARY] = &c->primary, [VMX_SECONDARY_SET] = &c->secondary,
        [VMX_EXIT] = &c->exit, [VMX_ENTRY] = &c->entry,
    };

    return sets[set];
}

/* Appends to a list of names. */
static void add_name(char *list, size_t size, const char *name)
{
    size_t used = str_len(list);

    if (used + 1 < size)
        (void)fmt(list + used, size - used, "%s%s", used ? ", " : "", name);
}

static const char *ept_lacks(const struct vmx_caps *c)
{
    if (!(c->ept_vpid & VMX_EPT_WALK_4))
        return "EPT of four levels";
    if (!(c->ept_vpid & VMX_EPT_WB))
        return "EPT in write-back memory";
    if (!(c->ept_vpid & VMX_EPT_2M))
        return "EPT pages of 2 MiB";
    if (!(c->ept_vpid & VMX_EPT_INVEPT) || !(c->ept_vpid & VMX_EPT_INVEPT_SINGLE))
        return "INVEPT";
    return NULL;
}

/* Bits that the processor insists on and the engine is not written for: exits for each INVLPG or CR3 would be
 * slow, not wrong, but they are emulated, so nothing is refused for them. */
int vmx_caps_check(const struct vmx_caps *c, char *why, size_t why_size, char *notes, size_t notes_size)
{
    char missing[160] = "", missed[160] = "";
    uint32_t value, lacks, other = 0;
    const char *ept = ept_lacks(c);

    for (size_t i = 0; i < ARRAY_SIZE(named); i++) {
        if (!(choice_of(c, named[i].set)->may & named[i].bit))
            add_name(named[i].needed ? missing : missed, sizeof(missing), named[i].name);
    }
    for (unsigned int set = 0; set < VMX_CONTROLS && !missing[0]; set++) {
        if (vmx_adjust(choice_of(c, (enum vmx_controls)set), forced[set], 0, &value, &lacks) != OK)
            other |= lacks;
    }
    if (other)
        (void)fmt(missing, sizeof(missing), "controls %x", other);
    else if (!missing[0] && ept)
        add_name(missing, sizeof(missing), ept);
    (void)fmt(notes, notes_size, "%s%s", missed[0] ? "VT-x without " : "", missed);
    if (!missing[0])
        return OK;
    (void)fmt(why, why_size, "this processor's VT-x lacks %s", missing);
    return ERR_UNSUPPORTED;
}
