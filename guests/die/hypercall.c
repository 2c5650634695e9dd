/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Hypercalls as nobody should make them: every number that means something to KVM and many that mean nothing, absurd
 * arguments, from CPL 3, by both instructions, kicks to processors that do not exist. What comes back is an answer of
 * the interface or an error of it (Linux Documentation/virt/kvm/x86/hypercalls.rst), in RAX alone.
 *
 * run: numbers => lives
 * run: numbers => lives vcpus=2
 * run: user => lives
 * run: kicks => lives vcpus=2
 * run: kicks => lives vcpus=4
 * run: both => any vcpus=2 seconds=2
 * run: forever => runs vcpus=2 seconds=1
 */
#include "guests/die/die.h"

enum { KICK_CPU = 5, SEND_IPI = 10, EPERM = 1, ENOSYS = 1000, FIRST_UNKNOWN = 64 };

struct call {
    uint64_t number, arg[4];
    uint64_t kept[4]; /* the arguments, as they are afterwards */
    bool vmcall;
    int64_t result;
};

static void call(void *p)
{
    struct call *c = p;
    uint64_t a = c->number, b = c->arg[0], x = c->arg[1], d = c->arg[2], s = c->arg[3];

    if (c->vmcall)
        __asm__ volatile("vmcall" : "+a"(a), "+b"(b), "+c"(x), "+d"(d), "+S"(s) : : "memory");
    else
        __asm__ volatile("vmmcall" : "+a"(a), "+b"(b), "+c"(x), "+d"(d), "+S"(s) : : "memory");
    c->result = (int64_t)a;
    c->kept[0] = b;
    c->kept[1] = x;
    c->kept[2] = d;
    c->kept[3] = s;
}

static int64_t make(uint64_t number, const uint64_t arg[4], bool vmcall, bool user)
{
    struct call c = {.number = number, .vmcall = vmcall};

    for (unsigned int n = 0; n < 4; n++)
        c.arg[n] = arg[n];
    DIE_UNLESS((user ? guest_try_user : guest_try)(call, &c) == NO_FAULT);
    for (unsigned int n = 0; n < 4; n++)
        DIE_UNLESS(c.kept[n] == arg[n]);
    return c.result;
}

static const uint64_t numbers_tried[] = {
    0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 0x100000005, UINT64_C(1) << 63, ~UINT64_C(0) - 5, ~UINT64_C(0),
};

static const uint64_t arguments[] = {
    0, 1, 0xFFF, 0x1000000 - 1, DIE_HOLE, LODGE_MMIO_APIC, 0x7FFFFFFFFFFF, 0x800000000000, UINT64_C(1) << 63, ~UINT64_C(0),
};

enum { NUMBERS = FIRST_UNKNOWN + sizeof(numbers_tried) / sizeof(numbers_tried[0]),
       ARGUMENTS = sizeof(arguments) / sizeof(arguments[0]) };

static uint64_t number_of(unsigned int n)
{
    return n < FIRST_UNKNOWN ? n : numbers_tried[n - FIRST_UNKNOWN];
}

/* Each number with each argument in each place, and in all places. */
static void for_all(void (*fn)(uint64_t number, const uint64_t arg[4]))
{
    for (unsigned int n = 0; n < NUMBERS; n++) {
        for (unsigned int k = 0; k < ARGUMENTS * 5; k++) {
            uint64_t v = arguments[k / 5], arg[4] = {0};

            for (unsigned int place = 0; place < 4; place++)
                arg[place] = k % 5 == 4 || place == k % 5 ? v : 0;
            fn(number_of(n), arg);
        }
    }
}

/* What KVM would send to whom the bitmap names: nobody. */
static bool is_harmless(uint64_t number, const uint64_t arg[4])
{
    return number != SEND_IPI || (arg[0] == 0 && arg[1] == 0);
}

static void expect_answer(uint64_t number, const uint64_t arg[4])
{
    for (unsigned int vmcall = 0; vmcall < 2 && is_harmless(number, arg); vmcall++) {
        int64_t result = make(number, arg, vmcall, false);

        DIE_UNLESS(result >= -ENOSYS && result <= 0);
        DIE_UNLESS(number < FIRST_UNKNOWN || result == -ENOSYS);
    }
}

static void numbers(void)
{
    for_all(expect_answer);
}

static void expect_refusal(uint64_t number, const uint64_t arg[4])
{
    DIE_UNLESS(make(number, arg, false, true) == -EPERM);
    DIE_UNLESS(make(number, arg, true, true) == -EPERM);
}

static void user(void)
{
    for_all(expect_refusal);
}

static void kick(uint64_t id)
{
    const uint64_t arg[4] = {0, id, 0, 0};

    (void)make(KICK_CPU, arg, id & 1, false);
}

static volatile unsigned int woken;

static void do_halt(unsigned int n)
{
    (void)n;
    for (;;) {
        __asm__ volatile("cli; hlt");
        woken++;
    }
}

/* To all that exist, which halt with IF clear, and to many that do not: low halves that are one's id, too. */
static void kicks(void)
{
    smp_start(do_halt);
    for (uint64_t id = 0; id < 0x1200; id++)
        kick(id);
    for (unsigned int n = 0; n < NUMBERS; n++) {
        kick(number_of(n));
        kick(UINT64_C(1) << (n & 63));
        kick((UINT64_C(1) << (n & 63)) + 1);
    }
}

/* The instruction is rewritten while it exits. */
static volatile uint8_t both_code[16] __attribute__((aligned(16))) = {0x0F, 0x01, 0xD9, 0xC3};

static void do_both(unsigned int n)
{
    static const uint8_t other[] = {0xD9, 0xC1, 0xF9, 0xD8, 0xCA};

    for (unsigned int k = n;; k++)
        both_code[2] = other[k % sizeof(other)];
}

static void call_both(void *p)
{
    (void)p;
    __asm__ volatile("call *%0" : : "r"(both_code), "a"(FIRST_UNKNOWN), "b"(0), "c"(0), "d"(0), "S"(0) : "memory");
}

static void both(void)
{
    smp_start(do_both);
    for (unsigned int n = 0; n < 100000; n++)
        (void)guest_try(call_both, NULL);
}

static void do_forever(unsigned int n)
{
    uint64_t seed = n + 1;

    for (;;) {
        uint64_t a = die_random(&seed), x = die_random(&seed) % 5, id = n ^ 1;

        a = a % 3 == 0 ? KICK_CPU : FIRST_UNKNOWN + a % 1000;
        __asm__ volatile("vmmcall" : "+a"(a) : "b"(0), "c"(a == KICK_CPU ? id : x), "d"(~UINT64_C(0)), "S"(0) : "memory");
    }
}

static void forever(void)
{
    smp_start(do_forever);
    do_forever(0);
}

static const struct die_mode modes[] = {
    {"numbers", numbers}, {"user", user}, {"kicks", kicks}, {"both", both}, {"forever", forever},
};

DIE_MAIN(modes)
