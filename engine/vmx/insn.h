/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Every instruction of the engine that the compiler has no words for, but for enter.S. A header of its own, so
 * that unit tests can put one before it on the path of includes whose processor they keep
 * (tests/fakes/engine/vmx/insn.h).
 */
#ifndef LODGE_ENGINE_VMX_INSN_H
#define LODGE_ENGINE_VMX_INSN_H

#include "core/mem.h"
#include "core/types.h"
#include "engine/vmx/vmcs.h"
#include "x86/cpu.h"

static inline void vmx_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(subleaf));
}

static inline uint64_t vmx_rdmsr(uint32_t index)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static inline void vmx_wrmsr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

/* --- VT-x (SDM 3C, chapter 31) ----------------------------------------------------------------- */

/* Fields of the current VMCS that exist: these do not fail. */
static inline uint64_t vmx_read(enum vmcs_field field)
{
    uint64_t value;

    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"((uint64_t)field) : "cc");
    return value;
}

static inline void vmx_write(enum vmcs_field field, uint64_t value)
{
    __asm__ volatile("vmwrite %0, %1" : : "r"(value), "r"((uint64_t)field) : "cc", "memory");
}

/* True: it worked. */
static inline bool vmx_ptrld(uint64_t physical)
{
    bool failed;

    __asm__ volatile("vmptrld %1" : "=@ccbe"(failed) : "m"(physical) : "memory");
    return !failed;
}

static inline bool vmx_on(uint64_t physical)
{
    bool failed;

    __asm__ volatile("vmxon %1" : "=@ccbe"(failed) : "m"(physical) : "memory");
    return !failed;
}

static inline void vmx_clear(uint64_t physical)
{
    __asm__ volatile("vmclear %0" : : "m"(physical) : "cc", "memory");
}

static inline void vmx_off(void)
{
    __asm__ volatile("vmxoff" : : : "cc", "memory");
}

enum { VMX_INVEPT_SINGLE = 1, VMX_INVVPID_SINGLE = 1, VMX_INVVPID_ALL = 2 };

static inline void vmx_invept(uint64_t type, uint64_t pointer)
{
    const uint64_t descriptor[2] = {pointer, 0};

    __asm__ volatile("invept %0, %1" : : "m"(descriptor), "r"(type) : "cc", "memory");
}

static inline void vmx_invvpid(uint64_t type, uint32_t vpid)
{
    const uint64_t descriptor[2] = {vpid, 0};

    __asm__ volatile("invvpid %0, %1" : : "m"(descriptor), "r"(type) : "cc", "memory");
}

/* --- the host's own registers ------------------------------------------------------------------ */

#define VMX_READ_CR(n)                                                                                                 \
    static inline uint64_t vmx_read_cr##n(void)                                                                        \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
                                                                                                                       \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value));                                                          \
        return value;                                                                                                  \
    }
#define VMX_WRITE_CR(n)                                                                                                \
    static inline void vmx_write_cr##n(uint64_t value)                                                                 \
    {                                                                                                                  \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                                                 \
    }
VMX_READ_CR(0)
VMX_READ_CR(2)
VMX_READ_CR(3)
VMX_READ_CR(4)
VMX_WRITE_CR(0)
VMX_WRITE_CR(2)
VMX_WRITE_CR(4)
#undef VMX_READ_CR
#undef VMX_WRITE_CR

static inline void vmx_write_breakpoints(const uint64_t dr[4])
{
    __asm__ volatile("mov %0, %%db0\n\tmov %1, %%db1\n\tmov %2, %%db2\n\tmov %3, %%db3"
                     :
                     : "r"(dr[0]), "r"(dr[1]), "r"(dr[2]), "r"(dr[3]));
}

struct vmx_host_segments {
    uint16_t cs, ss, ds, es, tr;
    uint64_t gdt_base, idt_base, tss_base;
};

/* Base of the TSS that TR names: a 16-byte descriptor (SDM 3A, figure 8-4). */
static inline uint64_t vmx_tss_base(uint64_t gdt_base, uint16_t selector)
{
    const uint8_t *d = (const uint8_t *)(uintptr_t)(gdt_base + (selector & ~7u));
    uint64_t low = load_u64(d);

    return (low >> 16 & 0xFFFFFF) | (low >> 56) << 24 | (uint64_t)load_u32(d + 8) << 32;
}

static inline void vmx_read_host_segments(struct vmx_host_segments *h)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } gdt, idt;

    __asm__ volatile("sgdt %0" : "=m"(gdt));
    __asm__ volatile("sidt %0" : "=m"(idt));
    __asm__ volatile("mov %%cs, %0" : "=r"(h->cs));
    __asm__ volatile("mov %%ss, %0" : "=r"(h->ss));
    __asm__ volatile("mov %%ds, %0" : "=r"(h->ds));
    __asm__ volatile("mov %%es, %0" : "=r"(h->es));
    __asm__ volatile("str %0" : "=r"(h->tr));
    h->gdt_base = gdt.base;
    h->idt_base = idt.base;
    h->tss_base = vmx_tss_base(gdt.base, h->tr);
}

/* The host's handlers, as if the event had come to it. */
static inline void vmx_host_nmi(void)
{
    __asm__ volatile("int $2" : : : "memory");
}

static inline void vmx_host_machine_check(void)
{
    __asm__ volatile("int $18" : : : "memory");
}

/* --- vector registers -------------------------------------------------------------------------- */

static inline uint64_t vmx_xgetbv(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static inline void vmx_xsetbv(uint64_t value)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline void vmx_xsave(struct x86_fpu *f, uint64_t mask)
{
    __asm__ volatile("xsave64 %0" : "+m"(*f) : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)));
}

static inline void vmx_xrstor(const struct x86_fpu *f, uint64_t mask)
{
    __asm__ volatile("xrstor64 %0" : : "m"(*f), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)));
}

static inline void vmx_fxsave(struct x86_fpu *f)
{
    __asm__ volatile("fxsave64 %0" : "=m"(*f));
}

static inline void vmx_fxrstor(const struct x86_fpu *f)
{
    __asm__ volatile("fxrstor64 %0" : : "m"(*f));
}

static inline void vmx_fninit(uint32_t mxcsr)
{
    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
}

#endif
