/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* CPUID, as far as the platform uses it (SDM 2A, CPUID; AMD APM 3, appendix E). Engines ask for what is theirs. */
#include "native/features.h"

#include "core/fmt.h"
#include "core/mem.h"
#include "native/insn.h"

struct features features;

static void read_names(uint32_t highest)
{
    uint32_t r[4];

    cpuid(0, 0, r);
    memcpy(features.vendor, &r[1], 4);
    memcpy(features.vendor + 4, &r[3], 4);
    memcpy(features.vendor + 8, &r[2], 4);
    for (uint32_t i = 0; i < 3 && highest >= 0x80000004; i++) {
        cpuid(0x80000002 + i, 0, r);
        memcpy(features.brand + (size_t)16 * i, r, 16);
    }
}

static void read_leaf_1(void)
{
    uint32_t r[4];

    cpuid(1, 0, r);
    features.stepping = r[0] & 15;
    features.family = r[0] >> 8 & 15;
    features.model = (r[0] >> 4 & 15) | (r[0] >> 12 & 0xF0);
    if (features.family == 15)
        features.family += r[0] >> 20 & 0xFF;
    features.monitor = r[2] >> 3 & 1;
    features.vmx = r[2] >> 5 & 1;
    features.pcid = r[2] >> 17 & 1;
    features.x2apic = r[2] >> 21 & 1;
    features.tsc_deadline = r[2] >> 24 & 1;
    features.xsave = r[2] >> 26 & 1;
    features.rdrand = r[2] >> 30 & 1;
    features.hypervisor = r[2] >> 31;
    features.pge = r[3] >> 13 & 1;
    features.pat = r[3] >> 16 & 1;
}

void features_init(void)
{
    uint32_t r[4], highest, basic;

    cpuid(0, 0, r);
    basic = r[0];
    cpuid(0x80000000, 0, r);
    highest = r[0];
    read_names(highest);
    read_leaf_1();
    if (basic >= 7) {
        cpuid(7, 0, r);
        features.fsgsbase = r[1] & 1;
        features.smep = r[1] >> 7 & 1;
        features.rdseed = r[1] >> 18 & 1;
        features.smap = r[1] >> 20 & 1;
        features.umip = r[2] >> 2 & 1;
    }
    cpuid(0x80000001, 0, r);
    features.svm = r[2] >> 2 & 1;
    features.nx = r[3] >> 20 & 1;
    features.pages_1g = r[3] >> 26 & 1;
    if (highest >= 0x80000007) {
        cpuid(0x80000007, 0, r);
        features.invariant_tsc = r[3] >> 8 & 1;
    }
    features.physical_bits = 36;
    if (highest >= 0x80000008) {
        cpuid(0x80000008, 0, r);
        features.physical_bits = r[0] & 0xFF;
    }
}

void features_text(char *buf, size_t size)
{
    const struct {
        bool there;
        const char *name;
    } list[] = {
        {features.svm, "svm"},       {features.vmx, "vmx"},         {features.nx, "nx"},
        {features.smep, "smep"},     {features.smap, "smap"},       {features.umip, "umip"},
        {features.pages_1g, "1g"},   {features.xsave, "xsave"},     {features.x2apic, "x2apic"},
        {features.tsc_deadline, "tsc-deadline"}, {features.invariant_tsc, "invariant-tsc"},
        {features.rdrand, "rdrand"}, {features.rdseed, "rdseed"},   {features.hypervisor, "hypervisor"},
    };
    size_t at = 0;

    buf[0] = 0;
    for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
        if (list[i].there && at < size)
            at += fmt(buf + at, size - at, at ? " %s" : "%s", list[i].name);
    }
}
