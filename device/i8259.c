/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Two 8259A interrupt controllers in cascade, with the edge/level control registers that PCI
 * chipsets added (82371AB data sheet, 4.2.4). Everything the data sheet gives an 80x86 system is
 * here: initialization words, fully nested, special fully nested and special mask mode, rotation,
 * automatic EOI, poll. What only an MCS-80 system uses (call addresses), single mode, buffered mode
 * and ICW1's level bit (ELCR replaces it) are accepted and without effect, as in chipsets.
 *
 * Requests. An edge-triggered input latches a request on a rising edge and keeps it until it is
 * acknowledged, also while it is masked. A level-triggered input's request is its level. The
 * slave's output is an ordinary input of the master; it is lowered at each acknowledge, so that the
 * next request of the slave is an edge again.
 *
 * Spurious interrupts. If the slave has withdrawn its request by the time of the acknowledge, it
 * answers with its input 7, without setting ISR, as the chip does (IRQ 15). The master's own IRQ 7
 * cannot come about: a processor that acknowledges after INTR has fallen is told so (-1) and takes
 * no interrupt, as if it had looked a moment later.
 *
 * Locking: the board lock, around everything. INTR is told to the APIC bus under it
 * (apic_set_extint takes no lock).
 */
#include "device/i8259.h"

#include "core/err.h"
#include "x86/lapic.h"

enum {
    MASTER,
    SLAVE,
    CASCADE = 2, /* the master's input that the slave is on */
    SPURIOUS = 7,

    ICW1_IC4 = 1 << 0,
    ICW1 = 1 << 4,
    ICW4_AUTO_EOI = 1 << 1,
    ICW4_FULLY_NESTED = 1 << 4,
    OCW3 = 1 << 3,
    OCW3_READ = 1 << 1,
    OCW3_READ_ISR = 1 << 0,
    OCW3_POLL = 1 << 2,
    OCW3_SET_MASK_MODE = 1 << 6,
    OCW3_MASK_MODE = 1 << 5,
};

/* Inputs that can be level-triggered: not the timer, keyboard, cascade, RTC and FPU. */
static const uint8_t elcr_writable[2] = {0xF8, 0xDE};
static const uint16_t chip_ports[2] = {0x20, 0xA0};

/* Highest-priority bit of a non-empty set, seen from the input with the lowest priority. */
static int first_by_priority(const struct i8259_chip *c, uint8_t set)
{
    for (int i = 1; i <= 8; i++) {
        int input = (c->lowest + i) & 7;
        if (set >> input & 1)
            return input;
    }
    return -1;
}

/* How urgent an input is: 0 most, 7 least; 8 for none. */
static int rank_of(const struct i8259_chip *c, int input)
{
    return input < 0 ? 8 : (input - c->lowest - 1) & 7;
}

/* The input that this chip asks for now, or -1. */
static int chip_pending(const struct i8259_chip *c, bool is_master)
{
    uint8_t request = c->irr & (uint8_t)~c->imr;
    uint8_t service = c->isr;
    if (c->next_icw != 0 || request == 0)
        return -1;
    if (c->special_mask)
        service &= (uint8_t)~c->imr;
    if (c->fully_nested && is_master)
        service &= (uint8_t) ~(1u << CASCADE);
    int wanted = first_by_priority(c, request);
    return rank_of(c, wanted) < rank_of(c, first_by_priority(c, service)) ? wanted : -1;
}

static void chip_set_line(struct i8259_chip *c, unsigned int input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);
    bool rises = level && !(c->line & bit);
    c->line = level ? c->line | bit : c->line & (uint8_t)~bit;
    if (c->elcr & bit)
        c->irr = level ? c->irr | bit : c->irr & (uint8_t)~bit;
    else if (rises)
        c->irr |= bit;
}

/* Passes outputs on: slave to master, master to the processor. */
static void update(struct i8259 *p)
{
    chip_set_line(&p->chip[MASTER], CASCADE, chip_pending(&p->chip[SLAVE], false) >= 0);
    bool intr = chip_pending(&p->chip[MASTER], true) >= 0;
    if (intr != p->intr) {
        p->intr = intr;
        apic_set_extint(p->vm, intr);
    }
}

