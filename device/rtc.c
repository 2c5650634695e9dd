/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * MC146818 real-time clock.
 *
 * Time. The guest's clock is the VM's wall clock plus an offset that changes when the guest sets
 * the time; so it runs exactly as fast as everything else that derives from the VM clock, stands
 * while the VM rests, and needs no timer to run. The time's bytes are made when they are read. Only
 * while the guest holds the clock (SET in register B, or the divider in reset) are they kept in
 * cmos[] as they were written; letting go turns them into a new offset. A field that is out of its
 * range is brought into it then. The day of the week is computed, whatever was written.
 *
 * Flags. PF, UF and AF of register C are brought up to date (account) when somebody looks and when
 * the timer fires; the timer is armed only for events that are enabled and whose flag is not set
 * yet, so a guest that does not read register C gets one interrupt and no more (as on the chip:
 * the line stays asserted). The fastest periodic rate is the chip's own, 122 us.
 *
 * An update takes no time: it happens at the end of the second, and UIP says so 244 us before, in
 * which a guest that has seen UIP clear can read undisturbed (data sheet, "Update Cycle").
 *
 * Not done: daylight saving (DSE), square wave output, day-of-month alarm, oscillators other than
 * 32768 Hz (their divider settings run like it).
 *
 * Locking: the board lock.
 */
#include "device/rtc.h"

#include "core/err.h"
#include "core/mem.h"

enum {
    PORT = 0x70, /* index, data */

    REG_SECONDS = 0x00,
    REG_SECONDS_ALARM = 0x01,
    REG_MINUTES = 0x02,
    REG_MINUTES_ALARM = 0x03,
    REG_HOURS = 0x04,
    REG_HOURS_ALARM = 0x05,
    REG_WEEKDAY = 0x06,
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0A,
    REG_B = 0x0B,
    REG_C = 0x0C,
    REG_D = 0x0D,

    A_UIP = 1 << 7,
    A_RATE = 0x0F,
    A_DIVIDER_SHIFT = 4,
    A_DIVIDER_RESET = 6, /* 6 and 7 */
    A_RESET_VALUE = 0x26,
    B_SET = 1 << 7,
    B_PIE = 1 << 6,
    B_AIE = 1 << 5,
    B_UIE = 1 << 4,
    B_SQWE = 1 << 3,
    B_BINARY = 1 << 2,
    B_24H = 1 << 1,
    C_IRQF = 1 << 7,
    C_PF = 1 << 6, /* flags C stand where their enables do in B */
    C_AF = 1 << 5,
    C_UF = 1 << 4,
    C_FLAGS = C_PF | C_AF | C_UF,
    D_VRT = 1 << 7,

    HOURS_PM = 1 << 7,
    ALARM_ANY = 0xC0, /* and above */

    OSCILLATOR_HZ = 32768,
    UIP_NS = 244000,
    SECONDS_PER_DAY = 86400,
};
#define NS_PER_SECOND 1000000000u
#define HALF_SECOND   500000000u

/* --- calendar --------------------------------------------------------------------------------- */

struct civil {
    uint32_t second, minute, hour, weekday, day, month, year; /* weekday 1: Sunday */
};

/* Days from 1970-01-01 to the first of a month. The year is counted from March, so that the leap
 * day is its last; months before it then have (153 * m + 2) / 5 days, m = 0 for March. */
static uint64_t days_to(uint32_t year, uint32_t month)
{
    uint64_t y = month <= 2 ? year - 1u : year;
    uint64_t m = month <= 2 ? month + 9 : month - 3;
    return y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 - 719468;
}

static struct civil civil_of(uint64_t seconds)
{
    uint64_t days = seconds / SECONDS_PER_DAY, rest = seconds % SECONDS_PER_DAY;
    uint32_t year = (uint32_t)(1970 + days / 366), month = 12;
    while (days_to(year + 1, 1) <= days)
        year++; /* a few times: 366 is nearly right */
    while (days_to(year, month) > days)
        month--;
    return (struct civil){
        .second = (uint32_t)(rest % 60),
        .minute = (uint32_t)(rest / 60 % 60),
        .hour = (uint32_t)(rest / 3600),
        .weekday = (uint32_t)((days + 4) % 7 + 1), /* 1970-01-01 was a Thursday */
        .day = (uint32_t)(days - days_to(year, month)) + 1,
        .month = month,
        .year = year,
    };
}

