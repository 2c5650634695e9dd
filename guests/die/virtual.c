/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A guest that wants to be a hypervisor itself, on a machine that offers no virtualization: instructions of AMD-V, VT-x,
 * SMX, SGX, TDX and SMM, the bits that switch them on, their MSRs. CPUID has none of them, so each is undefined.
 *
 * run: instructions => lives
 * run: user => lives
 * run: switches => lives
 * run: registers => lives
 * run: storm => runs vcpus=2 seconds=1
 */
#include "guests/die/die.h"

enum { CR4_VMXE = 1 << 13, CR4_SMXE = 1 << 14, CPUID_VMX = 1 << 5, CPUID_SMX = 1 << 6, CPUID_SVM = 1 << 2 };
#define EFER_SVME (UINT64_C(1) << 12)
#define MSR_EFER_INDEX 0xC0000080u

/* RDI has the address of a page for those with an operand in memory, RAX too. */
#define INSTRUCTIONS(X)                                                                                                \
    X(vmrun, "0x0F, 0x01, 0xD8")                                                                                       \
    X(vmload, "0x0F, 0x01, 0xDA")                                                                                      \
    X(vmsave, "0x0F, 0x01, 0xDB")                                                                                      \
    X(stgi, "0x0F, 0x01, 0xDC")                                                                                        \
    X(clgi, "0x0F, 0x01, 0xDD")                                                                                        \
    X(skinit, "0x0F, 0x01, 0xDE")                                                                                      \
    X(invlpgb, "0x0F, 0x01, 0xFE")                                                                                     \
    X(tlbsync, "0x0F, 0x01, 0xFF")                                                                                     \
    X(rmpadjust, "0xF3, 0x0F, 0x01, 0xFE")                                                                             \
    X(psmash, "0xF3, 0x0F, 0x01, 0xFF")                                                                                \
    X(pvalidate, "0xF2, 0x0F, 0x01, 0xFF")                                                                             \
    X(vmlaunch, "0x0F, 0x01, 0xC2")                                                                                    \
    X(vmresume, "0x0F, 0x01, 0xC3")                                                                                    \
    X(vmxoff, "0x0F, 0x01, 0xC4")                                                                                      \
    X(vmfunc, "0x0F, 0x01, 0xD4")                                                                                      \
    X(vmread, "0x0F, 0x78, 0xC0")                                                                                      \
    X(vmwrite, "0x0F, 0x79, 0xC0")                                                                                     \
    X(vmxon, "0xF3, 0x0F, 0xC7, 0x37")                                                                                 \
    X(vmptrld, "0x0F, 0xC7, 0x37")                                                                                     \
    X(vmclear, "0x66, 0x0F, 0xC7, 0x37")                                                                               \
    X(vmptrst, "0x0F, 0xC7, 0x3F")                                                                                     \
    X(invept, "0x66, 0x0F, 0x38, 0x80, 0x07")                                                                          \
    X(invvpid, "0x66, 0x0F, 0x38, 0x81, 0x07")                                                                         \
    X(getsec, "0x0F, 0x37")                                                                                            \
    X(encls, "0x0F, 0x01, 0xCF")                                                                                       \
    X(enclu, "0x0F, 0x01, 0xD7")                                                                                       \
    X(enclv, "0x0F, 0x01, 0xC0")                                                                                       \
    X(tdcall, "0x66, 0x0F, 0x01, 0xCC")                                                                                \
    X(seamcall, "0x66, 0x0F, 0x01, 0xCF")                                                                              \
    X(rsm, "0x0F, 0xAA")

#define DEFINE(name, bytes)                                                                                            \
    static void do_##name(void *page)                                                                                  \
    {                                                                                                                  \
        __asm__ volatile(".byte " bytes : : "a"(page), "D"(page), "b"(0), "c"(0), "d"(0), "S"(0) : "memory", "cc");    \
    }
INSTRUCTIONS(DEFINE)

/* INVLPGA apart: KVM takes it for an INVLPG. */
static void do_invlpga(void *page)
{
    __asm__ volatile(".byte 0x0F, 0x01, 0xDF" : : "a"(page), "c"(1) : "memory");
}

static const struct {
    const char *name;
    void (*execute)(void *page);
} table[] = {
#define ROW(name, bytes) {#name, do_##name},
    INSTRUCTIONS(ROW)};

enum { COUNT = sizeof(table) / sizeof(table[0]) };

static uint8_t *page;

