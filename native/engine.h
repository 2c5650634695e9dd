/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Which engine this machine has (engine.c). */
#ifndef LODGE_NATIVE_ENGINE_H
#define LODGE_NATIVE_ENGINE_H

#include "core/err.h"
#include "engine/hw.h"

/* Finds it and switches it on, on all CPUs. False: this machine has neither, and it has been said why not. In a
 * thread, once. */
bool engine_start(void);
/* NULL: there is none. */
const struct hw_engine *engine_found(void);
/* Off, on this CPU: before power-off and reset. */
void engine_stop_here(void);

#endif
