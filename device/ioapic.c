/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * I/O APIC (82093AA; EOI register and version 0x20 as in the ICH family).
 *
 * Edge-triggered pins send on a rising edge, if not masked; an edge on a masked pin is lost, as on
 * the chip. Level-triggered pins send while the line is asserted, then wait (remote IRR) for the
 * EOI of their vector, from the local APICs or through the EOI register, and send again if the line
 * still is. Writing a redirection entry looks at its pin anew; making it edge-triggered forgets
 * remote IRR (which is how guests clear a stuck one on parts without an EOI register).
 *
 * Lines are asserted or not; the polarity bit is kept for the guest and does nothing. Only fixed
 * and lowest-priority entries can be level-triggered: the other delivery modes have no EOI to wait
 * for, so theirs are edges whatever the trigger bit says.
 *
 * Locking: the board lock, around everything. apic_send takes no lock and does not come back here
 * (a local APIC's EOI is called with none held).
 */
#include "device/ioapic.h"

#include "core/err.h"
#include "lodge/ports.h"
#include "x86/lapic.h"

enum {
    REGION_SIZE = 0x1000,
    REG_SELECT = 0x00, /* memory-mapped */
    REG_WINDOW = 0x10,
    REG_EOI = 0x40,

    INDEX_ID = 0x00, /* through the window */
    INDEX_VERSION = 0x01,
    INDEX_ARBITRATION = 0x02,
    INDEX_REDIRECT = 0x10,

    ID_SHIFT = 24,
};

/* Redirection entry (82093AA, 3.2.4) */
#define ENTRY_DELIVERY_SHIFT    8
#define ENTRY_LOGICAL           BIT(11)
#define ENTRY_REMOTE_IRR        BIT(14)
#define ENTRY_LEVEL             BIT(15)
#define ENTRY_MASKED            BIT(16)
#define ENTRY_DESTINATION_SHIFT 56
#define ENTRY_WRITABLE          0xFF0000000001AFFFull

static uint8_t entry_delivery(uint64_t entry)
{
    return entry >> ENTRY_DELIVERY_SHIFT & 7;
}

static bool entry_is_level(uint64_t entry)
{
    uint8_t delivery = entry_delivery(entry);
    return (entry & ENTRY_LEVEL) != 0 && (delivery == APIC_FIXED || delivery == APIC_LOWEST);
}

/* Sends a pin's message. A level-triggered one waits for its EOI, if anybody took it. */
static void send(struct ioapic *a, unsigned int pin)
{
    uint64_t entry = a->redirect[pin];
    struct apic_message m = {
        .destination = (uint32_t)(entry >> ENTRY_DESTINATION_SHIFT),
        .logical = (entry & ENTRY_LOGICAL) != 0,
        .delivery = entry_delivery(entry),
        .vector = (uint8_t)entry,
        .level = entry_is_level(entry),
    };
    if (apic_send(a->vm, &m) == OK && m.level)
        a->redirect[pin] |= ENTRY_REMOTE_IRR;
}

/* A level-triggered pin that is asserted, open and not waiting for an EOI sends. */
static void evaluate_level(struct ioapic *a, unsigned int pin)
{
    uint64_t entry = a->redirect[pin];
    if ((a->line >> pin & 1) && entry_is_level(entry) &&
        !(entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)))
        send(a, pin);
}

void ioapic_set_pin(void *io_apic, unsigned int pin, bool level)
{
    struct ioapic *a = io_apic;
    lock_assert_held(&a->vm->board_lock);
    if (pin >= IOAPIC_PINS)
        return;
    bool rises = level && !(a->line >> pin & 1);
    a->line = level ? a->line | 1u << pin : a->line & ~(1u << pin);
    if (!rises)
        return;
    if (entry_is_level(a->redirect[pin]))
        evaluate_level(a, pin);
    else if (!(a->redirect[pin] & ENTRY_MASKED))
        send(a, pin);
}

static void end_of_interrupt(struct ioapic *a, uint8_t vector)
{
    for (unsigned int pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &a->redirect[pin];
        if ((uint8_t)*entry != vector || !(*entry & ENTRY_REMOTE_IRR))
            continue;
        *entry &= ~ENTRY_REMOTE_IRR;
        evaluate_level(a, pin);
    }
}

void ioapic_eoi(void *io_apic, uint8_t vector)
{
    struct ioapic *a = io_apic;
    lock_take(&a->vm->board_lock);
    end_of_interrupt(a, vector);
    lock_release(&a->vm->board_lock);
}

bool ioapic_end_missed(struct ioapic *a, const uint64_t held[4])
{
    bool any = false;

    lock_take(&a->vm->board_lock);
    for (unsigned int pin = 0; pin < IOAPIC_PINS; pin++) {
        uint8_t vector = (uint8_t)a->redirect[pin];

        if (!(a->redirect[pin] & ENTRY_REMOTE_IRR) || (held[vector / 64] >> vector % 64 & 1))
            continue;
        end_of_interrupt(a, vector);
        any = true;
    }
    lock_release(&a->vm->board_lock);
    return any;
}

