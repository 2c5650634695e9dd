/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Native fragments: SIMD and x87 instructions are executed by the host's own processor, one at a
 * time, in a prepared frame, with the memory operand redirected to a bounce buffer and general
 * registers to the frame. So their results are the hardware's own, bit for bit. x86/native.c
 * explains how. Fragments are cached per vCPU by instruction bytes.
 */
#ifndef LODGE_X86_NATIVE_H
#define LODGE_X86_NATIVE_H

#include "x86/cpu.h"

int must_check native_create(struct x86_cpu *cpu);
void native_destroy(struct x86_cpu *cpu);

#endif
