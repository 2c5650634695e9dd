/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Hardware tasks that go round for ever, point at themselves, lie in devices or nowhere, or hold
 * random bytes.
 *
 * run: jump-forever => runs seconds=1
 * run: call-forever => any seconds=1
 * run: gates-forever => runs seconds=1
 * run: self => lives
 * run: busy-double-fault => triple-fault
 * run: fault-in-switch => any seconds=1
 * run: link-to-self => any seconds=1
 * run: hole => any seconds=1
 * run: ecam => any seconds=1
 * run: apic => any seconds=1
 * run: io-apic => any seconds=1
 * run: top top=0x1000000 => any memory=16M seconds=1
 * run: from-hole => any seconds=1
 * run: empty-gdt => triple-fault
 * run: garbage seed=@ => any memory=8M seconds=2
 */
#include "guests/die/die.h"

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, io_map;
};

enum { TASKS = 8, FIRST = SEL_FREE, GATE = SEL_FREE + 8 * TASKS, STACK = 4096 };

static volatile struct tss tasks[TASKS];
static uint8_t stacks[TASKS][STACK] __attribute__((aligned(16)));

static uint16_t selector_of(unsigned int n)
{
    return (uint16_t)(FIRST + 8 * n);
}

static void put_task(unsigned int n, volatile struct tss *t, void (*entry)(void))
{
    volatile uint32_t *raw = (volatile uint32_t *)t;
    for (unsigned int i = 0; i < sizeof(*t) / 4; i++)
        raw[i] = 0;
    t->eip = (uint32_t)(uintptr_t)entry;
    t->eflags = 2;
    t->esp = (uint32_t)(uintptr_t)(stacks[n] + STACK);
    t->es = t->ss = t->ds = SEL_DATA;
    t->cs = SEL_CODE32;
    t->io_map = 0x68;
    guest_gdt[selector_of(n) / 8] = guest_descriptor((uint32_t)(uintptr_t)t, 0x67, 0x89);
}

static void set_task(unsigned int n, void (*entry)(void))
{
    put_task(n, &tasks[n], entry);
}

static void set_task_gate(uint8_t vector, uint16_t selector)
{
    guest_idt[vector] = (uint64_t)selector << 16 | UINT64_C(0x8500) << 32;
}

static inline void go(uint16_t selector, bool call)
{
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } volatile pointer = {0, selector};
    if (call)
        __asm__ volatile("lcall *(%0)" : : "r"(&pointer) : "memory", "cc");
    else
        __asm__ volatile("ljmp *(%0)" : : "r"(&pointer) : "memory", "cc");
}

static void jump_on(void)
{
    for (;;)
        go(selector_of(1), false);
}

static void jump_back(void)
{
    for (;;)
        go(selector_of(0), false);
}

static void jump_forever(void)
{
    set_task(0, jump_on);
    set_task(1, jump_back);
    go(selector_of(0), false);
}

/* Each calls the next; the last one finds the first busy. */
static void call_next(void)
{
    uint16_t task;
    for (;;) {
        __asm__ volatile("str %0" : "=r"(task));
        task = (uint16_t)(task + 8);
        go(task >= selector_of(TASKS) ? selector_of(0) : task, true);
    }
}

static void call_forever(void)
{
    for (unsigned int n = 0; n < TASKS; n++)
        set_task(n, call_next);
    go(selector_of(0), false);
}

static void return_at_once(void)
{
    for (;;)
        __asm__ volatile("iret");
}

static void gates_forever(void)
{
    set_task(0, return_at_once);
    set_task_gate(0x60, selector_of(0));
    for (;;)
        __asm__ volatile("int $0x60");
}

static void go_to_itself(void *p)
{
    (void)p;
    go(SEL_TSS, false);
}

static void call_itself(void *p)
{
    (void)p;
    go(SEL_TSS, true);
}

static void self(void)
{
    DIE_UNLESS(guest_try(go_to_itself, NULL) == X86_GP);
    DIE_UNLESS(guest_try(call_itself, NULL) == X86_GP);
    guest_gdt[GATE / 8] = (uint64_t)SEL_TSS << 16 | UINT64_C(0x8500) << 32;
    for (unsigned int n = 0; n < 1000; n++) {
        set_task_gate(0x60, SEL_TSS);
        DIE_UNLESS(guest_try(go_to_itself, NULL) == X86_GP);
    }
}

/* The task for #DF is the one that runs. */
static void busy_double_fault(void)
{
    set_task_gate(X86_DF, SEL_TSS);
    set_task_gate(X86_GP, SEL_TSS);
    set_task_gate(X86_UD, SEL_TSS);
    __asm__ volatile("ud2");
}

