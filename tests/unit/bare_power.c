/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Power off, reset and power button of the bare machine (native/power.c), on registers that a test keeps. */
#include <setjmp.h>
#include <string.h>

#include "native/frames.h"
#include "native/power.h"
#include "tests/fakes/native/io.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

enum { WRITES = 64, EVENT_A = 0x600, EVENT_B = 0x610, CONTROL_A = 0x604, CONTROL_B = 0x614, SMI = 0xB2 };

static struct {
    uint16_t status[2], enable[2], control[2];
    bool smi_works, off;
    unsigned int smi_reads; /* until SCI_EN is set */
    uint8_t keyboard;
    struct {
        uint16_t port;
        unsigned int size;
        uint32_t v;
    } write[WRITES];
    unsigned int writes, faults;
} m;

static uint8_t registers[64]; /* those in memory */
static jmp_buf triple_fault;
static char notes[120];

static uint32_t in(uint16_t port, unsigned int size)
{
    (void)size;
    switch (port) {
    case EVENT_A:
    case EVENT_B:
        return m.status[port == EVENT_B];
    case EVENT_A + 2:
    case EVENT_B + 2:
        return m.enable[port == EVENT_B + 2];
    case CONTROL_A:
        if (m.smi_reads > 0 && --m.smi_reads == 0)
            m.control[0] |= 1;
        return m.control[0];
    case CONTROL_B:
        return m.control[1];
    case 0x64:
        return m.keyboard;
    default:
        return 0;
    }
}

static void out(uint16_t port, unsigned int size, uint32_t v)
{
    if (m.writes < WRITES) {
        m.write[m.writes].port = port;
        m.write[m.writes].size = size;
        m.write[m.writes++].v = v;
    }
    if (port == EVENT_A || port == EVENT_B)
        m.status[port == EVENT_B] &= (uint16_t)~v;
    else if (port == EVENT_A + 2 || port == EVENT_B + 2)
        m.enable[port == EVENT_B + 2] = (uint16_t)v;
    else if (port == CONTROL_A || port == CONTROL_B)
        m.control[port == CONTROL_B] = (uint16_t)(v & ~(1u << 13)); /* SLP_EN reads as zero */
    else if (port == SMI && v == 0xF1 && m.smi_works)
        m.smi_reads = 1000;
}

static void fault(void)
{
    longjmp(triple_fault, 1);
}

void *map_device(uint64_t physical, size_t size, bool write_combining)
{
    CHECK(!write_combining && physical >= 0xFED80000 && physical + size <= 0xFED80000 + sizeof(registers));
    return registers + (physical - 0xFED80000);
}

static struct acpi_register port_register(uint16_t port, uint8_t width)
{
    return (struct acpi_register){1, width, port};
}

static struct acpi tables(void)
{
    return (struct acpi){
        .pm1a_event = port_register(EVENT_A, 32),
        .pm1a_control = port_register(CONTROL_A, 16),
        .has_s5 = true,
        .s5_a = 5,
        .s5_b = 6,
        .smi_command = SMI,
        .acpi_enable = 0xF1,
        .has_power_button = true,
    };
}

static void setup(struct acpi a)
{
    memset(registers, 0, sizeof(registers));
    fake_io = (struct fake_io){.in = in, .out = out, .triple_fault = fault};
    m.writes = 0;
    power_init(&a, notes, sizeof(notes));
}

static void machine(bool acpi_mode)
{
    memset(&m, 0, sizeof(m));
    m.control[0] = acpi_mode;
}

static void check_write(unsigned int n, uint16_t port, unsigned int size, uint32_t v)
{
    unit_context("write %u", n);
    CHECK(n < m.writes);
    CHECK_EQ(m.write[n].port, port);
    CHECK_EQ(m.write[n].size, size);
    CHECK_EQ(m.write[n].v, v);
    unit_context(NULL);
}

static void test_acpi_mode(void)
{
    machine(true);
    setup(tables());
    CHECK_EQ(m.writes, 0);
    CHECK_STR(notes, "");
    machine(false);
    m.smi_works = true;
    setup(tables());
    check_write(0, SMI, 1, 0xF1);
    CHECK_EQ(m.control[0], 1);
    CHECK_STR(notes, "");
    machine(false); /* it never comes: bounded, though the clock stands */
    setup(tables());
    CHECK(strstr(notes, "does not let ACPI take over"));
    CHECK(!power_button_enable());
    struct acpi a = tables();
    a.smi_command = 0;
    machine(false);
    setup(a);
    CHECK_EQ(m.writes, 0);
    CHECK(strstr(notes, "does not let ACPI take over"));
}

