/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* SYSCALL and SYSRET, SYSENTER and SYSEXIT, SWAPGS and the bases of FS and GS. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

static by_asm volatile uint64_t entry_rcx, entry_r11, entry_rsp, entry_flags;
static by_asm volatile uint16_t entry_cs, entry_ss;
static by_asm volatile uint64_t after_flags;
static by_asm volatile uint16_t after_cs, after_ss;

/* The kernel's side: notes what it was given, goes back at once. */
static __attribute__((naked)) void syscall_entry(void)
{
    __asm__ volatile("mov %rcx, entry_rcx; mov %r11, entry_r11; mov %rsp, entry_rsp\n"
                     "mov %cs, entry_cs; mov %ss, entry_ss\n"
                     "lea guest_interrupt_stack_end(%rip), %rsp\n"
                     "pushfq; popq entry_flags\n"
                     "mov entry_rsp, %rsp\n"
                     "sysretq");
}

static void user_syscall(void *p)
{
    uint64_t flags;
    (void)p;
    __asm__ volatile("stc; std; syscall\n"
                     "pushfq; pop %0; cld"
                     : "=r"(flags)
                     :
                     : "rcx", "r11", "memory", "cc");
    after_flags = flags;
    __asm__ volatile("mov %%cs, %0" : "=m"(after_cs));
    __asm__ volatile("mov %%ss, %0" : "=m"(after_ss));
}

static void test_syscall(void)
{
    wrmsr(MSR_STAR, (uint64_t)(SEL_USER_CODE32 | 3) << 48 | (uint64_t)SEL_CODE64 << 32);
    wrmsr(MSR_LSTAR, (uintptr_t)syscall_entry);
    wrmsr(MSR_SFMASK, X86_FLAG_DF | X86_FLAG_IF | X86_FLAG_TF);
    CHECK_EQ(guest_try_user(user_syscall, NULL), NO_FAULT);
    CHECK_EQ(entry_cs, SEL_CODE64);
    CHECK_EQ(entry_ss, SEL_DATA);
    CHECK(!(entry_flags & X86_FLAG_DF));
    CHECK(entry_flags & X86_FLAG_CF);
    CHECK((entry_r11 & (X86_FLAG_DF | X86_FLAG_CF)) == (X86_FLAG_DF | X86_FLAG_CF));
    CHECK(entry_rsp > (uintptr_t)guest_user_stack && entry_rsp < (uintptr_t)guest_user_stack_end);
    CHECK_EQ(*(uint16_t *)ptr(entry_rcx - 2), 0x050F);
    CHECK_EQ(after_cs, SEL_USER_CODE64 | 3);
    CHECK_EQ(after_ss, SEL_USER_DATA | 3);
    CHECK(after_flags & X86_FLAG_DF);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~X86_EFER_SCE);
    CHECK_EQ(guest_try_user(user_syscall, NULL), X86_UD);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | X86_EFER_SCE);
}

static void sysret_noncanonical(void *p)
{
    (void)p;
    __asm__ volatile("mov $0x0000800000000000, %%rcx; mov $2, %%r11; sysretq"
                     :
                     :
                     : "rcx", "r11", "memory");
}

static void user_sysret(void *p)
{
    (void)p;
    __asm__ volatile("sysretq");
}

static void wrmsr_lstar(void *p)
{
    wrmsr(MSR_LSTAR, (uint64_t)(uintptr_t)p);
}

static void test_syscall_faults(void)
{
    CHECK_EQ(guest_try(sysret_noncanonical, NULL), X86_GP);
    CHECK_EQ(guest_fault.cs, SEL_CODE64); /* Intel: still at CPL 0 */
    CHECK_EQ(guest_try_user(user_sysret, NULL), X86_GP);
    CHECK_EQ(guest_try(wrmsr_lstar, ptr(0x0000800000000000)), X86_GP);
}

/* SYSRET to 32-bit code, which leaves by INT. */
static by_asm volatile uint32_t compat_flag;

static by_asm __attribute__((naked)) void compat_code(void)
{
    __asm__ volatile(".code32\n"
                     "mov $7, %eax; dec %eax; mov %eax, compat_flag\n"
                     "mov %cs, after_cs\n"
                     "int $0x81\n"
                     ".code64");
}

static void sysret_compat(void *p)
{
    (void)p;
    __asm__ volatile("mov $compat_code, %%ecx; mov $2, %%r11d\n"
                     "lea guest_user_stack_end(%%rip), %%rsp; sysretl"
                     :
                     :
                     : "rcx", "r11", "memory");
}

static void test_sysret_compat(void)
{
    CHECK_EQ(guest_try(sysret_compat, NULL), NO_FAULT);
    CHECK_EQ(compat_flag, 6);
    CHECK_EQ(after_cs, SEL_USER_CODE32 | 3);
}

