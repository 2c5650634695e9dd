/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the I/O APIC. */
#include "core/err.h"
#include "device/ioapic.h"
#include "lodge/ports.h"
#include "tests/lib/board.h"
#include "tests/lib/unit.h"

static struct board b;
static struct ioapic apic;

static void setup(void)
{
    board_init(&b);
    CHECK_EQ(ioapic_create(&apic, &b.vm), OK);
}

static uint32_t rd(uint8_t index)
{
    board_write(&b, LODGE_MMIO_IO_APIC, 4, index);
    return (uint32_t)board_read(&b, LODGE_MMIO_IO_APIC + 0x10, 4);
}

static void wr(uint8_t index, uint32_t value)
{
    board_write(&b, LODGE_MMIO_IO_APIC, 4, index);
    board_write(&b, LODGE_MMIO_IO_APIC + 0x10, 4, value);
}

static void entry(unsigned int pin, uint32_t low, uint32_t high)
{
    wr((uint8_t)(0x11 + pin * 2), high);
    wr((uint8_t)(0x10 + pin * 2), low);
}

static uint32_t low(unsigned int pin)
{
    return rd((uint8_t)(0x10 + pin * 2));
}

static void line(unsigned int pin, bool level)
{
    lock_take(&b.vm.board_lock);
    ioapic_set_pin(&apic, pin, level);
    lock_release(&b.vm.board_lock);
}

/* D5: every index, with all ones. */
static void test_registers(void)
{
    setup();
    for (unsigned int i = 0; i < 256; i++) {
        unit_context("index %#x", i);
        wr((uint8_t)i, 0xFFFFFFFF);
        uint32_t expected = 0;
        if (i == 0 || i == 2)
            expected = 0x0F000000;
        else if (i == 1)
            expected = 0x00170020;
        else if (i >= 0x10 && i < 0x10 + 2 * IOAPIC_PINS)
            expected = i & 1 ? 0xFF000000 : 0x0001AFFF;
        CHECK_EQ(rd((uint8_t)i), expected);
    }
    unit_context(NULL);
    CHECK_EQ(board_read(&b, LODGE_MMIO_IO_APIC, 4), 0xFF);
    CHECK_EQ(board_read(&b, LODGE_MMIO_IO_APIC + 0x40, 4), 0);
    CHECK_EQ(board_read(&b, LODGE_MMIO_IO_APIC + 0xFFC, 4), 0);
    setup();
    CHECK_EQ(low(7), 0x10000);
}

static void test_edge(void)
{
    setup();
    entry(4, 0x10031, 0);
    line(4, true); /* masked: lost */
    entry(4, 0x00031, 0x03000000);
    CHECK_EQ(b.messages, 0);
    line(4, false);
    line(4, true);
    CHECK_EQ(b.messages, 1);
    CHECK_EQ(b.last_message.vector, 0x31);
    CHECK_EQ(b.last_message.destination, 3);
    CHECK(!b.last_message.logical && !b.last_message.level);
    line(4, true); /* no edge */
    CHECK_EQ(b.messages, 1);
    ioapic_eoi(&apic, 0x31);
    CHECK_EQ(b.messages, 1);
    CHECK_EQ(low(4), 0x31);
    line(24, true);
    line(~0u, true);
    CHECK_EQ(b.messages, 1);
}

static void test_level(void)
{
    setup();
    entry(9, 0x0A941, 0xFF000000); /* level, low, logical, lowest */
    line(9, true);
    CHECK_EQ(b.messages, 1);
    CHECK(b.last_message.level && b.last_message.logical);
    CHECK_EQ(b.last_message.delivery, APIC_LOWEST);
    CHECK_EQ(low(9), 0x0E941);
    line(9, false);
    line(9, true);
    CHECK_EQ(b.messages, 1); /* waits for EOI */
    ioapic_eoi(&apic, 0x42);
    CHECK_EQ(b.messages, 1);
    ioapic_eoi(&apic, 0x41);
    CHECK_EQ(b.messages, 2); /* still asserted */
    line(9, false);
    board_write(&b, LODGE_MMIO_IO_APIC + 0x40, 4, 0x41); /* the EOI register */
    CHECK_EQ(b.messages, 2);
    CHECK_EQ(low(9), 0x0A941);
    entry(9, 0x1A941, 0); /* masked while asserted: sends when it is opened */
    line(9, true);
    CHECK_EQ(b.messages, 2);
    entry(9, 0x0A941, 0);
    CHECK_EQ(b.messages, 3);
    entry(9, 0x1A941, 0); /* EOI while masked: waits for the mask */
    ioapic_eoi(&apic, 0x41);
    CHECK_EQ(b.messages, 3);
    entry(9, 0x02941, 0); /* edge: remote IRR forgotten */
    entry(9, 0x0A941, 0);
    CHECK_EQ(b.messages, 4);
}

