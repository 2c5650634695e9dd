/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the PCI host: both ways into configuration space, BARs, reset register. */
#include <string.h>

#include "core/err.h"
#include "core/mem.h"
#include "device/pci_host.h"
#include "lodge/ports.h"
#include "tests/lib/board.h"
#include "tests/lib/unit.h"

enum { DEV = 3 << 3, COMMAND = 4 };

static struct board b;
static struct pci_host host;
static struct pci_device device;
static unsigned int writes;

static void bar_access(void *owner, struct bus_access *a)
{
    if (!a->write)
        a->value = (uintptr_t)owner;
}

static const struct bus_ops bar_ops = {"bar", 1, 8, true, bar_access};

static void written(struct pci_device *d, uint32_t offset, uint32_t size)
{
    CHECK(d == &device && offset + size <= PCI_CONFIG_SIZE);
    writes++;
}

static void sync(void)
{
    pci_host_sync(&host, NULL);
}

static void *tag(uintptr_t n)
{
    return (void *)n;
}

/* A device with a 64-bit BAR of 16 KiB, a port BAR of 32 and a 32-bit BAR of 4 KiB. */
static void setup(void)
{
    board_init(&b);
    CHECK_EQ(pci_host_create(&host, &b.vm), OK);
    memset(&device, 0, sizeof(device));
    device.name = "test";
    device.written = written;
    store_u32(device.config, 0x10411AF4);
    device.bar[0] = (struct pci_bar){
        .kind = PCI_BAR_MMIO64, .size = 0x4000, .ops = &bar_ops, .device = tag(0xA0)};
    device.bar[2] =
        (struct pci_bar){.kind = PCI_BAR_PORT, .size = 32, .ops = &bar_ops, .device = tag(0xA2)};
    device.bar[3] = (struct pci_bar){
        .kind = PCI_BAR_MMIO32, .size = 0x1000, .ops = &bar_ops, .device = tag(0xA3)};
    CHECK_EQ(pci_add(&host, DEV, &device), OK);
    writes = 0;
}

static uint64_t ecam(unsigned int devfn, unsigned int offset, uint8_t size)
{
    return board_read(&b, LODGE_MMIO_ECAM + (devfn << 12) + offset, size);
}

static void ecam_write(unsigned int devfn, unsigned int offset, uint8_t size, uint64_t v)
{
    board_write(&b, LODGE_MMIO_ECAM + (devfn << 12) + offset, size, v);
    sync();
}

static void test_mechanism_1(void)
{
    setup();
    board_out(&b, 0xCF8, 4, 0x80000000);
    CHECK_EQ(board_in(&b, 0xCF8, 4), 0x80000000);
    CHECK_EQ(board_in(&b, 0xCFC, 4), 0x00081B36);
    CHECK_EQ(board_in(&b, 0xCFC, 2), 0x1B36);
    CHECK_EQ(board_in(&b, 0xCFE, 2), 0x0008);
    CHECK_EQ(board_in(&b, 0xCFF, 1), 0x00);
    board_out(&b, 0xCF8, 4, 0x80000008);
    CHECK_EQ(board_in(&b, 0xCFE, 2), 0x0600);
    board_out(&b, 0xCF8, 1, 0x55); /* bytes and words are not for it */
    board_out(&b, 0xCFA, 2, 0x5555);
    CHECK_EQ(board_in(&b, 0xCF8, 2), 0xFFFF);
    CHECK_EQ(board_in(&b, 0xCF8, 4), 0x80000008);
    board_out(&b, 0xCF8, 4, 0xFFFFFFFF);
    CHECK_EQ(board_in(&b, 0xCF8, 4), 0x80FFFFFC);
    CHECK_EQ(board_in(&b, 0xCFC, 4), 0xFFFFFFFF); /* bus 255 */
    board_out(&b, 0xCF8, 4, 0x00000000);
    CHECK_EQ(board_in(&b, 0xCFC, 4), 0xFFFFFFFF); /* not enabled */
    board_out(&b, 0xCFC, 4, 0);
    for (unsigned int devfn = 0; devfn < 256; devfn++) {
        board_out(&b, 0xCF8, 4, 0x80000000 | devfn << 8);
        CHECK_EQ(board_in(&b, 0xCFC, 4), devfn == 0     ? 0x00081B36
                                         : devfn == DEV ? 0x10411AF4
                                                        : 0xFFFFFFFF);
    }
}

