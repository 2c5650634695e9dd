/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Debug exceptions: single step, instruction and data breakpoints, RF, INT3, ICEBP, general detect,
 * and what MOV SS does to them. */
#include "guests/lib/guest.h"

enum { STEPS = 32 };

static volatile unsigned int steps;
static volatile reg_t step_rip[STEPS], step_dr6[STEPS], step_flags[STEPS];
static bool keep_breakpoint;

static void on_debug(struct guest_frame *f)
{
    if (steps < STEPS) {
        step_rip[steps] = f->rip;
        step_dr6[steps] = read_dr6();
        step_flags[steps] = f->rflags;
    }
    steps++;
    write_dr6(0xFFFF0FF0);
    if (steps >= STEPS)
        f->rflags &= ~X86_FLAG_TF;
    if (!keep_breakpoint)
        f->rflags |= X86_FLAG_RF;
}

static void reset(void)
{
    steps = 0;
    keep_breakpoint = false;
    write_dr7(0x400);
    write_dr6(0xFFFF0FF0);
}

static void test_single_step(void)
{
    extern uint8_t step_second[], step_third[], step_after[];
    reset();
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf\n"
                     "nop\n"
                     "step_second: mov $1, %%eax\n"
                     "step_third: pushf; andl $~0x100, (%%rsp); popf\n"
                     "step_after: nop\n"
                     :
                     :
                     : "rax", "memory", "cc");
    /* after NOP, MOV, PUSHF, AND, and POPF (TF was set when it began) */
    CHECK_EQ(steps, 5);
    CHECK_EQ(step_rip[0], (uintptr_t)step_second);
    CHECK_EQ(step_rip[1], (uintptr_t)step_third);
    CHECK_EQ(step_rip[4], (uintptr_t)step_after);
    CHECK_EQ(step_dr6[0], 0xFFFF4FF0);
    CHECK(step_flags[0] & X86_FLAG_TF);
}

static void test_step_rep(void)
{
    static uint8_t buffer[8];
    void *to = buffer;
    uint64_t n = 3;
    reset();
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf\n"
                     "rep stosb\n"
                     "pushf; andl $~0x100, (%%rsp); popf\n"
                     : "+D"(to), "+c"(n)
                     : "a"(7)
                     : "memory", "cc");
    CHECK_EQ(steps, 6); /* each iteration is a step */
    CHECK_EQ(step_rip[0], step_rip[1]);
    CHECK(step_rip[2] != step_rip[1]);
    CHECK_EQ(buffer[2], 7);
}

static void test_step_over_int(void)
{
    /* INT n clears TF for the handler; the step of the INT itself is not taken there */
    reset();
    guest_set_handler(0x61, on_debug);
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; int $0x61\n"
                     "pushf; andl $~0x100, (%%rsp); popf"
                     :
                     :
                     : "memory", "cc");
    /* the call of on_debug for vector 0x61, then PUSHF, AND, POPF */
    CHECK_EQ(steps, 4);
    CHECK(step_flags[0] & X86_FLAG_TF);
    guest_set_handler(0x61, NULL);
}

static void test_instruction_breakpoint(void)
{
    extern uint8_t break_here[];
    reset();
    write_dr0((uintptr_t)break_here);
    write_dr7(0x402); /* G0, execute */
    __asm__ volatile("break_here: mov $5, %%eax\n"
                     "nop"
                     :
                     :
                     : "rax");
    CHECK_EQ(steps, 1); /* RF lets it go on */
    CHECK_EQ(step_rip[0], (uintptr_t)break_here);
    CHECK_EQ(step_dr6[0] & 0xF, 1);
    CHECK(!(step_flags[0] & X86_FLAG_RF));
    /* a breakpoint in the middle of an instruction never hits */
    reset();
    write_dr0((uintptr_t)break_here + 1);
    write_dr7(0x402);
    __asm__ volatile("call 1f; jmp 2f; 1: mov $5, %%eax; ret; 2:" : : : "rax", "memory");
    CHECK_EQ(steps, 0);
    write_dr7(0x400);
}

static volatile uint64_t watched[4] __attribute__((aligned(64)));