static uint64_t clamp(uint64_t v, uint64_t low, uint64_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* Fields out of range are brought into it; years so that nanoseconds fit. */
static uint64_t seconds_of(const struct civil *c)
{
    uint32_t year = (uint32_t)clamp(c->year, 1970, 2200);
    uint32_t month = (uint32_t)clamp(c->month, 1, 12);
    uint64_t first = days_to(year, month);
    uint64_t length = (month == 12 ? days_to(year + 1, 1) : days_to(year, month + 1)) - first;
    uint64_t days = first + clamp(c->day, 1, length) - 1;
    return days * SECONDS_PER_DAY + clamp(c->hour, 0, 23) * 3600 + clamp(c->minute, 0, 59) * 60 +
           clamp(c->second, 0, 59);
}

/* --- bytes of the time, in the format that register B asks for -------------------------------- */

static uint8_t encode(const struct rtc *r, uint32_t v)
{
    return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 * 16 + v % 10);
}

static uint32_t decode(const struct rtc *r, uint8_t v)
{
    return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15u);
}

static uint8_t encode_hour(const struct rtc *r, uint32_t hour)
{
    if (r->cmos[REG_B] & B_24H)
        return encode(r, hour);
    uint8_t pm = hour >= 12 ? HOURS_PM : 0;
    return encode(r, (hour + 11) % 12 + 1) | pm;
}

static uint32_t decode_hour(const struct rtc *r, uint8_t v)
{
    if (r->cmos[REG_B] & B_24H)
        return decode(r, v);
    return decode(r, v & 0x7F) % 12 + (v & HOURS_PM ? 12 : 0);
}

static bool is_time_register(uint8_t index)
{
    return (index <= REG_HOURS && index % 2 == 0) || (index >= REG_WEEKDAY && index <= REG_YEAR) ||
           index == RTC_CENTURY;
}

static void put_time(struct rtc *r, uint64_t seconds)
{
    struct civil c = civil_of(seconds);
    r->cmos[REG_SECONDS] = encode(r, c.second);
    r->cmos[REG_MINUTES] = encode(r, c.minute);
    r->cmos[REG_HOURS] = encode_hour(r, c.hour);
    r->cmos[REG_WEEKDAY] = encode(r, c.weekday);
    r->cmos[REG_DAY] = encode(r, c.day);
    r->cmos[REG_MONTH] = encode(r, c.month);
    r->cmos[REG_YEAR] = encode(r, c.year % 100);
    r->cmos[RTC_CENTURY] = encode(r, c.year / 100);
}

static uint64_t get_time(const struct rtc *r)
{
    struct civil c = {
        .second = decode(r, r->cmos[REG_SECONDS]),
        .minute = decode(r, r->cmos[REG_MINUTES]),
        .hour = decode_hour(r, r->cmos[REG_HOURS]),
        .day = decode(r, r->cmos[REG_DAY]),
        .month = decode(r, r->cmos[REG_MONTH]),
        .year = decode(r, r->cmos[RTC_CENTURY]) * 100 + decode(r, r->cmos[REG_YEAR]),
    };
    return seconds_of(&c);
}

/* --- the clock -------------------------------------------------------------------------------- */

/* Guest time in ns since 1970; goes on also while the guest holds the clock (for its phase). */
static uint64_t guest_ns(const struct rtc *r, uint64_t now)
{
    return r->vm->clock.wall_base + now + (uint64_t)r->offset;
}

static void set_guest_ns(struct rtc *r, uint64_t ns, uint64_t now)
{
    r->offset = (int64_t)(ns - r->vm->clock.wall_base - now);
    r->second = ns / NS_PER_SECOND; /* a time that is set is no update */
}

