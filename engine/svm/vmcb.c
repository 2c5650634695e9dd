/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The VMCB's constant part: what ends the guest, and the permission maps.
 *
 * Two tables. `forced` is what the hypervisor's own safety hangs on and what no setting may ever take away:
 * physical events, the instructions of SVM itself (VMRUN's intercept the processor insists on), #AC and #DB, which
 * a guest can have follow each other for ever without an instruction in between (XSA-156), machine checks, INVD,
 * which would throw away others' data, ports and MSRs. `policy` is what makes the machine look as its level says
 * and a VM share the processor.
 *
 * Ports: all exit. MSRs: all exit but those that VMLOAD and VMSAVE switch anyway and whose every value is the
 * guest's own affair. The maps are const and shared by all VMs.
 *
 * CR0 writes that change more than TS and MP exit, so that caching stays on whatever the guest asks for; writes of
 * CR4, so that it has the level's bits only; DR accesses, until DR0 to DR3 are loaded (fpu.c).
 */
#include "engine/svm/svm_private.h"
#include "x86/level.h"

/* --- what exits ----------------------------------------------------------------------------------- */

/* table */
static const uint32_t forced[VMCB_WORDS] = {
    [VMCB_EXCEPTIONS] = BIT32(X86_DB) | BIT32(X86_AC) | BIT32(X86_MC),
    [VMCB_MISC1] = INTERCEPT_INTR | INTERCEPT_NMI | INTERCEPT_INIT | INTERCEPT_INVD | INTERCEPT_INVLPGA | INTERCEPT_IO |
                   INTERCEPT_MSR | INTERCEPT_FERR_FREEZE | INTERCEPT_SHUTDOWN,
    [VMCB_MISC2] = INTERCEPT_VMRUN | INTERCEPT_VMLOAD | INTERCEPT_VMSAVE | INTERCEPT_STGI | INTERCEPT_CLGI |
                   INTERCEPT_SKINIT | INTERCEPT_XSETBV,
    [VMCB_MISC3] = INTERCEPT_INVLPGB | INTERCEPT_TLBSYNC,
};

/* table */
static const uint32_t policy[VMCB_WORDS] = {
    [VMCB_CR] = VMCB_CR_WRITE(4) | VMCB_CR_WRITE(8),
    [VMCB_DR] = VMCB_DR_ALL,
    [VMCB_EXCEPTIONS] = BIT32(X86_UD), /* VMCALL, and Intel's SYSENTER in long mode */
    [VMCB_MISC1] = INTERCEPT_CR0_SELECTIVE | INTERCEPT_RDPMC | INTERCEPT_CPUID | INTERCEPT_HLT,
    [VMCB_MISC2] = INTERCEPT_VMMCALL | INTERCEPT_WBINVD | INTERCEPT_MONITOR | INTERCEPT_MWAIT | INTERCEPT_RDPRU,
    [VMCB_MISC3] = INTERCEPT_MCOMMIT,
};

void svm_intercept(struct svm_vcpu *s, unsigned int word, uint32_t bits, bool on)
{
    uint32_t *intercept = &s->vmcb->control.intercept[word];
    uint32_t value = on ? *intercept | bits : (*intercept & ~bits) | forced[word];

    if (value != *intercept) {
        *intercept = value;
        svm_dirty(s, CLEAN_INTERCEPTS);
    }
}

/* --- permission maps ------------------------------------------------------------------------------ */

enum { IO_MAP_SIZE = 12 << 10, MSR_MAP_SIZE = 8 << 10 };

/* A bit for each port, and what an access beyond the last of them may look at (15.10.1). */
static const uint8_t io_map[IO_MAP_SIZE] __attribute__((aligned(4096))) = {[0 ... IO_MAP_SIZE - 1] = 0xFF};

/*
 * Two bits for each MSR, read and write; those from C0000000H on begin at 800H (15.11). In the clear: STAR, LSTAR,
 * CSTAR, SFMASK (C0000081H to C0000084H), FS.base, GS.base, KernelGSbase (C0000100H to C0000102H).
 */
static const uint8_t msr_map[MSR_MAP_SIZE] __attribute__((aligned(4096))) = {
    [0 ... 0x81F] = 0xFF,     [0x820] = 0x03, [0x821] = 0xFC, [0x822 ... 0x83F] = 0xFF, [0x840] = 0xC0,
    [0x841 ... MSR_MAP_SIZE - 1] = 0xFF,
};

/* --- all of it ------------------------------------------------------------------------------------ */

enum { PAUSES = 3000, PAUSE_GAP = 128 }; /* cycles between two that belong to one loop */

static void init_pauses(const struct x86_cpu *cpu, struct vmcb_control *c)
{
    if (!(svm_vm_of(cpu->vcpu.vm)->features & SVM_PAUSE_FILTER))
        return;
    c->pause_count = PAUSES;
    c->pause_threshold = PAUSE_GAP;
    c->intercept[VMCB_MISC1] |= INTERCEPT_PAUSE;
}

void svm_vmcb_init(const struct x86_cpu *cpu)
{
    const struct svm_vm *vm = svm_vm_of(cpu->vcpu.vm);
    struct vmcb_control *c = &svm_vcpu_of(cpu)->vmcb->control;

    for (unsigned int word = 0; word < VMCB_WORDS; word++)
        c->intercept[word] = forced[word] | policy[word];
    if (!x86_level_has(cpu->level, INSN_FEATURE_INVPCID))
        c->intercept[VMCB_MISC3] |= INTERCEPT_INVPCID;
    init_pauses(cpu, c);
    c->io_map = hw_phys(io_map);
    c->msr_map = hw_phys(msr_map);
    c->interrupt = INT_MASKING;
    c->nested = 1;
    c->nested_cr3 = nested_root(&vm->nested);
}
