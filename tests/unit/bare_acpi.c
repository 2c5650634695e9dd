/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The bare machine's ACPI tables (native/acpi.c): well-formed ones of all forms, then cut off at every byte, with
 * bytes changed, wrong checksums, absurd lengths, lists that name themselves. Memory is handed out in copies of
 * exactly the size that was asked for, so that the sanitizer sees a byte read beyond.
 */
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "native/acpi.h"
#include "tests/lib/unit.h"

enum { SIZE = 0x8000, BASE = 0xE0000, COPIES = 4096 };
enum {
    RSDP = 0,
    XSDT = 0x100,
    RSDT = 0x200,
    MADT = 0x400,
    FADT = 0x800,
    HPET = 0xA00,
    DSDT = 0xC00,
    SSDT = 0x1000
};

static uint8_t memory[SIZE];
static size_t there; /* bytes of it that can be had */
static void *copies[COPIES];
static unsigned int copied;
static struct acpi a;
static char message[100];

static const void *map(void *owner, uint64_t physical, size_t size)
{
    CHECK(owner == &a && size > 0 && physical + size > physical && copied < COPIES);
    if (physical < BASE || physical - BASE > there || size > there - (physical - BASE) || copied == COPIES)
        return NULL;
    void *p = malloc(size);
    memcpy(p, memory + (physical - BASE), size);
    copies[copied++] = p;
    return p;
}

static int parse_at(uint64_t rsdp)
{
    int err = acpi_parse(&a, rsdp, map, &a, message, sizeof(message));
    while (copied > 0)
        free(copies[--copied]);
    CHECK((err == OK) == (message[0] == 0));
    return err;
}

static int parse(void)
{
    return parse_at(BASE + RSDP);
}

static void fix(uint8_t *p, size_t size, size_t sum_at)
{
    uint8_t sum = 0;
    p[sum_at] = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + p[i]);
    p[sum_at] = (uint8_t)-sum;
}

static void set_length(unsigned int at, uint32_t length)
{
    store_u32(memory + at + 4, length);
    if (length <= SIZE - at)
        fix(memory + at, length, 9);
}

static void fix_table(unsigned int at)
{
    set_length(at, load_u32(memory + at + 4));
}

static uint8_t *table(unsigned int at, const char *signature, uint32_t length)
{
    memset(memory + at, 0, length);
    memcpy(memory + at, signature, 4);
    store_u32(memory + at + 4, length);
    return memory + at;
}

static void fix_rsdp(void)
{
    fix(memory + RSDP, 20, 8);
    fix(memory + RSDP, 36, 32);
}

static void put_rsdp(void)
{
    uint8_t *p = memory + RSDP;
    memcpy(p, "RSD PTR OEMID ", 14);
    p[15] = 2;
    store_u32(p + 16, BASE + RSDT);
    store_u32(p + 20, 36);
    store_u64(p + 24, BASE + XSDT);
    fix_rsdp();
}

static void put_lists(void)
{
    static const unsigned int all[] = {FADT, SSDT, MADT, HPET};
    uint8_t *x = table(XSDT, "XSDT", 36 + 8 * 4), *r = table(RSDT, "RSDT", 36 + 4 * 4);
    for (unsigned int i = 0; i < 4; i++) {
        store_u64(x + 36 + 8 * i, BASE + all[i]);
        store_u32(r + 36 + 4 * i, BASE + all[i]);
    }
    fix_table(XSDT);
    fix_table(RSDT);
}