/* INTA or poll: the input that is acknowledged; -1 if there is none. */
static int chip_acknowledge(struct i8259_chip *c, bool is_master)
{
    int input = chip_pending(c, is_master);
    if (input < 0)
        return -1;
    uint8_t bit = (uint8_t)(1u << input);
    if (!(c->elcr & bit))
        c->irr &= (uint8_t)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_auto)
        c->lowest = (uint8_t)input;
    return input;
}

static uint8_t acknowledge_slave(struct i8259 *p)
{
    struct i8259_chip *c = &p->chip[SLAVE];
    int input = chip_acknowledge(c, false);
    chip_set_line(&p->chip[MASTER], CASCADE, false);
    return (uint8_t)(c->vector_base + (input < 0 ? SPURIOUS : input));
}

int i8259_ack(void *pic)
{
    struct i8259 *p = pic;
    int vector = -1;
    lock_take(&p->vm->board_lock);
    int input = chip_acknowledge(&p->chip[MASTER], true);
    if (input == CASCADE)
        vector = acknowledge_slave(p);
    else if (input >= 0)
        vector = p->chip[MASTER].vector_base + input;
    update(p);
    lock_release(&p->vm->board_lock);
    return vector;
}

void i8259_set_line(void *pic, unsigned int input, bool level)
{
    struct i8259 *p = pic;
    lock_assert_held(&p->vm->board_lock);
    if (input >= 16 || input == CASCADE || (p->chip[input / 8].line >> input % 8 & 1) == level)
        return; /* devices say their level at each access; requests follow it, or its edges */
    chip_set_line(&p->chip[input / 8], input % 8, level);
    update(p);
}

/* --- commands, port 0 ------------------------------------------------------------------------- */

/* Requests that the sense circuit gives by itself: the level-triggered inputs that are high. */
static uint8_t level_requests(const struct i8259_chip *c)
{
    return c->line & c->elcr;
}

/* ICW1 (data sheet, "Initialization Command Words"): a new sequence, from any state. */
static void write_icw1(struct i8259_chip *c, uint8_t value)
{
    uint8_t line = c->line, elcr = c->elcr, base = c->vector_base;
    *c = (struct i8259_chip){.line = line, .elcr = elcr, .vector_base = base, .lowest = 7};
    c->irr = level_requests(c);
    c->needs_icw4 = (value & ICW1_IC4) != 0;
    c->next_icw = 2;
}

static void write_ocw3(struct i8259_chip *c, uint8_t value)
{
    if (value & OCW3_READ)
        c->read_isr = (value & OCW3_READ_ISR) != 0;
    c->poll = (value & OCW3_POLL) != 0;
    if (value & OCW3_SET_MASK_MODE)
        c->special_mask = (value & OCW3_MASK_MODE) != 0;
}

static void end_input(struct i8259_chip *c, int input, bool rotate)
{
    if (input < 0)
        return;
    c->isr &= (uint8_t) ~(1u << input);
    if (rotate)
        c->lowest = (uint8_t)input;
}

/* The highest in service; in special mask mode not one that is masked. */
static int to_end(const struct i8259_chip *c)
{
    uint8_t service = c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr;
    return first_by_priority(c, service);
}

static void eoi(struct i8259_chip *c, int input)
{
    (void)input;
    end_input(c, to_end(c), false);
}

static void rotate_eoi(struct i8259_chip *c, int input)
{
    (void)input;
    end_input(c, to_end(c), true);
}

static void specific_eoi(struct i8259_chip *c, int input)
{
    end_input(c, input, false);
}

static void rotate_specific_eoi(struct i8259_chip *c, int input)
{
    end_input(c, input, true);
}

static void clear_rotate_auto(struct i8259_chip *c, int input)
{
    (void)input;
    c->rotate_auto = false;
}

static void set_rotate_auto(struct i8259_chip *c, int input)
{
    (void)input;
    c->rotate_auto = true;
}

