/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Exceptions whose delivery raises exceptions: hardware that lets the guest loop in there hangs for
 * good (XSA-156, CVE-2015-5307, CVE-2015-8104). Here it has to end or to go on, and a signal must
 * get through.
 *
 * run: ac-user-handler => any seconds=1
 * run: ac-kernel => lives
 * run: db-on-idt => lives
 * run: db-on-stack => any seconds=1
 * run: db-on-handler => any seconds=1
 * run: db-in-db => any seconds=1
 * run: pf-on-idt => triple-fault
 * run: pf-in-pf => triple-fault
 * run: gp-forever => runs seconds=1
 * run: pf-forever => runs vcpus=2 seconds=1
 * run: icebp => runs seconds=1
 * run: ss-shadow => runs seconds=1
 * run: sti-shadow => runs seconds=1
 * run: iret-fault => any seconds=1
 * run: call-stack => triple-fault
 */
#include "guests/die/die.h"

extern uint8_t guest_vectors[256][16];

#define AC_FLAG ((reg_t)X86_FLAG_AC)

static void misaligned(void *p)
{
    write_flags(read_flags() | AC_FLAG);
    *(volatile uint32_t *)((uint8_t *)p + 1) = 1;
}

static void again(struct guest_frame *f)
{
    (void)f;
}

/* #AC at CPL 3 through a gate to CPL 3 code, on a misaligned stack. In long mode the frame is
 * aligned by the processor, so it takes compatibility tricks; what the gate says is refused. */
static void ac_user_handler(void)
{
    uint64_t *gate = &guest_idt[X86_AC * 2];
    *gate = (*gate & ~UINT64_C(0xFFFF0000)) | (uint64_t)(SEL_USER_CODE64 | 3) << 16;
    write_cr0(read_cr0() | X86_CR0_AM);
    (void)guest_try_user(misaligned, ptr(0x800000));
}

static void ac_kernel(void)
{
    write_cr0(read_cr0() | X86_CR0_AM);
    for (unsigned int n = 0; n < 10000; n++)
        DIE_UNLESS(guest_try_user(misaligned, ptr(0x800000)) == X86_AC);
    DIE_UNLESS(guest_try(misaligned, ptr(0x800000)) == NO_FAULT);
}

static unsigned int count;

static void counting(struct guest_frame *f)
{
    (void)f;
    count++;
}

static void watch(uint64_t linear, unsigned int kind)
{
    __asm__ volatile("mov %0, %%dr0" : : "r"(linear));
    write_dr7(0x402 | kind << 16 | 3 << 18);
}

static void breakpoint(void *p)
{
    (void)p;
    __asm__ volatile("int3");
}

/* A data breakpoint on what the processor itself reads: it does not count as data. */
static void db_on_idt(void)
{
    guest_set_handler(X86_DB, counting);
    guest_set_handler(X86_BP, again);
    watch((uintptr_t)&guest_idt[X86_BP * 2], 3);
    for (unsigned int n = 0; n < 1000; n++)
        breakpoint(NULL);
    watch((uintptr_t)&guest_gdt[SEL_CODE64 / 8], 3);
    for (unsigned int n = 0; n < 1000; n++)
        breakpoint(NULL);
    write_dr7(0x400);
}

/* On the stack where #DB's own frame goes. */
static void db_on_stack(void)
{
    extern uint8_t guest_df_stack_end[];
    guest_set_handler(X86_DB, counting);
    guest_set_gate(X86_DB, guest_vectors[X86_DB], 14, 0, 1);
    watch((uintptr_t)guest_df_stack_end - 8, 3);
    write_flags(read_flags() | X86_FLAG_TF);
    for (;;)
        breakpoint(NULL);
}

/* An instruction breakpoint on the first instruction of its own handler. */
static void db_on_handler(void)
{
    guest_set_handler(X86_DB, counting);
    __asm__ volatile("mov %0, %%dr0" : : "r"(guest_vectors[X86_DB]));
    write_dr7(0x402);
    write_flags(read_flags() | X86_FLAG_TF);
    for (;;)
        pause();
}