static void test_data_breakpoint(void)
{
    static const struct {
        uint32_t dr7; /* R/W and LEN of breakpoint 0 */
        uint32_t offset;
        bool on_read, on_write;
    } cases[] = {
        {0x1, 0, false, true}, {0x3, 0, true, true},   {0xD, 0, false, true},
        {0xD, 3, false, true}, {0xD, 4, false, false}, {0x1, 1, false, false},
        {0x9, 7, false, true}, {0x5, 1, false, true},  {0xF, 2, true, true},
    };
    for (unsigned int n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        volatile uint8_t *p = (volatile uint8_t *)watched + cases[n].offset;
        reset();
        write_dr0((uintptr_t)watched);
        write_dr7(0x402 | cases[n].dr7 << 16);
        (void)*p;
        CHECK_EQ(steps, cases[n].on_read);
        *p = (uint8_t)n;
        CHECK_EQ(steps, cases[n].on_read + cases[n].on_write);
        if (steps)
            CHECK_EQ(step_dr6[0] & 0xF, 1);
        write_dr7(0x400);
        CHECK_EQ(*p, n); /* a trap: the store was done */
    }
    /* breakpoint 1 */
    reset();
    write_dr1((uintptr_t)&watched[1]);
    write_dr7(0x408 | 0x9u << 20);
    watched[1] = 1;
    CHECK_EQ(steps, 1);
    CHECK_EQ(step_dr6[0] & 0xF, 2);
    write_dr7(0x400);
}

static void int3(void *p)
{
    (void)p;
    __asm__ volatile("int3");
}

static void icebp(void *p)
{
    (void)p;
    __asm__ volatile(".byte 0xF1");
}

static void test_int3(void)
{
    CHECK_EQ(guest_try(int3, NULL), X86_BP);
    CHECK_EQ(*(uint8_t *)(guest_fault.rip - 1), 0xCC);
    CHECK_EQ(guest_try_user(int3, NULL), X86_BP); /* its gate has DPL 3 */
    guest_set_handler(X86_DB, NULL);
    CHECK_EQ(guest_try(icebp, NULL), X86_DB);
    CHECK_EQ(guest_try_user(icebp, NULL), X86_DB); /* the DPL of its gate does not count */
    CHECK_EQ(*(uint8_t *)(guest_fault.rip - 1), 0xF1);
    guest_set_handler(X86_DB, on_debug);
}

static void read_debug(void *p)
{
    (void)p;
    (void)read_dr0();
}

static void test_general_detect(void)
{
    reset();
    guest_set_handler(X86_DB, NULL);
    write_dr7(0x2400); /* GD */
    CHECK_EQ(guest_try(read_debug, NULL), X86_DB);
    CHECK(read_dr6() & X86_DR6_BD); /* GD was cleared, so this works */
    CHECK(!(read_dr7() & 0x2000));
    CHECK_EQ(guest_try_user(read_debug, NULL), X86_GP);
    guest_set_handler(X86_DB, on_debug);
    write_dr6(0xFFFF0FF0);
}

static void test_mov_ss(void)
{
    static volatile uint16_t ss = SEL_DATA;
    extern uint8_t mov_ss_after[];
    /* a data breakpoint on the selector's load waits until the next instruction is done */
    reset();
    write_dr0((uintptr_t)&ss);
    write_dr7(0x402 | 0x7u << 16);
    __asm__ volatile("mov %0, %%ss\n"
                     "nop\n"
                     "mov_ss_after: nop"
                     :
                     : "m"(ss));
    write_dr7(0x400);
    CHECK_EQ(steps, 1);
    CHECK_EQ(step_rip[0], (uintptr_t)mov_ss_after);
}

int main(void)
{
    guest_set_handler(X86_DB, on_debug);
    GUEST_RUN(test_single_step);
    GUEST_RUN(test_step_rep);
    GUEST_RUN(test_step_over_int);
    GUEST_RUN(test_instruction_breakpoint);
    GUEST_RUN(test_data_breakpoint);
    GUEST_RUN(test_int3);
    GUEST_RUN(test_general_detect);
    GUEST_RUN(test_mov_ss);
    return guest_done();
}
