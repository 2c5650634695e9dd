/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Assertions about our own code, never about what a guest or a file says. In debug and test builds
 * (LODGE_DEBUG=1) a false one panics with its place; otherwise the expression is type-checked and
 * not evaluated, so it must have no side effect. NEVER(x) is for "cannot happen, but is handled":
 * it panics in debug builds and is an ordinary condition in release builds.
 */
#ifndef LODGE_CORE_ASSERT_H
#define LODGE_CORE_ASSERT_H

#include "core/seam.h"

#ifndef LODGE_DEBUG
#define LODGE_DEBUG 0
#endif

#define panic(message) seam_panic(__FILE__, __LINE__, (message))

#if LODGE_DEBUG
#define assert(x) ((x) ? (void)0 : panic("assertion failed: " #x))
#define NEVER(x)  ((x) ? (panic("NEVER happened: " #x), true) : false)
#else
#define assert(x) ((void)sizeof(x))
#define NEVER(x)  (unlikely(x))
#endif

#endif
