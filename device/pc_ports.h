/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Ports that every PC has and that need no device: 0x80 and 0xED (POST code, I/O delay) and system
 * control port A (0x92: fast A20, always on; fast reset). What is not here and not another device's
 * reads as all ones (8042, DMA controllers, FDC, game port). No state.
 */
#ifndef LODGE_DEVICE_PC_PORTS_H
#define LODGE_DEVICE_PC_PORTS_H

#include "core/vm.h"

int must_check pc_ports_create(struct vm *vm);

#endif
