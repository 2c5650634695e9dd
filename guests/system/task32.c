/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Hardware task switch: JMP, CALL, IRET, task gates, a double-fault task, the T bit, faults. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, io_map;
};

enum { OTHER = SEL_FREE, FAULT = SEL_FREE + 8, GATE = SEL_FREE + 16, BAD = SEL_FREE + 24 };

static volatile struct tss other, fault_task, bad;
static uint8_t other_stack[4096] __attribute__((aligned(16)));
static uint8_t fault_stack[4096] __attribute__((aligned(16)));

#define MAIN ((volatile struct tss *)(void *)guest_tss)

static void set_task(volatile struct tss *t, uint16_t selector, void (*entry)(void), uint8_t *stack)
{
    volatile uint32_t *raw = (volatile uint32_t *)t;
    for (unsigned int n = 0; n < sizeof(*t) / 4; n++)
        raw[n] = 0;
    t->eip = (uint32_t)(uintptr_t)entry;
    t->eflags = 2;
    t->esp = (uint32_t)(uintptr_t)(stack + 4096);
    t->es = t->ss = t->ds = SEL_DATA;
    t->cs = SEL_CODE32;
    t->io_map = 0x68;
    guest_gdt[selector / 8] = guest_descriptor((uint32_t)(uintptr_t)t, 0x67, 0x89);
}

static uint8_t type_of(uint16_t selector)
{
    return *(volatile uint64_t *)&guest_gdt[selector / 8] >> 40 & 0x1F;
}

static void far_call(void *selector)
{
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } volatile pointer = {0xDEAD, (uint16_t)(uintptr_t)selector};
    __asm__ volatile("lcall *(%0)" : : "r"(&pointer) : "memory", "cc");
}

static void far_jump(void *selector)
{
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } volatile pointer = {0xDEAD, (uint16_t)(uintptr_t)selector};
    __asm__ volatile("ljmp *(%0)" : : "r"(&pointer) : "memory", "cc");
}

static uint16_t task_register(void)
{
    uint16_t v;
    __asm__ volatile("str %0" : "=r"(v));
    return v;
}

/* --- CALL and IRET --- */

static volatile unsigned int visits;
static volatile uint32_t seen_flags, seen_link, seen_tr, seen_cr0;

static void other_body(void)
{
    for (;;) {
        visits++;
        seen_flags = read_flags();
        seen_link = other.link & 0xFFFF;
        seen_tr = task_register();
        seen_cr0 = read_cr0();
        __asm__ volatile("iret" : : : "memory"); /* the next visit goes on here */
    }
}

static void test_call(void)
{
    set_task(&other, OTHER, other_body, other_stack);
    visits = 0;
    for (unsigned int n = 1; n <= 3; n++) {
        uint32_t ebx = 0x1234, esi = 0x5678;
        struct __attribute__((packed)) {
            uint32_t offset;
            uint16_t selector;
        } volatile pointer = {0, OTHER};
        __asm__ volatile("clts; stc; lcall *(%2)"
                         : "+b"(ebx), "+S"(esi)
                         : "r"(&pointer)
                         : "memory", "cc");
        CHECK_EQ(visits, n);
        CHECK_EQ(ebx, 0x1234);
        CHECK_EQ(esi, 0x5678);
        CHECK_EQ(seen_tr, OTHER);
        CHECK_EQ(seen_link, SEL_TSS);
        CHECK(seen_flags & X86_FLAG_NT);
        CHECK(seen_cr0 & X86_CR0_TS);
        CHECK_EQ(type_of(OTHER), 9);
        CHECK_EQ(type_of(SEL_TSS), 11);
        CHECK_EQ(task_register(), SEL_TSS);
        CHECK(MAIN->eflags & X86_FLAG_CF);
        CHECK(!(other.eflags & X86_FLAG_NT));
    }
    __asm__ volatile("clts");
}