static bool divider_in_reset(const struct rtc *r)
{
    return (r->cmos[REG_A] >> A_DIVIDER_SHIFT & 7) >= A_DIVIDER_RESET;
}

/* After a change of SET or divider. Coming out of reset, the divider's first update is half a
 * second away (data sheet, "Divider Control"). */
static void update_halted(struct rtc *r, bool divider_was_reset, uint64_t now)
{
    bool halted = (r->cmos[REG_B] & B_SET) != 0 || divider_in_reset(r);
    if (halted && !r->halted) {
        put_time(r, guest_ns(r, now) / NS_PER_SECOND);
    } else if (!halted && r->halted) {
        uint64_t phase = divider_was_reset ? HALF_SECOND : guest_ns(r, now) % NS_PER_SECOND;
        set_guest_ns(r, get_time(r) * NS_PER_SECOND + phase, now);
    }
    r->halted = halted;
}

/* --- events ----------------------------------------------------------------------------------- */

/* Oscillator ticks between periodic events (data sheet, table 5); 0: none. */
static uint64_t periodic_ticks(const struct rtc *r)
{
    unsigned int rate = r->cmos[REG_A] & A_RATE;
    if (rate == 0 || divider_in_reset(r))
        return 0;
    return (uint64_t)1 << (rate <= 2 ? rate + 6 : rate - 1);
}

static uint64_t oscillator_ticks(uint64_t ns)
{
    return scale_u64(ns, OSCILLATOR_HZ, NS_PER_SECOND);
}

static bool alarm_matches(uint8_t alarm, uint8_t time)
{
    return alarm >= ALARM_ANY || alarm == time;
}

/* Did the alarm's time come in (from, to]? A day has all times of day, so that is as far as the
 * loop looks. */
static bool alarm_came(const struct rtc *r, uint64_t from, uint64_t to)
{
    if (to - from > SECONDS_PER_DAY)
        from = to - SECONDS_PER_DAY;
    for (uint64_t s = from + 1; s <= to; s++) {
        uint32_t of_day = (uint32_t)(s % SECONDS_PER_DAY);
        if (alarm_matches(r->cmos[REG_SECONDS_ALARM], encode(r, of_day % 60)) &&
            alarm_matches(r->cmos[REG_MINUTES_ALARM], encode(r, of_day / 60 % 60)) &&
            alarm_matches(r->cmos[REG_HOURS_ALARM], encode_hour(r, of_day / 3600)))
            return true;
    }
    return false;
}

/* Sets the flags of what has happened since the last time. */
static void account(struct rtc *r, uint64_t now)
{
    uint64_t ticks = periodic_ticks(r);
    if (ticks != 0 && oscillator_ticks(now) / ticks != oscillator_ticks(r->periodic) / ticks)
        r->cmos[REG_C] |= C_PF;
    r->periodic = now;
    uint64_t second = guest_ns(r, now) / NS_PER_SECOND;
    if (!r->halted && second > r->second) {
        r->cmos[REG_C] |= C_UF;
        if (alarm_came(r, r->second, second))
            r->cmos[REG_C] |= C_AF;
    }
    r->second = second;
}

/* The time of the next event that would raise an interrupt that is not raised yet. */
static uint64_t next_event(const struct rtc *r, uint64_t now)
{
    uint8_t wanted = r->cmos[REG_B] & (uint8_t)~r->cmos[REG_C];
    uint64_t ticks = periodic_ticks(r), next = VM_TIMER_NEVER;
    if ((wanted & B_PIE) && ticks != 0) {
        uint64_t tick = (oscillator_ticks(now) / ticks + 1) * ticks;
        next = scale_u64(tick, NS_PER_SECOND, OSCILLATOR_HZ) + 1;
    }
    if ((wanted & (B_AIE | B_UIE)) && !r->halted) {
        uint64_t second = now + NS_PER_SECOND - guest_ns(r, now) % NS_PER_SECOND;
        next = second < next ? second : next;
    }
    return next;
}

