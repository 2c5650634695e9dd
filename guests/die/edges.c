/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The edges of memory: accesses across the top of RAM and the PCI hole, at the highest physical
 * addresses, structures of KVM's interface that do not fit, and what reads of nothing bring: ones,
 * never a byte of the host's.
 *
 * run: top top=0x1000000 => lives memory=16M vcpus=2
 * run: top top=0xc0000000 => lives memory=3500M
 * run: bottom top=0x100000000 => lives memory=3500M
 * run: end top=0x11ac00000 => lives memory=3500M
 * run: highest => lives
 * run: reserved => lives
 * run: nothing top=0x1000000 => lives memory=16M
 * run: kvm top=0x1000000 => lives memory=16M vcpus=2
 */
#include "guests/die/die.h"

enum { RW = X86_PTE_P | X86_PTE_W };
#define AT UINT64_C(0x20000000000)

/* Maps the page of a physical address and the one behind it; where that address is then. */
static uint8_t *window(uint64_t physical)
{
    uint64_t page = physical & ~UINT64_C(0xFFF);
    guest_map(AT, page, RW, 0);
    guest_map(AT + 0x1000, page + 0x1000, RW, 0);
    flush_tlb();
    return ptr(AT + (physical & 0xFFF));
}

static void other(unsigned int n)
{
    (void)n;
    for (;;)
        pause();
}

/* `inside` bytes of the 16 at p are RAM: the first ones, or (back) the last ones. */
static void check_edge(uint8_t *p, unsigned int inside, bool back)
{
    volatile uint8_t *bytes = p;
    for (unsigned int n = 0; n < 16; n++)
        bytes[n] = (uint8_t)(n + 1);
    for (unsigned int n = 0; n < 16; n++) {
        bool ram = back ? n >= 16 - inside : n < inside;
        DIE_UNLESS(bytes[n] == (ram ? n + 1 : 0xFF));
    }
}

static void check_across(uint64_t edge, bool back)
{
    for (unsigned int inside = 0; inside <= 16; inside++) {
        uint8_t *p = window(back ? edge - 16 + inside : edge - inside);
        check_edge(p, inside, back);
        uint64_t v = *(volatile uint64_t *)(void *)p;
        *(volatile uint64_t *)(void *)(p + 3) = v;
        __asm__ volatile("lock; addq $1, 5(%0); lock; xaddq %1, 1(%0); xchgl %k1, 6(%0)\n\t"
                         "lock; cmpxchgq %1, 3(%0); lock; btsl $9, 4(%0)\n\t"
                         "fnstcw 7(%0); fnstenv (%0); fldenv (%0)\n\t"
                         "movups (%0), %%xmm0; movups %%xmm0, (%0); push (%0); pop (%0)"
                         : "+r"(p), "+r"(v)
                         :
                         : "rax", "memory", "cc");
    }
    /* strings over it, both ways, and back to where they came from */
    uint8_t *p = window(edge - 64), *ram = ptr(0x800000);
    __asm__ volatile("mov $128, %%ecx; mov %0, %%rdi; mov $0x5A, %%eax; rep stosb\n\t"
                     "mov $128, %%ecx; mov %0, %%rsi; mov %1, %%rdi; rep movsb\n\t"
                     "std; mov $127, %%ecx; lea 127(%0), %%rsi; lea 126(%0), %%rdi; rep movsb\n\t"
                     "mov $30, %%ecx; lea 120(%0), %%rdi; rep stosl; cld"
                     :
                     : "r"(p), "r"(ram)
                     : "rax", "rcx", "rsi", "rdi", "memory", "cc");
    for (unsigned int n = 0; n < 128; n++) {
        bool inside = back ? n >= 64 : n < 64;
        DIE_UNLESS(((volatile uint8_t *)ram)[n] == (inside ? 0x5A : 0xFF));
    }
}

static void top(void)
{
    write_cr4(read_cr4() | X86_CR4_OSFXSR);
    if (smp_count() > 1)
        smp_start(other);
    check_across(die_number("top=", 0), false);
}

static void bottom(void)
{
    write_cr4(read_cr4() | X86_CR4_OSFXSR);
    check_across(die_number("top=", 0), true);
}

static uint64_t physical_end(void)
{
    return UINT64_C(1) << (cpuid(0x80000008, 0).a & 0xFF);
}

static void highest(void)
{
    guest_map(AT, physical_end() - 0x1000, RW, 0);
    DIE_UNLESS(*(volatile uint64_t *)ptr(AT) == ~UINT64_C(0));
    DIE_UNLESS(*(volatile uint64_t *)ptr(AT + 0xFF8) == ~UINT64_C(0));
    *(volatile uint64_t *)ptr(AT + 0xFF8) = 0;
    guest_map(0x30000000000, physical_end() - 0x40000000, RW, 2);
    DIE_UNLESS(*(volatile uint64_t *)ptr(0x30000000000 + 0x3FFFFFF8) == ~UINT64_C(0));
    DIE_UNLESS(guest_try(guest_call, ptr(AT + 0xFFF)) != NO_FAULT);
}

