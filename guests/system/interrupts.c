/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* HLT and its wake-up by timers, priorities, interrupt shadows of STI and MOV SS, NMI and its
 * masking. */
#include "guests/lib/guest.h"

static volatile unsigned int ticks, nmis, order_count;
static volatile uint8_t order[8];
static volatile reg_t last_rip, last_flags;

static void on_interrupt(struct guest_frame *f)
{
    ticks++;
    last_rip = f->rip;
    last_flags = f->rflags;
    if (order_count < 8)
        order[order_count++] = (uint8_t)f->vector;
    apic_write(APIC_EOI, 0);
}

static void set_up(void)
{
    ticks = 0;
    order_count = 0;
    last_rip = 0;
}

static void test_self_ipi(void)
{
    set_up();
    apic_send_self(0x50);
    apic_send_self(0x70);
    apic_send_self(0x60);
    CHECK_EQ(ticks, 0); /* IF is clear */
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
    CHECK_EQ(ticks, 3);
    CHECK_EQ(order[0], 0x70);
    CHECK_EQ(order[1], 0x60);
    CHECK_EQ(order[2], 0x50);
    /* task priority keeps its class out */
    set_up();
    apic_write(0x80, 0x60);
    apic_send_self(0x50);
    apic_send_self(0x70);
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
    CHECK_EQ(ticks, 1);
    CHECK_EQ(order[0], 0x70);
    apic_write(0x80, 0);
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
    CHECK_EQ(ticks, 2);
}

static void start_timer(uint32_t mode, uint32_t count)
{
    apic_write(APIC_TIMER_DIVIDE, 0xB); /* by 1 */
    apic_write(APIC_LVT_TIMER, mode | 0x50);
    apic_write(APIC_TIMER_COUNT, count);
}

/* TSC ticks in 1024 of the timer's. */
static uint64_t timer_rate(void)
{
    apic_write(APIC_LVT_TIMER, 1 << 16 | 0x50);
    apic_write(APIC_TIMER_COUNT, UINT32_MAX);
    uint32_t count = apic_read(APIC_TIMER_CURRENT), now;
    uint64_t tsc = rdtsc();
    do
        now = apic_read(APIC_TIMER_CURRENT);
    while (count - now < 1000000);
    tsc = rdtsc() - tsc;
    apic_write(APIC_TIMER_COUNT, 0);
    return tsc * 1024 / (count - now);
}

/* Not more often than its period says, however late the host is. */
static void check_periodic_timer(void)
{
    enum { PERIOD = 1000000 };
    uint64_t rate = timer_rate(), start = rdtsc();
    set_up();
    start_timer(1 << 17, PERIOD);
    while (ticks < 5)
        guest_wait();
    apic_write(APIC_LVT_TIMER, 1 << 16 | 0x50);
    apic_write(APIC_TIMER_COUNT, 0);
    uint64_t took = (rdtsc() - start) * 1024 / rate;
    __asm__ volatile("sti; nop; nop; cli" : : : "memory"); /* one may have been pending */
    unsigned int before = ticks;
    CHECK(before <= took / PERIOD + 1);
    for (int n = 0; n < 1000; n++)
        pause();
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
    CHECK_EQ(ticks, before);
}

static void test_halt_and_timer(void)
{
    set_up();
    start_timer(0, 2000000); /* one-shot, some ms */
    while (ticks < 1)
        guest_wait();
    CHECK_EQ(ticks, 1);
    CHECK_EQ(apic_read(APIC_TIMER_CURRENT), 0);
    check_periodic_timer();
    /* TSC deadline */
    if (cpuid(1, 0).c >> 24 & 1) {
        set_up();
        apic_write(APIC_LVT_TIMER, 2 << 17 | 0x50);
        uint64_t deadline = rdtsc() + 1000000;
        wrmsr(MSR_TSC_DEADLINE, deadline);
        while (ticks < 1)
            guest_wait();
        CHECK(rdtsc() >= deadline);
        CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
        apic_write(APIC_LVT_TIMER, 1 << 16 | 0x50);
    }
}

