/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Execution of random bytes in long mode and compatibility mode.
 *
 * A round fills the code page with random bytes, chooses random registers, flags and data, and goes
 * there by IRETQ. Every vector has a handler on a stack of its own (IST 1) that puts the processor
 * right again and starts the next round; the timer, as an NMI through the I/O APIC, ends rounds
 * that loop or halt. So one run tries many thousands of programs. Code is either plain random
 * bytes or, which gets further, instruction by instruction: prefixes, an escape to some opcode map,
 * an opcode, operands which often point at data.
 *
 * In user mode the guest's own memory is out of reach, so the run comes to its end; in kernel mode
 * anything may happen. "bare" gives no handlers: dead soon.
 *
 * run: user seed=@ => any port=off seconds=4
 * run: user plain seed=@ => any port=off seconds=4
 * run: compat seed=@ => any port=off seconds=4
 * run: kernel seed=@ => any port=off seconds=2
 * run: kernel seed=@ => any port=off seconds=2 vcpus=3
 * run: kernel plain seed=@ => any port=off seconds=2
 * run: bare seed=@ => any port=off seconds=1
 */
#include "guests/die/die.h"

enum {
    CODE = 0x2000000, /* 2 pages for each processor, 1 MiB apart */
    DATA = 0x2004000, /* 16 pages */
    CODE_SIZE = 0x2000,
    DATA_SIZE = 0x10000,
    PER_CPU = 0x100000,
    MAX_CPUS = 4,
    STACK = 8192,
    SEL_TSS_OF = SEL_FREE + 16, /* + 16 n: for processor n */
    PIT_HZ = 1193182,
    WATCH_HZ = 2000,
};

struct start { /* what is popped to begin a round */
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t rip, cs, rflags, rsp, ss;
};

static uint8_t stacks[MAX_CPUS][STACK] __attribute__((aligned(16)));
static uint8_t tss[MAX_CPUS][0x68] __attribute__((aligned(128)));
static uint64_t seeds[MAX_CPUS];
static struct start starts[MAX_CPUS];
static volatile uint32_t rounds[MAX_CPUS];
static uint32_t rounds_wanted;
static bool user, compat, plain;

static uint64_t below(uint64_t *s, uint64_t n)
{
    return die_random(s) % n;
}

/* --- code --- */

static uint8_t *put_prefixes(uint8_t *p, uint64_t *s)
{
    static const uint8_t all[] = {0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x64, 0x65, 0x2E, 0x36};
    for (uint64_t n = below(s, 8); n >= 6; n = below(s, 8))
        *p++ = all[below(s, sizeof(all))];
    if (below(s, 2))
        *p++ = (uint8_t)(0x40 | below(s, 16));
    return p;
}

static uint8_t *put_escape(uint8_t *p, uint64_t *s)
{
    static const uint8_t pp[] = {0x66, 0xF2, 0xF3};
    switch (below(s, 10)) {
    case 0:
    case 1:
        if (below(s, 2))
            *p++ = pp[below(s, 3)];
        *p++ = 0x0F;
        return p;
    case 2:
        *p++ = 0x66;
        *p++ = 0x0F;
        *p++ = below(s, 2) ? 0x38 : 0x3A;
        return p;
    case 3:
        *p++ = 0xC5;
        *p++ = (uint8_t)die_random(s);
        return p;
    case 4:
        *p++ = 0xC4;
        *p++ = (uint8_t)((die_random(s) & 0xE0) | (below(s, 3) + 1));
        *p++ = (uint8_t)die_random(s);
        return p;
    default:
        return p;
    }
}

/* ModRM and what follows: registers, [reg], [reg + disp8], [rip + disp32] */
static uint8_t *put_operands(uint8_t *p, uint64_t *s)
{
    uint8_t reg = (uint8_t)(below(s, 8) << 3);
    switch (below(s, 4)) {
    case 0:
        *p++ = (uint8_t)(0xC0 | reg | below(s, 8));
        return p;
    case 1:
        *p++ = (uint8_t)(reg | 6); /* [rsi] */
        return p;
    case 2:
        *p++ = (uint8_t)(0x40 | reg | 3); /* [rbx + disp8] */
        *p++ = (uint8_t)die_random(s);
        return p;
    default:
        *p++ = (uint8_t)die_random(s);
        return p;
    }
}