/* Addresses that the processor does not have are reserved bits. */
static void reserved(void)
{
    for (uint64_t bit = physical_end(); bit < UINT64_C(1) << 52; bit <<= 1) {
        guest_map(AT, bit, RW, 0);
        DIE_UNLESS(guest_try(guest_load8, ptr(AT)) == X86_PF);
        DIE_UNLESS(guest_fault.error == (X86_PF_P | X86_PF_R));
        guest_map(0x30000000000, bit, RW, 1);
        DIE_UNLESS(guest_try(guest_load8, ptr(0x30000000000)) == X86_PF);
        guest_entry(0x30000000000, 1)[0] = 0;
    }
}

static void check_ones(uint8_t *p)
{
    static uint8_t out[64] __attribute__((aligned(64)));
    __asm__ volatile(
        "vmovups (%0), %%ymm0; vmovups %%ymm0, (%1)\n\t"
        "movups (%0), %%xmm1; movups %%xmm1, 32(%1)\n\t"
        "movq (%0), %%xmm2; movq %%xmm2, 48(%1); movl (%0), %%eax; movl %%eax, 56(%1)\n\t"
        "movw (%0), %%ax; movw %%ax, 60(%1); movb (%0), %%al; movb %%al, 62(%1)\n\t"
        "movb 1(%0), %%al; movb %%al, 63(%1)"
        :
        : "r"(p), "r"(out)
        : "rax", "memory");
    for (unsigned int n = 0; n < 64; n++)
        DIE_UNLESS(((volatile uint8_t *)out)[n] == 0xFF);
}

static void nothing(void)
{
    uint64_t seed = 1, ram = die_number("top=", 0);
    write_cr4(read_cr4() | X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
    __asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
    for (unsigned int n = 0; n < 20000; n++) {
        uint64_t a = die_random(&seed) >> (die_random(&seed) & 31) & (physical_end() - 1);
        bool device = a >> 28 == 0xE || a >> 28 == 0xF || a + 0x2000 > physical_end();
        if (a >= ram && !device)
            check_ones(window(a));
    }
    /* the local APIC's reserved registers and spaces between them, I/O APIC, configuration space */
    for (unsigned int n = 0; n < 0x1000; n++) {
        uint8_t *p = ptr(LODGE_MMIO_ECAM + 0x8000 + n);
        DIE_UNLESS(*(volatile uint8_t *)p == 0xFF);
    }
}

/* --- KVM's clock, wall clock and steal time where they do not fit --- */

static void write_all(uint64_t a)
{
    static const uint32_t index[] = {0x4B564D00, 0x4B564D01, 0x4B564D03};
    for (unsigned int n = 0; n < 3; n++)
        for (unsigned int bit = 0; bit < 2; bit++)
            wrmsr(index[n], a | bit);
}

static void skip_msr(struct guest_frame *f)
{
    f->rip += 2;
}

static void wait_a_little(void)
{
    for (unsigned int n = 0; n < 2000; n++)
        pause();
    apic_send_self(0x50);
    guest_wait();
}

static void ignore(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_EOI, 0);
}

static void kvm(void)
{
    uint64_t ram = die_number("top=", 0);
    static const int64_t offsets[] = {-64, -63, -32, -31, -16, -12, -11, -8, -1, 0, 1, 64};
    static const uint64_t others[] = {0,
                                      0xFFE,
                                      DIE_HOLE,
                                      LODGE_MMIO_ECAM,
                                      LODGE_MMIO_APIC + 0xF0,
                                      LODGE_MMIO_IO_APIC,
                                      0xFFFFFFFFFFFFFFC0,
                                      0x7FFFFFFFFFFFFFC0,
                                      0xFFFFFFFFFFFFFFFE,
                                      UINT64_C(1) << 51};
    guest_set_handler(X86_GP, skip_msr);
    guest_set_handler(0x50, ignore);
    apic_enable();
    if (smp_count() > 1)
        smp_start(other);
    for (unsigned int n = 0; n < sizeof(offsets) / sizeof(offsets[0]); n++) {
        write_all(ram + (uint64_t)offsets[n]);
        wait_a_little();
    }
    for (unsigned int n = 0; n < sizeof(others) / 8; n++) {
        write_all(others[n]);
        wait_a_little();
    }
    /* and one that does fit is served as if nothing had been */
    volatile uint64_t *page = ptr(0x800000);
    wrmsr(0x4B564D01, 0x800001);
    DIE_UNLESS(((volatile uint32_t *)page)[6] != 0);
    wrmsr(0x4B564D01, 0);
}

static const struct die_mode modes[] = {
    {"top", top},           {"bottom", bottom},   {"end", top}, {"highest", highest},
    {"reserved", reserved}, {"nothing", nothing}, {"kvm", kvm},
};

DIE_MAIN(modes)
