/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The test build: isolation is proven at each change (native/isolation.c). */
#include "native/isolation.h"

const bool isolation_always = true;
