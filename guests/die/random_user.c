/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Executes random bytes at CPL 3, on a page of their own, with a timer against endless loops: the
 * kernel must always get control back. "seed=N" on the command line.
 *
 * run: seed=@ => lives
 * run: seed=@ => lives level=host
 */
#include "guests/lib/guest.h"

#define L      UINT64_C(0x4000000000)
#define ptr(a) ((void *)(uintptr_t)(a))

enum { ROUNDS = 3000, RW = X86_PTE_P | X86_PTE_W | X86_PTE_U };

static uint8_t *code, *stack, *data;
static unsigned int counts[256];

static void enter(void *rip)
{
    __asm__ volatile("push %0; push %1; push %2; push %3; push %4\n"
                     "mov %5, %%rax; mov %%rax, %%rbx; mov %%rax, %%rcx; mov %%rax, %%rdx\n"
                     "mov %%rax, %%rsi; mov %%rax, %%rdi; mov %%rax, %%rbp; mov %%rax, %%r8\n"
                     "mov %%rax, %%r9; mov %%rax, %%r10; mov %%rax, %%r15\n"
                     "iretq"
                     :
                     : "i"(SEL_USER_DATA | 3), "r"(L + 0x2000), "i"((int)X86_FLAG_IF | 2),
                       "i"(SEL_USER_CODE64 | 3), "r"(rip), "r"(L + 0x3100)
                     : "memory");
}

/* Nothing but our three pages may be the user's. */
static void protect_rest(void)
{
    for (uint64_t a = 0; a < 0x100000000; a += 0x200000)
        *guest_entry(a, 1) &= ~X86_PTE_U;
    flush_tlb();
}

static void fill(uint8_t *p)
{
    for (unsigned int n = 0; n < 4096; n += 8)
        *(volatile uint64_t *)(p + n) = guest_random();
}

/* Common opcodes more often than chance has it, so that runs get longer. */
static void spice(uint8_t *p)
{
    static const uint8_t common[] = {0x0F, 0x48, 0x89, 0x8B, 0x66, 0xF3, 0xC5, 0xC4, 0x01, 0x83};
    for (unsigned int n = 0; n < 4096; n += 1 + (unsigned int)(guest_random() & 7))
        p[n] = common[guest_random() % sizeof(common)];
}

int main(void)
{
    code = guest_page();
    stack = guest_page();
    data = guest_page();
    apic_enable();
    write_cr0((read_cr0() & ~X86_CR0_EM) | X86_CR0_MP);
    write_cr4(read_cr4() | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT);
    if (cpuid(1, 0).c >> 26 & 1) {
        write_cr4(read_cr4() | X86_CR4_OSXSAVE);
        __asm__ volatile("xsetbv" : : "a"(cpuid(13, 0).a & 7), "d"(0), "c"(0));
    }
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~X86_EFER_SCE); /* there is nothing behind SYSCALL */
    protect_rest();
    guest_map(L, (uintptr_t)code, RW, 0);
    guest_map(L + 0x1000, (uintptr_t)stack, RW, 0);
    guest_map(L + 0x3000, (uintptr_t)data, RW, 0);
    apic_write(APIC_TIMER_DIVIDE, 0xB);
    for (int round = 0; round < ROUNDS; round++) {
        fill(code);
        fill(data);
        if (round & 1)
            spice(code);
        apic_write(APIC_LVT_TIMER, 0x50);
        apic_write(APIC_TIMER_COUNT, 500000);
        int vector = guest_try(enter, ptr(L + (guest_random() & 0xFFF)));
        apic_write(APIC_TIMER_COUNT, 0);
        apic_write(APIC_EOI, 0);
        if (vector < 0 || vector > 255)
            vector = VECTOR_LEAVE;
        counts[vector]++;
        if (vector != VECTOR_LEAVE && (guest_fault.cs & 3) != 3)
            guest_die("an exception of the kernel");
    }
    for (unsigned int v = 0; v < 256; v++) {
        if (counts[v])
            guest_print("vector %u: %u\n", v, counts[v]);
    }
    guest_print("PASS random_user\n");
    return 0;
}