/* --- JMP there and back --- */

static void jump_body(void)
{
    for (;;) {
        visits++;
        seen_flags = read_flags();
        seen_link = other.link & 0xFFFF;
        CHECK_EQ(type_of(SEL_TSS), 9);
        far_jump(ptr(SEL_TSS));
    }
}

static void test_jump(void)
{
    set_task(&other, OTHER, jump_body, other_stack);
    visits = 0;
    far_jump(ptr(OTHER));
    far_jump(ptr(OTHER));
    CHECK_EQ(visits, 2);
    CHECK_EQ(seen_link, 0);
    CHECK(!(seen_flags & X86_FLAG_NT));
    CHECK_EQ(type_of(SEL_TSS), 11);
    CHECK_EQ(type_of(OTHER), 9);
}

/* --- gates --- */

static void test_gates(void)
{
    extern uint8_t guest_vectors[256][16];
    set_task(&other, OTHER, other_body, other_stack);
    visits = 0;
    guest_gdt[GATE / 8] = (uint64_t)OTHER << 16 | (uint64_t)0x85 << 40;
    CHECK_EQ(guest_try(far_call, ptr(GATE)), NO_FAULT);
    CHECK_EQ(visits, 1);
    /* through the IDT, from CPL 3 as well */
    guest_idt[0x62] = (uint64_t)OTHER << 16 | (uint64_t)0xE5 << 40;
    __asm__ volatile("int $0x62" : : : "memory");
    CHECK_EQ(visits, 2);
    CHECK_EQ(seen_link, SEL_TSS);
    guest_set_gate(0x62, guest_vectors[0x62], 14, 0, 0);
    /* a far CALL at CPL 3 needs DPL 3 */
    CHECK_EQ(guest_try_user(far_call, ptr(GATE | 3)), X86_GP);
    CHECK_EQ(guest_fault.error, GATE);
}

/* --- a task for double faults --- */

static volatile uint32_t df_error, df_eip, df_cs;
static by_asm volatile uint32_t df_resume_esp;

/* Entered with the error code on its stack; leaves by changing the interrupted task and IRET. */
static void df_body(void)
{
    extern uint8_t df_resume[];
    for (;;) {
        df_eip = MAIN->eip;
        df_cs = MAIN->cs;
        MAIN->eip = (uint32_t)(uintptr_t)df_resume;
        MAIN->esp = df_resume_esp;
        MAIN->ss = SEL_DATA;
        MAIN->cs = SEL_CODE32;
        MAIN->ds = MAIN->es = SEL_DATA;
        MAIN->eflags = 2;
        __asm__ volatile("mov %%esp, %0" : "=r"(df_error));
        df_error = *(volatile uint32_t *)(uintptr_t)(fault_stack + 4092);
        __asm__ volatile("iret" : : : "memory");
    }
}

static void test_double_fault(void)
{
    uint64_t ud = guest_idt[6], np = guest_idt[11], df = guest_idt[8];
    set_task(&fault_task, FAULT, df_body, fault_stack);
    guest_idt[8] = (uint64_t)FAULT << 16 | (uint64_t)0x85 << 40;
    guest_idt[6] = 0x00008E0000000000 & ~(UINT64_C(0x80) << 40); /* #UD: #NP, which is gone too */
    guest_idt[11] = 0;
    *(volatile uint32_t *)(uintptr_t)(fault_stack + 4092) = 0x777;
    __asm__ volatile("push %%ebp; push %%ebx; mov %%esp, df_resume_esp\n"
                     "df_fault: ud2\n"
                     "df_resume: pop %%ebx; pop %%ebp\n"
                     "clts"
                     :
                     :
                     : "eax", "ecx", "edx", "esi", "edi", "memory", "cc");
    extern uint8_t df_fault[];
    guest_idt[6] = ud;
    guest_idt[11] = np;
    guest_idt[8] = df;
    CHECK_EQ(df_eip, (uintptr_t)df_fault);
    CHECK_EQ(df_cs, SEL_CODE32);
    CHECK_EQ(df_error, 0); /* its error code was pushed on the new stack */
    CHECK_EQ(task_register(), SEL_TSS);
}

