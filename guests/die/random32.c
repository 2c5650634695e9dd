/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Execution of random bytes outside of long mode: 32-bit and 16-bit protected mode at CPL 3 and 0,
 * virtual-8086 mode, real mode.
 *
 * As in random64.c, every exception and a timer that comes as NMI ends a round and begins the next.
 * At CPL 3 and in virtual-8086 mode the handlers have the TSS's stack; segments keep the code away
 * from the guest itself, with limits that it runs into. At CPL 0 each vector is a task gate: the
 * stack of random code is no place for a frame. In real mode the vectors lead to code at 0x600 that
 * goes back to protected mode; what lies there may not live long.
 *
 * run: user32 seed=@ => any port=off seconds=4
 * run: user16 seed=@ => any port=off seconds=4
 * run: v86 seed=@ => any port=off seconds=4
 * run: kernel32 seed=@ => any port=off seconds=2
 * run: kernel16 seed=@ => any port=off seconds=2
 * run: real seed=@ => any port=off seconds=1
 */
#include "guests/die/die.h"

enum {
    AREA = 0x800000, /* for protected mode: code first, then data */
    AREA_SIZE = 0x20000,
    LOW_AREA = 0x10000, /* for virtual-8086 and real mode */
    CODE_SIZE = 256,
    SEL_TASK = SEL_FREE,
    SEL_NMI_TASK = SEL_FREE + 8,
    SEL_SPARE = SEL_FREE + 16,
    SEL_CODE_OF_AREA = SEL_FREE + 24,
    SEL_DATA_OF_AREA = SEL_FREE + 32,
    SEL_STACK_OF_AREA = SEL_FREE + 40, /* expands down */
    STACK = 4096,
    PIT_HZ = 1193182,
    WATCH_HZ = 1000,
    REAL_STUB = 0x600,
};

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, io_map;
};

/* What is popped to begin a round: general registers, then an IRET frame for any mode. */
static by_asm volatile struct {
    uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax;
    uint32_t eip, cs, eflags, esp, ss, es, ds, fs, gs;
} start;

static by_asm uint8_t own_stack[STACK] __attribute__((aligned(16)));
static volatile struct tss task, nmi_task;
static uint64_t seed;
static uint32_t rounds, rounds_wanted;
static enum { USER32, USER16, V86, KERNEL32, KERNEL16, REAL } kind;

static uint32_t below(uint32_t n)
{
    return (uint32_t)(die_random(&seed) >> 32) % n;
}

/* --- code and data --- */

static uint8_t *put_instruction(uint8_t *p)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x64, 0x65, 0x2E, 0x36, 0x26};
    static const uint8_t favourites[] = {
        0x07, 0x17, 0x1F, 0x8E, 0x9A, 0xEA, 0xCA, 0xCB, 0xCF, 0xCD, 0xC4, 0xC5, 0xC8, 0x62, 0x63,
        0x0F, 0x0F, 0x0F, 0xFF, 0xD9, 0xDD, 0xA5, 0xAB, 0x9D, 0x60, 0x61, 0xD4, 0x27, 0xF4, 0xE2};
    while (below(4) == 0)
        *p++ = prefixes[below(sizeof(prefixes))];
    if (below(4) == 0)
        *p++ = 0x0F;
    *p++ = below(3) ? (uint8_t)below(256) : favourites[below(sizeof(favourites))];
    *p++ = below(3) ? (uint8_t)below(256) : (uint8_t)(6 | below(8) << 3);
    for (uint32_t n = below(5); n; n--)
        *p++ = (uint8_t)below(256);
    return p;
}

static uint32_t area(void)
{
    return kind == V86 || kind == REAL ? LOW_AREA : AREA;
}

static void put_code_and_data(void)
{
    uint8_t *p = ptr(area());
    while (p < (uint8_t *)ptr(area() + CODE_SIZE))
        p = put_instruction(p);
    for (unsigned int n = 0; n < 16; n++) {
        uint32_t *at = ptr(area() + 0x1000 + below(AREA_SIZE - 0x1004));
        uint32_t v = below(4);
        *(volatile uint32_t *)at = v == 0   ? (uint32_t)die_random(&seed)
                                   : v == 1 ? below(GDT_ENTRIES) * 8 + below(4)
                                            : below(AREA_SIZE);
    }
}

static uint32_t some_value(void)
{
    uint32_t v = below(8);
    return v == 0 ? (uint32_t)die_random(&seed) : v == 1 ? below(256) : below(AREA_SIZE);
}

