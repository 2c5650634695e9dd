/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the local APIC's files share: the structure, the register page's layout, and the functions
 * between them. lapic.c has acceptance of interrupts and modes, lapic_regs.c the registers,
 * lapic_timer.c the timer, lapic_ipi.c the interrupt command register and the message bus,
 * lapic_state.c save/check/load.
 */
#ifndef LODGE_X86_LAPIC_PRIVATE_H
#define LODGE_X86_LAPIC_PRIVATE_H

#include <stdatomic.h>

#include "core/lock.h"
#include "x86/cpu.h"
#include "x86/lapic.h"

/* Offsets in the page (SDM 3A, table 10-1). x2APIC MSR = 0x800 + offset / 16 (table 10-6). */
enum {
    LAPIC_ID = 0x020,
    LAPIC_VERSION = 0x030,
    LAPIC_TPR = 0x080,
    LAPIC_APR = 0x090,
    LAPIC_PPR = 0x0A0,
    LAPIC_EOI = 0x0B0,
    LAPIC_RRD = 0x0C0,
    LAPIC_LDR = 0x0D0,
    LAPIC_DFR = 0x0E0,
    LAPIC_SVR = 0x0F0,
    LAPIC_ISR = 0x100, /* eight registers each */
    LAPIC_TMR = 0x180,
    LAPIC_IRR = 0x200,
    LAPIC_ESR = 0x280,
    LAPIC_ICR = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    LAPIC_LVT_TIMER = 0x320,
    LAPIC_LVT_THERMAL = 0x330,
    LAPIC_LVT_PERF = 0x340,
    LAPIC_LVT_LINT0 = 0x350,
    LAPIC_LVT_LINT1 = 0x360,
    LAPIC_LVT_ERROR = 0x370,
    LAPIC_TIMER_INITIAL = 0x380,
    LAPIC_TIMER_CURRENT = 0x390,
    LAPIC_TIMER_DIVIDE = 0x3E0,
    LAPIC_SELF_IPI = 0x3F0,
    LAPIC_REGISTERS = 64, /* one every 16 bytes */
    LAPIC_LVT_COUNT = 6,
};

/* IA32_APIC_BASE (SDM 3A 10.4.4, 10.12.1) */
#define LAPIC_BASE_BSP    X86_BIT(8)
#define LAPIC_BASE_X2APIC X86_BIT(10)
#define LAPIC_BASE_ENABLE X86_BIT(11)

enum {
    LAPIC_SVR_ENABLE = 1 << 8,
    LAPIC_SVR_NO_EOI_BROADCAST = 1 << 12,
    LAPIC_DFR_FLAT = 0xF, /* bits 31:28 */
    LAPIC_LVT_MASKED = 1 << 16,
    LAPIC_TIMER_MODE_SHIFT = 17,
    LAPIC_FIRST_VECTOR = 16, /* 0-15 are illegal (10.5.2) */
};

/* ESR (10.5.3) */
enum {
    LAPIC_ERROR_SEND_VECTOR = 1 << 5,
    LAPIC_ERROR_RECEIVE_VECTOR = 1 << 6,
    LAPIC_ERROR_REGISTER = 1 << 7,
    LAPIC_ERROR_BITS = 0xE0,
};

enum lapic_timer_mode { LAPIC_ONE_SHOT, LAPIC_PERIODIC, LAPIC_TSC_DEADLINE, LAPIC_TIMER_RESERVED };

/*
 * The architectural page first, for hardware that takes it as it is. Its words are atomic because
 * other threads read a few (destination matching) and post into IRR and TMR; plain loads and stores
 * on x86 all the same.
 */
struct lapic {
    _Atomic uint32_t page[1024];

    struct x86_cpu *cpu;
    _Atomic uint64_t base;        /* IA32_APIC_BASE; written by the own thread */
    _Atomic uint32_t irr_words;   /* bit n: IRR word n may have bits set; see lapic_post */
    _Atomic uint32_t esr_pending; /* errors since ESR was last written */
    _Atomic bool extint_message;  /* an ExtINT message came over the bus (not LINT0) */

    /* lapic_timer.c; under timer_lock, because the timer thread runs periodic timers on. */
    struct lock timer_lock;
    struct vm_timer timer;
    uint64_t timer_start;    /* VM clock at which the count began (anew) */
    uint64_t timer_deadline; /* VM clock of the next interrupt, or VM_TIMER_NEVER */
    uint64_t tsc_deadline;   /* IA32_TSC_DEADLINE */
};

_Static_assert(offsetof(struct lapic, page) == 0, "the page is what AVIC and APICv point at");
_Static_assert(sizeof(_Atomic uint32_t) == 4, "registers are plain words");