/* An EOI that got lost on the way: no local APIC has the vector any more. */
static void test_missed_end(void)
{
    uint64_t held[4] = {0};

    setup();
    entry(9, 0x08041, 0);
    entry(10, 0x080C7, 0);
    entry(11, 0x00033, 0); /* edge */
    line(9, true);
    line(10, true);
    line(11, true);
    CHECK_EQ(b.messages, 3);
    held[1] = UINT64_C(1) << (0x41 - 64);
    held[3] = UINT64_C(1) << (0xC7 - 192);
    CHECK(!ioapic_end_missed(&apic, held));
    CHECK_EQ(b.messages, 3);
    held[1] = 0;
    line(9, false);
    CHECK(ioapic_end_missed(&apic, held));
    CHECK_EQ(low(9), 0x08041);
    CHECK_EQ(low(10), 0x0C0C7);
    CHECK_EQ(b.messages, 3);
    held[3] = 0; /* still asserted: once more */
    CHECK(ioapic_end_missed(&apic, held));
    CHECK_EQ(low(10), 0x0C0C7);
    CHECK_EQ(b.messages, 4);
}

/* Nobody takes it: nothing to wait for; the next write tries again. */
static void test_level_without_receiver(void)
{
    setup();
    b.send_result = ERR_NOT_FOUND;
    entry(5, 0x08055, 0x77000000);
    line(5, true);
    CHECK_EQ(b.messages, 1);
    CHECK_EQ(low(5), 0x08055);
    b.send_result = OK;
    wr(0x11 + 5 * 2, 0);
    CHECK_EQ(b.messages, 2);
    CHECK_EQ(low(5), 0x0C055);
}

static void test_two_pins_one_vector(void)
{
    setup();
    entry(10, 0x08060, 0);
    entry(11, 0x08060, 0);
    line(10, true);
    line(11, true);
    CHECK_EQ(b.messages, 2);
    line(10, false);
    ioapic_eoi(&apic, 0x60);
    CHECK_EQ(b.messages, 3);
    CHECK_EQ(low(10), 0x08060);
    CHECK_EQ(low(11), 0x0C060);
}

static void test_delivery_modes(void)
{
    setup();
    for (unsigned int mode = 0; mode < 8; mode++) {
        unit_context("mode %u", mode);
        entry(1, 0x8050 | mode << 8, 0); /* level: only fixed and lowest are */
        b.messages = 0;
        line(1, true);
        CHECK_EQ(b.messages, 1);
        CHECK_EQ(b.last_message.delivery, mode);
        CHECK_EQ(b.last_message.level, mode < 2);
        CHECK_EQ(low(1) & 0x4000, mode < 2 ? 0x4000 : 0);
        line(1, false);
        entry(1, 0x10000, 0);
    }
}

static void test_state_refused(void)
{
    /* table: select, id, line, entries */
    static const struct board_bad_state rows[] = {
        {1, 1, 0x10},   {2, 4, 0x01000000},      {6, 8, 0x1000},     {6, 8, 0x20000},
        {6, 8, 0x4000}, {6 + 23 * 8, 8, 0xC200}, {6, 8, 1ull << 55},
    };
    setup();
    board_check_refuses(&b, rows, sizeof(rows) / sizeof(rows[0]));
}

static void more(void)
{
    uint64_t r = board_random();
    line(r & 31, (r >> 8 & 1) != 0);
    if ((r >> 9 & 3) == 0)
        ioapic_eoi(&apic, (uint8_t)(r >> 16));
}

static void test_fuzz(void)
{
    setup();
    struct board_fuzz f = {&b.vm.mmio_bus, LODGE_MMIO_IO_APIC, 0x48, 30000, more, 0};
    board_fuzz(&b, &f);
    f.base += 0xFE0;
    board_fuzz(&b, &f);
}

int main(void)
{
    UNIT_RUN(test_registers);
    UNIT_RUN(test_edge);
    UNIT_RUN(test_level);
    UNIT_RUN(test_missed_end);
    UNIT_RUN(test_level_without_receiver);
    UNIT_RUN(test_two_pins_one_vector);
    UNIT_RUN(test_delivery_modes);
    UNIT_RUN(test_state_refused);
    UNIT_RUN(test_fuzz);
    return unit_done();
}
