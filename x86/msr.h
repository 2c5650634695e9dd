/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* MSRs, by a table: reset value, write mask, functions for those with effects. What the table does
 * not name faults (default-deny; bad-inputs C7). */
#ifndef LODGE_X86_MSR_H
#define LODGE_X86_MSR_H

#include "x86/cpu.h"

/* X86_OK, or X86_FAULT with #GP(0) recorded. CPL has been checked by the caller. */
int x86_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value);
int x86_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value);

/* The guest's time-stamp counter now, TSC_ADJUST included, and its frequency. */
uint64_t x86_tsc(const struct x86_cpu *cpu);
uint32_t x86_tsc_khz(const struct vm *vm);
/* Ticks per ns of VM clock, times 2^32: what x86_tsc really multiplies with. At least 4294. */
uint64_t x86_tsc_ratio(const struct vm *vm);
/* VM clock (ns) at which the guest's TSC will be `tsc`; VM_TIMER_NEVER if out of reach. */
uint64_t x86_tsc_to_clock(const struct x86_cpu *cpu, uint64_t tsc);

/* KVM's paravirtual clock, steal time and hypercalls: x86/kvm_pv.c. */
int x86_kvm_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value); /* as x86_msr_write */
/* Called now and then and after rest: refreshes the guest's clock page and steal time. */
void x86_kvm_refresh(struct x86_cpu *cpu);
/* Somebody else (KVM) adds to the steal time in the guest's page: takes it from there. At rest. */
void x86_kvm_fetch_steal(struct x86_cpu *cpu);
/* The vCPU is about to take an interrupt: as above, if it has been long enough. Cheap. The guest's
 * own tick looks at its steal time, so one that never leaves guest code sees it grow too. */
void x86_kvm_tick(struct x86_cpu *cpu);
/* A hypercall by number and arguments; returns KVM's result (0 or -KVM_E*). */
uint64_t x86_kvm_hypercall(struct x86_cpu *cpu, uint64_t number, const uint64_t arg[4]);

#endif
