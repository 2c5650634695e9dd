/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Code that changes under those who execute it: by themselves, by another processor, through
 * another mapping of the page; whole instructions, single bytes, pages.
 *
 * run: cross => lives vcpus=2
 * run: cross => lives vcpus=4
 * run: alias => lives vcpus=2
 * run: bytes seed=@ => any vcpus=2 seconds=2
 * run: own => lives
 * run: next => lives
 * run: remap => lives vcpus=2
 * run: page-end => lives vcpus=2
 */
#include "guests/die/die.h"

enum { CODE = 0x2000000, ROUNDS = 100000 };

static volatile bool stop;
static volatile unsigned int stopped;
static uint64_t writes_to = CODE;

static uint32_t call(uint64_t a)
{
    uint32_t v;
    __asm__ volatile("call *%1" : "=a"(v) : "r"(a) : "memory", "rcx", "rdx");
    return v;
}

/* mov eax, v; ret: eight bytes, aligned, so they change at once. */
static uint64_t return_of(uint32_t v)
{
    return 0xB8 | (uint64_t)v << 8 | UINT64_C(0xC3) << 40;
}

static void writer(unsigned int n)
{
    for (uint32_t v = n; !stop; v++)
        *(volatile uint64_t *)ptr(writes_to) = return_of((v & 0xFFFF) * 0x10001);
    stopped++;
}

/* All that can be seen is what somebody has written. */
static void check_calls(uint64_t a)
{
    for (unsigned int n = 0; n < ROUNDS; n++) {
        uint32_t v = call(a);
        DIE_UNLESS(v % 0x10001 == 0);
    }
    stop = true;
}

static void cross(void)
{
    *(volatile uint64_t *)ptr(CODE) = return_of(0);
    smp_start(writer);
    check_calls(CODE);
}

static void alias(void)
{
    writes_to = 0x10000000000;
    guest_map(writes_to, CODE, X86_PTE_P | X86_PTE_W, 0);
    guest_map(0x10000400000, CODE, X86_PTE_P, 0);
    *(volatile uint64_t *)ptr(CODE) = return_of(0);
    smp_start(writer);
    check_calls(0x10000400000);
}

/* Any byte at any time: only Lodge has to live. */
static void scribble(unsigned int n)
{
    uint64_t seed = die_number("seed=", 1) + n;
    for (;;) {
        uint64_t v = die_random(&seed);
        ((volatile uint8_t *)ptr(CODE))[v & 0x1FFF] = (uint8_t)(v >> 32);
    }
}

static void bytes(void)
{
    uint64_t seed = die_number("seed=", 1) + 100;
    smp_start(scribble);
    for (unsigned int n = 0; n < 20000; n++)
        (void)guest_try_user(guest_call, ptr(CODE + (die_random(&seed) & 0xFFF)));
}

/* A loop that counts in its own immediate operand, and one that writes its next instruction. */
static void own(void)
{
    static const uint8_t code[] = {
        0xB8, 0,    0,    0,    0,                /* mov eax, 0 */
        0xFF, 0x05, 0xF6, 0xFF, 0xFF, 0xFF,       /* inc dword [rip - 10]: the constant above */
        0x3D, 0x10, 0x27, 0x00, 0x00, 0x75, 0xEE, /* cmp eax, 10000; jne to the start */
        0xC3,
    };
    for (unsigned int n = 0; n < sizeof(code); n++)
        ((volatile uint8_t *)ptr(CODE))[n] = code[n];
    DIE_UNLESS(call(CODE) == 10000);
}

static void next(void)
{
    static const uint8_t code[] = {
        0xC6, 0x05, 0x01, 0x00, 0x00,
        0x00, 0x05,                   /* mov byte [rip + 1], 5: the next one's constant */
        0xB8, 0x00, 0x00, 0x00, 0x00, /* mov eax, 0 */
        0xC3,
    };
    for (unsigned int n = 0; n < ROUNDS; n++) {
        for (unsigned int i = 0; i < sizeof(code); i++)
            ((volatile uint8_t *)ptr(CODE))[i] = code[i];
        DIE_UNLESS(call(CODE) == 5);
    }
}

/* --- mappings that change --- */

#define AT UINT64_C(0x30000000000)

static uint64_t *window_entry;

static void remapper(unsigned int n)
{
    (void)n;
    while (!stop)
        *(volatile uint64_t *)window_entry ^= 0x1000; /* one page or the other */
    stopped++;
}

static void start_remapping(void)
{
    *(volatile uint64_t *)ptr(CODE) = return_of(0x10001);
    *(volatile uint64_t *)ptr(CODE + 0x1000) = return_of(0x20002);
    window_entry = guest_map(AT, CODE, X86_PTE_P | X86_PTE_W | X86_PTE_A | X86_PTE_D, 0);
    smp_start(remapper);
}

static void remap(void)
{
    start_remapping();
    for (unsigned int n = 0; n < ROUNDS; n++) {
        uint32_t v = call(AT);
        DIE_UNLESS(v == 0x10001 || v == 0x20002);
        invlpg(ptr(AT));
    }
    stop = true;
}

/* An instruction over the end of a page, whose second page comes and goes. */
static void blinker(unsigned int n)
{
    (void)n;
    while (!stop)
        *(volatile uint64_t *)window_entry ^= X86_PTE_P;
    stopped++;
}

static void page_end(void)
{
    static const uint8_t code[] = {0xB8, 0x78, 0x56, 0x34, 0x12, 0xC3};
    for (unsigned int n = 0; n < sizeof(code); n++)
        ((volatile uint8_t *)ptr(CODE + 0xFFD))[n] = code[n];
    guest_map(AT, CODE, X86_PTE_P | X86_PTE_W, 0);
    window_entry = guest_map(AT + 0x1000, CODE + 0x1000, X86_PTE_P | X86_PTE_A, 0);
    smp_start(blinker);
    for (unsigned int n = 0; n < 20000; n++) {
        int vector = guest_try(guest_call, ptr(AT + 0xFFD));
        DIE_UNLESS(vector == NO_FAULT || vector == X86_PF);
        invlpg(ptr(AT + 0x1000));
    }
    stop = true;
}

static const struct die_mode modes[] = {
    {"cross", cross}, {"alias", alias}, {"bytes", bytes},       {"own", own},
    {"next", next},   {"remap", remap}, {"page-end", page_end},
};

DIE_MAIN(modes)
