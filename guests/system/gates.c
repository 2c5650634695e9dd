/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Gates in long mode: interrupt and trap gates, DPL, stacks by privilege and IST, alignment, error
 * codes, double fault, call gates, far transfers to compatibility mode and back. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

static struct guest_frame seen;
static uint64_t seen_flags, frame_address;

static void record(struct guest_frame *f)
{
    seen = *f;
    seen_flags = read_flags();
    frame_address = (uintptr_t)f;
}

static void int_60(void *p)
{
    (void)p;
    __asm__ volatile("int $0x60");
}

static void test_interrupt_and_trap(void)
{
    extern uint8_t guest_vectors[256][16];
    guest_set_handler(0x60, record);
    __asm__ volatile("sti");
    int_60(NULL);
    CHECK(!(seen_flags & X86_FLAG_IF));
    CHECK(seen.rflags & X86_FLAG_IF);
    guest_set_gate(0x60, guest_vectors[0x60], 15, 0, 0);
    int_60(NULL);
    CHECK(seen_flags & X86_FLAG_IF);
    __asm__ volatile("cli");
    CHECK_EQ(seen.cs, SEL_CODE64);
    CHECK_EQ(seen.ss, SEL_DATA);
    /* the frame ends at a multiple of 16, whatever RSP was */
    uint64_t rsp;
    for (uint64_t n = 0; n < 16; n++) {
        __asm__ volatile(
            "mov %%rsp, %%rbx; sub %1, %%rsp; mov %%rsp, %0; int $0x60; mov %%rbx, %%rsp"
            : "=&r"(rsp)
            : "r"(n)
            : "rbx", "memory", "cc");
        CHECK_EQ(seen.rsp, rsp);
        CHECK_EQ((frame_address + sizeof(seen)) & 15, 0);
    }
    guest_reset_gate(0x60);
}

static void test_dpl(void)
{
    extern uint8_t guest_vectors[256][16];
    CHECK_EQ(guest_try_user(int_60, NULL), X86_GP);
    CHECK_EQ(guest_fault.error, 0x60 << 3 | 2);
    guest_set_gate(0x60, guest_vectors[0x60], 14, 3, 0);
    CHECK_EQ(guest_try_user(int_60, NULL), NO_FAULT);
    CHECK_EQ(seen.cs, SEL_USER_CODE64 | 3);
    CHECK_EQ(seen.ss, SEL_USER_DATA | 3);
    /* the stack comes from the TSS */
    extern uint8_t guest_interrupt_stack_end[];
    CHECK_EQ(frame_address + sizeof(seen), (uintptr_t)guest_interrupt_stack_end);
    guest_reset_gate(0x60);
}

static void test_ist(void)
{
    extern uint8_t guest_vectors[256][16];
    static uint8_t stack[8192] __attribute__((aligned(16)));
    uint64_t top = (uintptr_t)stack + sizeof(stack);
    for (unsigned int ist = 2; ist <= 7; ist++) {
        *(volatile uint64_t *)(guest_tss + 28 + ist * 8) = top;
        guest_set_gate(0x60, guest_vectors[0x60], 14, 3, (uint8_t)ist);
        int_60(NULL);
        CHECK_EQ(frame_address + sizeof(seen), top);
        CHECK_EQ(guest_try_user(int_60, NULL), NO_FAULT);
        CHECK_EQ(frame_address + sizeof(seen), top);
        *(volatile uint64_t *)(guest_tss + 28 + ist * 8) = 0x0000800000000000;
    }
    guest_reset_gate(0x60);
}

