/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* IRET in 64-bit mode and from compatibility mode: to the same and outer levels, to compatibility
 * mode, with null SS, the flags it may change, its faults. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

struct iret_frame {
    uint64_t rip, cs, rflags, rsp, ss;
};

static by_asm volatile uint64_t landed_rsp, landed_flags;
static by_asm volatile uint16_t landed_cs, landed_ss;

/* Where frames point: notes the state, and leaves to where iret_to was called. */
static by_asm __attribute__((naked)) void landing(void)
{
    __asm__ volatile("mov %rsp, landed_rsp; mov %cs, landed_cs; mov %ss, landed_ss\n"
                     "lea guest_user_stack_end(%rip), %rsp\n"
                     "pushfq; popq landed_flags\n"
                     "int $0x81");
}

static by_asm __attribute__((naked)) void landing32(void)
{
    __asm__ volatile(".code32\n"
                     "push $0x3B; pop %ds\n" /* it had DPL 0 and became null */
                     "mov %esp, landed_rsp; mov %cs, landed_cs; mov %ss, landed_ss\n"
                     "int $0x81\n"
                     ".code64");
}

static void iret_to(void *p)
{
    const struct iret_frame *f = p;
    __asm__ volatile("push %0; push %1; push %2; push %3; push %4; iretq"
                     :
                     : "r"(f->ss), "r"(f->rsp), "r"(f->rflags), "r"(f->cs), "r"(f->rip)
                     : "memory");
}

#define LAND    (uintptr_t) landing
#define LAND32  (uintptr_t) landing32
#define STACK   0x123450
#define CODE3   (SEL_USER_CODE64 | 3)
#define CODE332 (SEL_USER_CODE32 | 3)
#define DATA3   (SEL_USER_DATA | 3)

static const struct {
    struct iret_frame frame;
    int vector;
    reg_t error;
} cases[] = {
    {{LAND, SEL_CODE64, 2, STACK, SEL_DATA}, NO_FAULT, 0},
    {{LAND, SEL_CODE64, 2, STACK, 0}, NO_FAULT, 0},
    {{LAND, CODE3, 2, STACK, DATA3}, NO_FAULT, 0},
    {{LAND32, CODE332, 2, STACK, DATA3}, NO_FAULT, 0},
    {{LAND, 0, 2, STACK, SEL_DATA}, X86_GP, 0},
    {{LAND, SEL_CODE64, 2, STACK, 3}, X86_GP, 0},
    {{LAND, CODE3, 2, STACK, 3}, X86_GP, 0},
    {{LAND, CODE3, 2, STACK, 0}, X86_GP, 0},
    {{LAND, CODE3, 2, STACK, SEL_DATA}, X86_GP, SEL_DATA},
    {{LAND, CODE3, 2, STACK, SEL_USER_DATA}, X86_GP, SEL_USER_DATA},
    {{LAND, SEL_CODE64 | 3, 2, STACK, DATA3}, X86_GP, SEL_CODE64},
    {{LAND, SEL_USER_CODE64, 2, STACK, SEL_DATA}, X86_GP, SEL_USER_CODE64},
    {{LAND, SEL_DATA, 2, STACK, SEL_DATA}, X86_GP, SEL_DATA},
    {{LAND, SEL_CODE64, 2, STACK, SEL_CODE64}, X86_GP, SEL_CODE64},
    {{LAND, 0x1000, 2, STACK, SEL_DATA}, X86_GP, 0x1000},
    {{LAND, SEL_CODE64, 2, STACK, 0x1000}, X86_GP, 0x1000},
    {{0x0000800000000000, SEL_CODE64, 2, STACK, SEL_DATA}, X86_GP, 0},
    {{0x100000000 + LAND32, CODE332, 2, STACK, DATA3}, X86_GP, 0},
    {{LAND32, SEL_CODE32, 2, STACK, 0}, X86_GP, 0},
};

static void test_iretq(void)
{
    for (unsigned int n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        struct iret_frame f = cases[n].frame;
        int vector = guest_try(iret_to, &f);
        if (vector != cases[n].vector)
            guest_print("case %u: %d\n", n, vector);
        CHECK_EQ(vector, cases[n].vector);
        if (vector != NO_FAULT) {
            CHECK_EQ(guest_fault.error, cases[n].error);
            CHECK_EQ(guest_fault.cs, SEL_CODE64); /* a fault of the IRET */
            CHECK_EQ(*(uint16_t *)ptr(guest_fault.rip), 0xCF48);
            continue;
        }
        CHECK_EQ(landed_cs, f.cs);
        CHECK_EQ(landed_ss, f.ss);
        CHECK_EQ(landed_rsp, f.rsp);
    }
}

