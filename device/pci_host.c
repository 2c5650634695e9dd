/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * PCI host and bus 0.
 *
 * Configuration space is bytes with a write mask each: a guest changes what the mask lets it and
 * nothing else (bad-inputs D9), whatever the size and place of its access. Functions that are not
 * there read as all ones. Both ways in, CONFIG_ADDRESS/DATA and ECAM, meet in config_access.
 *
 * Base address registers. A device names its BARs; each becomes a bus region once and for all, at
 * an address that no guest can reach ("parked"), and moves from there to where the guest puts it.
 * The bus may change only while the VM is at rest, which a handler under the board lock cannot
 * bring about; so a configuration write only notes that something changed, and the vCPU that made
 * it calls pci_host_sync after the access, before its next instruction. Regions that have to move
 * are all parked first, so that exchanging two BARs works. A place that is taken (by another
 * device, or RAM, which wins by being looked up first) leaves the BAR parked until it is moved
 * again: its accesses then read as all ones.
 *
 * Port 0xCF9, the reset control register, lies within CONFIG_ADDRESS, which takes only dwords; byte
 * accesses there are the reset register's (ICH data sheets, 12.7.5).
 *
 * Not done: buses beyond 0, extended configuration space, ROM BARs, INTx, power management.
 *
 * Locking: the board lock; the bus arrays only at rest.
 */
#include "device/pci_host.h"

#include "core/err.h"
#include "core/mem.h"
#include "lodge/ports.h"

enum {
    PORT_ADDRESS = 0xCF8,
    PORT_SIZE = 8, /* CONFIG_ADDRESS, CONFIG_DATA */
    DATA_OFFSET = 4,
    RESET_OFFSET = LODGE_PORT_RESET - PORT_ADDRESS,
    RESET_NOW = 1 << 2,
    RESET_KEPT = 0x0A, /* SYS_RST, FULL_RST */

    ECAM_FUNCTION_SHIFT = 12,
    ECAM_SIZE = LODGE_ECAM_BUSES << 20,

    CONFIG_COMMAND = 0x04,
    CONFIG_CACHE_LINE = 0x0C,
    CONFIG_BAR = 0x10,
    CONFIG_INTERRUPT_LINE = 0x3C,
    COMMAND_PORT = 1 << 0,
    COMMAND_MMIO = 1 << 1,
    COMMAND_WRITABLE = 0x0407, /* port, memory, bus master; INTx off */
    BAR_PORT = 1 << 0,
    BAR_64 = 2 << 1,

    PARKED_PORT = 0x10000, /* beyond what 16 bits reach */
    PORT_BAR_MAX = 256,
    MMIO_BAR_SHIFT_MAX = 36,
};
#define ADDRESS_ENABLE   (1u << 31)
#define ADDRESS_WRITABLE 0x80FFFFFCu
#define PARKED_MMIO      BIT(62)
#define MMIO_LIMIT       BIT(52) /* no processor has more physical address bits */

/* --- BARs ------------------------------------------------------------------------------------- */

static struct bus *bar_bus(struct pci_host *h, const struct pci_bar *bar)
{
    return bar->kind == PCI_BAR_PORT ? &h->vm->port_bus : &h->vm->mmio_bus;
}

static uint64_t parked_at(const struct pci_bar *bar, uint8_t devfn, unsigned int index)
{
    uint64_t place = (uint64_t)devfn * 8 + index;
    return bar->kind == PCI_BAR_PORT ? PARKED_PORT + place * PORT_BAR_MAX
                                     : PARKED_MMIO + (place << MMIO_BAR_SHIFT_MAX);
}

/* Where configuration space says that a BAR is; parked if its decoder is off. */
static uint64_t wanted_at(const struct pci_device *d, unsigned int index)
{
    const struct pci_bar *bar = &d->bar[index];
    const uint8_t *reg = &d->config[CONFIG_BAR + index * 4];
    bool port = bar->kind == PCI_BAR_PORT;
    uint16_t enable = port ? COMMAND_PORT : COMMAND_MMIO;
    uint64_t base = bar->kind == PCI_BAR_MMIO64 ? load_u64(reg) : load_u32(reg);
    base &= ~(bar->size - 1);
    if (!(load_u16(&d->config[CONFIG_COMMAND]) & enable) || (!port && base >= MMIO_LIMIT))
        return parked_at(bar, d->devfn, index);
    return base;
}

static void bar_move(struct pci_host *h, struct pci_bar *bar, uint64_t base)
{
    if (bus_move(bar_bus(h, bar), bar->base, base) == OK)
        bar->base = base;
}

/* VM at rest, board lock held. */
static void bars_apply(struct pci_host *h)
{
    atomic_store_explicit(&h->bars_changed, false, memory_order_relaxed);
    for (unsigned int round = 0; round < 2; round++)
        for (unsigned int devfn = 0; devfn < PCI_FUNCTIONS; devfn++) {
            struct pci_device *d = h->function[devfn];
            for (unsigned int i = 0; d && i < PCI_BARS; i++) {
                struct pci_bar *bar = &d->bar[i];
                if (bar->kind == PCI_BAR_NONE || bar->base == wanted_at(d, i))
                    continue;
                bar_move(h, bar, round == 0 ? parked_at(bar, d->devfn, i) : wanted_at(d, i));
            }
        }
}