static void set_priority(struct i8259_chip *c, int input)
{
    c->lowest = (uint8_t)input;
}

static void no_operation(struct i8259_chip *c, int input)
{
    (void)c;
    (void)input;
}

/* OCW2 by its bits R, SL, EOI. */
static void (*const ocw2[8])(struct i8259_chip *c, int input) = {
    clear_rotate_auto, eoi,        no_operation, specific_eoi,
    set_rotate_auto,   rotate_eoi, set_priority, rotate_specific_eoi,
};

static void write_command(struct i8259_chip *c, uint8_t value)
{
    if (value & ICW1)
        write_icw1(c, value);
    else if (value & OCW3)
        write_ocw3(c, value);
    else
        ocw2[value >> 5](c, value & 7);
}

/* --- data, port 1 ----------------------------------------------------------------------------- */

static void write_data(struct i8259_chip *c, uint8_t value)
{
    switch (c->next_icw) {
    case 2:
        c->vector_base = value & 0xF8;
        c->next_icw = 3;
        break;
    case 3: /* where the slave is: fixed by the wiring */
        c->next_icw = c->needs_icw4 ? 4 : 0;
        break;
    case 4:
        c->auto_eoi = (value & ICW4_AUTO_EOI) != 0;
        c->fully_nested = (value & ICW4_FULLY_NESTED) != 0;
        c->next_icw = 0;
        break;
    default:
        c->imr = value;
        break;
    }
}

static uint8_t read_poll(struct i8259 *p, unsigned int which)
{
    struct i8259_chip *c = &p->chip[which];
    c->poll = false;
    int input = chip_acknowledge(c, which == MASTER);
    if (which == SLAVE)
        chip_set_line(&p->chip[MASTER], CASCADE, false);
    return input < 0 ? 0 : (uint8_t)(0x80 | input);
}

static void chip_access(struct i8259 *p, unsigned int which, struct bus_access *a)
{
    struct i8259_chip *c = &p->chip[which];
    bool data = (a->offset & 1) != 0;
    if (!a->write && c->poll)
        a->value = read_poll(p, which);
    else if (!a->write)
        a->value = data ? c->imr : c->read_isr ? c->isr : c->irr;
    else if (data)
        write_data(c, (uint8_t)a->value);
    else
        write_command(c, (uint8_t)a->value);
    update(p);
}

static void master_access(void *device, struct bus_access *a)
{
    chip_access(device, MASTER, a);
}

static void slave_access(void *device, struct bus_access *a)
{
    chip_access(device, SLAVE, a);
}

static void elcr_access(void *device, struct bus_access *a)
{
    struct i8259 *p = device;
    struct i8259_chip *c = &p->chip[a->offset & 1];
    if (!a->write) {
        a->value = c->elcr;
        return;
    }
    uint8_t before = c->elcr;
    c->elcr = (uint8_t)a->value & elcr_writable[a->offset & 1];
    /* an input that becomes level-triggered forgets its edges */
    c->irr &= (uint8_t) ~(c->elcr & (uint8_t)~before);
    c->irr |= level_requests(c);
    update(p);
}

static const struct bus_ops master_ops = {"i8259", 1, 1, false, master_access};
static const struct bus_ops slave_ops = {"i8259", 1, 1, false, slave_access};
static const struct bus_ops elcr_ops = {"elcr", 1, 1, false, elcr_access};

/* --- state ------------------------------------------------------------------------------------ */

static void put_chip(const struct i8259_chip *c, struct state_writer *w)
{
    state_put_u8(w, c->line);
    state_put_u8(w, c->irr);
    state_put_u8(w, c->isr);
    state_put_u8(w, c->imr);
    state_put_u8(w, c->elcr);
    state_put_u8(w, c->vector_base);
    state_put_u8(w, c->lowest);
    state_put_u8(w, c->next_icw);
    state_put_bool(w, c->needs_icw4);
    state_put_bool(w, c->auto_eoi);
    state_put_bool(w, c->rotate_auto);
    state_put_bool(w, c->fully_nested);
    state_put_bool(w, c->special_mask);
    state_put_bool(w, c->read_isr);
    state_put_bool(w, c->poll);
}

