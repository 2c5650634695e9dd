/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Every device register in memory: I/O APIC, local APIC, PCI configuration space, and the holes
 * between them; all sizes, all alignments, locked and unlocked, vectors too.
 *
 * run: holes => lives
 * run: io-apic seed=@ => lives
 * run: ecam seed=@ => lives seconds=20
 * run: apic seed=@ => any seconds=4
 * run: apic seed=@ => any seconds=4 vcpus=2
 * run: x2apic seed=@ => any seconds=4
 * run: locked => lives vcpus=2
 * run: wide => lives
 * run: contended => lives vcpus=4
 * run: random seed=@ => any vcpus=2 seconds=4
 */
#include "guests/die/die.h"

static uint64_t seed;

static uint64_t load(uint64_t a, unsigned int size)
{
    switch (size) {
    case 1:
        return *(volatile uint8_t *)ptr(a);
    case 2:
        return *(volatile uint16_t *)ptr(a);
    case 4:
        return *(volatile uint32_t *)ptr(a);
    default:
        return *(volatile uint64_t *)ptr(a);
    }
}

static void store(uint64_t a, unsigned int size, uint64_t v)
{
    switch (size) {
    case 1:
        *(volatile uint8_t *)ptr(a) = (uint8_t)v;
        break;
    case 2:
        *(volatile uint16_t *)ptr(a) = (uint16_t)v;
        break;
    case 4:
        *(volatile uint32_t *)ptr(a) = (uint32_t)v;
        break;
    default:
        *(volatile uint64_t *)ptr(a) = v;
        break;
    }
}

static uint64_t some_value(void)
{
    uint64_t v = die_random(&seed);
    return v & 3 ? v >> 8 : v & 4 ? ~UINT64_C(0) : 0;
}

/* Reads of nothing are ones, writes go nowhere. */
static void holes(void)
{
    static const uint64_t places[] = {
        0x4000000,  0x3FFFFFFFF & 0xBFFFF000,
        DIE_HOLE,   0xDFFFF000,
        0xE0100000, 0xFEBFF000,
        0xFEC01000, 0xFED00000,
        0xFEDFF000, 0xFEE01000,
        0xFFFFF000,
    };
    for (unsigned int n = 0; n < sizeof(places) / 8; n++)
        for (unsigned int size = 1; size <= 8; size *= 2)
            for (uint64_t a = places[n]; a < places[n] + 0x1000 - 8; a += a & 0xF0 ? 61 : 1) {
                store(a, size, some_value());
                DIE_UNLESS(load(a, size) == (~UINT64_C(0) >> (64 - 8 * size)));
            }
}

static void wild_page(uint64_t base, unsigned int count)
{
    for (unsigned int n = 0; n < count; n++) {
        uint64_t v = die_random(&seed);
        uint64_t a = base + (v & 0xFFF);
        if (v >> 60)
            a &= ~UINT64_C(3);
        unsigned int size = v >> 62 ? 4 : 1u << (v >> 12 & 3);
        if (v >> 16 & 1)
            (void)load(a, size);
        else
            store(a, size, some_value());
    }
}

/* All indexes, all routes: level-triggered pins that are unmasked while their line is up included.
 * Interrupts are off; they pend. */
static void io_apic(void)
{
    for (unsigned int round = 0; round < 20; round++)
        for (uint32_t index = 0; index < 0x100; index++) {
            store(LODGE_MMIO_IO_APIC, 4, index);
            store(LODGE_MMIO_IO_APIC + 0x10, 4, some_value() & ~UINT64_C(0x700)); /* fixed only */
            (void)load(LODGE_MMIO_IO_APIC + 0x10, 4);
            store(LODGE_MMIO_IO_APIC + 0x40, 4, some_value()); /* EOI of some vector */
        }
    wild_page(LODGE_MMIO_IO_APIC + 0x20, 20000);
}

static void ecam(void)
{
    for (uint64_t a = 0; a < 0x100000; a += 4) {
        store(LODGE_MMIO_ECAM + a, 4, a & 4 ? ~UINT64_C(0) : some_value());
        (void)load(LODGE_MMIO_ECAM + a, 4);
    }
    for (unsigned int n = 0; n < 100; n++)
        wild_page(LODGE_MMIO_ECAM + (some_value() & 0xFF000), 500);
    /* the identity of the host bridge is not to be written */
    DIE_UNLESS(load(LODGE_MMIO_ECAM, 4) == 0x00081B36);
}

