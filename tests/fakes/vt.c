/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
#include "tests/fakes/vt.h"

#include <string.h>

#include "engine/hw.h"
#include "engine/vmx/vmx_private.h"

struct vt vt;

/* --- set-up ------------------------------------------------------------------------------------ */

uint64_t vt_msr(uint32_t index)
{
    for (uint32_t i = 0; i < vt.msrs; i++) {
        if (vt.msr[i].index == index)
            return vt.msr[i].value;
    }
    return 0;
}

void vt_set_msr(uint32_t index, uint64_t value)
{
    uint32_t i = 0;

    while (i < vt.msrs && vt.msr[i].index != index)
        i++;
    if (i == VT_MSRS) {
        vt.bad++;
        return;
    }
    vt.msr[i].index = index;
    vt.msr[i].value = value;
    if (i == vt.msrs)
        vt.msrs++;
}

/* must, may: as the capability MSRs of a Skylake have them, roughly. */
void vt_reset(void)
{
    memset(&vt, 0, sizeof(vt));
    for (unsigned int i = 0; i < VT_VMCSS; i++)
        vt.vmcs[i].current_on = -1;
    vt.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_NE;
    vt.cr4 = X86_CR4_PAE;
    vt.xcr0 = 7;
    vt.tsc_khz = 1000000;
    vt_set_msr(MSR_FEATURE_CONTROL, VMX_FEATURE_LOCKED | VMX_FEATURE_OUTSIDE);
    vt_set_msr(MSR_VMX_BASIC, VMX_BASIC_TRUE | 4);
    vt_set_msr(MSR_VMX_TRUE_PIN, UINT64_C(0x7F) << 32 | 0x16);
    vt_set_msr(MSR_VMX_TRUE_PRIMARY, UINT64_C(0xFFF9FFFE) << 32 | 0x04006172);
    vt_set_msr(MSR_VMX_SECONDARY, UINT64_C(0x3FFFFFFF) << 32);
    vt_set_msr(MSR_VMX_TRUE_EXIT, UINT64_C(0x01FFFFFF) << 32 | 0x00036DFB);
    vt_set_msr(MSR_VMX_TRUE_ENTRY, UINT64_C(0x0003FFFF) << 32 | 0x000011FB);
    vt_set_msr(MSR_VMX_EPT_VPID, 0xF0106334141);
    vt_set_msr(MSR_VMX_CR0_FIXED0, 0x80000021);
    vt_set_msr(MSR_VMX_CR0_FIXED1, UINT32_MAX);
    vt_set_msr(MSR_VMX_CR4_FIXED0, VMX_CR4_VMXE);
    vt_set_msr(MSR_VMX_CR4_FIXED1, 0x3767FF);
}

/* --- instructions ------------------------------------------------------------------------------ */

/* A processor without mitigations, of Intel's, with VT-x and XSAVE. */
void vmx_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)subleaf;
    memset(out, 0, 4 * sizeof(out[0]));
    if (leaf == 0)
        out[0] = 7;
    if (leaf == 1)
        out[2] = 1u << 5 | 1u << 26;
    if (leaf == 0x80000000)
        out[0] = 0x80000008;
    if (leaf == 0x80000001)
        out[3] = 1u << 27;
}

uint64_t vmx_rdmsr(uint32_t index)
{
    return vt_msr(index);
}

void vmx_wrmsr(uint32_t index, uint64_t value)
{
    if (index == MSR_PRED_CMD)
        vt.ibpbs++;
    else
        vt_set_msr(index, value);
}

uint64_t *vt_field(enum vmcs_field field)
{
    static uint64_t nowhere;
    struct vt_vmcs *v = vt.current[vt.cpu];

    if (v && (uint32_t)field < VT_FIELDS)
        return &v->field[field];
    vt.bad++;
    return &nowhere;
}

uint64_t vmx_read(enum vmcs_field field)
{
    return *vt_field(field);
}

/* Read-only fields are those of type 1 (SDM 3C 25.11.2). */
void vmx_write(enum vmcs_field field, uint64_t value)
{
    if ((field >> 10 & 3) == 1)
        vt.bad++;
    *vt_field(field) = value;
}

static struct vt_vmcs *vmcs_at(uint64_t physical)
{
    for (unsigned int i = 0; i < VT_VMCSS; i++) {
        if (vt.vmcs[i].physical == physical || !vt.vmcs[i].physical) {
            vt.vmcs[i].physical = physical;
            return &vt.vmcs[i];
        }
    }
    vt.bad++;
    return &vt.vmcs[0];
}

bool vmx_ptrld(uint64_t physical)
{
    struct vt_vmcs *v = vmcs_at(physical);

    if (!vt.on[vt.cpu] || (v->current_on >= 0 && v->current_on != (int)vt.cpu)) {
        vt.bad++;
        return false;
    }
    v->current_on = (int)vt.cpu;
    vt.current[vt.cpu] = v;
    return true;
}

bool vmx_on(uint64_t physical)
{
    if (vt.on[vt.cpu] || physical & ~PAGE_MASK || !(vt.cr4 & VMX_CR4_VMXE))
        return false;
    vt.on[vt.cpu] = true;
    return true;
}

void vmx_clear(uint64_t physical)
{
    struct vt_vmcs *v = vmcs_at(physical);

    if (v->current_on >= 0 && v->current_on != (int)vt.cpu)
        vt.bad++;
    v->current_on = -1;
    v->launched = false;
    if (vt.current[vt.cpu] == v)
        vt.current[vt.cpu] = NULL;
}