/* Broken gates: bits of the two quadwords of vector 0x60, expected fault and error code. */
static void test_gate_faults(void)
{
    const uint64_t good = guest_idt[0x60 * 2];
    static const struct {
        uint64_t clear, set;
        int vector;
        reg_t error;
    } cases[] = {
        {UINT64_C(0x80) << 40, 0, X86_NP, 0x60 << 3 | 2},
        {UINT64_C(0x1F) << 40, UINT64_C(0x05) << 40, X86_GP, 0x60 << 3 | 2},
        {UINT64_C(0x1F) << 40, UINT64_C(0x0C) << 40, X86_GP, 0x60 << 3 | 2},
        {UINT64_C(0xFFFF) << 16, 0, X86_GP, 0},
        {UINT64_C(0xFFFF) << 16, UINT64_C(0x10) << 16, X86_GP, SEL_DATA},
        {UINT64_C(0xFFFF) << 16, UINT64_C(SEL_CODE32) << 16, X86_GP, SEL_CODE32},
        {UINT64_C(0xFFFF) << 16, UINT64_C(0x1000) << 16, X86_GP, 0x1000},
        {UINT64_C(0xFFFF) << 16, UINT64_C(SEL_USER_CODE64) << 16, X86_GP, SEL_USER_CODE64},
    };
    for (unsigned int n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        guest_idt[0x60 * 2] = (good & ~cases[n].clear) | cases[n].set;
        CHECK_EQ(guest_try(int_60, NULL), cases[n].vector);
        CHECK_EQ(guest_fault.error, cases[n].error);
    }
    guest_reset_gate(0x60);
    load_idt(guest_idt, 0x60 * 16 + 14);
    CHECK_EQ(guest_try(int_60, NULL), X86_GP);
    CHECK_EQ(guest_fault.error, 0x60 << 3 | 2);
    load_idt(guest_idt, sizeof(guest_idt) - 1);
}

static void undefined(void *p)
{
    (void)p;
    __asm__ volatile("ud2");
}

static void test_double_fault(void)
{
    /* #UD whose gate is not present: #NP with EXT; #NP's gate absent too: #DF on its IST stack */
    uint64_t ud = guest_idt[X86_UD * 2], np = guest_idt[X86_NP * 2];
    guest_idt[X86_UD * 2] &= ~(UINT64_C(0x80) << 40);
    CHECK_EQ(guest_try(undefined, NULL), X86_NP);
    CHECK_EQ(guest_fault.error, X86_UD << 3 | 3);
    guest_idt[X86_NP * 2] &= ~(UINT64_C(0x80) << 40);
    CHECK_EQ(guest_try(undefined, NULL), X86_DF);
    CHECK_EQ(guest_fault.error, 0);
    guest_idt[X86_UD * 2] = ud;
    guest_idt[X86_NP * 2] = np;
    /* a stack that is not there: #PF on delivery of #PF */
    uint64_t rsp0 = *(volatile uint64_t *)(guest_tss + 4);
    *(volatile uint64_t *)(guest_tss + 4) = 0x7000000000;
    CHECK_EQ(guest_try_user(guest_load8, ptr(0x7000001000)), X86_DF);
    CHECK_EQ(guest_fault.cs, SEL_USER_CODE64 | 3);
    CHECK_EQ(guest_fault.cr2, 0x7000000000 - 8);
    *(volatile uint64_t *)(guest_tss + 4) = rsp0;
    CHECK_EQ(guest_try_user(guest_load8, ptr(0x7000001000)), X86_PF);
}

/* --- call gates and compatibility mode --- */

static by_asm volatile uint64_t gate_frame[4];
static by_asm volatile uint16_t gate_ss, gate_cs;

static __attribute__((naked)) void gate_target(void)
{
    __asm__ volatile("push %rax; push %rcx\n"
                     "mov 16(%rsp), %rax; mov %rax, gate_frame\n"
                     "mov 24(%rsp), %rax; mov %rax, gate_frame + 8\n"
                     "mov 32(%rsp), %rax; mov %rax, gate_frame + 16\n"
                     "mov 40(%rsp), %rax; mov %rax, gate_frame + 24\n"
                     "mov %ss, gate_ss; mov %cs, gate_cs\n"
                     "pop %rcx; pop %rax; lretq");
}