/* --- faults --- */

static void test_faults(void)
{
    /* before the switch */
    set_task(&bad, BAD, other_body, other_stack);
    guest_gdt[BAD / 8] = guest_descriptor((uint32_t)(uintptr_t)&bad, 0x66, 0x89);
    CHECK_EQ(guest_try(far_call, ptr(BAD)), X86_TS);
    CHECK_EQ(guest_fault.error, BAD);
    guest_gdt[BAD / 8] = guest_descriptor((uint32_t)(uintptr_t)&bad, 0x67, 0x09);
    CHECK_EQ(guest_try(far_call, ptr(BAD)), X86_NP);
    guest_gdt[BAD / 8] = guest_descriptor((uint32_t)(uintptr_t)&bad, 0x67, 0x8B);
    CHECK_EQ(guest_try(far_call, ptr(BAD)), X86_GP);
    CHECK_EQ(guest_fault.error, BAD);
    CHECK_EQ(guest_try(far_call, ptr(SEL_TSS)), X86_GP); /* busy: it is the current one */
    CHECK_EQ(task_register(), SEL_TSS);
    CHECK_EQ(guest_try_user(far_call, ptr(BAD | 3)), X86_GP);
}

/* A bad selector in the new TSS: #TS in the new task, which has a task of its own for it. */
static volatile uint32_t ts_tr, ts_link, ts_error;

static void ts_body(void)
{
    for (;;) {
        ts_link = fault_task.link & 0xFFFF;
        ts_tr = task_register();
        ts_error = *(volatile uint32_t *)(uintptr_t)(fault_stack + 4092);
        /* return to the main task instead of the broken one */
        fault_task.link = SEL_TSS;
        guest_gdt[SEL_TSS / 8] |= UINT64_C(2) << 40;
        __asm__ volatile("iret" : : : "memory");
    }
}

static void test_faults_after(void)
{
    uint64_t ts = guest_idt[10];
    set_task(&bad, BAD, other_body, other_stack);
    set_task(&fault_task, FAULT, ts_body, fault_stack);
    bad.ds = SEL_TSS;
    guest_idt[10] = (uint64_t)FAULT << 16 | (uint64_t)0x85 << 40;
    far_jump(ptr(BAD));
    guest_idt[10] = ts;
    CHECK_EQ(ts_tr, FAULT);
    CHECK_EQ(ts_link, BAD);
    CHECK_EQ(ts_error, SEL_TSS);
    CHECK_EQ(bad.eip, (uintptr_t)other_body); /* the first instruction was not reached */
    CHECK_EQ(task_register(), SEL_TSS);
    __asm__ volatile("clts");
}

/* --- the T bit --- */

static volatile uint32_t trap_eip, trap_dr6;

static void on_debug(struct guest_frame *f)
{
    trap_eip = f->rip;
    trap_dr6 = read_dr6();
    write_dr6(0xFFFF0FF0);
}

static void test_trap(void)
{
    set_task(&other, OTHER, other_body, other_stack);
    other.trap = 1;
    guest_set_handler(X86_DB, on_debug);
    far_call(ptr(OTHER));
    guest_set_handler(X86_DB, NULL);
    CHECK_EQ(trap_eip, (uintptr_t)other_body);
    CHECK(trap_dr6 & X86_DR6_BT);
}

int main(void)
{
    GUEST_RUN(test_call);
    GUEST_RUN(test_jump);
    GUEST_RUN(test_gates);
    GUEST_RUN(test_double_fault);
    GUEST_RUN(test_faults);
    GUEST_RUN(test_faults_after);
    GUEST_RUN(test_trap);
    return guest_done();
}