/* Interrupts, NMIs and errors that result come to a handler which goes on. */
static void on_interrupt(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_EOI, 0);
}

static void take_interrupts(void)
{
    for (unsigned int v = 16; v < 256; v++) /* 16 to 31 are allowed, and come */
        guest_set_handler((uint8_t)v, on_interrupt);
    guest_set_handler(X86_NMI, on_interrupt);
}

static void wild_apic(unsigned int n)
{
    seed += n;
    __asm__ volatile("sti");
    for (uint64_t a = 0; a < 0x1000; a++)
        for (unsigned int size = 1; size <= 8; size *= 2) {
            (void)load(LODGE_MMIO_APIC + a, size);
            if (a / 16 != APIC_ICR / 16) /* left for later: INIT */
                store(LODGE_MMIO_APIC + a, size, some_value());
        }
    for (unsigned int round = 0; round < 20; round++) {
        wild_page(LODGE_MMIO_APIC, 5000);
        apic_enable();
    }
}

static void apic(void)
{
    take_interrupts();
    if (smp_count() > 1)
        smp_start(wild_apic);
    wild_apic(0);
    __asm__ volatile("cli");
}

static void on_fault(struct guest_frame *f)
{
    f->rip += 2; /* RDMSR, WRMSR */
}

static void x2apic(void)
{
    take_interrupts();
    guest_set_handler(X86_GP, on_fault);
    wrmsr(0x1B, rdmsr(0x1B) | 0xC00);
    __asm__ volatile("sti");
    for (unsigned int n = 0; n < 100000; n++) {
        uint32_t index = 0x800 + (uint32_t)(die_random(&seed) & 0x3F);
        if (n & 1)
            (void)rdmsr(index);
        else
            wrmsr(index, n & 2 ? some_value() : some_value() & 0xFFFFFFFF);
    }
    /* back and forth between the modes, in legal and illegal ways */
    for (unsigned int n = 0; n < 4096; n++) {
        wrmsr(0x1B, LODGE_MMIO_APIC | 0x100 | (die_random(&seed) & 0xC00));
        wrmsr(0x1B, (some_value() & 0xFFFFFFF000) | (die_random(&seed) & 0xC00));
    }
}

/* --- locked --- */

static volatile unsigned int started, done;

static void locked_at(uint64_t a)
{
    void *p = ptr(a);
    __asm__ volatile("lock; incb (%0); lock; incw (%0); lock; incl (%0); lock; incq (%0)\n\t"
                     "lock; xaddl %%eax, 1(%0); xchgl %%eax, 3(%0); xchgq %%rax, (%0)\n\t"
                     "lock; cmpxchgq %%rcx, 5(%0); lock; cmpxchg8b (%0); lock; cmpxchg8b 7(%0)\n\t"
                     "lock; btsl $5, (%0); lock; btcq $63, (%0)\n\t"
                     "lock; orl $0, (%0); lock; negl 2(%0); lock; notw 1(%0)"
                     :
                     : "r"(p)
                     : "rax", "rcx", "rdx", "rbx", "memory", "cc");
}

static void locked_everywhere(unsigned int n)
{
    static const uint64_t places[] = {
        LODGE_MMIO_ECAM + 4,
        LODGE_MMIO_ECAM + 0x10,
        LODGE_MMIO_ECAM + 0x3C,
        LODGE_MMIO_ECAM + 0xFFC,
        DIE_HOLE,
        LODGE_MMIO_IO_APIC + 0x10,
        LODGE_MMIO_APIC + 0xF0,
        LODGE_MMIO_APIC + 0x80,
        LODGE_MMIO_APIC + 0xFFC,
        LODGE_MMIO_IO_APIC + 0xFFB,
        0x3FFFFF9 /* top of RAM */,
    };
    started++;
    for (unsigned int round = 0; round < 200; round++)
        for (unsigned int i = 0; i < sizeof(places) / 8; i++) {
            locked_at(places[i]);
            apic_write(APIC_SPURIOUS, 0x1FF);
        }
    (void)n;
    __asm__ volatile("lock; incl %0" : "+m"(done));
}

static void locked(void)
{
    smp_start(locked_everywhere);
    locked_everywhere(0);
    while (done < smp_count())
        pause();
}

/* --- more than a bus carries at once --- */

