/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What each CPU has of its own: a GDT of flat segments and a TSS (SDM 3A, 3.4.5 and 7.7), of which only the stacks
 * for NMI, double fault and machine check are used, each with an unmapped page below; and GS, which leads to struct
 * cpu. The boot processor's is in the image, so that exceptions are told from the first moment; its stacks come when
 * there is memory.
 *
 * cpu_table grows during start-up only, on the boot processor (smp.c), as does cpu_working.
 */
#include "native/cpu.h"

#include "core/assert.h"
#include "core/mem.h"
#include "isa/x86.h"
#include "native/cpu_start.h"
#include "native/insn.h"
#include "native/layout.h"
#include "native/stack.h"
#include "native/trap.h"

enum { TSS_IST = 0x24, TSS_IO_MAP = 0x66 };

static struct cpu boot_cpu;
static void *engine_slots[HW_CPUS];

struct cpu *cpu_table[HW_CPUS] = {&boot_cpu};
uint32_t cpu_count = 1, cpu_working = 1;

void cpu_prepare(struct cpu *c, uint32_t index)
{
    uint64_t tss = (uint64_t)c->tss, limit = sizeof(c->tss) - 1;

    c->self = c;
    c->index = index;
    c->timer_armed = UINT64_MAX;
    c->slice_end = UINT64_MAX;
    c->gdt[SELECTOR_CODE / 8] = 0x00AF9B000000FFFF; /* as in boot.S */
    c->gdt[SELECTOR_DATA / 8] = 0x00CF93000000FFFF;
    c->gdt[SELECTOR_TSS / 8] = limit | (tss & 0xFFFFFF) << 16 | (uint64_t)0x89 << 40 | (tss >> 24 & 0xFF) << 56;
    c->gdt[SELECTOR_TSS / 8 + 1] = tss >> 32;
    store_u16(c->tss + TSS_IO_MAP, (uint16_t)sizeof(c->tss)); /* there is no map */
}

int cpu_give_stacks(struct cpu *c)
{
    for (size_t i = IST_NMI; i <= IST_MACHINE_CHECK; i++) {
        uint8_t *stack = stack_alloc(CPU_TRAP_STACK);

        if (!stack)
            return ERR_NO_MEMORY;
        store_u64(c->tss + TSS_IST + 8 * (i - 1), (uint64_t)(stack + CPU_TRAP_STACK));
    }
    return OK;
}

void cpu_load(struct cpu *c)
{
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof(c->gdt) - 1, (uint64_t)c->gdt};

    c->gdt[SELECTOR_TSS / 8] &= ~(uint64_t)0x0000020000000000; /* not busy */
    __asm__ volatile("lgdt %0\n\t"
                     "push %1\n\t"
                     "lea 1f(%%rip), %%rax\n\t"
                     "push %%rax\n\t"
                     "lretq\n\t"
                     "1: mov %w2, %%ds\n\t"
                     "mov %w2, %%es\n\t"
                     "mov %w2, %%ss\n\t"
                     "mov %w3, %%fs\n\t"
                     "mov %w3, %%gs\n\t"
                     "ltr %w4"
                     :
                     : "m"(pointer), "i"((uint64_t)SELECTOR_CODE), "r"(SELECTOR_DATA), "r"(0), "r"(SELECTOR_TSS)
                     : "rax", "memory");
    wrmsr(MSR_GS_BASE, (uint64_t)c);
    trap_load();
}

struct cpu *cpu_boot(void)
{
    return &boot_cpu;
}

/* STI holds interrupts off for one more instruction (SDM 2B, STI). */
void cpu_take_interrupts(void)
{
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

void cpu_halt(void)
{
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

uint32_t hw_cpu(void)
{
    return this_cpu()->index;
}

uint32_t hw_cpu_count(void)
{
    return cpu_count;
}

_Atomic uint64_t *hw_guest_ticks(void)
{
    return &this_cpu()->guest_ticks;
}

void **hw_engine_slot(void)
{
    return &engine_slots[this_cpu()->index];
}

void hw_kick_cpu(uint32_t cpu)
{
    cpu_send_ipi(cpu, VECTOR_KICK);
}
