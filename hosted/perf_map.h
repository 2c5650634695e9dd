/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* --perf-map: names of generated code for perf (tools/perf/Documentation/jit-interface.txt). */
#ifndef LODGE_HOSTED_PERF_MAP_H
#define LODGE_HOSTED_PERF_MAP_H

#include <stddef.h>

struct vm;

/* Makes /tmp/perf-PID.map and has vm's engine fill it; before the machine is made. ERR_IO and a message
 * if the file is there already, or cannot be made. It stays open. */
int perf_map_open(struct vm *vm, char *message, size_t size);

#endif