/* The 8254 through the 8259, as virtual wire. */
static void test_pit(void)
{
    set_up();
    guest_set_handler(0x20, on_interrupt);
    apic_write(0x350, 0x700); /* LINT0: ExtINT */
    outb(0x20, 0x11);
    outb(0x21, 0x20);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0x21, 0xFE); /* IRQ 0 only */
    outb(0xA1, 0xFF);
    outb(0x43, 0x34); /* channel 0, mode 2 */
    outb(0x40, 0xA9);
    outb(0x40, 0x04); /* 1193: about 1 ms */
    for (int n = 0; n < 3; n++) {
        unsigned int before = ticks;
        while (ticks == before)
            guest_wait();
        outb(0x20, 0x20);
    }
    outb(0x21, 0xFF);
    CHECK(ticks >= 3);
    CHECK_EQ(order[0], 0x20);
}

/* --- level-triggered interrupts: the serial port's, at the I/O APIC's input 4 --- */

enum {
    PIN = 4,
    ENTRY_LOW = 0x10 + 2 * PIN,
    VECTOR_LEVEL = 0x61,
    LEVEL = 1 << 15,
    MASKED = 1 << 16
};
enum { REMOTE_IRR = 1 << 14, IO_APIC_EOI = 0x40, NO_EOI_BROADCAST = 1 << 12, THR_EMPTY = 2 };

static volatile uint32_t *io_apic(uint32_t offset)
{
    return (volatile uint32_t *)(uintptr_t)(LODGE_MMIO_IO_APIC + offset);
}

static uint32_t entry(void)
{
    *io_apic(0) = ENTRY_LOW;
    return *io_apic(0x10);
}

static void set_entry(uint32_t low)
{
    *io_apic(0) = ENTRY_LOW;
    *io_apic(0x10) = low;
}

/* Has the transmitter's interrupt taken once; its handler ends it in the local APIC. */
static void take_level_interrupt(void)
{
    set_up();
    outb(LODGE_PORT_SERIAL + 1, THR_EMPTY);
    while (ticks < 1)
        guest_wait();
    outb(LODGE_PORT_SERIAL + 1, 0);
}

static void on_level(struct guest_frame *f)
{
    (void)inb(LODGE_PORT_SERIAL + 2); /* the line goes down */
    CHECK(entry() & REMOTE_IRR);
    on_interrupt(f);
}

/* The end reaches the I/O APIC by itself, or, if that is suppressed, through its own register. */
static void test_level_triggered(void)
{
    guest_set_handler(VECTOR_LEVEL, on_level);
    set_entry(VECTOR_LEVEL | LEVEL);
    take_level_interrupt();
    CHECK(!(entry() & REMOTE_IRR));
    if (apic_read(0x30) >> 24 & 1) {
        apic_write(APIC_SPURIOUS, 0x1FF | NO_EOI_BROADCAST);
        take_level_interrupt();
        CHECK(entry() & REMOTE_IRR);
        *io_apic(IO_APIC_EOI) = VECTOR_LEVEL;
        CHECK(!(entry() & REMOTE_IRR));
        apic_write(APIC_SPURIOUS, 0x1FF);
    }
    take_level_interrupt();
    CHECK(!(entry() & REMOTE_IRR));
    set_entry(MASKED);
}

static void test_sti_shadow(void)
{
    extern uint8_t sti_after[];
    set_up();
    apic_send_self(0x50);
    __asm__ volatile("sti\n" SHADOWED "nop\n" /* is still done */
                     "sti_after: nop\n"
                     "cli"
                     :
                     :
                     : "memory");
    CHECK_EQ(ticks, 1);
    CHECK_EQ(last_rip, (uintptr_t)sti_after);
    /* STI; CLI lets nothing in */
    set_up();
    apic_send_self(0x50);
    __asm__ volatile("sti; " SHADOWED "cli; nop; nop" : : : "memory");
    CHECK_EQ(ticks, 0);
    /* a second STI casts no shadow of its own */
    __asm__ volatile("sti; " SHADOWED "sti; cli" : : : "memory");
    CHECK_EQ(ticks, 1);
    /* POPF has no shadow */
    extern uint8_t popf_after[];
    set_up();
    apic_send_self(0x50);
    __asm__ volatile("pushf; orl $0x200, (%%rsp); popf\n"
                     "popf_after: nop\n"
                     "cli"
                     :
                     :
                     : "memory", "cc");
    CHECK_EQ(ticks, 1);
    CHECK_EQ(last_rip, (uintptr_t)popf_after);
}

