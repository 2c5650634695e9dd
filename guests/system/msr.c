/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* CPUID, MSRs, control registers and the time-stamp counter: what agrees with what, and what
 * faults. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

static void read_msr(void *index)
{
    (void)rdmsr((uint32_t)(uintptr_t)index);
}

static struct {
    uint32_t index;
    uint64_t value;
} to_write;

static void write_msr(void *p)
{
    (void)p;
    wrmsr(to_write.index, to_write.value);
}

static int try_write(uint32_t index, uint64_t value)
{
    to_write.index = index;
    to_write.value = value;
    return guest_try(write_msr, NULL);
}

static void test_cpuid(void)
{
    struct cpuid basic = cpuid(0, 0), extended = cpuid(0x80000000, 0);
    CHECK(basic.a >= 7);
    CHECK(extended.a >= 0x80000008);
    /* leaves beyond the last basic one answer as the last one does; the hypervisor's are its own */
    struct cpuid beyond = cpuid(basic.a + 1, 0), last = cpuid(basic.a, 0);
    CHECK(beyond.a == last.a || beyond.a == 0);
    CHECK(cpuid(1, 0).c >> 31 & 1); /* a hypervisor */
    CHECK(cpuid(0x40000000, 0).a >= 0x40000000);
    /* the baseline that every level has */
    uint32_t d = cpuid(1, 0).d;
    static const uint8_t bits[] = {0, 3, 4, 5, 6, 8, 9, 13, 15, 16, 23, 24, 25, 26};
    for (unsigned int n = 0; n < sizeof(bits); n++)
        CHECK(d >> bits[n] & 1);
    CHECK(cpuid(0x80000001, 0).d >> 29 & 1); /* long mode */
    /* OSXSAVE follows CR4 */
    if (cpuid(1, 0).c >> 26 & 1) {
        write_cr4(read_cr4() & ~X86_CR4_OSXSAVE);
        CHECK(!(cpuid(1, 0).c >> 27 & 1));
        write_cr4(read_cr4() | X86_CR4_OSXSAVE);
        CHECK(cpuid(1, 0).c >> 27 & 1);
    }
}

static void test_faults(void)
{
    CHECK_EQ(guest_try(read_msr, ptr(0x12345678)), X86_GP);
    CHECK_EQ(guest_fault.error, 0);
    CHECK_EQ(try_write(0x12345678, 0), X86_GP);
    CHECK_EQ(guest_try_user(read_msr, ptr(MSR_TSC)), X86_GP);
    CHECK_EQ(guest_try_user(write_msr, NULL), X86_GP);
    CHECK_EQ(try_write(MSR_EFER, ~UINT64_C(0)), X86_GP);
    CHECK_EQ(try_write(MSR_EFER, rdmsr(MSR_EFER) & ~X86_EFER_LME), X86_GP); /* paging is on */
    CHECK_EQ(try_write(MSR_PAT, 0x0202020202020202), X86_GP);               /* type 2 */
    CHECK_EQ(try_write(MSR_FS_BASE, 0x0000800000000000), X86_GP);
    CHECK_EQ(try_write(MSR_KERNEL_GS_BASE, 0x0000800000000000), X86_GP);
    CHECK_EQ(try_write(MSR_SYSENTER_EIP, 0x0000800000000000), X86_GP);
    CHECK_EQ(try_write(MSR_MTRRCAP, 0), X86_GP); /* read-only */
}

static void test_values(void)
{
    static const uint32_t plain[] = {MSR_STAR,         MSR_LSTAR,          MSR_SYSENTER_EIP,
                                     MSR_SYSENTER_ESP, MSR_KERNEL_GS_BASE, MSR_FS_BASE};
    for (unsigned int n = 0; n < sizeof(plain) / sizeof(plain[0]); n++) {
        uint64_t old = rdmsr(plain[n]);
        wrmsr(plain[n], 0x00001234567890AB);
        CHECK_EQ(rdmsr(plain[n]), 0x00001234567890AB);
        wrmsr(plain[n], old);
        CHECK_EQ(rdmsr(plain[n]), old);
    }
    CHECK_EQ(rdmsr(MSR_EFER) & (X86_EFER_LMA | X86_EFER_LME), X86_EFER_LMA | X86_EFER_LME);
    uint64_t pat = rdmsr(MSR_PAT);
    wrmsr(MSR_PAT, 0x0007040600070406);
    CHECK_EQ(rdmsr(MSR_PAT), 0x0007040600070406);
    wrmsr(MSR_PAT, pat);
    CHECK(rdmsr(MSR_APIC_BASE) & 1 << 11);
    CHECK(rdmsr(MSR_APIC_BASE) & 1 << 8); /* the boot processor */
    CHECK_EQ(rdmsr(MSR_APIC_BASE) & 0xFFFFF000, LODGE_MMIO_APIC);
}

/* --- control registers --- */

static void set_cr0(void *v)
{
    write_cr0((reg_t)v);
}

static void set_cr4(void *v)
{
    write_cr4((reg_t)v);
}

static void set_cr3(void *v)
{
    write_cr3((reg_t)v);
}

static void get_cr0(void *p)
{
    (void)p;
    (void)read_cr0();
}

static void get_cr1(void *p)
{
    (void)p;
    __asm__ volatile("mov %%cr1, %%rax" : : : "rax");
}

