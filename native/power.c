/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Power off, reset, power button: the fixed hardware of ACPI (specification 6.5, chapter 4.8), by what the static
 * tables say (acpi.c); no byte code is run. So methods that firmware would like to be called before (\_PTS) are
 * not; they prepare sleep states in which something is kept, and S5 keeps nothing.
 *
 * Off: SLP_TYP and SLP_EN to both control registers, the type first and once more with the enable bit, as old chip
 * sets want it.
 *
 * Reset: the FADT's reset register; the chip set's reset control register 0xCF9, which all PC chip sets have; the
 * keyboard controller's pulse of the reset line; a triple fault. One after the other, with a wait after each, since
 * nobody can say which of them are there.
 *
 * Waits are bounded by the clock and by a number of reads, since a reset must work when the clock does not.
 *
 * State: the registers, as the one machine has them; written by power_init alone. No locks: what is written is
 * written by one CPU, off and reset by whoever has stopped the others.
 */
#include "native/power.h"

#include "core/fmt.h"
#include "core/seam.h"
#include "native/frames.h"
#include "native/io.h"
#include "native/serial.h"

enum {
    SCI_EN = 1 << 0, /* PM1 control, table 4.14 */
    SLP_TYP_SHIFT = 10,
    SLP_TYP = 7 << SLP_TYP_SHIFT,
    SLP_EN = 1 << 13,
    PWRBTN = 1 << 8, /* PM1 status and enable, tables 4.12 and 4.13 */

    PORT_DELAY = 0x80, /* POST codes: an access takes about a microsecond and does nothing */
    PORT_RESET_CONTROL = 0xCF9,
    RESET_HARD = 0x02, /* a whole reset, at the edge of */
    RESET_CPU = 0x04,
    RESET_POWER = 0x08, /* through a power cycle */
    PORT_KEYBOARD = 0x64,
    KEYBOARD_FULL = 0x02,
    KEYBOARD_PULSE_RESET = 0xFE,
    PORT_PCI_ADDRESS = 0xCF8,
    PORT_PCI_DATA = 0xCFC,
};
#define MS             1000000ull
#define READS_PER_MS   2000u
#define ACPI_ENABLE_MS 3000u
#define OFF_MS         1000u
#define RESET_MS       100u

/* A register that can be used: a port, or mapped memory. */
struct place {
    uint16_t port; /* 0: memory */
    volatile uint8_t *memory;
};

static struct {
    struct acpi acpi;
    struct place event[2], control[2], reset; /* a and b */
} power;

static bool place_exists(const struct place *p)
{
    return p->port != 0 || p->memory;
}

static struct place place_of(const struct acpi_register *g)
{
    struct place p = {0, NULL};

    if (g->address != 0 && g->space == 1)
        p.port = (uint16_t)g->address;
    else if (g->address != 0 && g->space == 0)
        p.memory = map_device(g->address, g->width / 8u, false);
    return p;
}

/* Of 16 bits, at some bytes from there. */
static uint16_t place_read(const struct place *p, uint32_t offset)
{
    if (p->port)
        return io_in16((uint16_t)(p->port + offset));
    return io_read16(p->memory + offset);
}

static void place_write(const struct place *p, uint32_t offset, uint16_t v)
{
    if (p->port)
        io_out16((uint16_t)(p->port + offset), v);
    else
        io_write16(p->memory + offset, v);
}

/* Until done() or so many milliseconds have gone by; was it done? done may be NULL. */
static bool wait_for(bool (*done)(void), uint32_t ms)
{
    uint64_t until = seam_time_ns() + ms * MS;

    for (uint32_t i = 0; i < ms * READS_PER_MS && seam_time_ns() < until; i++) {
        if (done && done())
            return true;
        (void)io_in8(PORT_DELAY);
    }
    return done && done();
}

static bool in_acpi_mode(void)
{
    return place_read(&power.control[0], 0) & SCI_EN;
}

/* 4.8.2.5, 16.3.1: a byte to the SMI command port; the firmware then hands over and sets SCI_EN. */
static bool enter_acpi_mode(void)
{
    if (in_acpi_mode())
        return true;
    if (power.acpi.smi_command == 0 || power.acpi.acpi_enable == 0)
        return false;
    io_out8((uint16_t)power.acpi.smi_command, power.acpi.acpi_enable);
    return wait_for(in_acpi_mode, ACPI_ENABLE_MS);
}

