/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the operator is told about a VM: its end, its registers, its counters. See report.c. */
#ifndef LODGE_HOSTED_REPORT_H
#define LODGE_HOSTED_REPORT_H

#include "hosted/status.h"

struct home;

/* The VM has ended and its vCPUs stand: says how, unless it was in order, and gives the status. */
enum lodge_status report_end(struct home *h);
/* Main thread, while the guest runs: brings it to rest and dumps the registers of all vCPUs. */
void report_registers_at_rest(struct home *h);
/* --stats. vCPUs stand. */
void report_stats(struct home *h);

#endif
