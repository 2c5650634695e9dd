/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
#ifndef LODGE_HOSTED_DOCTOR_H
#define LODGE_HOSTED_DOCTOR_H

#include "hosted/status.h"

/* `lodge doctor`: what this host offers, which engine `auto` takes, and why. On standard output. */
enum lodge_status doctor_run(void);

#endif