static void test_absent(void)
{
    struct iret_frame f = {LAND, CODE3, 2, STACK, DATA3};
    guest_gdt[SEL_USER_DATA / 8] &= ~(UINT64_C(0x80) << 40);
    CHECK_EQ(guest_try(iret_to, &f), X86_SS);
    CHECK_EQ(guest_fault.error, SEL_USER_DATA);
    guest_gdt[SEL_USER_DATA / 8] |= UINT64_C(0x80) << 40;
    guest_gdt[SEL_USER_CODE64 / 8] &= ~(UINT64_C(0x80) << 40);
    CHECK_EQ(guest_try(iret_to, &f), X86_NP);
    CHECK_EQ(guest_fault.error, SEL_USER_CODE64);
    guest_gdt[SEL_USER_CODE64 / 8] |= UINT64_C(0x80) << 40;
    CHECK_EQ(guest_try(iret_to, &f), NO_FAULT);
}

/* What the image may change. */
static void test_flags(void)
{
    struct iret_frame f = {LAND, CODE3, 0, STACK, DATA3};
    const uint64_t some = X86_FLAG_CF | X86_FLAG_OF | X86_FLAG_IF | X86_FLAG_IOPL | X86_FLAG_ID;
    f.rflags = some | 2;
    CHECK_EQ(guest_try(iret_to, &f), NO_FAULT);
    CHECK_EQ(landed_flags & (some | X86_FLAG_AC), some);
    f.rflags = X86_FLAG_AC | 2;
    CHECK_EQ(guest_try(iret_to, &f), NO_FAULT);
    CHECK_EQ(landed_flags & (some | X86_FLAG_AC), X86_FLAG_AC);
    f.rflags = X86_FLAG_VM | 2; /* means nothing in long mode */
    CHECK_EQ(guest_try(iret_to, &f), NO_FAULT);
}

static void iret_nt(void *p)
{
    write_flags(read_flags() | X86_FLAG_NT);
    iret_to(p);
}

/* At CPL 3: IF and IOPL stay as they are. */
static void user_iret(void *p)
{
    struct iret_frame f = {(uintptr_t)p, CODE3, X86_FLAG_IF | X86_FLAG_IOPL | 2, STACK, DATA3};
    iret_to(&f);
}

static void test_more_flags(void)
{
    struct iret_frame f = {LAND, SEL_CODE64, 2, STACK, SEL_DATA};
    CHECK_EQ(guest_try(iret_nt, &f), X86_GP);
    CHECK_EQ(guest_fault.error, 0);
    CHECK_EQ(guest_try_user(user_iret, ptr(LAND)), NO_FAULT);
    CHECK_EQ(landed_flags & (X86_FLAG_IF | X86_FLAG_IOPL), 0);
}

/* IRETD in compatibility mode does not pop SS:ESP when the level stays. */
static by_asm volatile uint32_t compat_esp[2];

static by_asm __attribute__((naked)) void compat_iret(void)
{
    __asm__ volatile(".code32\n"
                     "mov %esp, compat_esp\n"
                     "pushf; push %cs; push $1f; iret\n"
                     "1: mov %esp, compat_esp + 4\n"
                     "lret\n"
                     ".code64");
}

static void call_compat(void *p)
{
    static const struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } user = {0, SEL_USER_CODE32 | 3};
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } pointer = {(uint32_t)(uintptr_t)compat_iret, user.selector};
    (void)p;
    __asm__ volatile("lcall *%0" : : "m"(pointer) : "memory", "cc");
}

static void test_compat_iret(void)
{
    CHECK_EQ(guest_try_user(call_compat, NULL), NO_FAULT);
    CHECK_EQ(compat_esp[0], compat_esp[1]);
    CHECK(compat_esp[0] != 0);
}

int main(void)
{
    GUEST_RUN(test_iretq);
    GUEST_RUN(test_absent);
    GUEST_RUN(test_flags);
    GUEST_RUN(test_more_flags);
    GUEST_RUN(test_compat_iret);
    return guest_done();
}