void vmx_off(void)
{
    vt.bad += !vt.on[vt.cpu];
    vt.on[vt.cpu] = false;
}

void vmx_invept(uint64_t type, uint64_t pointer)
{
    vt.bad += type != VMX_INVEPT_SINGLE || !pointer;
    vt.invepts++;
}

void vmx_invvpid(uint64_t type, uint32_t vpid)
{
    vt.bad += type == VMX_INVVPID_SINGLE && !vpid;
    vt.invvpids += type == VMX_INVVPID_SINGLE;
    vt.invvpid_alls += type == VMX_INVVPID_ALL;
}

uint64_t vmx_read_cr0(void)
{
    return vt.cr0;
}

uint64_t vmx_read_cr2(void)
{
    return vt.cr2;
}

uint64_t vmx_read_cr3(void)
{
    return 0x1000;
}

uint64_t vmx_read_cr4(void)
{
    return vt.cr4;
}

void vmx_write_cr0(uint64_t value)
{
    vt.cr0 = value;
}

void vmx_write_cr2(uint64_t value)
{
    vt.cr2 = value;
}

void vmx_write_cr4(uint64_t value)
{
    vt.cr4 = value;
}

void vmx_write_breakpoints(const uint64_t dr[4])
{
    memcpy(vt.dr, dr, sizeof(vt.dr));
}

void vmx_read_host_segments(struct vmx_host_segments *h)
{
    *h = (struct vmx_host_segments){.cs = 8, .ss = 16, .ds = 16, .es = 16, .tr = 0x20, .gdt_base = 0x100 + vt.cpu};
}

void vmx_host_nmi(void)
{
    vt.nmis++;
}

void vmx_host_machine_check(void)
{
    vt.machine_checks++;
}

uint64_t vmx_xgetbv(void)
{
    return vt.xcr0;
}

void vmx_xsetbv(uint64_t value)
{
    vt.xcr0 = value;
}

/* XSAVE and XRSTOR move what both the mask and XCR0 name; here, all or nothing. */
void vmx_xsave(struct x86_fpu *f, uint64_t mask)
{
    vt.bad += vt.xcr0 != mask;
    *f = vt.fpu;
}

void vmx_xrstor(const struct x86_fpu *f, uint64_t mask)
{
    vt.bad += vt.xcr0 != mask || f->xstate_bv & ~mask || f->xcomp_bv;
    vt.fpu = *f;
}

void vmx_fxsave(struct x86_fpu *f)
{
    *f = vt.fpu;
}

void vmx_fxrstor(const struct x86_fpu *f)
{
    vt.fpu = *f;
}

void vmx_fninit(uint32_t mxcsr)
{
    memset(&vt.fpu, 0xEE, sizeof(vt.fpu)); /* whoever wants the guest's has it elsewhere */
    vt.fpu.mxcsr = mxcsr;
    vt.fninits++;
}

const char vmx_exit_point[1];

int vmx_enter(uint64_t gpr[16], uint32_t flags, uint64_t *host_rsp)
{
    struct vt_vmcs *v = vt.current[vt.cpu];

    (void)host_rsp;
    if (!v)
        return VMX_ENTER_INVALID;
    if (v->launched != ((flags & VMX_ENTER_RESUME) != 0))
        return VMX_ENTER_FAILED;
    vt.entries++;
    v->field[VMCS_VECTORING] = 0;
    int result = vt.guest ? vt.guest(gpr, flags) : VMX_ENTER_FAILED;
    v->launched |= result == VMX_ENTER_OK;
    v->field[VMCS_ENTRY_INTERRUPTION] &= ~VMX_INT_VALID; /* delivered */
    return result;
}

/* --- engine/hw.h ------------------------------------------------------------------------------- */

uint64_t hw_phys(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

uint64_t hw_phys_run(const void *p, uint64_t size)
{
    (void)p;
    return size;
}

void *hw_virt(uint64_t physical)
{
    return (void *)(uintptr_t)physical;
}

uint32_t hw_cpu(void)
{
    return vt.cpu;
}

uint32_t hw_cpu_count(void)
{
    return VT_CPUS;
}

_Atomic uint64_t *hw_guest_ticks(void)
{
    return &vt.guest_ticks[vt.cpu];
}

void **hw_engine_slot(void)
{
    return &vt.slot[vt.cpu];
}

void hw_kick_cpu(uint32_t cpu)
{
    vt.kicked[cpu]++;
}

void hw_preempt_point(void)
{
    vt.preemptions++;
    if (vt.preempt)
        vt.preempt();
}

void hw_on_switch(void (*leave)(void *owner), void *owner)
{
    vt.leave = leave;
    vt.leave_owner = owner;
}

void hw_nested_begin(void)
{
}

void hw_nested_end(const struct nested *n, const struct guest_mem *m)
{
    if (n->mem != m)
        vt.bad++;
}

const struct speculation *hw_speculation(void)
{
    return &vt.speculation;
}

uint32_t hw_tsc_khz(void)
{
    return vt.tsc_khz;
}

uint64_t hw_tsc_at(uint64_t time_ns)
{
    return vt.tsc_at_zero + time_ns * vt.tsc_khz / 1000000;
}

void vt_move_to(uint32_t cpu)
{
    if (vt.leave)
        vt.leave(vt.leave_owner);
    vt.leave = NULL;
    vt.cpu = cpu;
}
