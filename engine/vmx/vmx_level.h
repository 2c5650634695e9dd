/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Levels against a processor's CPUID, which is a function so that tests can have others: level.c. */
#ifndef LODGE_ENGINE_VMX_VMX_LEVEL_H
#define LODGE_ENGINE_VMX_VMX_LEVEL_H

#include "x86/level.h"

typedef void vmx_cpuid_fn(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

/* The name of what the level needs and the processor lacks, or NULL. */
const char *vmx_level_lacks(vmx_cpuid_fn *cpuid, const struct x86_level *level);
/* Takes from the level's mitigation profile what is not true of the processor. */
void vmx_level_adapt(vmx_cpuid_fn *cpuid, uint64_t arch_capabilities, struct x86_level *level);

#endif