void power_init(const struct acpi *a, char *notes, size_t notes_size)
{
    power.acpi = *a;
    power.event[0] = place_of(&a->pm1a_event);
    power.event[1] = place_of(&a->pm1b_event);
    power.control[0] = place_of(&a->pm1a_control);
    power.control[1] = place_of(&a->pm1b_control);
    if (a->has_reset && a->reset.space != 2)
        power.reset = place_of(&a->reset);
    notes[0] = 0;
    if (!place_exists(&power.control[0]))
        (void)fmt(notes, notes_size, "ACPI has no registers for power: the machine cannot be turned off");
    else if (!enter_acpi_mode())
        (void)fmt(notes, notes_size, "the firmware does not let ACPI take over: no power button");
    else if (!a->has_s5)
        (void)fmt(notes, notes_size, "ACPI does not say how to turn the machine off (\\_S5)");
}

static void sleep(uint32_t which, uint8_t type)
{
    const struct place *p = &power.control[which];
    uint16_t v;

    if (!place_exists(p))
        return;
    v = (uint16_t)((place_read(p, 0) & ~(SLP_TYP | SLP_EN)) | type << SLP_TYP_SHIFT);
    place_write(p, 0, v);
    place_write(p, 0, v | SLP_EN);
}

void power_off(void)
{
    if (!power.acpi.has_s5 || !place_exists(&power.control[0]))
        return;
    serial_drain(); /* last words */
    /* A wake event that is pending would turn it on again at once: 4.8.3.1, written with ones to clear. */
    for (uint32_t i = 0; i < 2; i++)
        if (place_exists(&power.event[i]))
            place_write(&power.event[i], 0, UINT16_MAX);
    sleep(0, power.acpi.s5_a);
    sleep(1, power.acpi.s5_b);
    (void)wait_for(NULL, OFF_MS);
}

/* --- reset ------------------------------------------------------------------------------------- */

static void reset_by_register(void)
{
    const struct acpi_register *g = &power.acpi.reset;

    if (!power.acpi.has_reset)
        return;
    if (g->space == 2) { /* 4.8.3.6: configuration space of bus 0, by mechanism 1 (PCI specification 3.2.2.3.2) */
        uint32_t device = (uint32_t)(g->address >> 32), function = (uint32_t)(g->address >> 16) & 7;
        uint32_t offset = (uint32_t)g->address & 0xFF;
        io_out32(PORT_PCI_ADDRESS, 1u << 31 | device << 11 | function << 8 | (offset & ~3u));
        io_out8((uint16_t)(PORT_PCI_DATA + (offset & 3)), power.acpi.reset_value);
    } else if (power.reset.port) {
        io_out8(power.reset.port, power.acpi.reset_value);
    } else if (power.reset.memory) {
        io_write8(power.reset.memory, power.acpi.reset_value);
    }
    (void)wait_for(NULL, RESET_MS);
}

static void reset_by_chip_set(void)
{
    uint8_t v = (uint8_t)(io_in8(PORT_RESET_CONTROL) & ~(RESET_HARD | RESET_CPU | RESET_POWER));

    io_out8(PORT_RESET_CONTROL, v | RESET_HARD);
    io_out8(PORT_RESET_CONTROL, v | RESET_HARD | RESET_CPU);
    (void)wait_for(NULL, RESET_MS);
}

static bool keyboard_takes(void)
{
    return !(io_in8(PORT_KEYBOARD) & KEYBOARD_FULL);
}

static void reset_by_keyboard(void)
{
    (void)wait_for(keyboard_takes, RESET_MS);
    io_out8(PORT_KEYBOARD, KEYBOARD_PULSE_RESET);
    (void)wait_for(NULL, RESET_MS);
}

noreturn void power_reset(void)
{
    serial_drain();
    reset_by_register();
    reset_by_chip_set();
    reset_by_keyboard();
    for (;;)
        io_triple_fault();
}

/* --- button ------------------------------------------------------------------------------------ */

/* The enable register is the second half of the event block, 4.8.3.1. */
static uint32_t enable_at(void)
{
    return power.acpi.pm1a_event.width / 16u;
}

bool power_button_enable(void)
{
    bool there = false;

    if (!power.acpi.has_power_button || !place_exists(&power.control[0]) || !in_acpi_mode())
        return false;
    for (uint32_t i = 0; i < 2; i++) {
        if (!place_exists(&power.event[i]))
            continue;
        place_write(&power.event[i], 0, UINT16_MAX); /* what happened before */
        place_write(&power.event[i], enable_at(), PWRBTN);
        there = true;
    }
    return there;
}

bool power_button_pressed(void)
{
    bool pressed = false;

    for (uint32_t i = 0; i < 2; i++) {
        if (!place_exists(&power.event[i]))
            continue;
        if (place_read(&power.event[i], 0) & PWRBTN) {
            place_write(&power.event[i], 0, PWRBTN);
            pressed = true;
        }
    }
    return pressed;
}