/* offset is one of the constants above, never the guest's. */
static inline uint32_t lapic_reg(const struct lapic *l, uint32_t offset)
{
    return atomic_load_explicit(&l->page[offset / 4], memory_order_relaxed);
}

static inline void lapic_set_reg(struct lapic *l, uint32_t offset, uint32_t value)
{
    atomic_store_explicit(&l->page[offset / 4], value, memory_order_relaxed);
}

static inline uint64_t lapic_get_base(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed);
}

static inline bool lapic_is_enabled(const struct lapic *l)
{
    return (lapic_get_base(l) & LAPIC_BASE_ENABLE) != 0;
}

static inline bool lapic_is_x2apic(const struct lapic *l)
{
    return (lapic_get_base(l) & LAPIC_BASE_X2APIC) != 0;
}

/* Not by SVR, that is: accepts fixed interrupts. */
static inline bool lapic_is_software_enabled(const struct lapic *l)
{
    return lapic_is_enabled(l) && (lapic_reg(l, LAPIC_SVR) & LAPIC_SVR_ENABLE) != 0;
}

/* In x2APIC mode LDR is derived from the id (10.12.10.2). */
static inline uint32_t lapic_x2apic_ldr(uint32_t id)
{
    return (id >> 4) << 16 | 1u << (id & 15);
}

/* --- lapic.c --- */

/* A fixed interrupt arrives: any thread. Illegal vectors become errors. */
void lapic_accept(struct lapic *l, uint8_t vector, bool level);
/* Sets an ESR bit and raises the error interrupt: any thread. */
void lapic_error(struct lapic *l, uint32_t bit);
/* A local source fires: delivers as an LVT entry says, if it is not masked. Any thread. */
void lapic_deliver_lvt(struct lapic *l, uint32_t lvt_offset);
/* TPR or ISR changed: recomputes PPR; has the run loop look if something can be taken now. Own
 * thread, as the others here. */
void lapic_update_ppr(struct lapic *l);
void lapic_priority_changed(struct lapic *l);
/* Highest vector requested or in service, or -1. */
int lapic_highest_irr(struct lapic *l);
int lapic_highest_isr(const struct lapic *l);
/* Does an ExtINT wait for this processor, by LINT0 or message? */
bool lapic_has_extint(const struct lapic *l);
void lapic_eoi(struct lapic *l);
/* ID and LDR as the mode has them. */
void lapic_set_identity(struct lapic *l);
/* IA32_APIC_BASE: OK, or ERR_INVALID for #GP(0). */
int lapic_write_base(struct lapic *l, uint64_t value);
/* Would this be a legal value of IA32_APIC_BASE, whatever it was before? */
bool lapic_base_is_valid(const struct lapic *l, uint64_t base);

/* --- lapic_regs.c --- */

/* Bits of a register that the guest can write at this level. */
uint32_t lapic_writable_bits(const struct lapic *l, uint32_t offset);

/* --- lapic_timer.c --- */

void lapic_timer_create(struct lapic *l);
void lapic_timer_reset(struct lapic *l);
/* Loads what is not in the page, and arms. */
void lapic_timer_load(struct lapic *l, uint64_t start, uint64_t deadline, uint64_t tsc_deadline);
/* What is left to count, at least 1 while it counts, for somebody else who keeps the timer; and of
 * what. */
void lapic_timer_hand_over(struct lapic *l, uint32_t *initial, uint32_t *left);
/* Loads from what is left to count, and does not arm: somebody else keeps the timer. */
void lapic_timer_take_over(struct lapic *l, uint32_t left, uint64_t tsc_deadline);
/* Register writes; value has only writable bits. */
void lapic_timer_write_lvt(struct lapic *l, uint32_t value);
void lapic_timer_write_initial(struct lapic *l, uint32_t value);
void lapic_timer_write_divide(struct lapic *l, uint32_t value);
uint32_t lapic_timer_read_current(struct lapic *l);
uint64_t lapic_timer_read_deadline(struct lapic *l);
void lapic_timer_write_deadline(struct lapic *l, uint64_t tsc);
static inline enum lapic_timer_mode lapic_timer_mode(const struct lapic *l)
{
    return (enum lapic_timer_mode)(lapic_reg(l, LAPIC_LVT_TIMER) >> LAPIC_TIMER_MODE_SHIFT & 3);
}

/* --- lapic_ipi.c --- */

/* ICR was written: sends. destination as the mode has it (8 or 32 bits). */
void lapic_send_ipi(struct lapic *l, uint32_t icr, uint32_t destination);

#endif