static void test_ecam(void)
{
    setup();
    CHECK_EQ(ecam(DEV, 0, 4), 0x10411AF4);
    CHECK_EQ(ecam(DEV, 1, 1), 0x1A);
    CHECK_EQ(ecam(DEV, 0, 8), 0x10411AF4);
    CHECK_EQ(ecam(DEV, 1, 4), 0x0010411A); /* misaligned: bytes */
    CHECK_EQ(ecam(DEV, 256, 4), 0xFFFFFFFF);
    CHECK_EQ(ecam(DEV, 254, 4), 0xFFFF0000);
    CHECK_EQ(ecam(DEV, 4092, 8), 0xFFFFFFFFFFFFFFFF);
    CHECK_EQ(ecam(DEV + 1, 0, 4), 0xFFFFFFFF);
    CHECK_EQ(ecam(255, 4095, 1), 0xFF);
    ecam_write(DEV + 1, 0, 4, 0);
    CHECK_EQ(writes, 0);
}

/* D9: nothing changes but by the mask. */
static void test_write_masks(void)
{
    setup();
    for (unsigned int i = 0; i < 4096; i += 8)
        board_write(&b, LODGE_MMIO_ECAM + (DEV << 12) + i, 8, 0xFFFFFFFFFFFFFFFF);
    CHECK_EQ(ecam(DEV, 0, 4), 0x10411AF4);
    CHECK_EQ(ecam(DEV, COMMAND, 4), 0x00000407);
    CHECK_EQ(ecam(DEV, 8, 4), 0);
    CHECK_EQ(ecam(DEV, 0x0C, 4), 0xFF);
    CHECK_EQ(ecam(DEV, 0x10, 4), 0xFFFFC004); /* sizes as the guest finds them out */
    CHECK_EQ(ecam(DEV, 0x14, 4), 0xFFFFFFFF);
    CHECK_EQ(ecam(DEV, 0x18, 4), 0x0000FFE1);
    CHECK_EQ(ecam(DEV, 0x1C, 4), 0xFFFFF000);
    CHECK_EQ(ecam(DEV, 0x20, 4), 0);
    CHECK_EQ(ecam(DEV, 0x3C, 4), 0xFF);
    for (unsigned int i = 0x40; i < 0x100; i += 4)
        CHECK_EQ(ecam(DEV, i, 4), 0);
    CHECK_EQ(writes, 64);
    for (unsigned int i = 0; i < 256; i += 4)
        board_write(&b, LODGE_MMIO_ECAM + i, 4, 0xFFFFFFFF);
    CHECK_EQ(ecam(0, 0, 4), 0x00081B36);
    CHECK_EQ(ecam(0, 8, 4), 0x06000000);
    CHECK_EQ(ecam(0, 0x10, 4), 0);
}

static uint64_t at(uint64_t address)
{
    return board_read(&b, address, 1);
}

static void test_bars(void)
{
    setup();
    ecam_write(DEV, 0x10, 4, 0xD0000000);
    ecam_write(DEV, 0x1C, 4, 0xD0100000);
    ecam_write(DEV, 0x18, 4, 0xC000);
    CHECK_EQ(at(0xD0000000), 0xFF); /* decoding is off */
    ecam_write(DEV, COMMAND, 2, 2);
    CHECK_EQ(at(0xD0000000), 0xA0);
    CHECK_EQ(at(0xD0003FFF), 0xA0);
    CHECK_EQ(at(0xD0004000), 0xFF);
    CHECK_EQ(at(0xD0100000), 0xA3);
    CHECK_EQ(board_in(&b, 0xC000, 1), 0xFF);
    ecam_write(DEV, COMMAND, 2, 3);
    CHECK_EQ(board_in(&b, 0xC01F, 1), 0xA2);
    ecam_write(DEV, 0x14, 4, 0x10); /* above 4 GiB */
    CHECK_EQ(at(0x10D0000000), 0xA0);
    CHECK_EQ(at(0xD0000000), 0xFF);
    ecam_write(DEV, COMMAND, 2, 0);
    CHECK_EQ(at(0x10D0000000), 0xFF);
    CHECK_EQ(board_in(&b, 0xC000, 1), 0xFF);
}

