/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A processor with VT-x for unit tests of engine/vmx, and what the native home gives to engines (engine/hw.h):
 * one thread, as many CPUs as are asked for, of which vt.cpu is the current one. vt_reset makes it what Skylake
 * has.
 */
#ifndef LODGE_TESTS_FAKES_VT_H
#define LODGE_TESTS_FAKES_VT_H

#include "engine/speculation.h"
#include "engine/vmx/vmcs.h"
#include "x86/cpu.h"

enum { VT_FIELDS = 0x7000, VT_VMCSS = 4, VT_MSRS = 64, VT_CPUS = 4 };

struct vt_vmcs {
    uint64_t physical;
    int current_on; /* CPU, or -1 */
    bool launched;
    uint64_t field[VT_FIELDS];
};

struct vt {
    uint32_t cpu;
    bool on[VT_CPUS];
    struct vt_vmcs vmcs[VT_VMCSS];
    struct vt_vmcs *current[VT_CPUS];
    struct {
        uint32_t index;
        uint64_t value;
    } msr[VT_MSRS];
    uint32_t msrs;
    uint64_t cr0, cr2, cr4, xcr0, dr[4];
    struct x86_fpu fpu;
    uint32_t invepts, invvpids, invvpid_alls, nmis, machine_checks, ibpbs, fninits;
    uint32_t bad; /* uses of VT-x that a processor refuses, or does not define */

    /* The guest: called for each entry, with the general registers; sets the exit's fields. 0, or VMX_ENTER_*:
     * the entry fails. */
    int (*guest)(uint64_t gpr[16], uint32_t flags);
    uint32_t entries;

    /* engine/hw.h */
    void *slot[VT_CPUS];
    _Atomic uint64_t guest_ticks[VT_CPUS];
    void (*leave)(void *owner);
    void *leave_owner;
    uint32_t kicked[VT_CPUS], preemptions;
    void (*preempt)(void);
    struct speculation speculation;
    uint32_t tsc_khz;
    uint64_t tsc_at_zero;
};

extern struct vt vt;

void vt_reset(void);
uint64_t vt_msr(uint32_t index);
void vt_set_msr(uint32_t index, uint64_t value);
/* The current VMCS's field, by name. */
uint64_t *vt_field(enum vmcs_field field);
/* Another thread runs here, and then this one on that CPU. */
void vt_move_to(uint32_t cpu);

#endif
