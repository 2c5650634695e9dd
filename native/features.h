/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What this machine's processors can do, of what the platform uses; asked of the boot processor once (features.c). */
#ifndef LODGE_NATIVE_FEATURES_H
#define LODGE_NATIVE_FEATURES_H

#include "core/types.h"

struct features {
    char vendor[13], brand[49];
    uint32_t family, model, stepping;
    uint8_t physical_bits;
    bool pages_1g, nx, pge, pat, pcid, smep, smap, umip, fsgsbase;
    bool xsave, x2apic, tsc_deadline, invariant_tsc, rdrand, rdseed;
    bool svm, vmx, hypervisor, monitor;
};

extern struct features features;

void features_init(void);
/* Their names, apart by spaces, for the banner. */
void features_text(char *buf, size_t size);

#endif
