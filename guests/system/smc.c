/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Self-modifying code: the running block, the next instruction, through another mapping, across
 * pages, by string instructions, as alternatives and breakpoints are patched in. */
#include "guests/lib/guest.h"

#define AREA   UINT64_C(0x4000000000)
#define ptr(a) ((void *)(uintptr_t)(a))

static uint8_t *code;

static uint32_t call(const void *at)
{
    uint32_t v;
    __asm__ volatile("call *%1" : "=a"(v) : "r"(at) : "rcx", "rdx", "memory", "cc");
    return v;
}

static void put(uint8_t *at, const char *bytes, unsigned int n)
{
    for (unsigned int k = 0; k < n; k++)
        ((volatile uint8_t *)at)[k] = (uint8_t)bytes[k];
}

static void test_function(void)
{
    put(code, "\xB8\x00\x00\x00\x00\xC3", 6); /* mov eax, imm32; ret */
    for (uint32_t n = 0; n < 1000; n++) {
        *(volatile uint32_t *)(code + 1) = n;
        CHECK_EQ(call(code), n);
    }
    put(code, "\x31\xC0\xFF\xC0\xC3", 5); /* xor eax, eax; inc eax; ret */
    CHECK_EQ(call(code), 1);
}

static void test_next_instruction(void)
{
    /* movb $7, 1f+1(%rip): the immediate of the very next instruction */
    put(code,
        "\xC6\x05\x01\x00\x00\x00\x07" /* mov byte [rip+1], 7 */
        "\xB8\x05\x00\x00\x00"         /* mov eax, 5 */
        "\xC3",
        13);
    CHECK_EQ(call(code), 7);
    /* a loop that counts by rewriting its own immediate:
     * mov ecx, 10; 1: incb [rip+x]; 2: mov eax, 0; loop 1b; ret */
    put(code,
        "\xB9\x0A\x00\x00\x00"
        "\xFE\x05\x01\x00\x00\x00"
        "\xB8\x00\x00\x00\x00"
        "\xE2\xF3"
        "\xC3",
        19);
    CHECK_EQ(call(code), 10);
}

static void test_alias(void)
{
    guest_map(AREA, (uintptr_t)code, X86_PTE_P | X86_PTE_W, 0);
    put(code, "\xB8\x01\x00\x00\x00\xC3", 6);
    CHECK_EQ(call(code), 1);
    CHECK_EQ(call(ptr(AREA)), 1);
    for (uint32_t n = 0; n < 100; n++) {
        *(volatile uint32_t *)ptr(AREA + 1) = n;
        CHECK_EQ(call(code), n);
        *(volatile uint32_t *)(code + 1) = n + 1;
        CHECK_EQ(call(ptr(AREA)), n + 1);
    }
    /* the same address, another page */
    uint8_t *second = guest_page();
    put(second, "\xB8\x99\x00\x00\x00\xC3", 6);
    guest_map(AREA, (uintptr_t)second, X86_PTE_P, 0);
    CHECK_EQ(call(ptr(AREA)), 0x99);
    guest_map(AREA, (uintptr_t)code, X86_PTE_P, 0);
    CHECK_EQ(call(ptr(AREA)), 100);
}

static void test_across_pages(void)
{
    uint8_t *a = guest_page(), *b = guest_page();
    guest_map(AREA + 0x10000, (uintptr_t)a, X86_PTE_P | X86_PTE_W, 0);
    guest_map(AREA + 0x11000, (uintptr_t)b, X86_PTE_P | X86_PTE_W, 0);
    uint8_t *at = ptr(AREA + 0x11000 - 3); /* mov eax, imm32 with two bytes on the second page */
    put(at, "\xB8\x11\x22\x33\x44\xC3", 6);
    CHECK_EQ(call(at), 0x44332211);
    ((volatile uint8_t *)b)[0] = 0x55;
    CHECK_EQ(call(at), 0x44552211);
    ((volatile uint8_t *)a)[0xFFE] = 0x66;
    CHECK_EQ(call(at), 0x44552266);
    /* the second page becomes another one */
    uint8_t *c = guest_page();
    put(c, "\x77\x88\xC3", 3);
    guest_map(AREA + 0x11000, (uintptr_t)c, X86_PTE_P | X86_PTE_W, 0);
    CHECK_EQ(call(at), 0x88772266);
    /* and is absent: #PF at its first byte, RIP at the instruction */
    guest_map(AREA + 0x11000, 0, 0, 0);
    CHECK_EQ(guest_try(guest_call, at), X86_PF);
    CHECK_EQ(guest_fault.cr2, AREA + 0x11000);
    CHECK_EQ(guest_fault.rip, (uintptr_t)at);
}

static void test_string_store(void)
{
    /* REP STOSB over code that comes right after it: nops become inc eax (ff c0) */
    put(code,
        "\x31\xC0"                     /* xor eax, eax */
        "\x66\xB8\xFF\xC0"             /* mov ax, 0xC0FF */
        "\x48\x8D\x3D\x09\x00\x00\x00" /* lea rdi, [rip+9] */
        "\xB9\x08\x00\x00\x00"         /* mov ecx, 8 */
        "\xF3\x66\xAB"                 /* rep stosw */
        "\x90",
        22);
    /* after them, at 22: 16 bytes to be overwritten, then ret */
    put(code + 22, "\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\xC3", 17);
    CHECK_EQ(call(code), 0xC0FF + 8);
}

static volatile unsigned int breaks;

static void on_breakpoint(struct guest_frame *f)
{
    breaks++;
    *(volatile uint8_t *)ptr(f->rip - 1) = 0x90;
    f->rip--;
}

static void test_breakpoints(void)
{
    put(code, "\x90\x90\xB8\x2A\x00\x00\x00\xC3", 8);
    CHECK_EQ(call(code), 42);
    guest_set_handler(X86_BP, on_breakpoint);
    for (unsigned int n = 0; n < 50; n++) {
        *(volatile uint8_t *)(code + (n & 1)) = 0xCC;
        CHECK_EQ(call(code), 42);
        CHECK_EQ(breaks, n + 1);
    }
    guest_set_handler(X86_BP, NULL);
}

/* Data and code in one page must not cost correctness. */
static void test_mixed_page(void)
{
    put(code,
        "\x8B\x05\xFA\x00\x00\x00" /* mov eax, [rip+0xFA]: code + 0x100 */
        "\xFF\x05\xF4\x00\x00\x00" /* inc dword [code + 0x100] */
        "\xC3",
        13);
    *(volatile uint32_t *)(code + 0x100) = 0;
    for (uint32_t n = 0; n < 1000; n++)
        CHECK_EQ(call(code), n);
}

int main(void)
{
    code = guest_page();
    GUEST_RUN(test_function);
    GUEST_RUN(test_next_instruction);
    GUEST_RUN(test_alias);
    GUEST_RUN(test_across_pages);
    GUEST_RUN(test_string_store);
    GUEST_RUN(test_breakpoints);
    GUEST_RUN(test_mixed_page);
    return guest_done();
}
