/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * ACPI fixed hardware: PM1 event block (status, enable), PM1 control block, PM timer, GPE0 block (status, enable),
 * SCI.
 *
 * The PM timer is the VM clock at 3.579545 MHz, 32 bits. TMR_STS is set whenever its top bit
 * toggles, every ten minutes; that is brought up to date (account) when somebody looks, and a timer
 * is armed only while the event is enabled and its status clear.
 *
 * Sleep: SLP_EN with \_S5's type powers the VM off. No other state is offered, so other types do
 * nothing.
 *
 * Locking: the board lock. The bus cuts PM1 accesses into bytes: status bits are written by ones
 * and the other registers have no meaning across a byte border, so halves need not be atomic.
 */
#include "device/acpi_pm.h"

#include "core/err.h"
#include "lodge/ports.h"

enum {
    PM1_SIZE = 6, /* event block, control block behind it */
    TIMER_SIZE = 4,
    GPE_SIZE = 2,
    GPE_IDENTITY = 1 << ACPI_PM_GPE_IDENTITY, /* the only one; others are never set, nor enabled */

    EVENT_TIMER = 1 << 0, /* the same bits in status and enable (ACPI 6.5, tables 4.11, 4.12) */
    EVENT_GLOBAL = 1 << 5,
    EVENT_POWER_BUTTON = 1 << 8,
    EVENT_RTC = 1 << 10,
    EVENTS = EVENT_TIMER | EVENT_GLOBAL | EVENT_POWER_BUTTON | EVENT_RTC,

    CONTROL_SCI_EN = 1 << 0,
    CONTROL_SLP_TYP_SHIFT = 2, /* in the upper byte */
    CONTROL_SLP_EN = 1 << 5,   /* in the upper byte */

    HALF_SHIFT = ACPI_PM_TIMER_BITS - 1,
};
#define NS_PER_SECOND 1000000000u

_Static_assert(LODGE_PORT_ACPI_PM1_CONTROL == LODGE_PORT_ACPI_PM1_EVENT + 4, "one bus region");

static uint64_t timer_ticks(const struct acpi_pm *p)
{
    return scale_u64(vm_clock_ns(p->vm), ACPI_PM_TIMER_HZ, NS_PER_SECOND);
}

static void account(struct acpi_pm *p)
{
    uint32_t half = (uint32_t)(timer_ticks(p) >> HALF_SHIFT);
    if (half != p->timer_half)
        p->status |= EVENT_TIMER;
    p->timer_half = half;
}

static uint64_t next_toggle(const struct acpi_pm *p)
{
    if (!(p->enable & ~p->status & EVENT_TIMER))
        return VM_TIMER_NEVER;
    uint64_t ticks = (uint64_t)(p->timer_half + 1) << HALF_SHIFT;
    return scale_u64(ticks, NS_PER_SECOND, ACPI_PM_TIMER_HZ) + 1;
}

static void update(struct acpi_pm *p)
{
    irq_line_set(&p->sci, (p->status & p->enable) != 0 || (p->gpe_status & p->gpe_enable) != 0);
    vm_timer_set(p->vm, &p->timer, next_toggle(p));
}

static void acpi_pm_fire(void *owner)
{
    struct acpi_pm *p = owner;
    lock_take(&p->vm->board_lock);
    account(p);
    update(p);
    lock_release(&p->vm->board_lock);
}

void acpi_pm_power_button(struct acpi_pm *p)
{
    lock_take(&p->vm->board_lock);
    p->status |= EVENT_POWER_BUTTON;
    update(p);
    lock_release(&p->vm->board_lock);
}

void acpi_pm_new_identity(struct acpi_pm *p)
{
    lock_take(&p->vm->board_lock);
    p->gpe_status |= GPE_IDENTITY;
    update(p);
    lock_release(&p->vm->board_lock);
}

/* --- PM1 registers, byte by byte -------------------------------------------------------------- */

static uint8_t pm1_read(const struct acpi_pm *p, unsigned int byte)
{
    const uint16_t control = CONTROL_SCI_EN | (uint16_t)(p->sleep_type << 10);
    const uint16_t words[PM1_SIZE / 2] = {p->status, p->enable, control};
    return (uint8_t)(words[byte / 2] >> (byte % 2 * 8));
}

static void write_sleep(struct acpi_pm *p, uint8_t value)
{
    p->sleep_type = value >> CONTROL_SLP_TYP_SHIFT & 7;
    if ((value & CONTROL_SLP_EN) && p->sleep_type == ACPI_PM_SLP_TYP_S5)
        vm_stop(p->vm, VM_STOP_POWEROFF, 0, "the guest powered off");
}

