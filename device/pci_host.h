/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * PCI host: configuration mechanism 1 (0xCF8/0xCFC), ECAM (LODGE_MMIO_ECAM), bus 0 with a host
 * bridge at 00:00.0, and the reset control register at 0xCF9, which shares the mechanism's ports.
 * (PCI Local Bus 3.0, PCI Express Base 4.0 7.2.2.)
 */
#ifndef LODGE_DEVICE_PCI_HOST_H
#define LODGE_DEVICE_PCI_HOST_H

#include "core/vm.h"

enum {
    PCI_FUNCTIONS = 256,
    PCI_CONFIG_SIZE = 256, /* no extended space: it reads as all ones */
    PCI_BARS = 6,
};

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_PORT, PCI_BAR_MMIO32, PCI_BAR_MMIO64 };

/* One base address register. Filled in by the device before pci_add: kind, size, ops, device. */
struct pci_bar {
    enum pci_bar_kind kind;
    uint64_t size; /* a power of two: >= 16 (MMIO), 4..256 (port) */
    const struct bus_ops *ops;
    void *device;
    struct lock *lock;
    uint64_t base; /* where its region is on the bus now; parked where no guest can reach if off */
};

struct pci_device {
    const char *name;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t write_mask[PCI_CONFIG_SIZE]; /* bits that the guest may write; all others stay (D9) */
    struct pci_bar bar[PCI_BARS];
    /* After a guest's write changed config[offset .. offset + size). May be NULL. Board lock held.
     */
    void (*written)(struct pci_device *d, uint32_t offset, uint32_t size);
    struct pci_host *host; /* set by pci_add, with devfn */
    uint8_t devfn;
};

struct pci_host {
    struct vm *vm;
    uint32_t address; /* CONFIG_ADDRESS */
    uint8_t reset_control;
    _Atomic bool bars_changed; /* pci_host_sync has something to do */
    struct pci_device *function[PCI_FUNCTIONS];
    struct pci_device bridge;
};

int must_check pci_host_create(struct pci_host *h, struct vm *vm);
void pci_host_reset(struct pci_host *h); /* all functions; board lock held */

/* Puts a device on the bus: config[] and BAR descriptions filled in; sets the header's BARs and
 * their write masks. ERR_EXISTS, ERR_INVALID (a BAR's description), ERR_NO_MEMORY (bus full). */
int must_check pci_add(struct pci_host *h, uint8_t devfn, struct pci_device *d);

/* Moves BARs to where configuration space says. Called with no lock held, after any access to the
 * host's ports or ECAM, by the vCPU that made it (machine/exits.c); does nothing in the usual case.
 * Brings the VM to rest for it. */
void pci_host_sync_slow(struct pci_host *h, struct vcpu *self);

static inline void pci_host_sync(struct pci_host *h, struct vcpu *self)
{
    if (unlikely(atomic_load_explicit(&h->bars_changed, memory_order_relaxed)))
        pci_host_sync_slow(h, self);
}

#endif
