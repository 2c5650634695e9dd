/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guests that never end by themselves: a signal must end them within a second, whatever the
 * processors are doing.
 *
 * run: halt => runs seconds=1
 * run: halt => runs vcpus=4 seconds=1
 * run: jump => runs seconds=1
 * run: jump => runs vcpus=4 seconds=1
 * run: pause => runs vcpus=4 seconds=1
 * run: rep-movs => runs seconds=1
 * run: rep-stos-hole => runs vcpus=2 seconds=1
 * run: rep-stos-ecam => runs seconds=1
 * run: rep-lods => runs seconds=1
 * run: rep-ins => runs seconds=1
 * run: rep-outs => runs seconds=1
 * run: faults => runs vcpus=2 seconds=1
 * run: single-step => runs seconds=1
 * run: port => runs vcpus=2 seconds=1
 * run: locked => runs vcpus=4 seconds=1
 * run: init-boot-processor => any vcpus=2 seconds=1
 */
#include "guests/die/die.h"

static void (*body)(unsigned int n);

static _Noreturn void everywhere(void (*fn)(unsigned int n))
{
    body = fn;
    if (smp_count() > 1)
        smp_start(fn);
    guest_print("spinning\n");
    fn(0);
    guest_die("it came back");
}

static void do_halt(unsigned int n)
{
    (void)n;
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void do_jump(unsigned int n)
{
    (void)n;
    __asm__ volatile("cli; 1: jmp 1b");
}

static void do_pause(unsigned int n)
{
    (void)n;
    for (;;)
        pause();
}

static void halt(void)
{
    everywhere(do_halt);
}

static void jump(void)
{
    everywhere(do_jump);
}

static void pause_loop(void)
{
    everywhere(do_pause);
}

/* REP with RCX = 2^63 on memory that does not end: stores land in one page, again and again,
 * because address size is 32 bits; a linear run would reach unmapped memory. */
static void rep_movs(void)
{
    write_cr0(read_cr0() & ~X86_CR0_WP);
    guest_print("spinning\n");
    for (;;)
        __asm__ volatile("cli; rep movsb"
                         :
                         : "c"(UINT64_C(1) << 63), "S"(UINT64_C(0x800000)), "D"(UINT64_C(0x800000))
                         : "memory");
}

/* All of the hole and what follows, 64 KiB at a time. */
static void do_stos_hole(unsigned int n)
{
    (void)n;
    for (;;)
        __asm__ volatile("rep stosq" : : "c"(0x8000000 / 8), "a"(~0ull), "D"(DIE_HOLE) : "memory");
}

static void rep_stos_hole(void)
{
    everywhere(do_stos_hole);
}

static void rep_stos_ecam(void)
{
    guest_print("spinning\n");
    for (;;)
        __asm__ volatile("rep stosw"
                         :
                         : "c"(0x80000), "a"(~0ull), "D"(UINT64_C(LODGE_MMIO_ECAM))
                         : "memory");
}

/* 2^63 rounds within 4 GiB: a 32-bit address does not end, but its count is 32 bits, too. */
static void rep_lods(void)
{
    uint64_t *entry = guest_entry(0, 2);
    guest_print("spinning\n");
    /* one page table for all of the address space: 2^48 bytes of the first 4 GiB, and on */
    for (unsigned int n = 0; n < 256; n++)
        guest_pml4[n] = guest_pml4[0];
    for (unsigned int n = 4; n < 512; n++)
        entry[n] = entry[n & 3];
    flush_tlb();
    __asm__ volatile("rep lodsb" : : "c"(UINT64_C(1) << 63), "S"(UINT64_C(0)) : "rax", "memory");
    guest_die("it came back");
}

static void rep_ins(void)
{
    guest_print("spinning\n");
    for (;;)
        __asm__ volatile("rep insl"
                         :
                         : "c"(0x10000), "d"(0xCFC), "D"(UINT64_C(0x800000))
                         : "memory");
}

static void rep_outs(void)
{
    guest_print("spinning\n");
    for (;;)
        __asm__ volatile("rep outsb"
                         :
                         : "c"(0x800000), "d"(0x80), "S"(UINT64_C(0x800000))
                         : "memory");
}

static void skip(struct guest_frame *f)
{
    f->rip += 0; /* again */
}

static void do_faults(unsigned int n)
{
    (void)n;
    __asm__ volatile("ud2");
}

static void faults(void)
{
    guest_set_handler(X86_UD, skip);
    everywhere(do_faults);
}

static void single_step(void)
{
    guest_set_handler(X86_DB, skip);
    guest_print("spinning\n");
    write_flags(read_flags() | X86_FLAG_TF);
    do_jump(0);
}

static void do_port(unsigned int n)
{
    for (;;)
        outb(n ? 0x80 : 0x70, 0);
}

static void port(void)
{
    everywhere(do_port);
}

/* Locked across a cache line: each brings all processors to rest. */
static void do_locked(unsigned int n)
{
    static uint8_t bytes[128] __attribute__((aligned(64)));
    (void)n;
    for (;;)
        __asm__ volatile("lock; incq %0" : "+m"(bytes[61]));
}

static void locked(void)
{
    everywhere(do_locked);
}

/* INIT takes the boot processor to the reset vector, where nothing is. */
static void do_init(unsigned int n)
{
    (void)n;
    apic_send(0, 0x4500);
    do_halt(n);
}

static void init_boot(void)
{
    everywhere(do_init);
}

static const struct die_mode modes[] = {
    {"halt", halt},
    {"jump", jump},
    {"pause", pause_loop},
    {"rep-movs", rep_movs},
    {"rep-stos-hole", rep_stos_hole},
    {"rep-stos-ecam", rep_stos_ecam},
    {"rep-lods", rep_lods},
    {"rep-ins", rep_ins},
    {"rep-outs", rep_outs},
    {"faults", faults},
    {"single-step", single_step},
    {"port", port},
    {"locked", locked},
    {"init-boot-processor", init_boot},
};

DIE_MAIN(modes)