/* What stands in the shadow reads across two pages, or one that has not been read for long: an
 * engine may do such an instruction in another way. What waits comes right behind it all the same.
 */
static void test_long_sti_shadow(void)
{
    extern uint8_t long_sti_after[];
    static uint8_t pages[3 * 4096] __attribute__((aligned(4096)));
    for (uint32_t n = 0; n < 3; n++)
        *(volatile uint8_t *)(pages + n * 4096) = 0; /* the host has them from here on */
    for (uint32_t n = 0; n < 24; n++) {
        const uint8_t *at = pages + 4096 - 2 + n % 4 * (4096 / 2);
        uint32_t value;
        set_up();
        apic_send_self(0x50);
        if (n % 8 == 0)
            write_cr3(read_cr3());
        __asm__ volatile("sti\n" SHADOWED "movl (%1), %0\n"
                         "long_sti_after: nop; nop; nop\n"
                         "cli"
                         : "=r"(value)
                         : "r"(at)
                         : "memory");
        CHECK_EQ(ticks, 1);
        CHECK_EQ(last_rip, (uintptr_t)long_sti_after);
    }
}

static void test_mov_ss_shadow(void)
{
    extern uint8_t mov_ss_after[];
    set_up();
    uint16_t ss = SEL_DATA;
    /* the interrupt comes while IF is set: sent by the store right before MOV SS */
    __asm__ volatile("sti; nop\n"
                     "movl $0x44050, (%0)\n"
                     "mov %1, %%ss\n" SHADOWED "nop\n"
                     "mov_ss_after: nop; nop; nop\n"
                     "cli"
                     :
                     : "r"(apic_register(APIC_ICR)), "r"(ss)
                     : "memory");
    CHECK_EQ(ticks, 1);
    CHECK(last_rip != (uintptr_t)mov_ss_after - 1); /* before or after the pair, never between */
}

/* --- NMI --- */

static volatile unsigned int nesting, deepest;

static void on_nmi(struct guest_frame *f)
{
    (void)f;
    nmis++;
    nesting++;
    if (nesting > deepest)
        deepest = nesting;
    if (nmis == 1) {
        apic_send(0, 0x44400); /* self, NMI: has to wait for our IRET */
        for (int n = 0; n < 1000; n++)
            pause();
    }
    nesting--;
}

static void test_nmi(void)
{
    guest_set_handler(X86_NMI, on_nmi);
    nmis = deepest = 0;
    /* with IF clear */
    apic_send(apic_read(APIC_ID) >> 24, 0x4400); /* physical, NMI */
    for (int n = 0; n < 1000 && nmis < 2; n++)
        pause();
    CHECK_EQ(nmis, 2);
    CHECK_EQ(deepest, 1);
    guest_set_handler(X86_NMI, NULL);
}

int main(void)
{
    guest_check_interrupts();
    apic_enable();
    for (unsigned int v = 0x40; v < 0x80; v++)
        guest_set_handler((uint8_t)v, on_interrupt);
    GUEST_RUN(test_self_ipi);
    GUEST_RUN(test_halt_and_timer);
    GUEST_RUN(test_pit);
    GUEST_RUN(test_level_triggered);
    GUEST_RUN(test_sti_shadow);
    GUEST_RUN(test_long_sti_shadow);
    GUEST_RUN(test_mov_ss_shadow);
    GUEST_RUN(test_nmi);
    return guest_done();
}