void pci_host_sync_slow(struct pci_host *h, struct vcpu *self)
{
    vm_rest_begin(h->vm, self);
    lock_take(&h->vm->board_lock);
    bars_apply(h);
    lock_release(&h->vm->board_lock);
    vm_rest_end(h->vm, self);
}

static bool bar_is_valid(const struct pci_bar *bar, unsigned int index)
{
    if (bar->kind == PCI_BAR_NONE)
        return true;
    if (bar->size == 0 || (bar->size & (bar->size - 1)) != 0 || !bar->ops)
        return false;
    if (bar->kind == PCI_BAR_PORT)
        return bar->size >= 4 && bar->size <= PORT_BAR_MAX;
    if (bar->kind == PCI_BAR_MMIO32)
        return bar->size >= 16 && bar->size <= BIT(31);
    return bar->size >= 16 && bar->size <= BIT(MMIO_BAR_SHIFT_MAX) && index < PCI_BARS - 1 &&
           bar[1].kind == PCI_BAR_NONE;
}

/* The register reads back its type and takes the bits above the size (PCI 3.0, 6.2.5.1). */
static int bar_create(struct pci_host *h, struct pci_device *d, unsigned int index)
{
    struct pci_bar *bar = &d->bar[index];
    uint8_t *reg = &d->config[CONFIG_BAR + index * 4];
    uint8_t *mask = &d->write_mask[CONFIG_BAR + index * 4];
    if (bar->kind == PCI_BAR_NONE)
        return OK;
    if (bar->kind == PCI_BAR_MMIO64) {
        store_u64(reg, BAR_64);
        store_u64(mask, ~(bar->size - 1));
    } else if (bar->kind == PCI_BAR_MMIO32) {
        store_u32(reg, 0);
        store_u32(mask, (uint32_t) ~(bar->size - 1));
    } else {
        store_u32(reg, BAR_PORT);
        store_u32(mask, (uint16_t) ~(bar->size - 1));
    }
    bar->base = parked_at(bar, d->devfn, index);
    return bus_add(bar_bus(h, bar), bar->base, bar->size, bar->ops, bar->device, bar->lock);
}

int pci_add(struct pci_host *h, uint8_t devfn, struct pci_device *d)
{
    if (h->function[devfn])
        return ERR_EXISTS;
    for (unsigned int i = 0; i < PCI_BARS; i++)
        if (!bar_is_valid(&d->bar[i], i))
            return ERR_INVALID;
    d->host = h;
    d->devfn = devfn;
    store_u16(&d->write_mask[CONFIG_COMMAND], COMMAND_WRITABLE);
    d->write_mask[CONFIG_CACHE_LINE] = 0xFF;
    d->write_mask[CONFIG_INTERRUPT_LINE] = 0xFF;
    for (unsigned int i = 0; i < PCI_BARS; i++) {
        int err = bar_create(h, d, i);
        if (err != OK)
            return err;
    }
    h->function[devfn] = d;
    return OK;
}

/* --- configuration space ---------------------------------------------------------------------- */

static void config_write(struct pci_host *h, struct pci_device *d, uint32_t offset,
                         const struct bus_access *a)
{
    for (uint32_t i = 0; i < a->size; i++) {
        uint8_t mask = d->write_mask[offset + i], value = (uint8_t)(a->value >> (i * 8));
        d->config[offset + i] = (uint8_t)((d->config[offset + i] & ~mask) | (value & mask));
    }
    if (d->written)
        d->written(d, offset, a->size);
    if (offset < CONFIG_BAR + PCI_BARS * 4)
        atomic_store_explicit(&h->bars_changed, true, memory_order_relaxed);
}

/* offset + size <= 4096 and naturally aligned, by the bus. */
static void config_access(struct pci_host *h, unsigned int devfn, uint32_t offset,
                          struct bus_access *a)
{
    struct pci_device *d = h->function[devfn % PCI_FUNCTIONS];
    bool there = d && offset + a->size <= PCI_CONFIG_SIZE;
    if (!a->write) {
        a->value = UINT64_MAX;
        if (there) {
            a->value = 0;
            memcpy(&a->value, &d->config[offset], a->size);
        }
    } else if (there) {
        config_write(h, d, offset, a);
    }
}

static void ecam_access(void *device, struct bus_access *a)
{
    uint32_t offset = (uint32_t)a->offset;
    config_access(device, offset >> ECAM_FUNCTION_SHIFT, offset & ((1u << ECAM_FUNCTION_SHIFT) - 1),
                  a);
}

static void reset_access(struct pci_host *h, struct bus_access *a)
{
    if (!a->write) {
        a->value = h->reset_control;
        return;
    }
    h->reset_control = a->value & RESET_KEPT;
    if (a->value & RESET_NOW)
        vm_stop(h->vm, VM_STOP_RESET, 0, "the guest asked for a reset (port 0xcf9)");
}