static void step_more(struct guest_frame *f)
{
    f->rflags |= X86_FLAG_TF;
    write_flags(read_flags() | X86_FLAG_TF);
}

static void db_in_db(void)
{
    guest_set_handler(X86_DB, step_more);
    write_flags(read_flags() | X86_FLAG_TF);
    for (;;)
        pause();
}

/* The IDT on a page that is not there: #PF cannot be delivered, #DF neither. */
static void pf_on_idt(void)
{
    load_idt(ptr(0x7000000000), 4095);
    guest_load8(ptr(0x7000001000));
}

static void fault_more(struct guest_frame *f)
{
    (void)f;
    guest_load8(ptr(0x7000001000));
}

/* Every handler faults again: the stack grows down into what holds it all. */
static void pf_in_pf(void)
{
    guest_map(0x600000000000, (uintptr_t)guest_page(), X86_PTE_P | X86_PTE_W, 0);
    guest_set_handler(X86_PF, fault_more);
    guest_set_gate(X86_DF, guest_vectors[X86_DF], 14, 0, 0);
    __asm__ volatile("mov %0, %%rsp; jmp *%1"
                     :
                     : "r"(UINT64_C(0x600000001000)), "r"(guest_load8), "D"(0x7000001000));
}

static void gp_forever(void)
{
    guest_set_handler(X86_GP, again);
    guest_load8(ptr(0x8000000000000000));
    guest_die("it came back");
}

static void do_page_faults(unsigned int n)
{
    guest_load8(ptr(0x7000000000 + n));
}

static void pf_forever(void)
{
    guest_set_handler(X86_PF, again);
    smp_start(do_page_faults);
    do_page_faults(0);
    guest_die("it came back");
}

static void icebp(void)
{
    guest_set_handler(X86_DB, again);
    __asm__ volatile("1: .byte 0xF1; jmp 1b");
}

/* Shadows without end: interrupts never get in, signals must. */
static void ss_shadow(void)
{
    apic_enable();
    apic_write(APIC_LVT_TIMER, 1 << 17 | 0x50);
    apic_write(APIC_TIMER_COUNT, 1000);
    guest_set_handler(0x50, again);
    __asm__ volatile("sti; mov %%ss, %%eax; 1: .rept 1000; mov %%eax, %%ss; .endr; jmp 1b"
                     :
                     :
                     : "eax");
}

static void sti_shadow(void)
{
    apic_enable();
    apic_write(APIC_LVT_TIMER, 1 << 17 | 0x50);
    apic_write(APIC_TIMER_COUNT, 1000);
    guest_set_handler(0x50, again);
    __asm__ volatile("1: .rept 1000; cli; sti; .endr; jmp 1b");
}

/* IRET to a frame in the hole: each pops ones. */
static void iret_fault(void)
{
    guest_set_handler(X86_GP, again);
    __asm__ volatile("mov %0, %%rsp; iretq" : : "r"(DIE_HOLE));
}

static void call_stack(void)
{
    guest_map(0x600000000000, (uintptr_t)guest_page(), X86_PTE_P | X86_PTE_W, 0);
    guest_set_gate(X86_DF, guest_vectors[X86_DF], 14, 0, 0);
    __asm__ volatile("mov %0, %%rsp; 1: call 1b" : : "r"(UINT64_C(0x600000001000)));
}

static const struct die_mode modes[] = {
    {"ac-user-handler", ac_user_handler},
    {"ac-kernel", ac_kernel},
    {"db-on-idt", db_on_idt},
    {"db-on-stack", db_on_stack},
    {"db-on-handler", db_on_handler},
    {"db-in-db", db_in_db},
    {"pf-on-idt", pf_on_idt},
    {"pf-in-pf", pf_in_pf},
    {"gp-forever", gp_forever},
    {"pf-forever", pf_forever},
    {"icebp", icebp},
    {"ss-shadow", ss_shadow},
    {"sti-shadow", sti_shadow},
    {"iret-fault", iret_fault},
    {"call-stack", call_stack},
};

DIE_MAIN(modes)