static void hlt(void *p)
{
    (void)p;
    __asm__ volatile("hlt");
}

static void test_control_registers(void)
{
    reg_t cr0 = read_cr0(), cr4 = read_cr4();
    CHECK_EQ(guest_try(set_cr0, ptr(cr0 & ~X86_CR0_PE)), X86_GP); /* PG without PE */
    CHECK_EQ(guest_try(set_cr0, ptr(cr0 | X86_CR0_NW)), X86_GP);  /* NW without CD */
    CHECK_EQ(guest_try(set_cr0, ptr(cr0 | UINT64_C(1) << 32)), X86_GP);
    CHECK_EQ(guest_try(set_cr4, ptr(cr4 & ~X86_CR4_PAE)), X86_GP); /* in long mode */
    CHECK_EQ(guest_try(set_cr4, ptr(cr4 | UINT64_C(1) << 31)), X86_GP);
    CHECK_EQ(guest_try(set_cr3, ptr(read_cr3() | UINT64_C(1) << 60)), X86_GP);
    CHECK_EQ(read_cr0(), cr0);
    CHECK_EQ(read_cr4(), cr4);
    CHECK_EQ(guest_try_user(get_cr0, NULL), X86_GP);
    CHECK_EQ(guest_try_user(set_cr0, ptr(cr0)), X86_GP);
    CHECK_EQ(guest_try_user(hlt, NULL), X86_GP);
    CHECK_EQ(guest_try(get_cr1, NULL), X86_UD);
    __asm__ volatile("clts");
    write_cr0(read_cr0() | X86_CR0_TS);
    CHECK(read_cr0() & X86_CR0_TS);
    __asm__ volatile("clts");
    CHECK(!(read_cr0() & X86_CR0_TS));
    /* CR8 is the local APIC's task priority */
    __asm__ volatile("mov %0, %%cr8" : : "r"((reg_t)5));
    CHECK_EQ(apic_read(0x80), 0x50);
    apic_write(0x80, 0x30);
    reg_t cr8;
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    CHECK_EQ(cr8, 3);
    apic_write(0x80, 0);
}

/* --- time --- */

static uint32_t tsc_aux(void)
{
    uint32_t a, d, c;
    __asm__ volatile("rdtscp" : "=a"(a), "=d"(d), "=c"(c));
    return c;
}

static void user_rdtsc(void *p)
{
    (void)p;
    (void)rdtsc();
}

static void test_tsc(void)
{
    uint64_t last = rdtsc();
    for (int n = 0; n < 10000; n++) {
        uint64_t now = rdtsc();
        CHECK(now >= last);
        last = now;
    }
    CHECK_EQ(guest_try_user(user_rdtsc, NULL), NO_FAULT);
    write_cr4(read_cr4() | X86_CR4_TSD);
    CHECK_EQ(guest_try_user(user_rdtsc, NULL), X86_GP);
    CHECK_EQ(guest_try(user_rdtsc, NULL), NO_FAULT);
    write_cr4(read_cr4() & ~X86_CR4_TSD);
    if (cpuid(0x80000001, 0).d >> 27 & 1) {
        wrmsr(MSR_TSC_AUX, 0x1234);
        CHECK_EQ(tsc_aux(), 0x1234);
    }
    /* the counter can be set, and goes on from there */
    wrmsr(MSR_TSC, UINT64_C(1) << 60);
    CHECK_EQ(rdtsc() >> 60, 1);
    wrmsr(MSR_TSC, last);
}

/* --- MONITOR, hypercalls --- */

static void monitor(void *p)
{
    __asm__ volatile("monitor" : : "a"(p), "c"(0), "d"(0));
}

static void mwait(void *p)
{
    (void)p;
    __asm__ volatile("mwait" : : "a"(0), "c"(0));
}

static void test_monitor(void)
{
    static uint64_t line;
    bool offered = cpuid(1, 0).c >> 3 & 1;
    CHECK_EQ(guest_try(monitor, &line), offered ? NO_FAULT : X86_UD);
    CHECK_EQ(guest_try_user(monitor, &line), X86_UD);
    CHECK_EQ(guest_try_user(mwait, NULL), X86_UD);
    if (!offered)
        CHECK_EQ(guest_try(mwait, NULL), X86_UD);
}

static void test_hypercall(void)
{
    if (cpuid(0x40000000, 0).b != 0x4B4D564B) { /* "KVMK" */
        guest_skip("not KVM's interface");
        return;
    }
    long result = 0xFFFF; /* no such call: -KVM_ENOSYS, by either instruction */
    __asm__ volatile("vmcall" : "+a"(result) : "b"(0), "c"(0), "d"(0), "S"(0) : "memory");
    CHECK_EQ(result, -1000);
    result = 0xFFFF;
    __asm__ volatile("vmmcall" : "+a"(result) : "b"(0), "c"(0), "d"(0), "S"(0) : "memory");
    CHECK_EQ(result, -1000);
}

int main(void)
{
    GUEST_RUN(test_cpuid);
    GUEST_RUN(test_faults);
    GUEST_RUN(test_values);
    GUEST_RUN(test_control_registers);
    GUEST_RUN(test_tsc);
    GUEST_RUN(test_monitor);
    GUEST_RUN(test_hypercall);
    return guest_done();
}
