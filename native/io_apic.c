/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The I/O APICs (Intel 82093AA; ACPI 6.5, 5.2.12.3 and 5.2.12.5) and the 8259s, which are moved out of the
 * exceptions' way and masked. Of all devices we use two: COM1 and ACPI's own interrupt. Start-up only, on the boot
 * processor.
 */
#include "native/acpi.h"
#include "native/apic.h"
#include "native/cpu.h"
#include "native/frames.h"
#include "native/insn.h"

enum { SELECT = 0, WINDOW = 4, REG_VERSION = 1, REG_PINS = 0x10, PINS_MAX = 240 };
enum { PIN_MASKED = 1 << 16, PIN_LEVEL = 1 << 15, PIN_LOW = 1 << 13 };
enum { SIZE = 0x20, MPS_LOW = 3, MPS_LEVEL = 3 << 2 };

static volatile uint32_t *at[ACPI_IO_APICS];

static uint32_t read_register(volatile uint32_t *io, uint32_t r)
{
    io[SELECT] = r;
    return io[WINDOW];
}

static void write_register(volatile uint32_t *io, uint32_t r, uint32_t value)
{
    io[SELECT] = r;
    io[WINDOW] = value;
}

static uint32_t pins(volatile uint32_t *io)
{
    uint32_t n = (read_register(io, REG_VERSION) >> 16 & 0xFF) + 1;

    return n < PINS_MAX ? n : PINS_MAX;
}

/* ICW1 to ICW4 (Intel 8259A): vectors 0x20 to 0x2F, all masked. */
static void mask_8259(void)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } writes[] = {{0x20, 0x11}, {0xA0, 0x11}, {0x21, 0x20}, {0xA1, 0x28}, {0x21, 0x04},
                  {0xA1, 0x02}, {0x21, 0x01}, {0xA1, 0x01}, {0x21, 0xFF}, {0xA1, 0xFF}};

    for (size_t i = 0; i < ARRAY_SIZE(writes); i++)
        outb(writes[i].port, writes[i].value);
}

void io_apic_init(const struct acpi *a)
{
    if (a->has_8259)
        mask_8259();
    for (uint32_t i = 0; i < a->io_apics; i++) {
        at[i] = map_device(a->io_apic[i].address, SIZE, false);
        for (uint32_t pin = 0; at[i] && pin < pins(at[i]); pin++)
            write_register(at[i], REG_PINS + 2 * pin, PIN_MASKED);
    }
}

/* Where an ISA interrupt really leads, and how: edge and high unless overridden; the SCI level and low. */
static uint32_t gsi_of(const struct acpi *a, uint8_t irq, uint32_t *how)
{
    *how = irq == a->sci ? PIN_LEVEL | PIN_LOW : 0;
    for (uint32_t i = 0; i < a->overrides; i++) {
        uint16_t flags = a->override[i].flags;

        if (a->override[i].irq != irq)
            continue;
        if ((flags & 3) != 0)
            *how = (*how & ~(uint32_t)PIN_LOW) | ((flags & 3) == MPS_LOW ? PIN_LOW : 0);
        if ((flags & MPS_LEVEL) != 0)
            *how = (*how & ~(uint32_t)PIN_LEVEL) | ((flags & MPS_LEVEL) == MPS_LEVEL ? PIN_LEVEL : 0);
        return a->override[i].gsi;
    }
    return irq;
}

int io_apic_route(const struct acpi *a, uint8_t irq, uint8_t vector)
{
    uint32_t how, gsi = gsi_of(a, irq, &how);

    for (uint32_t i = 0; i < a->io_apics; i++) {
        uint32_t pin = gsi - a->io_apic[i].gsi_base;

        if (!at[i] || gsi < a->io_apic[i].gsi_base || pin >= pins(at[i]))
            continue;
        write_register(at[i], REG_PINS + 2 * pin + 1, cpu_table[0]->apic_id << 24);
        write_register(at[i], REG_PINS + 2 * pin, how | vector);
        return OK;
    }
    return ERR_NOT_FOUND;
}