static const uint8_t madt_entries[] = {
    0, 8,  0,   4,   1,    0,    0,    0,                               /* local APIC 4, enabled */
    0, 8,  1,   6,   0,    0,    0,    0,                               /* 6: not */
    0, 8,  2,   5,   2,    0,    0,    0,                               /* 5: could be made so */
    0, 8,  3,   255, 1,    0,    0,    0,                               /* no number */
    0, 8,  1,   7,   1,    0,    0,    0,                               /* 7 */
    9, 16, 0,   0,   0x34, 0x12, 0,    0,    1,    0, 0, 0, 0, 0, 0, 0, /* x2APIC 0x1234 */
    9, 16, 0,   0,   7,    0,    0,    0,    1,    0, 0, 0, 0, 0, 0, 0, /* 7 again */
    4, 6,  255, 0,   0,    1,                                           /* local NMI: not ours */
    1, 12, 9,   0,   0,    0,    0xC0, 0xFE, 24,   0, 0, 0,             /* I/O APIC 9 from GSI 24 */
    2, 10, 0,   0,   2,    0,    0,    0,    0,    0,                   /* ISA 0 is GSI 2 */
    2, 10, 0,   9,   9,    0,    0,    0,    0x0D, 0,                   /* ISA 9: level, active high */
    2, 10, 0,   9,   20,   0,    0,    0,    0x0F, 0,                   /* once more: this one counts */
    2, 10, 1,   3,   9,    0,    0,    0,    0x0D, 0,                   /* another bus */
    2, 10, 0,   16,  9,    0,    0,    0,    0x0D, 0,                   /* no such line */
    5, 12, 0,   0,   0,    0,    0xE1, 0xFE, 1,    0, 0, 0,             /* local APICs at 0x1FEE10000 */
};

static void put_madt(const uint8_t *entries, size_t size)
{
    uint8_t *p = table(MADT, "APIC", (uint32_t)(44 + size));
    store_u32(p + 36, 0xFEE00000);
    store_u32(p + 40, 1);
    memcpy(p + 44, entries, size);
    fix_table(MADT);
}

static void gas(uint8_t *p, uint8_t space, uint64_t address)
{
    p[0] = space;
    p[1] = 0x20;
    store_u64(p + 4, address);
}

static void put_fadt(uint32_t length)
{
    uint8_t *p = table(FADT, "FACP", 276);
    store_u32(p + 40, BASE + DSDT);
    store_u16(p + 46, 9);
    store_u32(p + 48, 0xB2);
    p[52] = 0xF1;
    store_u32(p + 56, 0x600);
    store_u32(p + 64, 0x604);
    store_u32(p + 68, 0x644);
    store_u32(p + 76, 0x608);
    p[88] = 4;
    p[89] = 2;
    p[91] = 4;
    p[108] = 0x32;
    store_u32(p + 112, 1 << 8 | 1 << 10);
    gas(p + 116, 1, 0xCF9);
    p[128] = 6;
    gas(p + 208, 0, 0xFED80000);
    set_length(FADT, length);
}

static void put_dsdt(unsigned int at, const char *signature, const void *code, size_t size)
{
    uint8_t *p = table(at, signature, (uint32_t)(36 + 7 + size));
    memcpy(p + 36, "\x10\x05\\_SB_\x00", 7);
    memcpy(p + 43, code, size);
    fix_table(at);
}

#define S5 "\x08_S5_\x12\x0A\x04\x0A\x05\x0A\x06\x00\x00"

static void put_all(void)
{
    memset(memory, 0, sizeof(memory));
    there = SIZE;
    put_rsdp();
    put_lists();
    put_madt(madt_entries, sizeof(madt_entries));
    put_fadt(244);
    put_dsdt(DSDT, "DSDT", S5, sizeof(S5) - 1);
    put_dsdt(SSDT, "SSDT", "", 0);
    uint8_t *h = table(HPET, "HPET", 56);
    store_u64(h + 44, 0xFED00000);
    fix_table(HPET);
}