static void wide(void)
{
    static const uint64_t places[] = {DIE_HOLE,
                                      DIE_HOLE + 0xFF7,
                                      LODGE_MMIO_ECAM,
                                      LODGE_MMIO_ECAM + 0xFF1,
                                      LODGE_MMIO_IO_APIC,
                                      LODGE_MMIO_IO_APIC + 0xFF,
                                      LODGE_MMIO_APIC + 0x1F0,
                                      0x3FFFFF7};
    write_cr4(read_cr4() | X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
    __asm__ volatile("xsetbv; fninit" : : "c"(0), "a"(7), "d"(0));
    for (unsigned int n = 0; n < sizeof(places) / 8; n++) {
        uint64_t a = places[n];
        __asm__ volatile("movups (%0), %%xmm0; movups %%xmm0, (%0)\n\t"
                         "vmovups (%0), %%ymm0; vmovups %%ymm0, (%0)\n\t"
                         "fldt (%0); fstpt (%0); fnstenv (%0); fninit\n\t"
                         "movntdqa (%1), %%xmm1; movntdq %%xmm1, (%1)\n\t"
                         "vmaskmovps (%0), %%ymm0, %%ymm1; vmaskmovps %%ymm0, %%ymm1, (%0)\n\t"
                         "vpgatherdd %%ymm0, (%0,%%ymm2), %%ymm1"
                         :
                         : "r"(a), "r"(a & ~UINT64_C(15))
                         : "memory");
        uint64_t aligned = a & ~UINT64_C(63);
        __asm__ volatile("fxsave64 (%0); xsave64 (%0); xsaveopt64 (%0)"
                         :
                         : "r"(aligned), "a"(7), "d"(0)
                         : "memory");
        (void)guest_try(guest_load8, ptr(aligned));
    }
}

/* --- vector registers, while others hold the device --- */

/* Those of even number have AVX, the others have not: where a load waits for the I/O APIC, another's registers and XCR0
 * may come to the CPU, and the load goes on with its own. */
static void load_vectors(void)
{
    uint64_t first[4], now[4];

    write_cr4(read_cr4() | X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
    __asm__ volatile("xsetbv; vpcmpeqd %%ymm1, %%ymm1, %%ymm1" : : "c"(0), "a"(7), "d"(0));
    for (unsigned int round = 0; round < 3000; round++) {
        __asm__ volatile("vpaddd (%1), %%ymm1, %%ymm0; vmovdqu %%ymm0, (%0)"
                         :
                         : "r"(round ? now : first), "r"(LODGE_MMIO_IO_APIC)
                         : "memory");
        for (unsigned int n = 0; round && n < 4; n++)
            DIE_UNLESS(now[n] == first[n]);
    }
}

static void contend(unsigned int n)
{
    if (n % 2 == 0) {
        load_vectors();
        __asm__ volatile("lock; incl %0" : "+m"(done));
    }
    while (done < (smp_count() + 1) / 2)
        (void)load(LODGE_MMIO_IO_APIC + 0x10, 4);
}

static void contended(void)
{
    smp_start(contend);
    contend(0);
}

static void random_mmio(unsigned int n)
{
    static const uint64_t pages[] = {LODGE_MMIO_IO_APIC, LODGE_MMIO_APIC, LODGE_MMIO_ECAM,
                                     DIE_HOLE};
    seed += n;
    __asm__ volatile("sti");
    for (unsigned int i = 0; i < 300; i++)
        wild_page(pages[die_random(&seed) & 3], 200);
}

static void random_everywhere(void)
{
    take_interrupts();
    smp_start(random_mmio);
    random_mmio(0);
}

static void from_seed(void (*mode)(void))
{
    seed = die_number("seed=", 1);
    mode();
}

#define SEEDED(name)                                                                               \
    static void name##_seeded(void)                                                                \
    {                                                                                              \
        from_seed(name);                                                                           \
    }
SEEDED(io_apic)
SEEDED(ecam)
SEEDED(apic)
SEEDED(x2apic)
SEEDED(random_everywhere)

static const struct die_mode modes[] = {
    {"holes", holes},
    {"io-apic", io_apic_seeded},
    {"ecam", ecam_seeded},
    {"apic", apic_seeded},
    {"x2apic", x2apic_seeded},
    {"locked", locked},
    {"wide", wide},
    {"contended", contended},
    {"random", random_everywhere_seeded},
};

DIE_MAIN(modes)