static void choose_start(void)
{
    volatile uint32_t *r = &start.edi;
    for (unsigned int n = 0; n < 8; n++)
        r[n] = some_value();
    uint32_t v = (uint32_t)die_random(&seed);
    start.eip = v & 7 ? 0 : below(CODE_SIZE);
    start.eflags = (v >> 8 & 0xED5) | X86_FLAG_ONE | (v >> 28 ? 0 : X86_FLAG_TF);
    start.eflags |= (v >> 20 & 7) ? 0 : 3u << X86_FLAG_IOPL_SHIFT;
    start.esp = below(AREA_SIZE);
    start.cs = SEL_CODE_OF_AREA | 3;
    start.ss = (v & 0x800000 ? SEL_DATA_OF_AREA : SEL_STACK_OF_AREA) | 3;
    start.es = start.ds = start.fs = start.gs = SEL_DATA_OF_AREA | 3;
    if (kind == V86) {
        start.eflags |= X86_FLAG_VM;
        start.cs = LOW_AREA / 16;
        start.ss = start.es = start.ds = LOW_AREA / 16 + below(0x1000);
        start.fs = start.gs = LOW_AREA / 16;
    }
}

/* --- rounds --- */

static void put_right(void)
{
    load_gdt(guest_gdt, sizeof(guest_gdt) - 1);
    load_idt(guest_idt, 2047);
    write_dr7(0x400);
    write_cr0(0x33);
    write_cr4(X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT);
    ((volatile uint8_t *)guest_gdt)[SEL_TASK + 5] = 0x89;
    ((volatile uint8_t *)guest_gdt)[SEL_NMI_TASK + 5] = 0x89;
    ((volatile uint8_t *)guest_gdt)[SEL_SPARE + 5] = 0x89;
    ((volatile uint8_t *)guest_gdt)[SEL_TSS + 5] = 0x89;
    __asm__ volatile("lldt %w0" : : "r"(0));
    __asm__ volatile("ltr %w0" : : "r"(kind == KERNEL32 || kind == KERNEL16 ? SEL_SPARE : SEL_TSS));
    /* NMIs are let in by IRET only; NT would make it a return to another task */
    write_flags(X86_FLAG_ONE);
    __asm__ volatile("pushf; push %%cs; push $1f; iret; 1: fninit" : : : "memory");
}

static by_asm _Noreturn void begin_round(void);

static void describe_area(void)
{
    bool user = kind == USER32 || kind == USER16;
    bool wide = kind == USER32 || kind == KERNEL32;
    uint32_t dpl = user ? ATTR_DPL3 : 0, db = wide ? ATTR_DB : 0;
    uint32_t limit = below(4) ? AREA_SIZE - 1 : 0x1000 + below(0x2000);
    guest_gdt[SEL_CODE_OF_AREA / 8] = guest_descriptor(AREA, limit, ATTR_CODE | dpl | db);
    guest_gdt[SEL_DATA_OF_AREA / 8] = guest_descriptor(AREA, limit, ATTR_DATA | dpl | db);
    guest_gdt[SEL_STACK_OF_AREA / 8] = guest_descriptor(AREA, 0xFFF, ATTR_DATA | 4 | dpl);
}

/* At CPL 3 and for virtual-8086 mode: IRET takes all of the frame. */
static _Noreturn void go_out(void)
{
    if (kind != V86)
        __asm__ volatile("mov %0, %%es; mov %0, %%fs; mov %0, %%gs" : : "r"(SEL_DATA_OF_AREA | 3));
    __asm__ volatile("mov $start, %%esp; popa; iret" : : : "memory");
    __builtin_unreachable();
}

/* At CPL 0: everything is popped from the stack that the round is to have. */
static _Noreturn void go_in(void)
{
    uint32_t sp = start.esp & 0xFFFC;
    volatile uint32_t *to = ptr(AREA + sp), *from = &start.edi;
    start.cs = SEL_CODE_OF_AREA;
    for (unsigned int n = 0; n < 11; n++)
        to[n] = from[n];
    describe_area();
    guest_gdt[SEL_DATA_OF_AREA / 8] = guest_descriptor(
        AREA, AREA_SIZE + 0x10000, ATTR_DATA | (kind == KERNEL32 ? (uint32_t)ATTR_DB : 0));
    __asm__ volatile("mov %0, %%ss; mov %1, %%esp; mov %0, %%ds; mov %0, %%es; popa; iret"
                     :
                     : "r"(SEL_DATA_OF_AREA), "r"(sp)
                     : "memory");
    __builtin_unreachable();
}