static void test_madt(void)
{
    put_all();
    CHECK_EQ(parse(), OK);
    CHECK_EQ(a.cpus, 3);
    CHECK_EQ(a.apic_id[0], 4);
    CHECK_EQ(a.apic_id[1], 7);
    CHECK_EQ(a.apic_id[2], 0x1234);
    CHECK_EQ(a.lapic, 0x1FEE10000);
    CHECK(a.has_8259);
    CHECK_EQ(a.io_apics, 1);
    CHECK_EQ(a.io_apic[0].id, 9);
    CHECK_EQ(a.io_apic[0].address, 0xFEC00000);
    CHECK_EQ(a.io_apic[0].gsi_base, 24);
    CHECK_EQ(a.overrides, 2);
    CHECK_EQ(a.override[0].gsi, 2);
    CHECK_EQ(a.override[1].irq, 9);
    CHECK_EQ(a.override[1].gsi, 20);
    CHECK_EQ(a.override[1].flags, 0x0F);
    CHECK_EQ(a.hpet, 0xFED00000);
}

static void test_fadt(void)
{
    put_all();
    CHECK_EQ(parse(), OK);
    CHECK_EQ(a.sci, 9);
    CHECK_EQ(a.pm1a_event.space, 1);
    CHECK_EQ(a.pm1a_event.address, 0x600);
    CHECK_EQ(a.pm1a_event.width, 32);
    CHECK_EQ(a.pm1b_event.address, 0);
    CHECK_EQ(a.pm1a_control.address, 0x604);
    CHECK_EQ(a.pm1b_control.address, 0x644);
    CHECK_EQ(a.pm1b_control.width, 16);
    CHECK_EQ(a.pm_timer.space, 0); /* the extended field */
    CHECK_EQ(a.pm_timer.address, 0xFED80000);
    CHECK(a.pm_timer_32 && a.has_reset && a.has_power_button);
    CHECK_EQ(a.reset.address, 0xCF9);
    CHECK_EQ(a.reset_value, 6);
    CHECK_EQ(a.smi_command, 0xB2);
    CHECK_EQ(a.acpi_enable, 0xF1);
    CHECK_EQ(a.century, 0x32);
    CHECK(a.has_s5);
    CHECK_EQ(a.s5_a, 5);
    CHECK_EQ(a.s5_b, 6);
}

/* Of revision 1 the FADT ends before the reset register, and the extended fields are not there. */
static void test_fadt_revisions(void)
{
    put_all();
    put_fadt(116);
    CHECK_EQ(parse(), OK);
    CHECK(!a.has_reset && a.reset.address == 0 && a.has_s5);
    CHECK_EQ(a.pm_timer.space, 1);
    CHECK_EQ(a.pm_timer.address, 0x608);
    put_fadt(115);
    CHECK_EQ(parse(), OK);
    CHECK(a.pm1a_control.address == 0 && a.cpus == 3 && !a.has_s5);
    put_all();
    store_u64(memory + FADT + 140, BASE + SSDT); /* X_DSDT: not a DSDT */
    fix_table(FADT);
    CHECK_EQ(parse(), OK);
    CHECK(!a.has_s5);
}

static void test_registers_refused(void)
{
    put_all();
    uint8_t *p = memory + FADT;
    gas(p + 148, 1, 0xFFFD); /* four ports from there */
    gas(p + 172, 7, 0x604);  /* no such space */
    gas(p + 208, 0, UINT64_MAX - 3);
    gas(p + 116, 1, 0x10000);
    p[108] = 0x80;
    store_u32(p + 48, 0x10000);
    fix_table(FADT);
    CHECK_EQ(parse(), OK);
    CHECK_EQ(a.pm1a_event.address | a.pm1a_control.address | a.pm_timer.address | a.reset.address, 0);
    CHECK(!a.has_reset && !a.has_power_button);
    CHECK_EQ(a.century | a.smi_command, 0);
    gas(p + 148, 1, 0xFFFC);
    gas(p + 116, 2, 0x1F000700FFull); /* PCI: device 0x1F, function 7, offset 0xFF */
    fix_table(FADT);
    CHECK_EQ(parse(), OK);
    CHECK(a.has_reset);
    CHECK_EQ(a.pm1a_event.address, 0xFFFC);
    gas(p + 116, 2, 0x2000000000ull);
    p[88] = 3; /* too short for an event block */
    fix_table(FADT);
    CHECK_EQ(parse(), OK);
    CHECK(!a.has_reset && a.pm1a_event.address == 0);
    store_u32(p + 112, 1 << 20); /* hardware-reduced */
    p[88] = 4;
    fix_table(FADT);
    CHECK_EQ(parse(), OK);
    CHECK(a.pm1a_event.address == 0 && a.pm1b_control.address == 0 && a.has_s5);
}

