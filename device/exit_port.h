/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Exit port for test guests, at LODGE_PORT_EXIT: writing v stops the VM with VM_STOP_EXIT_PORT and
 * status ((v << 1) | 1) & 0xFF. Offered only when the VM's definition asks for it. No state. */
#ifndef LODGE_DEVICE_EXIT_PORT_H
#define LODGE_DEVICE_EXIT_PORT_H

#include "core/vm.h"

int must_check exit_port_create(struct vm *vm);

#endif
