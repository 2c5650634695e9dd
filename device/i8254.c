/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * 8254 programmable interval timer: three channels at 1.193182 MHz, modes 0-5, binary and BCD,
 * latch and read-back commands; and port 0x61.
 *
 * Nothing counts: a channel remembers when it began, and its output and count are functions of the
 * clock ticks that have passed since (channel_output, channel_count). Only channel 0's output does
 * something by itself, interrupts, and only its rising edges matter to whoever it is wired to
 * (edge- triggered inputs), so a timer runs to the next rising edge and pulses the line.
 *
 * Rates (bad-inputs D4). A guest may ask for an interrupt every microsecond. Edges closer together
 * than I8254_MIN_PERIOD_NS are merged to the smallest multiple of the period that is not; edges for
 * which the timer thread came too late are merged as well, none is made up for. The count goes on
 * at its own rate. So a guest that counts ticks for its time of day falls behind when it asks for
 * more than 10 kHz or when its host is overloaded; it should read one of the clocks.
 *
 * Differences from the chip: a count that is written while modes 2 and 3 are counting takes effect
 * at once, not at the end of the period; there is no clock between a write and its effect.
 *
 * Gates: channels 0 and 1 are wired high, so their modes 1 and 5 never start. Channel 2's gate is
 * bit 0 of port 0x61.
 *
 * Locking: the board lock.
 */
#include "device/i8254.h"

#include "core/err.h"

enum {
    PORT_CHANNEL0 = 0x40,
    PORT_SPEAKER = 0x61,

    ACCESS_LOW = 1,
    ACCESS_HIGH = 2,
    ACCESS_BOTH = 3,

    READ_BACK_NO_COUNT = 1 << 5,
    READ_BACK_NO_STATUS = 1 << 4,
    STATUS_OUTPUT = 1 << 7,
    STATUS_NULL_COUNT = 1 << 6,

    SPEAKER_GATE2 = 1 << 0,
    SPEAKER_WRITABLE = 0x0F, /* gate, speaker data, and two NMI enables that gate nothing here */
    SPEAKER_REFRESH = 1 << 4,
    SPEAKER_OUT2 = 1 << 5,
    REFRESH_NS = 15085, /* channel 1 programmed for 18 ticks, as firmware does */
};
#define NS_PER_SECOND 1000000000u

/* --- time ------------------------------------------------------------------------------------- */

static uint64_t ticks_of(uint64_t ns)
{
    return scale_u64(ns, I8254_HZ, NS_PER_SECOND);
}

/* The smallest time at which that many ticks have passed. */
static uint64_t ns_of(uint64_t ticks)
{
    return scale_u64(ticks, NS_PER_SECOND, I8254_HZ) + 1;
}

static uint64_t channel_ns(const struct i8254_channel *c, uint64_t now)
{
    return c->running ? now - c->start : c->elapsed;
}