static void address_access(struct pci_host *h, struct bus_access *a)
{
    if (a->size == 1 && a->offset == RESET_OFFSET)
        reset_access(h, a);
    else if (a->size != 4)
        a->value = UINT64_MAX;
    else if (a->write)
        h->address = (uint32_t)a->value & ADDRESS_WRITABLE;
    else
        a->value = h->address;
}

static void port_access(void *device, struct bus_access *a)
{
    struct pci_host *h = device;
    if (a->offset < DATA_OFFSET) {
        address_access(h, a);
        return;
    }
    uint32_t bus = h->address >> 16 & 0xFF;
    uint32_t offset = (h->address & 0xFC) + ((uint32_t)a->offset & 3);
    if ((h->address & ADDRESS_ENABLE) && bus == 0)
        config_access(h, h->address >> 8 & 0xFF, offset, a);
    else
        a->value = UINT64_MAX;
}

static const struct bus_ops port_ops = {"pci", 1, 4, false, port_access};
static const struct bus_ops ecam_ops = {"pci_ecam", 1, 4, false, ecam_access};

/* --- state ------------------------------------------------------------------------------------ */

/* Configuration space of all functions, in order. What a guest cannot write must be what the
 * machine that loads has: else it is another machine. */
static void pci_host_save(const void *object, struct state_writer *w)
{
    const struct pci_host *h = object;
    lock_take(&h->vm->board_lock);
    state_put_u32(w, h->address);
    state_put_u8(w, h->reset_control);
    for (unsigned int devfn = 0; devfn < PCI_FUNCTIONS; devfn++)
        if (h->function[devfn])
            state_put_bytes(w, h->function[devfn]->config, PCI_CONFIG_SIZE);
    lock_release(&h->vm->board_lock);
}

static int pci_host_check(const void *object, struct state_reader *r)
{
    const struct pci_host *h = object;
    bool valid = (state_get_u32(r) & ~ADDRESS_WRITABLE) == 0;
    valid = (state_get_u8(r) & ~RESET_KEPT) == 0 && valid;
    for (unsigned int devfn = 0; devfn < PCI_FUNCTIONS; devfn++) {
        const struct pci_device *d = h->function[devfn];
        uint8_t config[PCI_CONFIG_SIZE];
        if (!d)
            continue;
        state_get_bytes(r, config, sizeof(config));
        for (unsigned int i = 0; i < PCI_CONFIG_SIZE; i++)
            valid = valid && ((config[i] ^ d->config[i]) & (uint8_t)~d->write_mask[i]) == 0;
    }
    int err = state_get_end(r);
    return err != OK ? err : valid ? OK : ERR_CORRUPT;
}

static int pci_host_load(void *object, struct state_reader *r)
{
    struct pci_host *h = object;
    lock_take(&h->vm->board_lock);
    h->address = state_get_u32(r);
    h->reset_control = state_get_u8(r);
    for (unsigned int devfn = 0; devfn < PCI_FUNCTIONS; devfn++)
        if (h->function[devfn])
            state_get_bytes(r, h->function[devfn]->config, PCI_CONFIG_SIZE);
    bars_apply(h);
    lock_release(&h->vm->board_lock);
    return OK;
}

static const struct state_ops state_ops = {"pci_host", 1, pci_host_save, pci_host_check,
                                           pci_host_load};

/* --- life ------------------------------------------------------------------------------------- */

/* A PCI Express host bridge as virtual machines have it: Linux wants a bridge of class 0600 on bus
 * 0 before it believes in configuration mechanism 1. */
static const uint8_t bridge_header[] = {
    0x36, 0x1B, 0x08, 0x00, /* vendor, device: generic PCIe host bridge */
    0x00, 0x00, 0x00, 0x00, /* command, status */
    0x00, 0x00, 0x00, 0x06, /* revision, class: bridge, host */
};

void pci_host_reset(struct pci_host *h)
{
    lock_assert_held(&h->vm->board_lock);
    h->address = 0;
    h->reset_control = 0;
    for (unsigned int devfn = 0; devfn < PCI_FUNCTIONS; devfn++) {
        struct pci_device *d = h->function[devfn];
        for (unsigned int i = 0; d && i < PCI_CONFIG_SIZE; i++)
            d->config[i] &= (uint8_t)~d->write_mask[i];
    }
    bars_apply(h);
}

int pci_host_create(struct pci_host *h, struct vm *vm)
{
    *h = (struct pci_host){.vm = vm};
    h->bridge.name = "host bridge";
    memcpy(h->bridge.config, bridge_header, sizeof(bridge_header));
    int err = pci_add(h, 0, &h->bridge);
    if (err == OK)
        err = bus_add(&vm->port_bus, PORT_ADDRESS, PORT_SIZE, &port_ops, h, &vm->board_lock);
    if (err == OK)
        err = bus_add(&vm->mmio_bus, LODGE_MMIO_ECAM, ECAM_SIZE, &ecam_ops, h, &vm->board_lock);
    return err == OK ? state_register(&vm->state, &state_ops, h, 0) : err;
}