static void pm1_write(struct acpi_pm *p, unsigned int byte, uint8_t value)
{
    unsigned int shift = byte % 2 * 8;
    uint16_t bits = (uint16_t)((unsigned int)value << shift);
    switch (byte / 2) {
    case 0:
        p->status &= (uint16_t)~bits;
        break;
    case 1:
        p->enable = (uint16_t)((p->enable & ~(0xFFu << shift)) | bits) & EVENTS;
        break;
    default: /* the lower byte's SCI_EN is not the guest's to change; GBL_RLS has no one to tell */
        if (byte % 2 == 1)
            write_sleep(p, value);
        break;
    }
}

static void pm1_access(void *device, struct bus_access *a)
{
    struct acpi_pm *p = device;
    unsigned int byte = (unsigned int)a->offset % PM1_SIZE;
    account(p);
    if (a->write)
        pm1_write(p, byte, (uint8_t)a->value);
    else
        a->value = pm1_read(p, byte);
    update(p);
}

static void timer_access(void *device, struct bus_access *a)
{
    const struct acpi_pm *p = device;
    if (!a->write)
        a->value = (uint32_t)timer_ticks(p);
}

/* Status, where ones clear, and enable (4.8.4.1.1). */
static void gpe_access(void *device, struct bus_access *a)
{
    struct acpi_pm *p = device;
    bool enable = a->offset % GPE_SIZE == 1;
    if (!a->write)
        a->value = enable ? p->gpe_enable : p->gpe_status;
    else if (enable)
        p->gpe_enable = (uint8_t)a->value & GPE_IDENTITY;
    else
        p->gpe_status &= (uint8_t)~a->value;
    update(p);
}

static const struct bus_ops pm1_ops = {"acpi_pm1", 1, 1, false, pm1_access};
static const struct bus_ops timer_ops = {"acpi_timer", 4, 4, false, timer_access};
static const struct bus_ops gpe_ops = {"acpi_gpe0", 1, 1, false, gpe_access};

/* --- state ------------------------------------------------------------------------------------ */

static void get(struct acpi_pm *p, struct state_reader *r)
{
    p->status = state_get_u16(r);
    p->enable = state_get_u16(r);
    p->sleep_type = state_get_u8(r);
    p->timer_half = state_get_u32(r);
    p->gpe_status = state_get_u8(r);
    p->gpe_enable = state_get_u8(r);
}

static void acpi_pm_save(const void *object, struct state_writer *w)
{
    const struct acpi_pm *p = object;
    lock_take(&p->vm->board_lock);
    state_put_u16(w, p->status);
    state_put_u16(w, p->enable);
    state_put_u8(w, p->sleep_type);
    state_put_u32(w, p->timer_half);
    state_put_u8(w, p->gpe_status);
    state_put_u8(w, p->gpe_enable);
    lock_release(&p->vm->board_lock);
}

static int acpi_pm_check(const void *object, struct state_reader *r)
{
    (void)object;
    struct acpi_pm p;
    get(&p, r);
    int err = state_get_end(r);
    if (err != OK)
        return err;
    bool valid = (p.status & ~(EVENT_TIMER | EVENT_POWER_BUTTON)) == 0 &&
                 (p.enable & ~EVENTS) == 0 && p.sleep_type <= 7 &&
                 ((p.gpe_status | p.gpe_enable) & ~GPE_IDENTITY) == 0;
    return valid ? OK : ERR_CORRUPT;
}

static int acpi_pm_load(void *object, struct state_reader *r)
{
    struct acpi_pm *p = object;
    lock_take(&p->vm->board_lock);
    get(p, r);
    vm_timer_set(p->vm, &p->timer, next_toggle(p));
    lock_release(&p->vm->board_lock);
    return OK;
}

static const struct state_ops state_ops = {"acpi_pm", 2, acpi_pm_save, acpi_pm_check, acpi_pm_load};

/* --- life ------------------------------------------------------------------------------------- */

void acpi_pm_reset(struct acpi_pm *p)
{
    lock_assert_held(&p->vm->board_lock);
    account(p);
    p->status = 0;
    p->enable = 0;
    p->sleep_type = 0;
    p->gpe_status = 0;
    p->gpe_enable = 0;
    update(p);
}

int acpi_pm_create(struct acpi_pm *p, struct vm *vm, struct irq_line sci)
{
    *p = (struct acpi_pm){.vm = vm, .sci = sci};
    vm_timer_init(&p->timer, acpi_pm_fire, p);
    lock_take(&vm->board_lock);
    acpi_pm_reset(p);
    lock_release(&vm->board_lock);
    int err =
        bus_add(&vm->port_bus, LODGE_PORT_ACPI_PM1_EVENT, PM1_SIZE, &pm1_ops, p, &vm->board_lock);
    if (err == OK)
        err = bus_add(&vm->port_bus, LODGE_PORT_ACPI_PM_TIMER, TIMER_SIZE, &timer_ops, p, NULL);
    if (err == OK)
        err = bus_add(&vm->port_bus, LODGE_PORT_ACPI_GPE0, GPE_SIZE, &gpe_ops, p, &vm->board_lock);
    return err == OK ? state_register(&vm->state, &state_ops, p, 0) : err;
}
