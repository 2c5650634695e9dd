/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Ports without a device behind them (see the header). None has state, so none needs a lock.
 *
 * A20 is always open: guests that ask find it so, guests that close it are not heard (the last
 * machines that wrapped addresses at 1 MiB are decades old, and every operating system opens it).
 */
#include "device/pc_ports.h"

#include "core/err.h"

enum {
    PORT_POST = 0x80,
    PORT_CONTROL_A = 0x92,
    PORT_DELAY = 0xED,

    CONTROL_A_RESET = 1 << 0,
    CONTROL_A_A20 = 1 << 1,
};

/* Writes are for their delay or for a display that nobody has. */
static void delay_access(void *device, struct bus_access *a)
{
    (void)device;
    if (!a->write)
        a->value = UINT64_MAX;
}

/* The chip resets on a rising edge of bit 0, which reads as 0 again after the reset. */
static void control_a_access(void *device, struct bus_access *a)
{
    struct vm *vm = device;
    if (!a->write)
        a->value = CONTROL_A_A20;
    else if (a->value & CONTROL_A_RESET)
        vm_stop(vm, VM_STOP_RESET, 0, "the guest asked for a reset (port 0x92)");
}

static const struct bus_ops delay_ops = {"delay", 1, 1, false, delay_access};
static const struct bus_ops control_a_ops = {"port92", 1, 1, false, control_a_access};

int pc_ports_create(struct vm *vm)
{
    int err = bus_add(&vm->port_bus, PORT_POST, 1, &delay_ops, vm, NULL);
    if (err == OK)
        err = bus_add(&vm->port_bus, PORT_DELAY, 1, &delay_ops, vm, NULL);
    if (err == OK)
        err = bus_add(&vm->port_bus, PORT_CONTROL_A, 1, &control_a_ops, vm, NULL);
    return err;
}