/* After anything that flags, enables or times depend on. */
static void update(struct rtc *r, uint64_t now)
{
    irq_line_set(&r->irq, (r->cmos[REG_B] & r->cmos[REG_C] & C_FLAGS) != 0);
    vm_timer_set(r->vm, &r->timer, next_event(r, now));
}

/* A timer that was set for something else meanwhile does no harm: it finds nothing to do. */
static void rtc_fire(void *owner)
{
    struct rtc *r = owner;
    lock_take(&r->vm->board_lock);
    uint64_t now = vm_clock_ns(r->vm);
    account(r, now);
    update(r, now);
    lock_release(&r->vm->board_lock);
}

/* --- ports ------------------------------------------------------------------------------------ */

static uint8_t read_c(struct rtc *r)
{
    uint8_t flags = r->cmos[REG_C];
    r->cmos[REG_C] = 0;
    return flags & r->cmos[REG_B] ? flags | C_IRQF : flags;
}

static uint8_t read_data(struct rtc *r, uint64_t now)
{
    uint64_t ns = guest_ns(r, now);
    if (is_time_register(r->index) && !r->halted)
        put_time(r, ns / NS_PER_SECOND);
    switch (r->index) {
    case REG_A:
        return r->cmos[REG_A] |
               (!r->halted && ns % NS_PER_SECOND >= NS_PER_SECOND - UIP_NS ? A_UIP : 0);
    case REG_C:
        return read_c(r);
    case REG_D:
        return D_VRT;
    default:
        return r->cmos[r->index];
    }
}

/* A byte of the time, of a clock that runs or is held. */
static void write_time(struct rtc *r, uint8_t value, uint64_t now)
{
    uint64_t ns = guest_ns(r, now);
    if (!r->halted)
        put_time(r, ns / NS_PER_SECOND);
    r->cmos[r->index] = value;
    if (!r->halted)
        set_guest_ns(r, get_time(r) * NS_PER_SECOND + ns % NS_PER_SECOND, now);
}

static void write_data(struct rtc *r, uint8_t value, uint64_t now)
{
    bool divider_was_reset = divider_in_reset(r);
    if (is_time_register(r->index)) {
        write_time(r, value, now);
        return;
    }
    switch (r->index) {
    case REG_A:
        r->cmos[REG_A] = value & (uint8_t)~A_UIP;
        update_halted(r, divider_was_reset, now);
        break;
    case REG_B: /* SET clears UIE */
        r->cmos[REG_B] = value & B_SET ? value & (uint8_t)~B_UIE : value;
        update_halted(r, divider_was_reset, now);
        break;
    case REG_C:
    case REG_D:
        break;
    default:
        r->cmos[r->index] = value;
        break;
    }
}

static void rtc_access(void *device, struct bus_access *a)
{
    struct rtc *r = device;
    uint64_t now = vm_clock_ns(r->vm);
    if (a->offset == 0) {
        if (a->write) {
            r->index = a->value & 0x7F;
            r->nmi_masked = (a->value & 0x80) != 0;
        } else {
            a->value = 0xFF; /* the index cannot be read */
        }
        return;
    }
    account(r, now);
    if (a->write)
        write_data(r, (uint8_t)a->value, now);
    else
        a->value = read_data(r, now);
    update(r, now);
}

static const struct bus_ops rtc_ops = {"rtc", 1, 1, false, rtc_access};

/* --- state ------------------------------------------------------------------------------------ */

static void put(const struct rtc *r, struct state_writer *w)
{
    state_put_u8(w, r->index);
    state_put_bool(w, r->nmi_masked);
    state_put_bytes(w, r->cmos, sizeof(r->cmos));
    state_put_u64(w, (uint64_t)r->offset);
    state_put_bool(w, r->halted);
    state_put_u64(w, r->periodic);
    state_put_u64(w, r->second);
}

