/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Who reaches what (isolation.c). */
#ifndef LODGE_NATIVE_ISOLATION_H
#define LODGE_NATIVE_ISOLATION_H

#include "core/err.h"
#include "core/types.h"

/* Walks the nested tables of every VM that exists. OK, or ERR_CORRUPT and one line: some VM reaches a frame that is not its
 * own. */
int must_check isolation_check(char *message, size_t size);

#endif