static void set_call_gate(uint8_t dpl, uint16_t selector, uint64_t target)
{
    guest_gdt[SEL_FREE / 8 + 1] = (target & 0xFFFF) | (uint64_t)selector << 16 |
                                  (uint64_t)(0x8Cu | (unsigned)dpl << 5) << 40 |
                                  (target >> 16 & 0xFFFF) << 48;
    guest_gdt[SEL_FREE / 8 + 2] = target >> 32;
}

static void call_gate(void *p)
{
    static const struct __attribute__((packed)) {
        uint64_t offset;
        uint16_t selector;
    } pointer = {0x1234, SEL_FREE + 8};
    (void)p;
    __asm__ volatile(".byte 0x48; lcall *(%0)" : : "a"(&pointer) : "memory"); /* REX.W */
}

static void test_call_gate(void)
{
    set_call_gate(3, SEL_CODE64, (uintptr_t)gate_target);
    CHECK_EQ(guest_try(call_gate, NULL), NO_FAULT);
    CHECK_EQ(gate_cs, SEL_CODE64);
    CHECK_EQ(gate_ss, SEL_DATA);
    CHECK_EQ(gate_frame[1], SEL_CODE64);
    CHECK_EQ(guest_try_user(call_gate, NULL), NO_FAULT);
    CHECK_EQ(gate_cs, SEL_CODE64);
    CHECK_EQ(gate_ss, 0);
    CHECK_EQ(gate_frame[1], SEL_USER_CODE64 | 3);
    CHECK_EQ(gate_frame[3], SEL_USER_DATA | 3);
    CHECK(gate_frame[2] > (uintptr_t)guest_user_stack &&
          gate_frame[2] < (uintptr_t)guest_user_stack_end);
    set_call_gate(0, SEL_CODE64, (uintptr_t)gate_target);
    CHECK_EQ(guest_try_user(call_gate, NULL), X86_GP);
    CHECK_EQ(guest_fault.error, SEL_FREE + 8);
    set_call_gate(3, SEL_CODE32, (uintptr_t)gate_target);
    CHECK_EQ(guest_try_user(call_gate, NULL), X86_GP);
    CHECK_EQ(guest_fault.error, SEL_CODE32);
    set_call_gate(3, SEL_CODE64, 0x0000800000000000);
    CHECK_EQ(guest_try(call_gate, NULL), X86_GP);
    CHECK_EQ(guest_fault.error, 0);
}

static by_asm volatile uint32_t compat_result;

/* Far call into compatibility mode, where 48 (REX.W in 64-bit mode) is DEC EAX. */
static __attribute__((naked)) void compat_target(void)
{
    __asm__ volatile(".code32\n"
                     "mov $5, %eax; dec %eax; mov %eax, compat_result\n"
                     "lret\n"
                     ".code64");
}

static void call_compat(void *selector)
{
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } pointer = {(uint32_t)(uintptr_t)compat_target, (uint16_t)(uintptr_t)selector};
    __asm__ volatile("lcall *%0" : : "m"(pointer) : "rax", "memory");
}

static void test_compatibility_mode(void)
{
    CHECK_EQ(guest_try(call_compat, ptr(SEL_CODE32)), NO_FAULT);
    CHECK_EQ(compat_result, 4);
    compat_result = 0;
    CHECK_EQ(guest_try_user(call_compat, ptr(SEL_USER_CODE32 | 3)), NO_FAULT);
    CHECK_EQ(compat_result, 4);
    CHECK_EQ(guest_try_user(call_compat, ptr(SEL_CODE32)), X86_GP);
    CHECK_EQ(guest_fault.error, SEL_CODE32);
    CHECK_EQ(guest_try(call_compat, ptr(SEL_TSS)), X86_GP); /* no task switch in long mode */
    CHECK_EQ(guest_fault.error, SEL_TSS);
}

int main(void)
{
    GUEST_RUN(test_interrupt_and_trap);
    GUEST_RUN(test_dpl);
    GUEST_RUN(test_ist);
    GUEST_RUN(test_gate_faults);
    GUEST_RUN(test_double_fault);
    GUEST_RUN(test_call_gate);
    GUEST_RUN(test_compatibility_mode);
    return guest_done();
}