/* --- registers -------------------------------------------------------------------------------- */

static void write_entry(struct ioapic *a, unsigned int pin, bool high, uint32_t value)
{
    uint64_t *entry = &a->redirect[pin];
    uint64_t half = high ? 0xFFFFFFFF00000000ull : 0xFFFFFFFFull;
    uint64_t mask = half & ENTRY_WRITABLE;
    *entry = (*entry & ~mask) | (((uint64_t)value << (high ? 32 : 0)) & mask);
    if (!entry_is_level(*entry))
        *entry &= ~ENTRY_REMOTE_IRR;
    evaluate_level(a, pin);
}

static uint32_t read_window(const struct ioapic *a)
{
    unsigned int pin = (a->select - INDEX_REDIRECT) / 2u;
    switch (a->select) {
    case INDEX_ID:
    case INDEX_ARBITRATION: /* loaded with the id, and nothing arbitrates */
        return (uint32_t)a->id << ID_SHIFT;
    case INDEX_VERSION:
        return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
    default:
        if (a->select < INDEX_REDIRECT || pin >= IOAPIC_PINS)
            return 0;
        return (uint32_t)(a->redirect[pin] >> (a->select & 1 ? 32 : 0));
    }
}

static void write_window(struct ioapic *a, uint32_t value)
{
    unsigned int pin = (a->select - INDEX_REDIRECT) / 2u;
    if (a->select == INDEX_ID)
        a->id = value >> ID_SHIFT & 0xF;
    else if (a->select >= INDEX_REDIRECT && pin < IOAPIC_PINS)
        write_entry(a, pin, (a->select & 1) != 0, value);
}

static void ioapic_access(void *device, struct bus_access *access)
{
    struct ioapic *a = device;
    uint32_t value = (uint32_t)access->value;
    if (!access->write) {
        access->value = access->offset == REG_SELECT   ? a->select
                        : access->offset == REG_WINDOW ? read_window(a)
                                                       : 0;
        return;
    }
    if (access->offset == REG_SELECT)
        a->select = (uint8_t)value;
    else if (access->offset == REG_WINDOW)
        write_window(a, value);
    else if (access->offset == REG_EOI)
        end_of_interrupt(a, (uint8_t)value);
}

static const struct bus_ops ioapic_ops = {"ioapic", 4, 4, false, ioapic_access};

/* --- state ------------------------------------------------------------------------------------ */

static void put(const struct ioapic *a, struct state_writer *w)
{
    state_put_u8(w, a->select);
    state_put_u8(w, a->id);
    state_put_u32(w, a->line);
    for (unsigned int pin = 0; pin < IOAPIC_PINS; pin++)
        state_put_u64(w, a->redirect[pin]);
}

static void get(struct ioapic *a, struct state_reader *r)
{
    a->select = state_get_u8(r);
    a->id = state_get_u8(r);
    a->line = state_get_u32(r);
    for (unsigned int pin = 0; pin < IOAPIC_PINS; pin++)
        a->redirect[pin] = state_get_u64(r);
}

static void ioapic_save(const void *object, struct state_writer *w)
{
    const struct ioapic *a = object;
    lock_take(&a->vm->board_lock);
    put(a, w);
    lock_release(&a->vm->board_lock);
}

static int ioapic_check(const void *object, struct state_reader *r)
{
    (void)object;
    struct ioapic a;
    get(&a, r);
    int err = state_get_end(r);
    if (err != OK)
        return err;
    if (a.id > 0xF || a.line >> IOAPIC_PINS != 0)
        return ERR_CORRUPT;
    for (unsigned int pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t entry = a.redirect[pin];
        if ((entry & ~(ENTRY_WRITABLE | ENTRY_REMOTE_IRR)) != 0 ||
            ((entry & ENTRY_REMOTE_IRR) != 0 && !entry_is_level(entry)))
            return ERR_CORRUPT;
    }
    return OK;
}

static int ioapic_load(void *object, struct state_reader *r)
{
    struct ioapic *a = object;
    lock_take(&a->vm->board_lock);
    get(a, r);
    lock_release(&a->vm->board_lock);
    return OK;
}

static const struct state_ops state_ops = {"ioapic", 1, ioapic_save, ioapic_check, ioapic_load};

/* --- life ------------------------------------------------------------------------------------- */

void ioapic_reset(struct ioapic *a)
{
    lock_assert_held(&a->vm->board_lock);
    a->select = 0;
    a->id = 0;
    a->line = 0;
    for (unsigned int pin = 0; pin < IOAPIC_PINS; pin++)
        a->redirect[pin] = ENTRY_MASKED;
}

int ioapic_create(struct ioapic *a, struct vm *vm)
{
    *a = (struct ioapic){.vm = vm};
    lock_take(&vm->board_lock);
    ioapic_reset(a);
    lock_release(&vm->board_lock);
    int err =
        bus_add(&vm->mmio_bus, LODGE_MMIO_IO_APIC, REGION_SIZE, &ioapic_ops, a, &vm->board_lock);
    return err == OK ? state_register(&vm->state, &state_ops, a, 0) : err;
}