static void test_off(void)
{
    machine(true);
    m.control[0] = 1 | 7 << 10 | 2;
    setup(tables());
    power_off();
    check_write(0, EVENT_A, 2, 0xFFFF);
    check_write(1, CONTROL_A, 2, 1 | 2 | 5 << 10);
    check_write(2, CONTROL_A, 2, 1 | 2 | 5 << 10 | 1 << 13);
    CHECK_EQ(m.writes, 3);
    struct acpi a = tables();
    a.pm1b_event = port_register(EVENT_B, 32);
    a.pm1b_control = port_register(CONTROL_B, 16);
    machine(true);
    setup(a);
    power_off();
    check_write(2, CONTROL_A, 2, 1 | 5 << 10);
    check_write(3, CONTROL_A, 2, 1 | 5 << 10 | 1 << 13);
    check_write(4, CONTROL_B, 2, 6 << 10);
    check_write(5, CONTROL_B, 2, 6 << 10 | 1 << 13);
}

static void test_off_impossible(void)
{
    struct acpi a = tables();
    a.has_s5 = false;
    machine(true);
    setup(a);
    CHECK(strstr(notes, "_S5"));
    power_off();
    CHECK_EQ(m.writes, 0);
    a = tables();
    a.pm1a_control.address = 0;
    setup(a);
    CHECK(strstr(notes, "cannot be turned off"));
    power_off();
    CHECK(!power_button_enable());
    CHECK_EQ(m.writes, 0);
}

static void test_in_memory(void)
{
    struct acpi a = tables();
    a.pm1a_event = (struct acpi_register){0, 32, 0xFED80000};
    a.pm1a_control = (struct acpi_register){0, 16, 0xFED80010};
    a.reset = (struct acpi_register){0, 8, 0xFED80020};
    a.has_reset = true;
    a.reset_value = 0x5A;
    machine(true);
    setup(a);
    registers[0x10] = 1;
    power_off();
    CHECK_EQ(registers[0x10], 1);
    CHECK_EQ(registers[0x11], 5 << 2 | 1 << 5);
    CHECK(power_button_enable());
    CHECK_EQ(registers[3], 1); /* bit 8 of the enable register */
    if (setjmp(triple_fault) == 0)
        power_reset();
    CHECK_EQ(registers[0x20], 0x5A);
}

/* Nothing works: each is tried in its turn, and the last is a triple fault. */
static void test_reset(void)
{
    struct acpi a = tables();
    a.reset = port_register(0x700, 8);
    a.has_reset = true;
    a.reset_value = 0x11;
    machine(true);
    m.keyboard = 2; /* full for ever */
    setup(a);
    if (setjmp(triple_fault) == 0)
        power_reset();
    check_write(0, 0x700, 1, 0x11);
    check_write(1, 0xCF9, 1, 2);
    check_write(2, 0xCF9, 1, 6);
    check_write(3, 0x64, 1, 0xFE);
    CHECK_EQ(m.writes, 4);
    a.reset = (struct acpi_register){2, 8, 0x00120003000Aull};
    machine(true);
    setup(a);
    if (setjmp(triple_fault) == 0)
        power_reset();
    check_write(0, 0xCF8, 4, 0x80000000 | 0x12 << 11 | 3 << 8 | 8);
    check_write(1, 0xCFE, 1, 0x11);
    a.has_reset = false;
    machine(true);
    setup(a);
    if (setjmp(triple_fault) == 0)
        power_reset();
    check_write(0, 0xCF9, 1, 2);
}

static void test_button(void)
{
    machine(true);
    m.status[0] = 1 << 8 | 1;
    setup(tables());
    CHECK(power_button_enable());
    CHECK_EQ(m.status[0], 0); /* an old press is none */
    CHECK_EQ(m.enable[0], 1 << 8);
    CHECK(!power_button_pressed());
    m.status[0] = 1 << 8 | 1;
    CHECK(power_button_pressed());
    CHECK_EQ(m.status[0], 1); /* nothing else is taken back */
    CHECK(!power_button_pressed());
    struct acpi a = tables();
    a.has_power_button = false;
    setup(a);
    CHECK(!power_button_enable());
}

int main(void)
{
    UNIT_RUN(test_acpi_mode);
    UNIT_RUN(test_off);
    UNIT_RUN(test_off_impossible);
    UNIT_RUN(test_in_memory);
    UNIT_RUN(test_reset);
    UNIT_RUN(test_button);
    return unit_done();
}
