/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Reading the MC146818's time (Motorola data sheet, "Address map" and "Update cycle"). Once at boot: from there the
 * TSC counts on (clock.c), so that the wall clock is up to a second off what the chip means; to be nearer one would
 * have to wait for the next second, and boot that much later.
 *
 * Bytes are wrong while the chip updates them. It says so 244 us before (UIP in register A), so a read that begins
 * with UIP clear would do, if nothing came in between; a management interrupt may. Hence it is read until two
 * readings are the same.
 *
 * The fields come as BCD or binary, the hours by 24 or 12, as register B says; nothing is taken on trust, since a
 * flat battery leaves anything. The century has no place of its own: ACPI names a byte of CMOS memory, or it is
 * guessed from the year.
 *
 * No state, no locks.
 */
#include "native/cmos.h"

#include "core/mem.h"
#include "native/io.h"

enum {
    PORT_INDEX = 0x70, /* bit 7 masks NMIs: left clear */
    PORT_DATA = 0x71,
    REG_SECOND = 0x00,
    REG_MINUTE = 0x02,
    REG_HOUR = 0x04,
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0A,
    REG_B = 0x0B,
    A_UIP = 1 << 7,
    B_BINARY = 1 << 2,
    B_24H = 1 << 1,
    HOUR_PM = 1 << 7,

    UIP_READS = 20000, /* an update takes 2 ms; a read about a microsecond */
    TRIES = 10,
    YEAR_FIRST = 1970,
    YEAR_LAST = 2399,
    PIVOT = 70, /* without a century: 70 is 1970, 69 is 2069 */
};

static uint8_t cmos_byte(uint8_t index)
{
    io_out8(PORT_INDEX, index);
    return io_in8(PORT_DATA);
}

static bool wait_for_update(void)
{
    for (uint32_t i = 0; i < UIP_READS; i++)
        if (!(cmos_byte(REG_A) & A_UIP))
            return true;
    return false;
}

static void read_bytes(uint8_t century, struct cmos_time *t)
{
    *t = (struct cmos_time){
        .second = cmos_byte(REG_SECOND),
        .minute = cmos_byte(REG_MINUTE),
        .hour = cmos_byte(REG_HOUR),
        .day = cmos_byte(REG_DAY),
        .month = cmos_byte(REG_MONTH),
        .year = cmos_byte(REG_YEAR),
        .century = century != 0 ? cmos_byte(century) : 0,
        .format = cmos_byte(REG_B) & (B_BINARY | B_24H),
        .has_century = century != 0,
    };
}

static bool same(const struct cmos_time *a, const struct cmos_time *b)
{
    return a->second == b->second && a->minute == b->minute && a->hour == b->hour && a->day == b->day &&
           a->month == b->month && a->year == b->year && a->century == b->century && a->format == b->format;
}

int cmos_read(uint8_t century, struct cmos_time *t)
{
    struct cmos_time again;

    for (uint32_t i = 0; i < TRIES; i++) {
        if (!wait_for_update())
            return ERR_IO;
        read_bytes(century, t);
        if (!wait_for_update())
            return ERR_IO;
        read_bytes(century, &again);
        if (same(t, &again))
            return OK;
    }
    return ERR_IO;
}

/* --- what the bytes mean ------------------------------------------------------------------------ */

/* -1: not a number in this format. */
static int32_t number(const struct cmos_time *t, uint8_t v)
{
    if (t->format & B_BINARY)
        return v;
    return v >> 4 > 9 || (v & 15) > 9 ? -1 : (v >> 4) * 10 + (v & 15);
}

static int32_t hour_of(const struct cmos_time *t)
{
    if (t->format & B_24H)
        return number(t, t->hour);
    int32_t h = number(t, t->hour & (uint8_t)~HOUR_PM);
    if (h < 1 || h > 12)
        return -1;
    return h % 12 + (t->hour & HOUR_PM ? 12 : 0);
}

static int32_t year_of(const struct cmos_time *t)
{
    int32_t year = number(t, t->year), century = t->has_century ? number(t, t->century) : -1;

    if (year < 0 || year > 99)
        return -1;
    if (century >= 19 && century <= 23) /* else a byte that nobody keeps */
        return century * 100 + year;
    return year + (year < PIVOT ? 2000 : 1900);
}

static bool is_leap(int32_t year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static int32_t days_in(int32_t year, int32_t month)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return days[month - 1] + (month == 2 && is_leap(year));
}

static uint64_t days_since_1970(int32_t year, int32_t month, int32_t day)
{
    int32_t days = day - 1;

    for (int32_t y = YEAR_FIRST; y < year; y++)
        days += is_leap(y) ? 366 : 365;
    for (int32_t m = 1; m < month; m++)
        days += days_in(year, m);
    return (uint64_t)days;
}

int cmos_to_ns(const struct cmos_time *t, uint64_t *ns)
{
    int32_t second = number(t, t->second), minute = number(t, t->minute), hour = hour_of(t);
    int32_t day = number(t, t->day), month = number(t, t->month), year = year_of(t);

    if (second < 0 || second > 59 || minute < 0 || minute > 59 || hour < 0 || hour > 23)
        return ERR_INVALID;
    if (year < YEAR_FIRST || year > YEAR_LAST || month < 1 || month > 12 || day < 1 || day > days_in(year, month))
        return ERR_INVALID;
    uint64_t seconds = days_since_1970(year, month, day) * 86400 + (uint64_t)(hour * 3600 + minute * 60 + second);
    *ns = seconds * 1000000000;
    return OK;
}