static void get_chip(struct i8259_chip *c, struct state_reader *r)
{
    c->line = state_get_u8(r);
    c->irr = state_get_u8(r);
    c->isr = state_get_u8(r);
    c->imr = state_get_u8(r);
    c->elcr = state_get_u8(r);
    c->vector_base = state_get_u8(r);
    c->lowest = state_get_u8(r);
    c->next_icw = state_get_u8(r);
    c->needs_icw4 = state_get_bool(r);
    c->auto_eoi = state_get_bool(r);
    c->rotate_auto = state_get_bool(r);
    c->fully_nested = state_get_bool(r);
    c->special_mask = state_get_bool(r);
    c->read_isr = state_get_bool(r);
    c->poll = state_get_bool(r);
}

static bool chip_is_valid(const struct i8259_chip *c, uint8_t elcr_mask)
{
    return (c->irr & c->elcr) == level_requests(c) && (c->elcr & (uint8_t)~elcr_mask) == 0 &&
           (c->vector_base & 7) == 0 && c->lowest < 8 && c->next_icw != 1 && c->next_icw <= 4 &&
           (c->next_icw != 4 || c->needs_icw4);
}

static void i8259_save(const void *object, struct state_writer *w)
{
    const struct i8259 *p = object;
    lock_take(&p->vm->board_lock);
    put_chip(&p->chip[MASTER], w);
    put_chip(&p->chip[SLAVE], w);
    lock_release(&p->vm->board_lock);
}

/* The cascade input must be what the slave asks for: its edge has been seen. */
static int i8259_check(const void *object, struct state_reader *r)
{
    (void)object;
    struct i8259_chip chip[2];
    get_chip(&chip[MASTER], r);
    get_chip(&chip[SLAVE], r);
    int err = state_get_end(r);
    if (err != OK)
        return err;
    bool slave_asks = chip_pending(&chip[SLAVE], false) >= 0;
    if (!chip_is_valid(&chip[MASTER], elcr_writable[MASTER]) ||
        !chip_is_valid(&chip[SLAVE], elcr_writable[SLAVE]) ||
        (chip[MASTER].line >> CASCADE & 1) != slave_asks)
        return ERR_CORRUPT;
    return OK;
}

static int i8259_load(void *object, struct state_reader *r)
{
    struct i8259 *p = object;
    lock_take(&p->vm->board_lock);
    get_chip(&p->chip[MASTER], r);
    get_chip(&p->chip[SLAVE], r);
    p->intr = chip_pending(&p->chip[MASTER], true) >= 0;
    apic_set_extint(p->vm, p->intr);
    lock_release(&p->vm->board_lock);
    return OK;
}

static const struct state_ops state_ops = {"i8259", 1, i8259_save, i8259_check, i8259_load};

/* --- life ------------------------------------------------------------------------------------- */

/* Everything masked. The chip leaves power-on undefined; a guest writes ICW1 to ICW4 first. */
void i8259_reset(struct i8259 *p)
{
    lock_assert_held(&p->vm->board_lock);
    for (unsigned int i = 0; i < 2; i++)
        p->chip[i] = (struct i8259_chip){.lowest = 7, .imr = 0xFF};
    p->intr = false;
    apic_set_extint(p->vm, false);
}

int i8259_create(struct i8259 *p, struct vm *vm)
{
    *p = (struct i8259){.vm = vm};
    lock_take(&vm->board_lock);
    i8259_reset(p);
    lock_release(&vm->board_lock);
    int err = bus_add(&vm->port_bus, chip_ports[MASTER], 2, &master_ops, p, &vm->board_lock);
    if (err == OK)
        err = bus_add(&vm->port_bus, chip_ports[SLAVE], 2, &slave_ops, p, &vm->board_lock);
    if (err == OK)
        err = bus_add(&vm->port_bus, 0x4D0, 2, &elcr_ops, p, &vm->board_lock);
    return err == OK ? state_register(&vm->state, &state_ops, p, 0) : err;
}