static void test_bars_in_bad_places(void)
{
    setup();
    ecam_write(DEV, COMMAND, 2, 3);
    ecam_write(DEV, 0x1C, 4, LODGE_MMIO_ECAM); /* over another region: stays away */
    CHECK_EQ(ecam(0, 0, 4), 0x00081B36);
    ecam_write(DEV, 0x1C, 4, 0xD0100000);
    CHECK_EQ(at(0xD0100000), 0xA3);
    ecam_write(DEV, 0x10, 4, 0xD0100000); /* over its own: the other one stays */
    CHECK_EQ(at(0xD0100000), 0xA3);
    board_write(&b, LODGE_MMIO_ECAM + (DEV << 12) + 0x10, 8, 0xFFFFFFFFFFFFC000);
    sync();
    CHECK_EQ(device.bar[0].base >> 62, 1); /* beyond any processor: parked */
    board_write(&b, LODGE_MMIO_ECAM + (DEV << 12) + 0x10, 8, device.bar[3].base);
    ecam_write(DEV, 0x18, 4, 0xCF8);
    board_out(&b, 0xCF8, 4, 0x80000000);
    CHECK_EQ(board_in(&b, 0xCFC, 4), 0x00081B36);
}

/* Two BARs change places: both are parked before either is placed. */
static void test_bars_exchange(void)
{
    static struct pci_device other;
    setup();
    memset(&other, 0, sizeof(other));
    other.bar[0] = (struct pci_bar){
        .kind = PCI_BAR_MMIO32, .size = 0x1000, .ops = &bar_ops, .device = tag(0xB0)};
    CHECK_EQ(pci_add(&host, 0x20, &other), OK);
    board_write(&b, LODGE_MMIO_ECAM + (DEV << 12) + 0x1C, 4, 0xD0000000);
    board_write(&b, LODGE_MMIO_ECAM + (DEV << 12) + COMMAND, 2, 2);
    board_write(&b, LODGE_MMIO_ECAM + (0x20 << 12) + 0x10, 4, 0xD1000000);
    ecam_write(0x20, COMMAND, 2, 2);
    CHECK_EQ(at(0xD0000000), 0xA3);
    CHECK_EQ(at(0xD1000000), 0xB0);
    board_write(&b, LODGE_MMIO_ECAM + (DEV << 12) + 0x1C, 4, 0xD1000000);
    ecam_write(0x20, 0x10, 4, 0xD0000000);
    CHECK_EQ(at(0xD1000000), 0xA3);
    CHECK_EQ(at(0xD0000000), 0xB0);
    lock_take(&b.vm.board_lock);
    pci_host_reset(&host);
    lock_release(&b.vm.board_lock);
    CHECK_EQ(at(0xD1000000), 0xFF);
    CHECK_EQ(ecam(DEV, 0x1C, 4), 0);
    CHECK_EQ(ecam(DEV, 0, 4), 0x10411AF4);
}