extern uint8_t to_real[], to_real_end[];
__asm__(".pushsection .text\n"
        "to_real:\n"
        ".code32\n"
        "    ljmp $0x20, $0x600 + (1f - to_real)\n"
        ".code16\n"
        "1:  mov $0x28, %ax\n"
        "    mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov %ax, %fs; mov %ax, %gs\n"
        "    mov %cr0, %eax; and $~1, %al; mov %eax, %cr0\n"
        "    ljmp $0x60, $(2f - to_real)\n"
        "2:  xor %ax, %ax; mov %ax, %ds; lidtl 0x600 + (3f - to_real)\n"
        "    mov $0x1000, %ax\n"
        "    mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov $0xF000, %sp\n"
        "    mov %ax, %fs; mov %ax, %gs\n"
        "    pushw $2\n"
        "    popfw\n"
        "    ljmp $0x1000, $0\n"
        /* all vectors lead here */
        "from_real:\n"
        "    cli; xor %ax, %ax; mov %ax, %ds\n"
        "    lgdtl 0x600 + (4f - to_real)\n"
        "    lidtl 0x600 + (5f - to_real)\n"
        "    mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
        "    ljmpl $0x18, $back_from_real\n"
        ".align 4\n"
        "3:  .word 0x3FF; .long 0\n"
        "4:  .word 64 * 8 - 1; .long guest_gdt\n"
        "5:  .word 2047; .long guest_idt\n"
        "to_real_end:\n"
        ".code32\n"
        "back_from_real:\n"
        "    mov $0x10, %eax\n"
        "    mov %eax, %ds; mov %eax, %es; mov %eax, %ss; mov $own_stack + 4096, %esp\n"
        "    call next_round\n"
        ".popsection");
extern uint8_t from_real[];

static _Noreturn void go_real(void)
{
    volatile uint8_t *to = ptr(REAL_STUB);
    for (const uint8_t *p = to_real; p < to_real_end; p++)
        *to++ = *p;
    volatile uint32_t *vectors = ptr(die_number("zero=", 0));
    for (unsigned int n = 0; n < 256; n++)
        vectors[n] = 0x60 << 16 | (uint32_t)(from_real - to_real);
    __asm__ volatile("jmp *%0" : : "r"(REAL_STUB) : "memory");
    __builtin_unreachable();
}

static by_asm void next_round(void)
{
    if (++rounds >= rounds_wanted)
        die_power_off();
    begin_round();
}

static void begin_round(void)
{
    put_right();
    put_code_and_data();
    choose_start();
    if (kind == REAL)
        go_real();
    if (kind == KERNEL32 || kind == KERNEL16)
        go_in();
    if (kind != V86)
        describe_area();
    go_out();
}

static void on_event(struct guest_frame *f)
{
    (void)f;
    next_round();
}

static __attribute__((naked)) void task_entry(void)
{
    __asm__ volatile("mov $own_stack + 4096, %esp; call next_round");
}

static void set_task(volatile struct tss *t, uint16_t selector)
{
    t->eip = (uint32_t)(uintptr_t)task_entry;
    t->eflags = 2;
    t->esp = (uint32_t)(uintptr_t)own_stack + STACK;
    t->es = t->ss = t->ds = SEL_DATA;
    t->cs = SEL_CODE32;
    t->io_map = 0x68;
    guest_gdt[selector / 8] = guest_descriptor((uint32_t)(uintptr_t)t, 0x67, 0x89);
}

static void set_gates(void)
{
    static volatile struct tss spare;
    extern uint8_t guest_vectors[256][16];
    set_task(&task, SEL_TASK);
    set_task(&nmi_task, SEL_NMI_TASK);
    set_task(&spare, SEL_SPARE);
    for (unsigned int v = 0; v < 256; v++) {
        guest_set_handler((uint8_t)v, on_event);
        guest_set_gate((uint8_t)v, guest_vectors[v], 14, v & 1 ? 3 : 0, 0);
        if (kind == KERNEL32 || kind == KERNEL16)
            guest_idt[v] =
                (uint64_t)(v == X86_NMI ? SEL_NMI_TASK : SEL_TASK) << 16 | UINT64_C(0x8500) << 32;
    }
}

static void start_watch(void)
{
    volatile uint32_t *select = ptr(LODGE_MMIO_IO_APIC), *data = ptr(LODGE_MMIO_IO_APIC + 16);
    *(volatile uint32_t *)ptr(LODGE_MMIO_APIC + APIC_SPURIOUS) = 0x1FF;
    *select = 0x10 + 2 * 2 + 1;
    *data = 0xFF000000;
    *select = 0x10 + 2 * 2;
    *data = 0x402;
    outb(0x43, 0x34);
    outb(0x40, (uint8_t)(PIT_HZ / WATCH_HZ));
    outb(0x40, (uint8_t)(PIT_HZ / WATCH_HZ >> 8));
}

static void start_kind(int k)
{
    kind = k;
    seed = die_number("seed=", 1);
    rounds_wanted = (uint32_t)die_number("rounds=", 4000);
    set_gates();
    start_watch();
    begin_round();
}

#define KIND(name, kind)                                                                           \
    static void name(void)                                                                         \
    {                                                                                              \
        start_kind(kind);                                                                          \
    }
KIND(user32, USER32)
KIND(user16, USER16)
KIND(v86, V86)
KIND(kernel32, KERNEL32)
KIND(kernel16, KERNEL16)
KIND(real, REAL)

static const struct die_mode modes[] = {{"user32", user32},     {"user16", user16},
                                        {"v86", v86},           {"kernel32", kernel32},
                                        {"kernel16", kernel16}, {"real", real}};

DIE_MAIN(modes)