static bool is_periodic(const struct i8254_channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

/* OUT by mode (data sheet, "Mode Definitions"), ticks after counting began; n is the count. */
static bool channel_output(const struct i8254_channel *c, uint64_t now)
{
    uint64_t n = c->count, ticks = ticks_of(channel_ns(c, now));
    if (!c->loaded)
        return c->mode != 0;
    switch (c->mode) {
    case 0:
        return ticks >= n;
    case 1: /* low from the trigger on; before it, elapsed is 0 and it does not run */
        return !c->running || ticks >= n;
    case 2: /* low for the last tick of each period */
        return !c->running || ticks % n != n - 1;
    case 3: /* high for the first half, the longer one if n is odd */
        return !c->running || ticks % n < (n + 1) / 2;
    default: /* 4, 5: low for one tick when the count is through */
        return ticks != n;
    }
}

/* The counting element: counts down from n, on through 0 in the modes that end once. */
static uint16_t channel_count(const struct i8254_channel *c, uint64_t now)
{
    uint64_t n = c->count, ticks = ticks_of(channel_ns(c, now));
    uint64_t modulus = c->bcd ? 10000 : 65536;
    uint64_t left;
    if (c->mode == 2)
        left = n - ticks % n;
    else if (c->mode == 3) /* counts by twos, twice per period */
        left = n - (ticks * 2 % n & ~(uint64_t)1);
    else
        left = n + modulus - ticks % modulus;
    left %= modulus;
    if (!c->bcd)
        return (uint16_t)left;
    return (uint16_t)(left % 10 | left / 10 % 10 << 4 | left / 100 % 10 << 8 | left / 1000 << 12);
}

/* --- channel 0's interrupt -------------------------------------------------------------------- */

/* The first rising edge of channel 0's OUT after now, but not sooner than the rate limit allows
 * after the one before; VM_TIMER_NEVER if there is none. */
static uint64_t next_rising_edge(const struct i8254_channel *c, uint64_t now)
{
    if (!c->loaded || !c->running || c->mode == 1 || c->mode == 5)
        return VM_TIMER_NEVER;
    if (!is_periodic(c)) {
        uint64_t edge = c->start + ns_of(c->mode == 4 ? (uint64_t)c->count + 1 : c->count);
        return edge > now ? edge : VM_TIMER_NEVER;
    }
    uint64_t shortest = ticks_of(I8254_MIN_PERIOD_NS);
    uint64_t step = (shortest + c->count - 1) / c->count * c->count;
    uint64_t passed = ticks_of(now - c->start) / step;
    return c->start + ns_of((passed + 1) * step);
}

static void arm(struct i8254 *t)
{
    t->next_edge = next_rising_edge(&t->channel[0], vm_clock_ns(t->vm));
    vm_timer_set(t->vm, &t->timer, t->next_edge);
}

static void i8254_fire(void *owner)
{
    struct i8254 *t = owner;
    lock_take(&t->vm->board_lock);
    if (vm_clock_ns(t->vm) >= t->next_edge) { /* else it was reprogrammed meanwhile */
        irq_line_pulse(&t->irq);
        arm(t);
    }
    lock_release(&t->vm->board_lock);
}

/* --- programming ------------------------------------------------------------------------------ */

/* Counting starts anew with the gate as it is. Modes 1 and 5 wait for the gate to rise. */
static void channel_start(struct i8254_channel *c, uint64_t now, bool triggered)
{
    c->running = (c->mode == 1 || c->mode == 5) ? triggered : c->gate;
    c->start = now;
    c->elapsed = 0;
}

static void channel_load(struct i8254_channel *c, uint16_t value, uint64_t now)
{
    uint32_t count = value;
    if (c->bcd)
        count = (value & 0xFu) + (value >> 4 & 0xFu) * 10 + (value >> 8 & 0xFu) * 100 +
                (value >> 12) * 1000u; /* digits over 9 count as they are: at most 16665 */
    if (count == 0)
        count = c->bcd ? 10000 : 65536;
    bool was_running = c->running;
    c->count = count;
    c->loaded = true;
    /* in modes 1 and 5 a new count waits for the next trigger; ours takes effect now */
    if (c->mode != 1 && c->mode != 5)
        channel_start(c, now, false);
    else if (!was_running)
        channel_start(c, now, false);
}

static void channel_write(struct i8254_channel *c, uint8_t value, uint64_t now)
{
    switch (c->access) {
    case ACCESS_LOW:
        channel_load(c, value, now);
        break;
    case ACCESS_HIGH:
        channel_load(c, (uint16_t)(value << 8), now);
        break;
    default:
        if (c->write_high) {
            channel_load(c, (uint16_t)(value << 8 | c->write_low), now);
        } else {
            c->write_low = value;
            if (c->mode == 0) { /* the first byte stops the count */
                c->loaded = false;
                c->running = false;
                c->elapsed = 0;
            }
        }
        c->write_high = !c->write_high;
        break;
    }
}

static void latch_count(struct i8254_channel *c, uint64_t now)
{
    if (c->latched_bytes != 0)
        return; /* until it has been read, further latch commands are ignored */
    c->latched = channel_count(c, now);
    c->latched_bytes = c->access == ACCESS_BOTH ? 2 : 1;
}

static void latch_status(struct i8254_channel *c, uint64_t now)
{
    if (c->status_latched)
        return;
    c->status_latched = true;
    c->status = (uint8_t)((channel_output(c, now) ? STATUS_OUTPUT : 0) |
                          (c->loaded ? 0 : STATUS_NULL_COUNT) | c->access << 4 | c->mode << 1 |
                          (c->bcd ? 1 : 0));
}

static uint8_t read_latched(struct i8254_channel *c)
{
    c->latched_bytes--;
    bool high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->latched_bytes == 0);
    return (uint8_t)(high ? c->latched >> 8 : c->latched);
}

