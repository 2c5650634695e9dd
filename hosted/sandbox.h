/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the VM process gives up before the guest runs: see sandbox.c. */
#ifndef LODGE_HOSTED_SANDBOX_H
#define LODGE_HOSTED_SANDBOX_H

#include <stddef.h>

#include "core/types.h"

/* Step 1, before other threads exist: capabilities, core dumps, working directory, new privileges.
 * ERR_PERMISSION and a message. */
int must_check sandbox_drop_privileges(char *message, size_t size);
/* Step 2, when all threads stand: the system call filter, on all of them. ERR_UNSUPPORTED or
 * ERR_BUSY and a message. */
int must_check sandbox_enter(char *message, size_t size);
/* Can this host do it? NULL, or what it lacks. For `lodge doctor`. */
const char *sandbox_missing(void);

#endif
