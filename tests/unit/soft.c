/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The run loop of the soft engine, between instructions: what is pending there and in which order
 * it is taken, RF, single step. Guests run until they halt with interrupts off.
 */
#include <string.h>

#include "core/err.h"
#include "engine/engine.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"

enum { DR7_L0 = 1, VECTOR = 0x51, COUNTERS = CPU_ENV_DATA, HANDLER_SIZE = 16 };

static struct cpu_env e;

/* Handlers that count in a byte of their own and return; they change no register. */
static void make_handlers(void)
{
    cpu_env_all_gates(&e);
    for (unsigned int v = 0; v < 256; v++) {
        uint8_t *h = e.ram + CPU_ENV_HANDLERS + v * HANDLER_SIZE;
        uint32_t counter = COUNTERS + v;
        memcpy(h, "\xFE\x04\x25", 3); /* inc byte [counter] */
        memcpy(h + 3, &counter, 4);
        memcpy(h + 7, "\x48\xCF", 2); /* iretq */
    }
}

static unsigned int count_of(uint8_t vector)
{
    return e.ram[COUNTERS + vector];
}

static void begin(const void *code, size_t size)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    make_handlers();
    cpu_env_code(&e, code, size);
    CHECK_EQ(engine_soft.vcpu_create(e.cpu), OK);
    vcpu_enter(&e.cpu->vcpu);
}

static void end(void)
{
    vcpu_leave(&e.cpu->vcpu);
    engine_soft.vcpu_destroy(e.cpu);
    cpu_env_destroy(&e);
}

/* Until the guest halts. */
static void run(void)
{
    struct exit x;
    CHECK_EQ(engine_soft.vcpu_run(e.cpu, &x), OK);
    CHECK_EQ(x.reason, EXIT_HALT);
}

static void post_interrupt(void)
{
    struct apic_message m = {.destination = 0, .vector = VECTOR};
    lapic_mmio_write(e.cpu, 0xF0, 0x1FF); /* SVR: enabled */
    CHECK_EQ(lapic_bus_send(&e.vm, &m), OK);
}

/* An NMI and an interrupt at one boundary: the NMI comes first, the interrupt is not forgotten. */
static void test_nmi_before_interrupt(void)
{
    /* some instructions for both to be taken at; cli; hlt */
    begin("\x90\x90\x90\x90\x90\x90\x90\x90\xFA\xF4", 10);
    e.cpu->rflags |= X86_FLAG_IF;
    post_interrupt();
    vcpu_request(&e.cpu->vcpu, VCPU_REQ_NMI);
    run();
    CHECK_EQ(count_of(X86_NMI), 1);
    CHECK_EQ(count_of(VECTOR), 1);
    end();
}

/* The trap of a single-stepped HLT ends the halt: its handler and what follows run, although an
 * interrupt that is kept out has the run loop look in between. */
static void test_step_over_halt(void)
{
    /* push 0x102; popfq; hlt; then TF off: push 2; popfq; hlt */
    begin("\x68\x02\x01\x00\x00\x9D\xF4\x6A\x02\x9D\xF4", 11);
    post_interrupt();
    run();
    CHECK_EQ(e.cpu->rip, CPU_ENV_CODE + 11);
    CHECK_EQ(count_of(X86_DB), 3); /* after hlt, push, popfq */
    end();
}

/* A debugger's handler of #DB: it sets RF in the image, and counts. */
static void make_resuming_handler(void)
{
    uint8_t *h = e.ram + CPU_ENV_HANDLERS + X86_DB * HANDLER_SIZE;
    /* bts dword [rsp + 16], 16 comes first; the count follows behind the other handlers */
    memcpy(h, "\x0F\xBA\x6C\x24\x10\x10\xE9\x00\x00\x00\x00", 11);
    uint32_t over = 256 * HANDLER_SIZE - X86_DB * HANDLER_SIZE - 11;
    memcpy(h + 7, &over, 4);
    uint32_t counter = COUNTERS + X86_DB;
    h = e.ram + CPU_ENV_HANDLERS + 256 * HANDLER_SIZE;
    memcpy(h, "\xFE\x04\x25", 3);
    memcpy(h + 3, &counter, 4);
    memcpy(h + 7, "\x48\xCF", 2);
}

/* A breakpoint handler sets RF in the image; RF is good for one instruction, also for a jump. */
static void test_resume_flag_over_jump(void)
{
    /* jmp +0; nop; hlt, with breakpoints on the jump and on the nop */
    begin("\xEB\x00\x90\xF4", 4);
    make_resuming_handler();
    e.cpu->dr[0] = CPU_ENV_CODE;
    e.cpu->dr[1] = CPU_ENV_CODE + 2;
    e.cpu->dr7 = X86_DR7_FIXED | 5; /* L0, L1: execution, one byte */
    run();
    CHECK_EQ(count_of(X86_DB), 2);
    CHECK(!(e.cpu->rflags & X86_FLAG_RF));
    end();
}

/* ... to itself too: each turn is an instruction of its own. */
static void test_resume_flag_over_self_jump(void)
{
    /* loop to itself; hlt */
    begin("\xE2\xFE\xF4", 3);
    make_resuming_handler();
    e.cpu->gpr[RCX] = 4;
    e.cpu->rflags |= X86_FLAG_RF;
    e.cpu->dr[0] = CPU_ENV_CODE;
    e.cpu->dr7 = X86_DR7_FIXED | DR7_L0;
    run();
    CHECK_EQ(count_of(X86_DB), 3); /* all turns but the first */
    CHECK_EQ(e.cpu->gpr[RCX], 0);
    end();
}