static uint8_t channel_read(struct i8254_channel *c, uint64_t now)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->latched_bytes != 0)
        return read_latched(c);
    uint16_t count = channel_count(c, now);
    bool high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);
    if (c->access == ACCESS_BOTH)
        c->read_high = !c->read_high;
    return (uint8_t)(high ? count >> 8 : count);
}

/* Control word 11CS2100: latches count and/or status of the selected channels. */
static void read_back(struct i8254 *t, uint8_t value, uint64_t now)
{
    for (unsigned int i = 0; i < 3; i++) {
        if (!(value >> (i + 1) & 1))
            continue;
        if (!(value & READ_BACK_NO_COUNT))
            latch_count(&t->channel[i], now);
        if (!(value & READ_BACK_NO_STATUS))
            latch_status(&t->channel[i], now);
    }
}

static void write_control(struct i8254 *t, uint8_t value, uint64_t now)
{
    unsigned int which = value >> 6;
    if (which == 3) {
        read_back(t, value, now);
        return;
    }
    struct i8254_channel *c = &t->channel[which];
    uint8_t access = value >> 4 & 3;
    if (access == 0) {
        latch_count(c, now);
        return;
    }
    uint8_t mode = value >> 1 & 7;
    *c = (struct i8254_channel){
        .mode = mode > 5 ? mode - 4 : mode, /* 6 and 7 are 2 and 3 */
        .access = access,
        .bcd = (value & 1) != 0,
        .gate = c->gate,
        .count = c->count,
    };
}

static void i8254_access(void *device, struct bus_access *a)
{
    struct i8254 *t = device;
    uint64_t now = vm_clock_ns(t->vm);
    unsigned int which = a->offset & 3;
    if (!a->write) {
        a->value = which == 3 ? 0xFF : channel_read(&t->channel[which], now);
        return;
    }
    if (which == 3)
        write_control(t, (uint8_t)a->value, now);
    else
        channel_write(&t->channel[which], (uint8_t)a->value, now);
    /* Only then: an edge that is due must not be lost because somebody latches a count. */
    if (which == 0 || (which == 3 && (a->value >> 6 & 3) == 0 && (a->value >> 4 & 3) != 0))
        arm(t);
}

/* --- port 0x61 -------------------------------------------------------------------------------- */

/* Modes 0 and 4 pause while the gate is low; 2 and 3 stop and start anew; 1 and 5 start at its
 * rising edge and then do not care. */
static void set_gate(struct i8254_channel *c, bool gate, uint64_t now)
{
    if (gate == c->gate)
        return;
    c->gate = gate;
    if (!c->loaded)
        return;
    if (c->mode == 1 || c->mode == 5 || (is_periodic(c) && gate)) {
        if (gate)
            channel_start(c, now, true);
        return;
    }
    if (gate) {
        c->start = now - c->elapsed;
        c->elapsed = 0;
    } else {
        c->elapsed = is_periodic(c) ? 0 : now - c->start;
        c->start = 0;
    }
    c->running = gate;
}

static void speaker_access(void *device, struct bus_access *a)
{
    struct i8254 *t = device;
    uint64_t now = vm_clock_ns(t->vm);
    if (a->write) {
        t->port61 = (uint8_t)a->value & SPEAKER_WRITABLE;
        set_gate(&t->channel[2], (t->port61 & SPEAKER_GATE2) != 0, now);
        return;
    }
    a->value = t->port61 | (uint64_t)(now / REFRESH_NS & 1 ? SPEAKER_REFRESH : 0) |
               (uint64_t)(channel_output(&t->channel[2], now) ? SPEAKER_OUT2 : 0);
}

static const struct bus_ops i8254_ops = {"i8254", 1, 1, false, i8254_access};
static const struct bus_ops speaker_ops = {"port61", 1, 1, false, speaker_access};

/* --- state ------------------------------------------------------------------------------------ */

static void put_channel(const struct i8254_channel *c, struct state_writer *w)
{
    state_put_u64(w, c->start);
    state_put_u64(w, c->elapsed);
    state_put_u32(w, c->count);
    state_put_u8(w, c->mode);
    state_put_u8(w, c->access);
    state_put_bool(w, c->bcd);
    state_put_bool(w, c->loaded);
    state_put_bool(w, c->running);
    state_put_bool(w, c->gate);
    state_put_bool(w, c->write_high);
    state_put_bool(w, c->read_high);
    state_put_u8(w, c->write_low);
    state_put_u8(w, c->latched_bytes);
    state_put_u16(w, c->latched);
    state_put_bool(w, c->status_latched);
    state_put_u8(w, c->status);
}