static void test_s5_forms(void)
{
    /* table: byte code, its length, what is found (-1: nothing) */
    static const struct {
        const char *code;
        size_t size;
        int s5_a, s5_b;
    } rows[] = {
        {"\x08\\_S5_\x12\x06\x04\x00\x01\x00\x00", 13, 0, 1},
        {"\x08_S5_\x12\x06\x02\x01\x00", 10, 1, 0},
        {"\x08_S5_\x12\x04\x01\x0A\x07", 10, 7, 7}, /* one number */
        {"\x08_S5_\x12\x47\x00\x02\x0B\x05\x00\x0C\x06\x00\x00\x00", 17, 5,
         6}, /* two bytes of length; word, dword */
        {"\x08_S5_\x12\xC7\x00\x00\x00\x02\x01\x01", 13, 1, 1},
        {"_S5_\x12\x06\x04\x01\x01\x00\x00", 11, -1, -1}, /* a use of the name */
        {"\x08_S4_\x12\x06\x04\x01\x01\x00\x00", 12, -1, -1},
        {"\x08_S5_\x0A\x05", 7, -1, -1},                  /* not a package */
        {"\x08_S5_\x12\x06\x00\x01\x01", 10, -1, -1},     /* of nothing */
        {"\x08_S5_\x12\x06\x02\x0A\x08\x01", 11, -1, -1}, /* does not fit */
        {"\x08_S5_\x12\x06\x02\x0B\x05\x01\x01", 12, -1, -1},
        {"\x08_S5_\x12\x06\x02\x0A", 9, -1, -1}, /* ends here */
        {"\x08_S5_\x12\xC6", 7, -1, -1},
        {"\x08_S5_", 5, -1, -1},
        {"\x08_S5_\x12\x06\x02"
         "FOO_" S5,
         26, 5, 6}, /* the second one is right */
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        put_all();
        put_dsdt(DSDT, "DSDT", rows[i].code, rows[i].size);
        CHECK_EQ(parse(), OK);
        CHECK_EQ(a.has_s5, rows[i].s5_a >= 0);
        CHECK_EQ(a.s5_a, rows[i].s5_a >= 0 ? rows[i].s5_a : 0);
        CHECK_EQ(a.s5_b, rows[i].s5_a >= 0 ? rows[i].s5_b : 0);
        put_dsdt(SSDT, "SSDT", rows[i].code, rows[i].size); /* the same found there */
        put_dsdt(DSDT, "DSDT", "", 0);
        CHECK_EQ(parse(), OK);
        CHECK_EQ(a.has_s5, rows[i].s5_a >= 0);
    }
}

static void test_roots(void)
{
    put_all();
    memory[RSDP + 15] = 0; /* revision 0: RSDT */
    fix_rsdp();
    memory[XSDT] = 'Y';
    CHECK_EQ(parse(), OK);
    CHECK_EQ(a.cpus, 3);
    memory[RSDP + 15] = 2; /* an XSDT that is none: RSDT */
    fix_rsdp();
    CHECK_EQ(parse(), OK);
    memory[RSDP + 33]++; /* in the second checksum only */
    CHECK_EQ(parse(), OK);
    memory[RSDP + 16]++; /* in both */
    CHECK_EQ(parse(), (uint64_t)ERR_INVALID);
    put_all();
    memory[RSDT] = memory[XSDT] = 'Y';
    CHECK_EQ(parse(), (uint64_t)ERR_INVALID);
    CHECK_STR(message, "ACPI: no usable list of tables (XSDT, RSDT)");
    put_all();
    CHECK_EQ(parse_at(0), (uint64_t)ERR_INVALID);
    CHECK_EQ(parse_at(UINT64_MAX - 3), (uint64_t)ERR_INVALID);
    CHECK_EQ(parse_at(BASE + 1), (uint64_t)ERR_INVALID);
}

