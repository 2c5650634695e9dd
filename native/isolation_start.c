/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The release build: isolation is proven when a VM starts (isolation.c). */
#include "native/isolation.h"

const bool isolation_always = false;
