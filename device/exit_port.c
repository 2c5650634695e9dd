/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The exit port (see the header). Stateless, so it needs no lock: vm_stop takes the first caller.
 */
#include "device/exit_port.h"

#include "lodge/ports.h"

enum { PORT_SIZE = 4 }; /* so that word and dword writes come as one access */

static void exit_port_access(void *device, struct bus_access *a)
{
    struct vm *vm = device;
    if (!a->write) {
        a->value = UINT64_MAX;
        return;
    }
    if (a->offset != 0)
        return;
    uint32_t status = ((uint32_t)a->value << 1 | 1) & 0xFF;
    vm_stop(vm, VM_STOP_EXIT_PORT, status, "the guest wrote %#x to the exit port",
            (unsigned int)a->value);
}

static const struct bus_ops exit_port_ops = {"exit_port", 1, 4, false, exit_port_access};

int exit_port_create(struct vm *vm)
{
    return bus_add(&vm->port_bus, LODGE_PORT_EXIT, PORT_SIZE, &exit_port_ops, vm, NULL);
}