static uint8_t *put_instruction(uint8_t *p, uint64_t *s)
{
    static const uint8_t groups[] = {0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF,
                                     0xF7, 0x0F, 0x8E, 0xCF, 0xCB, 0xA5, 0xAB, 0x9D, 0xC8};
    p = put_prefixes(p, s);
    p = put_escape(p, s);
    *p++ = below(s, 4) ? (uint8_t)die_random(s) : groups[below(s, sizeof(groups))];
    p = put_operands(p, s);
    for (uint64_t n = below(s, 5); n; n--)
        *p++ = (uint8_t)die_random(s);
    return p;
}

static void put_code(unsigned int cpu)
{
    uint64_t *s = &seeds[cpu];
    uint8_t *p = ptr(CODE + cpu * PER_CPU), *end = p + 256;
    if (plain) {
        for (; p < end; p += 8)
            *(volatile uint64_t *)(void *)p = die_random(s);
    } else {
        while (p < end)
            p = put_instruction(p, s);
    }
    /* and behind it, something short at the end of the page and over it */
    for (p = ptr(CODE + cpu * PER_CPU + 0x0FF8); p < (uint8_t *)ptr(CODE + cpu * PER_CPU + 0x1010);)
        p = put_instruction(p, s);
}

/* --- registers and data --- */

static uint64_t some_value(unsigned int cpu)
{
    uint64_t *s = &seeds[cpu], v = die_random(s);
    uint64_t mine = (uint64_t)DATA + cpu * PER_CPU;
    switch (v & 15) {
    case 0:
        return v;
    case 1:
        return v >> 40;
    case 2:
        return mine + DATA_SIZE - (v >> 4 & 15);
    case 3:
        return (uint64_t)((int64_t)v >> 17); /* canonical */
    case 4:
        return v >> 32;
    case 5:
        return DIE_HOLE + (v >> 52);
    default:
        return mine + (v >> 4 & (DATA_SIZE - 1));
    }
}

static void put_data(unsigned int cpu)
{
    for (unsigned int n = 0; n < 8; n++)
        *(volatile uint64_t *)ptr(some_value(cpu) % DATA_SIZE / 8 * 8 + DATA + cpu * PER_CPU) =
            some_value(cpu);
}

static void choose_start(unsigned int cpu)
{
    struct start *t = &starts[cpu];
    uint64_t *s = &seeds[cpu], v = die_random(s);
    uint64_t code = (uint64_t)CODE + cpu * PER_CPU;
    for (uint64_t *r = &t->r15; r <= &t->rax; r++)
        *r = some_value(cpu);
    t->rsi = t->rbx = (uint64_t)DATA + cpu * PER_CPU + (v >> 32 & 0xFFFF);
    t->rip = v & 7 ? code : v & 8 ? code + 0xFF8 : code + (v >> 8 & 0xFF);
    t->rflags = (v >> 16 & 0xCD5) | X86_FLAG_ONE | (v & 0x700000 ? 0 : X86_FLAG_TF);
    t->rflags |= v >> 40 & (X86_FLAG_AC | X86_FLAG_IF);
    if (v >> 60 == 0)
        t->rflags |= UINT64_C(3) << X86_FLAG_IOPL_SHIFT;
    t->rsp = some_value(cpu);
    t->cs = user ? SEL_USER_CODE64 | 3 : SEL_CODE64;
    t->ss = user ? SEL_USER_DATA | 3 : SEL_DATA;
    if (compat)
        t->cs = user ? SEL_USER_CODE32 | 3 : v >> 61 ? SEL_CODE32 : SEL_CODE16;
}

/* --- rounds --- */

static void put_right(unsigned int cpu)
{
    static const uint64_t efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_NXE;
    unsigned int selector = SEL_TSS_OF + 16 * cpu;
    load_gdt(guest_gdt, sizeof(guest_gdt) - 1);
    load_idt(guest_idt, sizeof(guest_idt) - 1);
    write_dr7(0x400);
    write_cr0(0x80010033);
    write_cr4(X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE);
    write_cr3((uintptr_t)guest_pml4);
    wrmsr(0xC0000080, efer);
    ((volatile uint8_t *)guest_gdt)[selector + 5] = 0x89; /* not busy */
    __asm__ volatile("ltr %w0\n\tmov %w1, %%ds\n\tmov %w1, %%es" : : "r"(selector), "r"(SEL_DATA));
    if (die_random(&seeds[cpu]) & 1)
        __asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
    /* exceptions masked or not, as it comes */
    uint32_t mxcsr = 0x1F80 & (uint32_t)die_random(&seeds[cpu]);
    uint16_t control = 0x37F & (uint16_t)die_random(&seeds[cpu]);
    if (die_random(&seeds[cpu]) & 3) {
        mxcsr = 0x1F80;
        control = 0x37F;
    }
    __asm__ volatile("fninit; fldcw %1; ldmxcsr %0" : : "m"(mxcsr), "m"(control));
}