static void get_channel(struct i8254_channel *c, struct state_reader *r)
{
    c->start = state_get_u64(r);
    c->elapsed = state_get_u64(r);
    c->count = state_get_u32(r);
    c->mode = state_get_u8(r);
    c->access = state_get_u8(r);
    c->bcd = state_get_bool(r);
    c->loaded = state_get_bool(r);
    c->running = state_get_bool(r);
    c->gate = state_get_bool(r);
    c->write_high = state_get_bool(r);
    c->read_high = state_get_bool(r);
    c->write_low = state_get_u8(r);
    c->latched_bytes = state_get_u8(r);
    c->latched = state_get_u16(r);
    c->status_latched = state_get_bool(r);
    c->status = state_get_u8(r);
}

static void i8254_save(const void *object, struct state_writer *w)
{
    const struct i8254 *t = object;
    lock_take(&t->vm->board_lock);
    for (unsigned int i = 0; i < 3; i++)
        put_channel(&t->channel[i], w);
    state_put_u8(w, t->port61);
    state_put_u64(w, t->next_edge);
    lock_release(&t->vm->board_lock);
}

/* A count of 0 would divide by zero; a gate other than the wiring's would never change again. */
static bool channel_is_valid(const struct i8254_channel *c, bool gate)
{
    bool both = c->access == ACCESS_BOTH;
    if (c->count == 0 || c->count > 65536 || c->mode > 5 || c->access == 0 || c->access > 3 ||
        c->gate != gate || c->latched_bytes > (both ? 2 : 1))
        return false;
    if ((c->write_high || c->read_high) && !both)
        return false;
    return !c->running || (c->loaded && c->elapsed == 0);
}

static int i8254_check(const void *object, struct state_reader *r)
{
    (void)object;
    struct i8254_channel channel[3];
    for (unsigned int i = 0; i < 3; i++)
        get_channel(&channel[i], r);
    uint8_t port61 = state_get_u8(r);
    uint64_t next_edge = state_get_u64(r);
    int err = state_get_end(r);
    if (err != OK)
        return err;
    bool wants_edges = channel[0].running && channel[0].mode != 1 && channel[0].mode != 5;
    if (!channel_is_valid(&channel[0], true) || !channel_is_valid(&channel[1], true) ||
        !channel_is_valid(&channel[2], (port61 & SPEAKER_GATE2) != 0) ||
        (port61 & ~SPEAKER_WRITABLE) != 0 || (next_edge != VM_TIMER_NEVER && !wants_edges))
        return ERR_CORRUPT;
    return OK;
}

static int i8254_load(void *object, struct state_reader *r)
{
    struct i8254 *t = object;
    lock_take(&t->vm->board_lock);
    for (unsigned int i = 0; i < 3; i++)
        get_channel(&t->channel[i], r);
    t->port61 = state_get_u8(r);
    t->next_edge = state_get_u64(r);
    vm_timer_set(t->vm, &t->timer, t->next_edge);
    lock_release(&t->vm->board_lock);
    return OK;
}

static const struct state_ops state_ops = {"i8254", 1, i8254_save, i8254_check, i8254_load};

/* --- life ------------------------------------------------------------------------------------- */

/* The chip leaves power-on undefined: nothing counts until a guest says so. */
void i8254_reset(struct i8254 *t)
{
    lock_assert_held(&t->vm->board_lock);
    for (unsigned int i = 0; i < 3; i++)
        t->channel[i] = (struct i8254_channel){
            .mode = 3, .access = ACCESS_BOTH, .count = 65536, .gate = i != 2};
    t->port61 = 0;
    arm(t);
}

int i8254_create(struct i8254 *t, struct vm *vm, struct irq_line irq)
{
    *t = (struct i8254){.vm = vm, .irq = irq};
    vm_timer_init(&t->timer, i8254_fire, t);
    lock_take(&vm->board_lock);
    i8254_reset(t);
    lock_release(&vm->board_lock);
    int err = bus_add(&vm->port_bus, PORT_CHANNEL0, 4, &i8254_ops, t, &vm->board_lock);
    if (err == OK)
        err = bus_add(&vm->port_bus, PORT_SPEAKER, 1, &speaker_ops, t, &vm->board_lock);
    return err == OK ? state_register(&vm->state, &state_ops, t, 0) : err;
}