/* #TS, #NP, #GP and #SS each have a task whose own state is broken. */
static void fault_in_switch(void)
{
    static const uint8_t vectors[] = {X86_TS, X86_NP, X86_SS, X86_GP, X86_DF, X86_UD};
    for (unsigned int n = 0; n < sizeof(vectors); n++) {
        set_task(n, return_at_once);
        tasks[n].ss = n & 1 ? 0 : 0xFFF8;
        tasks[n].cs = n & 2 ? SEL_DATA : SEL_CODE32;
        tasks[n].ldt = n & 4 ? 0xFFF0 : 0;
        set_task_gate(vectors[n], selector_of(n));
    }
    __asm__ volatile("ud2");
}

static void link_to_self(void)
{
    set_task(0, return_at_once);
    *(volatile uint16_t *)(void *)guest_tss = SEL_TSS;
    write_flags(read_flags() | X86_FLAG_NT);
    return_at_once();
}

static void go_to_address(uint32_t base)
{
    put_task(0, ptr(base), return_at_once);
    (void)guest_try(call_itself, NULL);
    go(selector_of(0), true);
    guest_print("back\n");
    go(selector_of(0), false);
}

static void hole(void)
{
    go_to_address((uint32_t)DIE_HOLE);
}

static void ecam(void)
{
    go_to_address(LODGE_MMIO_ECAM);
}

static void apic(void)
{
    go_to_address(LODGE_MMIO_APIC + 0x280);
}

static void io_apic(void)
{
    go_to_address(LODGE_MMIO_IO_APIC);
}

static void top(void)
{
    go_to_address((uint32_t)die_number("top=", 0) - 0x30);
}

/* The current TSS in the hole: what is saved there is lost. */
static void from_hole(void)
{
    set_task(0, return_at_once);
    guest_gdt[selector_of(1) / 8] = guest_descriptor((uint32_t)DIE_HOLE, 0x67, 0x89);
    __asm__ volatile("ltr %w0" : : "r"(selector_of(1)));
    go(selector_of(0), true);
}

/* No descriptor of the running task to mark as free, nor of any segment. */
static void empty_gdt(void)
{
    set_task(0, return_at_once);
    set_task_gate(0x60, selector_of(0));
    load_gdt(guest_gdt, 0);
    __asm__ volatile("int $0x60");
}

/* --- random tasks: every exception is a switch to a task that makes the next one --- */

static uint64_t seed;
static unsigned int rounds;
static by_asm volatile struct __attribute__((packed)) {
    uint32_t offset;
    uint16_t selector;
} garbage_pointer;
static by_asm uint8_t *const garbage_stack = stacks[0] + STACK;

static by_asm void next_garbage(void)
{
    if (rounds++ == 3000)
        guest_exit(0);
    for (unsigned int n = 1; n < TASKS; n++) {
        set_task(n, return_at_once);
        volatile uint32_t *raw = (volatile uint32_t *)&tasks[n];
        for (unsigned int i = 0; i < 4; i++) {
            uint64_t v = die_random(&seed);
            raw[v % (sizeof(struct tss) / 4)] =
                v & 0x10000 ? (uint32_t)(v >> 32) : (uint8_t)(v >> 56);
        }
    }
    /* a descriptor that cannot be switched to would be a fault of this task: only another format,
     * or another place */
    uint32_t v = (uint32_t)die_random(&seed);
    uint16_t selector = selector_of(1 + (v >> 16 & 0xFF) % 7);
    if (v % 8 == 0)
        guest_gdt[selector / 8] ^= UINT64_C(8) << 40;
    if (v % 8 == 1)
        guest_gdt[selector / 8] = guest_descriptor((uint32_t)die_random(&seed), 0x67, 0x89);
    garbage_pointer.selector = selector;
    load_gdt(guest_gdt, sizeof(guest_gdt) - 1);
    load_idt(guest_idt, 2047);
}

static __attribute__((naked)) void make_garbage(void)
{
    __asm__ volatile(
        "1: mov garbage_stack, %esp; call next_garbage; ljmp *garbage_pointer; jmp 1b");
}

static void garbage(void)
{
    seed = die_number("seed=", 1);
    set_task(0, make_garbage);
    for (uint8_t v = 0; v < 32; v++)
        set_task_gate(v, selector_of(0));
    go(selector_of(0), false);
}

static const struct die_mode modes[] = {
    {"jump-forever", jump_forever},
    {"call-forever", call_forever},
    {"gates-forever", gates_forever},
    {"self", self},
    {"busy-double-fault", busy_double_fault},
    {"fault-in-switch", fault_in_switch},
    {"link-to-self", link_to_self},
    {"hole", hole},
    {"ecam", ecam},
    {"apic", apic},
    {"io-apic", io_apic},
    {"top", top},
    {"from-hole", from_hole},
    {"empty-gdt", empty_gdt},
    {"garbage", garbage},
};

DIE_MAIN(modes)
