/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Names of the image's own functions (symbols.c). */
#ifndef LODGE_NATIVE_SYMBOLS_H
#define LODGE_NATIVE_SYMBOLS_H

#include "core/types.h"

/* The function that address lies in and how far; "?" if it is none. */
const char *symbol_of(uint64_t address, uint64_t *offset);

#endif