static _Noreturn void begin_round(unsigned int cpu)
{
    put_right(cpu);
    put_code(cpu);
    put_data(cpu);
    choose_start(cpu);
    __asm__ volatile("mov %0, %%rsp\n\t"
                     "pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%r11; pop %%r10\n\t"
                     "pop %%r9; pop %%r8; pop %%rdi; pop %%rsi; pop %%rbp; pop %%rbx\n\t"
                     "pop %%rdx; pop %%rcx; pop %%rax; iretq"
                     :
                     : "r"(&starts[cpu])
                     : "memory");
    __builtin_unreachable();
}

static void on_event(struct guest_frame *f)
{
    unsigned int cpu = (unsigned int)(((uintptr_t)f - (uintptr_t)stacks) / STACK % MAX_CPUS);
    rounds[cpu]++;
    apic_write(APIC_EOI, 0);
    if (rounds[0] >= rounds_wanted)
        die_power_off();
    /* what the guest's own code raises while it puts things right starts over, too */
    begin_round(cpu);
}

static void begin(unsigned int cpu)
{
    if (cpu >= MAX_CPUS)
        return;
    uint64_t top = (uintptr_t)stacks[cpu] + STACK;
    unsigned int n = SEL_TSS_OF / 8 + 2 * cpu;
    for (unsigned int at = 4; at < 0x5C; at += 8)
        *(volatile uint64_t *)(void *)(tss[cpu] + at) = top;
    tss[cpu][0x66] = 0x68;
    guest_gdt[n] = guest_descriptor((uint32_t)(uintptr_t)tss[cpu], 0x67, 0x89);
    guest_gdt[n + 1] = 0;
    begin_round(cpu);
}

/* IRQ 0 as an NMI for everybody: pin 2, delivery mode 4, physical destination FF */
static void start_watch(void)
{
    volatile uint32_t *select = ptr(LODGE_MMIO_IO_APIC), *data = ptr(LODGE_MMIO_IO_APIC + 16);
    *select = 0x10 + 2 * 2 + 1;
    *data = 0xFF000000;
    *select = 0x10 + 2 * 2;
    *data = 0x402;
    outb(0x43, 0x34);
    outb(0x40, (uint8_t)(PIT_HZ / WATCH_HZ));
    outb(0x40, (uint8_t)(PIT_HZ / WATCH_HZ >> 8));
}

static void start(void)
{
    extern uint8_t guest_vectors[256][16];
    plain = die_has("plain");
    rounds_wanted = (uint32_t)die_number("rounds=", 4000);
    for (unsigned int n = 0; n < MAX_CPUS; n++)
        seeds[n] = die_number("seed=", 1) * MAX_CPUS + n;
    for (unsigned int v = 0; v < 256; v++) {
        guest_set_handler((uint8_t)v, on_event);
        guest_set_gate((uint8_t)v, guest_vectors[v], 14, v == 3 || v == 0x80 ? 3 : 0, 1);
    }
    if (user) {
        for (uint64_t a = 0; a < 0x1000000; a += 0x200000)
            *guest_entry(a, 1) &= ~(uint64_t)X86_PTE_U;
    }
    /* string instructions stop before they reach the guest itself */
    *guest_entry(CODE - 0x200000, 1) = 0;
    *guest_entry(CODE + MAX_CPUS * PER_CPU, 1) = 0;
    flush_tlb();
    apic_enable();
    if (smp_count() > 1)
        smp_start(begin);
    start_watch();
    begin(0);
}

static void kernel_mode(void)
{
    start();
}

static void user_mode(void)
{
    user = true;
    start();
}

static void compat_mode(void)
{
    compat = true;
    user = die_number("seed=", 1) % 2;
    start();
}

static void bare(void)
{
    seeds[0] = die_number("seed=", 1);
    load_idt(NULL, 0);
    put_code(0);
    guest_call(ptr(CODE));
}

static const struct die_mode modes[] = {
    {"user", user_mode}, {"compat", compat_mode}, {"kernel", kernel_mode}, {"bare", bare}};

DIE_MAIN(modes)
