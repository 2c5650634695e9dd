/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Which Lodge this is, in both homes. */
#ifndef LODGE_VERSION_H
#define LODGE_VERSION_H

#define LODGE_VERSION "0.1.0"

#endif