static void get(struct rtc *r, struct state_reader *s)
{
    r->index = state_get_u8(s);
    r->nmi_masked = state_get_bool(s);
    state_get_bytes(s, r->cmos, sizeof(r->cmos));
    r->offset = (int64_t)state_get_u64(s);
    r->halted = state_get_bool(s);
    r->periodic = state_get_u64(s);
    r->second = state_get_u64(s);
}

static void rtc_save(const void *object, struct state_writer *w)
{
    const struct rtc *r = object;
    lock_take(&r->vm->board_lock);
    put(r, w);
    lock_release(&r->vm->board_lock);
}

static int rtc_check(const void *object, struct state_reader *s)
{
    (void)object;
    struct rtc r;
    get(&r, s);
    int err = state_get_end(s);
    if (err != OK)
        return err;
    bool halted = (r.cmos[REG_B] & B_SET) != 0 || divider_in_reset(&r);
    if (r.index >= RTC_CMOS_SIZE || r.halted != halted || (r.cmos[REG_A] & A_UIP) != 0 ||
        (r.cmos[REG_C] & ~C_FLAGS) != 0 || r.cmos[REG_D] != 0 ||
        (r.cmos[REG_B] & (B_SET | B_UIE)) == (B_SET | B_UIE))
        return ERR_CORRUPT;
    return OK;
}

static int rtc_load(void *object, struct state_reader *s)
{
    struct rtc *r = object;
    lock_take(&r->vm->board_lock);
    get(r, s);
    vm_timer_set(r->vm, &r->timer, next_event(r, vm_clock_ns(r->vm)));
    lock_release(&r->vm->board_lock);
    return OK;
}

static const struct state_ops state_ops = {"rtc", 1, rtc_save, rtc_check, rtc_load};

/* --- life ------------------------------------------------------------------------------------- */

void rtc_reset(struct rtc *r)
{
    lock_assert_held(&r->vm->board_lock);
    r->index = 0;
    r->nmi_masked = false;
    r->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    r->cmos[REG_C] = 0;
    update(r, vm_clock_ns(r->vm));
}

int rtc_create(struct rtc *r, struct vm *vm, struct irq_line irq)
{
    *r = (struct rtc){.vm = vm, .irq = irq};
    vm_timer_init(&r->timer, rtc_fire, r);
    r->cmos[REG_A] = A_RESET_VALUE;
    r->cmos[REG_B] = B_24H;
    r->second = guest_ns(r, vm_clock_ns(vm)) / NS_PER_SECOND;
    lock_take(&vm->board_lock);
    rtc_reset(r);
    lock_release(&vm->board_lock);
    int err = bus_add(&vm->port_bus, PORT, 2, &rtc_ops, r, &vm->board_lock);
    return err == OK ? state_register(&vm->state, &state_ops, r, 0) : err;
}

static void put_size(struct rtc *r, uint8_t index, uint64_t units)
{
    uint16_t v = units > 0xFFFF ? 0xFFFF : (uint16_t)units;
    r->cmos[index] = (uint8_t)v;
    r->cmos[index + 1] = (uint8_t)(v >> 8);
}

/* Base memory in KiB (0x15), extended memory from 1 MiB in KiB up to 64 MiB (0x17, 0x30), from
 * 16 MiB in 64 KiB units (0x34), above 4 GiB in 64 KiB units (0x5B, 24 bits). */
void rtc_set_memory_size(struct rtc *r, uint64_t below_4g, uint64_t above_4g)
{
    uint64_t extended = below_4g > MIB(1) ? (below_4g - MIB(1)) / KIB(1) : 0;
    uint64_t beyond_16m = below_4g > MIB(16) ? below_4g - MIB(16) : 0;
    uint64_t high = above_4g / KIB(64);
    put_size(r, 0x15, 640);
    put_size(r, 0x17, clamp(extended, 0, 63 * 1024));
    put_size(r, 0x30, clamp(extended, 0, 63 * 1024));
    put_size(r, 0x34, beyond_16m / KIB(64));
    put_size(r, 0x5B, high & 0xFFFF);
    r->cmos[0x5D] = (uint8_t)(high >> 16);
}
