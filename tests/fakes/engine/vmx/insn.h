/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * engine/vmx/insn.h for unit tests: a processor with VT-x that the test keeps (tests/fakes/vt.c). VMCSs are
 * told apart by their addresses and keep their fields; a field of none that is current is a failure.
 */
#ifndef LODGE_ENGINE_VMX_INSN_H
#define LODGE_ENGINE_VMX_INSN_H

#include "core/mem.h"
#include "core/types.h"
#include "engine/vmx/vmcs.h"
#include "x86/cpu.h"

void vmx_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
uint64_t vmx_rdmsr(uint32_t index);
void vmx_wrmsr(uint32_t index, uint64_t value);
uint64_t vmx_read(enum vmcs_field field);
void vmx_write(enum vmcs_field field, uint64_t value);
bool vmx_ptrld(uint64_t physical);
bool vmx_on(uint64_t physical);
void vmx_clear(uint64_t physical);
void vmx_off(void);
enum { VMX_INVEPT_SINGLE = 1, VMX_INVVPID_SINGLE = 1, VMX_INVVPID_ALL = 2 };
void vmx_invept(uint64_t type, uint64_t pointer);
void vmx_invvpid(uint64_t type, uint32_t vpid);
uint64_t vmx_read_cr0(void);
uint64_t vmx_read_cr2(void);
uint64_t vmx_read_cr3(void);
uint64_t vmx_read_cr4(void);
void vmx_write_cr0(uint64_t value);
void vmx_write_cr2(uint64_t value);
void vmx_write_cr4(uint64_t value);
void vmx_write_breakpoints(const uint64_t dr[4]);
struct vmx_host_segments {
    uint16_t cs, ss, ds, es, tr;
    uint64_t gdt_base, idt_base, tss_base;
};
void vmx_read_host_segments(struct vmx_host_segments *h);
void vmx_host_nmi(void);
void vmx_host_machine_check(void);
uint64_t vmx_xgetbv(void);
void vmx_xsetbv(uint64_t value);
void vmx_xsave(struct x86_fpu *f, uint64_t mask);
void vmx_xrstor(const struct x86_fpu *f, uint64_t mask);
void vmx_fxsave(struct x86_fpu *f);
void vmx_fxrstor(const struct x86_fpu *f);
void vmx_fninit(uint32_t mxcsr);

#endif