static void try_all(bool user)
{
    for (unsigned int n = 0; n < COUNT; n++) {
        int vector = (user ? guest_try_user : guest_try)(table[n].execute, page);

        /* AMD-V checks the privilege first where its own are switched on below us. */
        if (vector == X86_UD || (user && vector == X86_GP))
            continue;
        guest_print("%s: vector %d\n", table[n].name, vector);
        guest_die("it did not fault as it must");
    }
    DIE_UNLESS(guest_try_user(do_invlpga, page) != NO_FAULT);
    (void)guest_try(do_invlpga, page);
    for (unsigned int n = 0; n < 4096; n++) /* no region was made, no state saved there */
        DIE_UNLESS(page[n] == 0);
}

static void instructions(void)
{
    page = guest_page();
    for (unsigned int round = 0; round < 20; round++)
        try_all(false);
}

static void user(void)
{
    page = guest_page();
    for (unsigned int round = 0; round < 20; round++)
        try_all(true);
}

/* --- bits that switch it on ---------------------------------------------------------------------- */

static void set_efer(void *bits)
{
    wrmsr(MSR_EFER_INDEX, rdmsr(MSR_EFER_INDEX) | (uintptr_t)bits);
}

static void set_cr4(void *bits)
{
    write_cr4(read_cr4() | (uintptr_t)bits);
}

static void switches(void)
{
    page = guest_page();
    DIE_UNLESS(!(cpuid(1, 0).c & (CPUID_VMX | CPUID_SMX)));
    DIE_UNLESS(!(cpuid(0x80000001, 0).c & CPUID_SVM));
    for (unsigned int round = 0; round < 100; round++) {
        DIE_UNLESS(guest_try(set_efer, ptr(EFER_SVME)) == X86_GP);
        DIE_UNLESS(guest_try(set_cr4, ptr(CR4_VMXE)) == X86_GP);
        DIE_UNLESS(guest_try(set_cr4, ptr(CR4_SMXE)) == X86_GP);
        DIE_UNLESS(!(rdmsr(MSR_EFER_INDEX) & EFER_SVME));
        DIE_UNLESS(!(read_cr4() & (CR4_VMXE | CR4_SMXE)));
    }
    try_all(false);
}

/* --- MSRs ---------------------------------------------------------------------------------------- */

static uint32_t msr;
static uint64_t msr_value;

static void read_msr(void *p)
{
    (void)p;
    msr_value = rdmsr(msr);
}

static void write_msr(void *value)
{
    wrmsr(msr, (uintptr_t)value);
}

/* Whatever an MSR takes, afterwards the instructions are as undefined as before. */
static void poke(uint32_t index)
{
    const uint64_t values[] = {0, 1, 5, 7, (uintptr_t)page, ~UINT64_C(0)};

    msr = index;
    for (unsigned int n = 0; n < sizeof(values) / sizeof(values[0]); n++) {
        (void)guest_try(write_msr, ptr(values[n]));
        (void)guest_try(read_msr, NULL);
    }
}

/* IA32_FEATURE_CONTROL, SMM's, the VMX capabilities; AMD's SMM, VM_CR, IGNNE, SMM_CTL, VM_HSAVE_PA, SVM's key, GHCB. */
static void registers(void)
{
    page = guest_page();
    poke(0x3A);
    poke(0x9B);
    poke(0x9E);
    for (uint32_t index = 0x480; index <= 0x493; index++)
        poke(index);
    for (uint32_t index = 0xC0010110; index <= 0xC001011F; index++)
        poke(index);
    for (uint32_t index = 0xC0010130; index <= 0xC0010133; index++)
        poke(index);
    try_all(false);
    try_all(true);
}

/* --- without end --------------------------------------------------------------------------------- */

static void skip(struct guest_frame *f)
{
    f->rip = f->rbx; /* where to go on */
}

static void do_storm(unsigned int n)
{
    (void)n;
    for (;;)
        __asm__ volatile("lea 1f(%%rip), %%rbx; .byte 0x0F, 0x01, 0xD8; 1: lea 2f(%%rip), %%rbx; .byte 0x0F, 0x01, 0xDD;"
                         "2: lea 3f(%%rip), %%rbx; .byte 0x0F, 0x01, 0xC2; 3: lea 4f(%%rip), %%rbx;"
                         ".byte 0xF3, 0x0F, 0xC7, 0x37; 4:"
                         :
                         : "a"(page), "D"(page)
                         : "rbx", "memory");
}

static void storm(void)
{
    page = guest_page();
    guest_set_handler(X86_UD, skip);
    guest_set_handler(X86_GP, skip);
    smp_start(do_storm);
    do_storm(0);
}

static const struct die_mode modes[] = {
    {"instructions", instructions}, {"user", user}, {"switches", switches}, {"registers", registers}, {"storm", storm},
};

DIE_MAIN(modes)