/* A wrong checksum: the table is not there. Without processors, nothing is. */
static void test_checksums(void)
{
    put_all();
    memory[MADT + 9]++;
    CHECK_EQ(parse(), (uint64_t)ERR_INVALID);
    CHECK_EQ(a.cpus, 0);
    CHECK_EQ(a.lapic, 0);
    CHECK_STR(message, "ACPI: no usable table of processors (MADT)");
    put_all();
    memory[FADT + 9]++;
    memory[HPET + 9]++;
    CHECK_EQ(parse(), OK);
    CHECK(a.hpet == 0 && a.pm1a_control.address == 0 && !a.has_s5 && a.cpus == 3);
    put_all();
    memory[DSDT + 9]++;
    CHECK_EQ(parse(), OK);
    CHECK(!a.has_s5 && a.pm1a_control.address == 0x604);
}

static void test_lengths(void)
{
    static const uint32_t absurd[] = {0, 1, 35, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 5 << 20};
    static const unsigned int tables[] = {XSDT, RSDT, MADT, FADT, HPET, DSDT, SSDT};
    for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
        for (size_t i = 0; i < ARRAY_SIZE(absurd); i++) {
            unit_context("table %#x, length %#x", tables[t], absurd[i]);
            put_all();
            set_length(tables[t], absurd[i]);
            CHECK_EQ(parse(), tables[t] == MADT ? (uint64_t)ERR_INVALID : OK);
        }
}

/* Every table, cut off at every byte: by its length, and by the end of memory. */
static void test_truncated(void)
{
    static const unsigned int tables[] = {XSDT, RSDT, MADT, FADT, HPET, DSDT};
    for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
        put_all();
        uint32_t length = load_u32(memory + tables[t] + 4);
        for (uint32_t n = 0; n < length; n++) {
            unit_context("table %#x, %u bytes", tables[t], n);
            put_all();
            set_length(tables[t], n);
            int err = parse();
            CHECK(err == OK || tables[t] == MADT || tables[t] == XSDT);
            CHECK(a.cpus <= 3 && (err == OK) == (a.cpus > 0));
        }
    }
    for (size_t n = 0; n < SIZE; n += n < 0x1100 ? 1 : 0x1000) {
        unit_context("%zu bytes of memory", n);
        put_all();
        there = n;
        CHECK_EQ(parse(), n < MADT + 44 + sizeof(madt_entries) ? (uint64_t)ERR_INVALID : OK);
        CHECK_EQ(a.has_s5, n >= DSDT + 43 + sizeof(S5) - 1);
    }
}

static void test_madt_records(void)
{
    static const uint8_t zero[] = {0, 8, 0, 0, 1, 0, 0, 0, 1, 0}, one[] = {0, 8, 0, 0, 1, 0, 0, 0, 3, 1},
                         over[] = {0, 8, 0, 0, 1, 0, 0, 0, 3, 3}, small[] = {0, 7, 0, 0, 1, 0, 0},
                         half[] = {0, 8, 0, 0, 1, 0, 0, 0, 3}, none[] = {0, 8, 0, 0, 0, 0, 0, 0},
                         good[] = {0, 8, 0, 0, 1, 0, 0, 0, 3, 2};
    static const struct {
        const uint8_t *p;
        size_t size;
        int err;
    } rows[] = {{zero, 10, ERR_INVALID}, {one, 10, ERR_INVALID}, {over, 10, ERR_INVALID}, {small, 7, ERR_INVALID},
                {half, 9, ERR_INVALID},  {none, 8, ERR_INVALID}, {none, 0, ERR_INVALID},  {good, 10, OK}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        put_all();
        put_madt(rows[i].p, rows[i].size);
        CHECK_EQ(parse(), (uint64_t)rows[i].err);
    }
    put_all();
    store_u32(memory + MADT + 36, 0xFEE00008);
    memory[MADT + 44 + sizeof(madt_entries) - 12] = 200; /* no other address */
    fix_table(MADT);
    CHECK_EQ(parse(), (uint64_t)ERR_INVALID);
}