static __attribute__((naked)) void sysenter_entry(void)
{
    __asm__ volatile("mov %cs, entry_cs; mov %ss, entry_ss; mov %rsp, entry_rsp\n"
                     "pushfq; popq entry_flags\n"
                     "mov %r8, %rdx; mov %r9, %rcx\n"
                     "sysexitq");
}

static void user_sysenter(void *p)
{
    (void)p;
    __asm__ volatile("lea 1f(%%rip), %%r8; mov %%rsp, %%r9; sysenter; 1:\n"
                     "mov %%cs, after_cs; mov %%ss, after_ss"
                     :
                     :
                     : "rcx", "rdx", "r8", "r9", "memory", "cc");
}

static void test_sysenter(void)
{
    if (!(cpuid(1, 0).d >> 11 & 1)) {
        guest_skip("not offered");
        return;
    }
    extern uint8_t guest_interrupt_stack_end[];
    wrmsr(MSR_SYSENTER_CS, 0);
    CHECK_EQ(guest_try_user(user_sysenter, NULL), X86_GP);
    wrmsr(MSR_SYSENTER_CS, SEL_CODE64);
    wrmsr(MSR_SYSENTER_ESP, (uintptr_t)guest_interrupt_stack_end);
    wrmsr(MSR_SYSENTER_EIP, (uintptr_t)sysenter_entry);
    /* SYSEXIT's 64-bit selectors are those 32 and 40 above */
    uint64_t old28 = guest_gdt[5], old30 = guest_gdt[6];
    guest_gdt[5] = guest_gdt[SEL_USER_CODE64 / 8];
    guest_gdt[6] = guest_gdt[SEL_USER_DATA / 8];
    CHECK_EQ(guest_try_user(user_sysenter, NULL), NO_FAULT);
    guest_gdt[5] = old28;
    guest_gdt[6] = old30;
    CHECK_EQ(entry_cs, SEL_CODE64);
    CHECK_EQ(entry_ss, SEL_DATA);
    CHECK_EQ(entry_rsp, (uintptr_t)guest_interrupt_stack_end);
    CHECK(!(entry_flags & X86_FLAG_IF));
    CHECK_EQ(after_cs, 0x28 | 3);
    CHECK_EQ(after_ss, 0x30 | 3);
}

/* --- bases --- */

static volatile uint64_t gs_data[2] = {111, 222};

static uint64_t read_gs0(void)
{
    uint64_t v;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(v));
    return v;
}

static void do_swapgs(void *p)
{
    (void)p;
    __asm__ volatile("swapgs" : : : "memory");
}

static void test_swapgs(void)
{
    wrmsr(MSR_GS_BASE, (uintptr_t)&gs_data[0]);
    wrmsr(MSR_KERNEL_GS_BASE, (uintptr_t)&gs_data[1]);
    CHECK_EQ(read_gs0(), 111);
    do_swapgs(NULL);
    CHECK_EQ(read_gs0(), 222);
    CHECK_EQ(rdmsr(MSR_GS_BASE), (uintptr_t)&gs_data[1]);
    CHECK_EQ(rdmsr(MSR_KERNEL_GS_BASE), (uintptr_t)&gs_data[0]);
    CHECK_EQ(guest_try_user(do_swapgs, NULL), X86_GP);
    /* loading a null selector clears the base */
    __asm__ volatile("mov %0, %%gs" : : "r"(0));
    CHECK_EQ(rdmsr(MSR_KERNEL_GS_BASE), (uintptr_t)&gs_data[0]);
}

static void wrfsbase(void *p)
{
    __asm__ volatile("wrfsbase %0" : : "r"(p) : "memory");
}

static uint64_t rdfsbase(void)
{
    uint64_t v;
    __asm__ volatile("rdfsbase %0" : "=r"(v));
    return v;
}

static void test_fsgsbase(void)
{
    if (!(cpuid(7, 0).b & 1)) {
        guest_skip("not offered");
        return;
    }
    CHECK_EQ(guest_try(wrfsbase, gs_data[0] ? ptr(&gs_data[0]) : NULL), X86_UD);
    write_cr4(read_cr4() | X86_CR4_FSGSBASE);
    CHECK_EQ(guest_try_user(wrfsbase, ptr(&gs_data[1])), NO_FAULT);
    CHECK_EQ(rdfsbase(), (uintptr_t)&gs_data[1]);
    CHECK_EQ(rdmsr(MSR_FS_BASE), (uintptr_t)&gs_data[1]);
    uint64_t v;
    __asm__ volatile("mov %%fs:0, %0" : "=r"(v));
    CHECK_EQ(v, 222);
    CHECK_EQ(guest_try(wrfsbase, ptr(0x0000800000000000)), X86_GP);
    write_cr4(read_cr4() & ~X86_CR4_FSGSBASE);
}

int main(void)
{
    GUEST_RUN(test_syscall);
    GUEST_RUN(test_syscall_faults);
    GUEST_RUN(test_sysret_compat);
    GUEST_RUN(test_sysenter);
    GUEST_RUN(test_swapgs);
    GUEST_RUN(test_fsgsbase);
    return guest_done();
}