/* ... and for all of a repeated string instruction, which is done in pieces. */
static void test_resume_flag_over_rep(void)
{
    /* rep stosb; hlt */
    begin("\xF3\xAA\xF4", 3);
    e.cpu->gpr[RDI] = CPU_ENV_DATA + 0x10000;
    e.cpu->gpr[RCX] = 0x8000;
    e.cpu->rflags |= X86_FLAG_RF;
    e.cpu->dr[0] = CPU_ENV_CODE;
    e.cpu->dr7 = X86_DR7_FIXED | DR7_L0;
    run();
    CHECK_EQ(count_of(X86_DB), 0);
    CHECK_EQ(e.cpu->gpr[RCX], 0);
    CHECK(!(e.cpu->rflags & X86_FLAG_RF));
    end();
}

/* --- events that another engine had begun to deliver -------------------------------------------
 */

/* nop; cli; hlt: with this in flight. */
static void land(struct x86_in_flight in)
{
    begin("\x90\xFA\xF4", 3);
    e.cpu->event = in;
    e.cpu->cr2 = 0x1234;
    run();
    CHECK_EQ(e.cpu->event.kind, X86_FLIGHT_NONE);
    CHECK_EQ(e.cpu->rip, CPU_ENV_CODE + 3);
}

static void test_land_interrupt(void)
{
    land((struct x86_in_flight){.kind = X86_FLIGHT_INTERRUPT, .vector = VECTOR});
    CHECK_EQ(count_of(VECTOR), 1);
    end();
}

/* NMIs are masked until its handler's IRET. */
static void test_land_nmi(void)
{
    begin("\x90\xFA\xF4", 3);
    e.cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NMI, .vector = X86_NMI};
    memcpy(e.ram + CPU_ENV_HANDLERS + X86_NMI * HANDLER_SIZE, "\xF4", 1); /* hlt */
    run();
    CHECK(e.cpu->nmi_masked);
    CHECK_EQ(e.cpu->rip, CPU_ENV_HANDLERS + X86_NMI * HANDLER_SIZE + 1);
    end();
    land((struct x86_in_flight){.kind = X86_FLIGHT_NMI, .vector = X86_NMI});
    CHECK_EQ(count_of(X86_NMI), 1);
    CHECK(!e.cpu->nmi_masked);
    end();
}

/* A fault that was only found sets CR2 and DR6; one on its way has done so. */
static void test_land_exception(void)
{
    land((struct x86_in_flight){.kind = X86_FLIGHT_FAULT, .vector = X86_UD});
    CHECK_EQ(count_of(X86_UD), 1);
    end();
    land((struct x86_in_flight){
        .kind = X86_FLIGHT_FAULT, .vector = X86_DB, .has_payload = true, .payload = X86_DR6_BS});
    CHECK_EQ(count_of(X86_DB), 1);
    CHECK_EQ(e.cpu->dr6, X86_DR6_FIXED | X86_DR6_BS);
    end();
    land((struct x86_in_flight){.kind = X86_FLIGHT_EXCEPTION, .vector = X86_DB});
    CHECK_EQ(count_of(X86_DB), 1);
    CHECK_EQ(e.cpu->dr6, X86_DR6_FIXED);
    end();
}

/* With an error code on the stack; its handler here only halts. */
static void land_page_fault(struct x86_in_flight in, uint64_t cr2)
{
    begin("\x90\xFA\xF4", 3);
    e.cpu->event = in;
    e.cpu->cr2 = 0x1234;
    memcpy(e.ram + CPU_ENV_HANDLERS + X86_PF * HANDLER_SIZE, "\xF4", 1);
    run();
    CHECK_EQ(e.cpu->cr2, cr2);
    CHECK_EQ(cpu_env_get64(&e, e.cpu->gpr[RSP]), in.error);
    CHECK_EQ(cpu_env_get64(&e, e.cpu->gpr[RSP] + 8), CPU_ENV_CODE);
    end();
}

static void test_land_page_fault(void)
{
    struct x86_in_flight in = {.kind = X86_FLIGHT_FAULT,
                               .vector = X86_PF,
                               .has_error = true,
                               .error = 2,
                               .has_payload = true,
                               .payload = 0x5678};

    land_page_fault(in, 0x5678);
    in = (struct x86_in_flight){
        .kind = X86_FLIGHT_EXCEPTION, .vector = X86_PF, .has_error = true, .error = 6};
    land_page_fault(in, 0x1234);
}

/* It cannot be delivered: the fault for that, as for one that arises here. */
static void test_land_faults(void)
{
    begin("\x90\xFA\xF4", 3);
    e.cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_INTERRUPT, .vector = VECTOR};
    e.ram[CPU_ENV_IDT + VECTOR * 16 + 5] &= 0x7F; /* not present: #NP */
    memcpy(e.ram + CPU_ENV_HANDLERS + 11 * HANDLER_SIZE, "\xF4", 1);
    run();
    CHECK_EQ(e.cpu->rip, CPU_ENV_HANDLERS + 11 * HANDLER_SIZE + 1);
    CHECK_EQ(cpu_env_get64(&e, e.cpu->gpr[RSP]), VECTOR * 8 + 3); /* IDT, EXT */
    end();
}

int main(void)
{
    UNIT_RUN(test_nmi_before_interrupt);
    UNIT_RUN(test_step_over_halt);
    UNIT_RUN(test_resume_flag_over_jump);
    UNIT_RUN(test_resume_flag_over_self_jump);
    UNIT_RUN(test_resume_flag_over_rep);
    UNIT_RUN(test_land_interrupt);
    UNIT_RUN(test_land_nmi);
    UNIT_RUN(test_land_exception);
    UNIT_RUN(test_land_page_fault);
    UNIT_RUN(test_land_faults);
    return unit_done();
}