static void test_add_refuses(void)
{
    /* table */
    static const struct pci_bar rows[] = {
        {.kind = PCI_BAR_MMIO32, .size = 0, .ops = &bar_ops},
        {.kind = PCI_BAR_MMIO32, .size = 24, .ops = &bar_ops},
        {.kind = PCI_BAR_MMIO32, .size = 8, .ops = &bar_ops},
        {.kind = PCI_BAR_MMIO32, .size = 1ull << 32, .ops = &bar_ops},
        {.kind = PCI_BAR_MMIO64, .size = 1ull << 40, .ops = &bar_ops},
        {.kind = PCI_BAR_PORT, .size = 2, .ops = &bar_ops},
        {.kind = PCI_BAR_PORT, .size = 512, .ops = &bar_ops},
        {.kind = PCI_BAR_MMIO32, .size = 4096, .ops = NULL},
    };
    static struct pci_device d;
    setup();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        memset(&d, 0, sizeof(d));
        d.bar[0] = rows[i];
        CHECK_EQ(pci_add(&host, 0x30, &d), (uint64_t)ERR_INVALID);
    }
    memset(&d, 0, sizeof(d));
    d.bar[5] = (struct pci_bar){.kind = PCI_BAR_MMIO64, .size = 4096, .ops = &bar_ops};
    CHECK_EQ(pci_add(&host, 0x30, &d), (uint64_t)ERR_INVALID); /* no room for its upper half */
    CHECK_EQ(pci_add(&host, DEV, &d), (uint64_t)ERR_EXISTS);
    CHECK_EQ(ecam(0x30, 0, 4), 0xFFFFFFFF);
}

static void test_reset_register(void)
{
    setup();
    board_out(&b, 0xCF9, 1, 0x02);
    CHECK_EQ(board_in(&b, 0xCF9, 1), 0x02);
    CHECK(!vm_is_stopped(&b.vm));
    board_out(&b, 0xCF9, 1, 0x06);
    CHECK_EQ(b.vm.stop_reason, VM_STOP_RESET);
    setup();
    board_out(&b, 0xCF8, 4, 0x00000600); /* a dword is CONFIG_ADDRESS */
    CHECK(!vm_is_stopped(&b.vm));
}

static void test_state_refused(void)
{
    enum { BRIDGE = 5, DEVICE = BRIDGE + 256 };
    /* table */
    static const struct board_bad_state rows[] = {
        {0, 4, 0x01000000},
        {0, 4, 3},
        {4, 1, 0x04},
        {BRIDGE, 1, 0x37},
        {BRIDGE + 4, 1, 8},
        {DEVICE + 0x10, 4, 0xD0000000},
        {DEVICE + 0x10, 4, 0xD0000104},
        {DEVICE + 0x18, 4, 0x1C001},
        {DEVICE + 0xFF, 1, 1},
    };
    setup();
    board_check_refuses(&b, rows, sizeof(rows) / sizeof(rows[0]));
}

/* BARs are where the saved configuration says. */
static void test_state_moves_bars(void)
{
    uint8_t buf[BOARD_STATE];
    setup();
    ecam_write(DEV, 0x1C, 4, 0xD0100000);
    ecam_write(DEV, COMMAND, 2, 2);
    size_t size = board_save(&b, buf);
    ecam_write(DEV, 0x1C, 4, 0xD0200000);
    CHECK_EQ(at(0xD0100000), 0xFF);
    board_load(&b, buf, size);
    CHECK_EQ(at(0xD0100000), 0xA3);
    CHECK_EQ(at(0xD0200000), 0xFF);
}

static void more(void)
{
    if ((board_random() & 1) == 0)
        board_out(&b, 0xCF8, 4, 0x80000000 | (board_random() & DEV) << 8 | (board_random() & 0xFF));
    sync();
}

static void test_fuzz(void)
{
    setup();
    struct board_fuzz f = {&b.vm.port_bus, 0xCF8, 8, 20000, more, 0};
    board_fuzz(&b, &f);
    f = (struct board_fuzz){&b.vm.mmio_bus, LODGE_MMIO_ECAM + (DEV << 12), 0x110, 20000, more, 0};
    board_fuzz(&b, &f);
}

int main(void)
{
    UNIT_RUN(test_mechanism_1);
    UNIT_RUN(test_ecam);
    UNIT_RUN(test_write_masks);
    UNIT_RUN(test_bars);
    UNIT_RUN(test_bars_in_bad_places);
    UNIT_RUN(test_bars_exchange);
    UNIT_RUN(test_add_refuses);
    UNIT_RUN(test_reset_register);
    UNIT_RUN(test_state_refused);
    UNIT_RUN(test_state_moves_bars);
    UNIT_RUN(test_fuzz);
    return unit_done();
}