/* More of everything than there is room for. */
static void test_too_many(void)
{
    static uint8_t e[400 * 16 + 20 * 12];
    put_all();
    for (unsigned int i = 0; i < 400; i++) {
        memcpy(e + 16 * i, (const uint8_t[16]){9, 16, 0, 0, 0, 0, 0, 0, 1}, 16);
        store_u32(e + 16 * i + 4, 1000 + i);
    }
    for (unsigned int i = 0; i < 20; i++)
        memcpy(e + 16 * 400 + 12 * i, (const uint8_t[12]){1, 12, (uint8_t)i, 0, 0, 0, 0xC0, 0xFE}, 12);
    memmove(memory + 0x2000, memory + MADT, 44);
    memcpy(memory + 0x2000 + 44, e, sizeof(e));
    set_length(0x2000, 44 + sizeof(e));
    store_u64(memory + XSDT + 36 + 16, BASE + 0x2000);
    fix_table(XSDT);
    CHECK_EQ(parse(), OK);
    CHECK_EQ(a.cpus, ACPI_CPUS);
    CHECK_EQ(a.apic_id[ACPI_CPUS - 1], 1000 + ACPI_CPUS - 1);
    CHECK_EQ(a.io_apics, ACPI_IO_APICS);
}

/* Lists and tables that name themselves and each other, and nowhere: they are read once. */
static void test_loops(void)
{
    put_all();
    for (unsigned int i = 0; i < 4; i++)
        store_u64(memory + XSDT + 36 + 8 * i, i == 2 ? UINT64_MAX - 10 : BASE + XSDT);
    fix_table(XSDT);
    CHECK_EQ(parse(), (uint64_t)ERR_INVALID);
    put_all();
    store_u64(memory + FADT + 140, BASE + FADT);
    store_u64(memory + RSDP + 24, BASE + RSDP);
    fix_table(FADT);
    fix_rsdp();
    CHECK_EQ(parse(), OK);
    CHECK(!a.has_s5 && a.cpus == 3);
}

/* Any byte of any table changed, with the checksum made right again. */
static void test_changed(void)
{
    static const unsigned int tables[] = {XSDT, RSDT, MADT, FADT, HPET, DSDT};
    static const uint8_t values[] = {0, 1, 0x7F, 0x80, 0xFF};
    unsigned int refused = 0;
    for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
        put_all();
        uint32_t length = load_u32(memory + tables[t] + 4);
        for (uint32_t n = 0; n < length; n++)
            for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
                put_all();
                memory[tables[t] + n] = values[v];
                fix_table(tables[t]);
                refused += parse() != OK;
                CHECK(a.cpus <= 6 && a.io_apics <= 3 && a.overrides <= 16 && a.s5_a < 8 && a.s5_b < 8);
            }
    }
    CHECK(refused > 20);
}

int main(void)
{
    UNIT_RUN(test_madt);
    UNIT_RUN(test_fadt);
    UNIT_RUN(test_fadt_revisions);
    UNIT_RUN(test_registers_refused);
    UNIT_RUN(test_s5_forms);
    UNIT_RUN(test_roots);
    UNIT_RUN(test_checksums);
    UNIT_RUN(test_lengths);
    UNIT_RUN(test_truncated);
    UNIT_RUN(test_madt_records);
    UNIT_RUN(test_too_many);
    UNIT_RUN(test_loops);
    UNIT_RUN(test_changed);
    return unit_done();
}
