/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One processor in a small VM of its own, for unit tests: RAM, identity page tables, GDT, IDT, TSS,
 * flat segments, level v3. The test puts bytes or descriptors where it wants them and steps.
 *
 *     struct cpu_env e;
 *     cpu_env_create(&e, CPU_ENV_LONG);
 *     cpu_env_code(&e, "\x48\x01\xd8", 3);        add rax, rbx
 *     e.cpu->gpr[RAX] = 1;
 *     CHECK(cpu_env_step(&e) == X86_OK);
 *     cpu_env_destroy(&e);
 */
#ifndef LODGE_TESTS_LIB_CPU_ENV_H
#define LODGE_TESTS_LIB_CPU_ENV_H

#include "core/vm.h"
#include "x86/cpu.h"
#include "x86/lapic.h"

enum cpu_env_mode {
    CPU_ENV_REAL,      /* 16-bit; CS at CPU_ENV_CODE, the others at base 0 */
    CPU_ENV_PROTECTED, /* 32-bit flat, CPL 0, no paging */
    CPU_ENV_PAGED,     /* the same, with PAE paging, everything identity-mapped */
    CPU_ENV_LONG,      /* 64-bit, CPL 0, everything identity-mapped with 4 KiB pages */
};

/* Where things lie in guest-physical (and linear) memory. */
enum {
    CPU_ENV_RAM = 8 << 20,
    CPU_ENV_IVT = 0x0,     /* real mode */
    CPU_ENV_PML4 = 0x1000, /* long mode; PDPT, one PD and four PTs follow, a page each */
    CPU_ENV_PDPT = 0x2000, /* also the root in PAE mode */
    CPU_ENV_PD = 0x3000,
    CPU_ENV_PT = 0x4000,         /* four tables: the PTE of page n is at CPU_ENV_PT + n * 8 */
    CPU_ENV_GDT = 0x8000,        /* CPU_ENV_GDT_ENTRIES descriptors */
    CPU_ENV_LDT = 0x8800,        /* 32 descriptors, zero */
    CPU_ENV_IDT = 0x9000,        /* 256 gates of 8 (protected) or 16 bytes (long), not present */
    CPU_ENV_TSS = 0xA000,        /* 104 bytes + I/O bitmap that denies all */
    CPU_ENV_CODE = 0x10000,      /* cpu_env_code puts bytes here */
    CPU_ENV_HANDLERS = 0x20000,  /* cpu_env_gate's default target of vector v: + v * 16 */
    CPU_ENV_STACK0 = 0x40000,    /* tops of stacks, growing down: initial one of CPL 0, */
    CPU_ENV_STACK_TSS = 0x44000, /* of the TSS for CPL 0, */
    CPU_ENV_STACK_IST = 0x48000, /* IST 1 (IST n: + (n - 1) * 0x1000) */
    CPU_ENV_STACK3 = 0x50000,    /* CPL 3 */
    CPU_ENV_DATA = 0x60000,      /* free from here on, to CPU_ENV_RAM */
    CPU_ENV_GDT_ENTRIES = 64,
};

/* Selectors in the GDT, without RPL. SYSCALL, SYSRET, SYSENTER and SYSEXIT all fit. */
enum {
    CPU_ENV_SEL_CODE64 = 0x08,
    CPU_ENV_SEL_DATA = 0x10, /* flat, DPL 0 */
    CPU_ENV_SEL_CODE32 = 0x18,
    CPU_ENV_SEL_CODE16 = 0x20, /* base 0, limit 64K */
    CPU_ENV_SEL_DATA16 = 0x28,
    CPU_ENV_SEL_USER_CODE32 = 0x30,
    CPU_ENV_SEL_USER_DATA = 0x38,
    CPU_ENV_SEL_USER_CODE64 = 0x40,
    CPU_ENV_SEL_TSS = 0x48,  /* two entries, busy, loaded */
    CPU_ENV_SEL_LDT = 0x58,  /* two entries, not loaded */
    CPU_ENV_SEL_FREE = 0x68, /* from here on zero */
};

struct cpu_env {
    struct vm vm;
    struct x86_cpu *cpu;
    uint8_t *ram; /* CPU_ENV_RAM bytes */
    struct apic_bus apic_bus;
    enum cpu_env_mode mode;
    struct exit last_exit; /* what reached vm.handle_exit last; reads answer all ones */
    uint32_t exits;
};

/* Fails the test program when memory is short. */
void cpu_env_create(struct cpu_env *e, enum cpu_env_mode mode);
void cpu_env_destroy(struct cpu_env *e);

/* Everything as cpu_env_create leaves it, RAM included (faster than a new one). */
void cpu_env_reset(struct cpu_env *e);

/* Code at CPU_ENV_CODE, and rip pointing to it. */
void cpu_env_code(struct cpu_env *e, const void *bytes, size_t size);

/* x86_step: one instruction; X86_FAULT leaves cpu->fault and rip at the instruction. */
int cpu_env_step(struct cpu_env *e);
/* As the run loop does: steps, and delivers the fault if there is one (x86_raise). */
int cpu_env_step_raise(struct cpu_env *e);

/* Moves a processor in CPU_ENV_PROTECTED, PAGED or LONG to CPL 3 (user selectors, CPU_ENV_STACK3)
 * or, with cpl 1 or 2, to segments of that DPL made at CPU_ENV_SEL_FREE + cpl * 16. */
void cpu_env_set_cpl(struct cpu_env *e, unsigned int cpl);
/* Long mode: goes to compatibility mode at the current CPL (0 or 3). */
void cpu_env_set_compat(struct cpu_env *e);

/* --- descriptors --- */

/* A code, data or system descriptor; attr is X86_ATTR_*; a limit over 1 MiB - 1 wants X86_ATTR_G
 * and is then in bytes. */
uint64_t cpu_env_descriptor(uint32_t base, uint32_t limit, uint32_t attr);
void cpu_env_set_descriptor(struct cpu_env *e, uint16_t selector, uint64_t descriptor);
uint64_t cpu_env_get_descriptor(const struct cpu_env *e, uint16_t selector);

/* A gate in the IDT in the form of the mode. type: 5 task, 6/7 16-bit, 14/15 32- or 64-bit. */
void cpu_env_gate(struct cpu_env *e, uint8_t vector, uint8_t type, uint8_t dpl, uint16_t selector,
                  uint64_t offset, uint8_t ist);
/* Present interrupt gates (type 14, DPL 0) for all 256 vectors, to CPU_ENV_HANDLERS + v * 16. In
 * real mode: an IVT to the same addresses. */
void cpu_env_all_gates(struct cpu_env *e);

/* --- guest memory --- */

uint16_t cpu_env_get16(const struct cpu_env *e, uint64_t address);
uint32_t cpu_env_get32(const struct cpu_env *e, uint64_t address);
uint64_t cpu_env_get64(const struct cpu_env *e, uint64_t address);
void cpu_env_put16(struct cpu_env *e, uint64_t address, uint16_t v);
void cpu_env_put32(struct cpu_env *e, uint64_t address, uint32_t v);
void cpu_env_put64(struct cpu_env *e, uint64_t address, uint64_t v);

/* The entry for a page in the identity map (CPU_ENV_PAGED, CPU_ENV_LONG); call x86_tlb_flush (or
 * x86_tlb_flush_page) after changing it. */
uint64_t *cpu_env_pte(struct cpu_env *e, uint64_t address);

#endif
