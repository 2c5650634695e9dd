/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* One VM in this process, from its definition to its end: see vm_process.c. */
#ifndef LODGE_HOSTED_VM_PROCESS_H
#define LODGE_HOSTED_VM_PROCESS_H

#include "hosted/options.h"
#include "hosted/restore.h"
#include "hosted/status.h"

/* Once per process. Says by itself what went wrong. origin: NULL for a VM that boots; it stays the caller's, and
 * must stay. tell: for detach_done, -1: it is not detached. */
enum lodge_status vm_process_run(const struct run_options *options, const struct restore_origin *origin, int tell);

#endif
