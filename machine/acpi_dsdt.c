/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The DSDT: what the machine has that cannot be found by itself. In ASL:
 *
 *   \_SB: Cnnn processors ACPI0007, _UID n as in the MADT
 *         PCI0 host bridge, bus 0, with windows and interrupt routing; below it
 *             RES0 PNP0C02: ECAM and ACPI registers are taken
 *             PIC, TIMR, RTC, SPKR, COM1 at their ports of old
 *         VGEN VM generation id: where it is (ADDR)
 *   \_GPE._E00: it has changed
 *   \_S5: power-off
 *
 * The bridge's windows are what no RAM and no controller has: ports but for 0xCF8-0xCFF, memory
 * from the hole's start to ECAM, and from behind ECAM to the I/O APIC. PCI interrupts go straight
 * to I/O APIC inputs 16-19 (no link devices): there is no routing for guests without an I/O APIC.
 * The power button is fixed hardware, hence no device.
 */
#include "device/acpi_pm.h"
#include "lodge/ports.h"
#include "machine/acpi.h"
#include "machine/boot.h"

static void put_id(struct aml *a, const char *name, const char *id)
{
    aml_name(a, name);
    aml_eisa_id(a, id);
}

static void put_integer(struct aml *a, const char *name, uint64_t v)
{
    aml_name(a, name);
    aml_integer(a, v);
}

static struct aml_block open_crs(struct aml *a)
{
    aml_name(a, "_CRS");
    return aml_open_resources(a);
}

static void put_processors(struct aml *a, uint32_t vcpus)
{
    static const char digit[] = "0123456789ABCDEF";
    for (uint32_t n = 0; n < vcpus; n++) {
        char name[5] = {'C', '0', digit[n >> 4 & 15], digit[n & 15], 0};
        struct aml_block device = aml_open_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        put_integer(a, "_UID", n);
        aml_close(a, device);
    }
}

/* Package () {address, pin, 0, GSI} for each slot and pin (6.2.13). */
static void put_interrupt_routing(struct aml *a)
{
    aml_name(a, "_PRT");
    struct aml_block table = aml_open_package(a, ACPI_PCI_SLOTS * 4);
    for (uint32_t slot = 0; slot < ACPI_PCI_SLOTS; slot++) {
        for (uint32_t pin = 0; pin < 4; pin++) {
            struct aml_block entry = aml_open_package(a, 4);
            aml_integer(a, slot << 16 | 0xFFFF);
            aml_integer(a, pin);
            aml_integer(a, 0);
            aml_integer(a, ACPI_PCI_GSI + (slot + pin) % 4);
            aml_close(a, entry);
        }
    }
    aml_close(a, table);
}

static void put_bridge_windows(struct aml *a)
{
    const uint32_t ecam_end = LODGE_MMIO_ECAM + (uint32_t)MIB(LODGE_ECAM_BUSES);
    struct aml_block crs = open_crs(a);
    aml_resource_bus_window(a, 0, LODGE_ECAM_BUSES - 1);
    aml_resource_io(a, 0xCF8, 8);
    aml_resource_io_window(a, 0, 0xCF7);
    aml_resource_io_window(a, 0xD00, 0xFFFF);
    aml_resource_memory_window(a, LODGE_MMIO_HOLE, LODGE_MMIO_ECAM - 1);
    aml_resource_memory_window(a, ecam_end, LODGE_MMIO_IO_APIC - 1);
    aml_close_resources(a, crs);
}

/* A legacy device: id, ports, interrupt. */
struct board_device {
    const char *name, *id;
    struct {
        uint16_t base;
        uint8_t length;
    } port[2];
    int irq; /* -1: none */
};

static const struct board_device board[] = {
    /* table */
    {"PIC_", "PNP0000", {{0x20, 2}, {0xA0, 2}}, 2},
    {"TIMR", "PNP0100", {{0x40, 4}}, 0},
    {"RTC_", "PNP0B00", {{0x70, 2}}, 8},
    {"SPKR", "PNP0800", {{0x61, 1}}, -1},
    {"COM1", "PNP0501", {{LODGE_PORT_SERIAL, 8}}, LODGE_IRQ_SERIAL},
};

static void put_board(struct aml *a)
{
    for (size_t n = 0; n < ARRAY_SIZE(board); n++) {
        const struct board_device *d = &board[n];
        struct aml_block device = aml_open_device(a, d->name);
        put_id(a, "_HID", d->id);
        struct aml_block crs = open_crs(a);
        for (size_t p = 0; p < ARRAY_SIZE(d->port) && d->port[p].length > 0; p++)
            aml_resource_io(a, d->port[p].base, d->port[p].length);
        if (d->irq >= 0)
            aml_resource_irq(a, (unsigned int)d->irq);
        aml_close_resources(a, crs);
        aml_close(a, device);
    }
}

static void put_reserved(struct aml *a)
{
    struct aml_block device = aml_open_device(a, "RES0");
    put_id(a, "_HID", "PNP0C02");
    put_integer(a, "_UID", 0);
    struct aml_block crs = open_crs(a);
    aml_resource_memory(a, LODGE_MMIO_ECAM, (uint32_t)MIB(LODGE_ECAM_BUSES));
    aml_resource_io(a, LODGE_PORT_ACPI_PM1_EVENT, 14); /* event, control, timer, GPE0 */
    aml_close_resources(a, crs);
    aml_close(a, device);
}

/*
 * Microsoft, "Virtual Machine Generation ID": a device of that _CID and _DDN, whose ADDR gives the two halves of the
 * id's address, and a notification (80H) when it is another.
 */
static void put_generation(struct aml *a)
{
    struct aml_block device = aml_open_device(a, "VGEN");
    aml_name(a, "_HID");
    aml_string(a, "LDGE0001");
    aml_name(a, "_CID");
    aml_string(a, "VM_Gen_Counter");
    aml_name(a, "_DDN");
    aml_string(a, "VM_Gen_Counter");
    aml_name(a, "ADDR");
    struct aml_block address = aml_open_package(a, 2);
    aml_integer(a, BOOT_GENERATION);
    aml_integer(a, 0);
    aml_close(a, address);
    aml_close(a, device);
}

static void put_events(struct aml *a)
{
    struct aml_block gpe = aml_open_scope(a, "_GPE");
    struct aml_block method = aml_open_method(a, "_E00");
    _Static_assert(ACPI_PM_GPE_IDENTITY == 0, "_E00");
    aml_notify(a, "VGEN", 0x80);
    aml_close(a, method);
    aml_close(a, gpe);
}

void acpi_write_dsdt(struct aml *a, uint32_t vcpus)
{
    struct aml_block sb = aml_open_scope(a, "_SB_");
    put_processors(a, vcpus);
    struct aml_block pci = aml_open_device(a, "PCI0");
    put_id(a, "_HID", "PNP0A08");
    put_id(a, "_CID", "PNP0A03");
    put_integer(a, "_UID", 0);
    put_integer(a, "_SEG", 0);
    put_integer(a, "_BBN", 0);
    put_bridge_windows(a);
    put_interrupt_routing(a);
    put_reserved(a);
    put_board(a);
    aml_close(a, pci);
    put_generation(a);
    aml_close(a, sb);
    put_events(a);

    aml_name(a, "_S5_");
    struct aml_block s5 = aml_open_package(a, 4);
    aml_integer(a, ACPI_PM_SLP_TYP_S5); /* PM1a; there is no PM1b */
    aml_integer(a, 0);
    aml_integer(a, 0);
    aml_integer(a, 0);
    aml_close(a, s5);
}
