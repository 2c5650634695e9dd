/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * See the header. The environment is set up as system software would leave it, by writing the
 * architectural state directly: it does not run a mode switch of its own, so that a test of one
 * handler does not depend on ten others. All descriptors have their accessed bit set, so that
 * tests of other things see no stores to the GDT.
 */
#include "tests/lib/cpu_env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/err.h"
#include "x86/level.h"
#include "x86/mem.h"

enum {
    ATTR_CODE = 0x9B, /* present, S, code, readable, accessed */
    ATTR_DATA = 0x93, /* present, S, data, writable, accessed */
    ATTR_USER = 3 << X86_ATTR_DPL_SHIFT,
    ATTR_FLAT32 = X86_ATTR_G | X86_ATTR_DB,
    ATTR_FLAT64 = X86_ATTR_G | X86_ATTR_L,
    ATTR_TSS_BUSY = 0x8B,
    ATTR_LDT = 0x82,
    TSS_SIZE = 104,
    IO_BITMAP = 8192 + 1,
};

static void die(const char *what)
{
    fprintf(stderr, "cpu_env: %s\n", what);
    abort();
}

/* --- guest memory --- */

static uint8_t *at(const struct cpu_env *e, uint64_t address, uint64_t size)
{
    if (address > CPU_ENV_RAM || size > CPU_ENV_RAM - address)
        die("address outside of RAM");
    return e->ram + address;
}

uint16_t cpu_env_get16(const struct cpu_env *e, uint64_t address)
{
    return load_u16(at(e, address, 2));
}

uint32_t cpu_env_get32(const struct cpu_env *e, uint64_t address)
{
    return load_u32(at(e, address, 4));
}

uint64_t cpu_env_get64(const struct cpu_env *e, uint64_t address)
{
    return load_u64(at(e, address, 8));
}

void cpu_env_put16(struct cpu_env *e, uint64_t address, uint16_t v)
{
    store_u16(at(e, address, 2), v);
}

void cpu_env_put32(struct cpu_env *e, uint64_t address, uint32_t v)
{
    store_u32(at(e, address, 4), v);
}

void cpu_env_put64(struct cpu_env *e, uint64_t address, uint64_t v)
{
    store_u64(at(e, address, 8), v);
}

uint64_t *cpu_env_pte(struct cpu_env *e, uint64_t address)
{
    return (uint64_t *)(void *)at(e, CPU_ENV_PT + (address >> PAGE_SHIFT) * 8, 8);
}

/* --- descriptors --- */

uint64_t cpu_env_descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    uint64_t l = attr & X86_ATTR_G ? limit >> PAGE_SHIFT : limit;
    return (l & 0xFFFF) | (uint64_t)(base & 0xFFFFFF) << 16 | (uint64_t)(attr & 0xF0FF) << 40 |
           (l & 0xF0000) << 32 | (uint64_t)(base >> 24) << 56;
}

void cpu_env_set_descriptor(struct cpu_env *e, uint16_t selector, uint64_t descriptor)
{
    uint64_t table = selector & 4 ? CPU_ENV_LDT : CPU_ENV_GDT;
    cpu_env_put64(e, table + (selector & ~7u), descriptor);
}

uint64_t cpu_env_get_descriptor(const struct cpu_env *e, uint16_t selector)
{
    uint64_t table = selector & 4 ? CPU_ENV_LDT : CPU_ENV_GDT;
    return cpu_env_get64(e, table + (selector & ~7u));
}

void cpu_env_gate(struct cpu_env *e, uint8_t vector, uint8_t type, uint8_t dpl, uint16_t selector,
                  uint64_t offset, uint8_t ist)
{
    uint64_t low = (offset & 0xFFFF) | (uint64_t)selector << 16 | (uint64_t)(ist & 7) << 32 |
                   (uint64_t)(0x80u | (unsigned)dpl << X86_ATTR_DPL_SHIFT | type) << 40 |
                   (offset >> 16 & 0xFFFF) << 48;
    if (e->mode != CPU_ENV_LONG) {
        cpu_env_put64(e, CPU_ENV_IDT + vector * 8u, low);
        return;
    }
    cpu_env_put64(e, CPU_ENV_IDT + vector * 16u, low);
    cpu_env_put64(e, CPU_ENV_IDT + vector * 16u + 8, offset >> 32);
}

void cpu_env_all_gates(struct cpu_env *e)
{
    uint16_t cs = e->mode == CPU_ENV_LONG ? CPU_ENV_SEL_CODE64 : CPU_ENV_SEL_CODE32;
    for (unsigned int v = 0; v < 256; v++) {
        uint32_t target = CPU_ENV_HANDLERS + v * 16;
        if (e->mode == CPU_ENV_REAL)
            cpu_env_put32(e, CPU_ENV_IVT + v * 4, (target >> 4) << 16);
        else
            cpu_env_gate(e, (uint8_t)v, 14, 0, cs, target, 0);
    }
}

static void fill_gdt(struct cpu_env *e)
{
    /* table */
    const struct {
        uint16_t selector;
        uint32_t base, limit, attr;
    } rows[] = {
        {CPU_ENV_SEL_CODE64, 0, ~0u, ATTR_CODE | ATTR_FLAT64},
        {CPU_ENV_SEL_DATA, 0, ~0u, ATTR_DATA | ATTR_FLAT32},
        {CPU_ENV_SEL_CODE32, 0, ~0u, ATTR_CODE | ATTR_FLAT32},
        {CPU_ENV_SEL_CODE16, 0, 0xFFFF, ATTR_CODE},
        {CPU_ENV_SEL_DATA16, 0, 0xFFFF, ATTR_DATA},
        {CPU_ENV_SEL_USER_CODE32, 0, ~0u, ATTR_CODE | ATTR_FLAT32 | ATTR_USER},
        {CPU_ENV_SEL_USER_DATA, 0, ~0u, ATTR_DATA | ATTR_FLAT32 | ATTR_USER},
        {CPU_ENV_SEL_USER_CODE64, 0, ~0u, ATTR_CODE | ATTR_FLAT64 | ATTR_USER},
        {CPU_ENV_SEL_TSS, CPU_ENV_TSS, TSS_SIZE + IO_BITMAP - 1, ATTR_TSS_BUSY},
        {CPU_ENV_SEL_LDT, CPU_ENV_LDT, 32 * 8 - 1, ATTR_LDT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        cpu_env_set_descriptor(e, rows[i].selector,
                               cpu_env_descriptor(rows[i].base, rows[i].limit, rows[i].attr));
}

static void fill_tss(struct cpu_env *e)
{
    memset(at(e, CPU_ENV_TSS + TSS_SIZE, IO_BITMAP), 0xFF, IO_BITMAP);
    cpu_env_put16(e, CPU_ENV_TSS + 102, TSS_SIZE);
    if (e->mode == CPU_ENV_LONG) {
        cpu_env_put64(e, CPU_ENV_TSS + 4, CPU_ENV_STACK_TSS);
        for (unsigned int ist = 1; ist <= 7; ist++)
            cpu_env_put64(e, CPU_ENV_TSS + 28 + ist * 8, CPU_ENV_STACK_IST + (ist - 1) * 0x1000);
    } else {
        cpu_env_put32(e, CPU_ENV_TSS + 4, CPU_ENV_STACK_TSS);
        cpu_env_put32(e, CPU_ENV_TSS + 8, CPU_ENV_SEL_DATA);
        cpu_env_put32(e, CPU_ENV_TSS + 28, e->mode == CPU_ENV_PAGED ? CPU_ENV_PDPT : 0); /* CR3 */
    }
}

static void fill_page_tables(struct cpu_env *e)
{
    uint64_t flags = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A;
    cpu_env_put64(e, CPU_ENV_PML4, CPU_ENV_PDPT | flags);
    /* PAE's PDPTEs have reserved bits where others have W, U and A (SDM 3A, table 4-8) */
    cpu_env_put64(e, CPU_ENV_PDPT, CPU_ENV_PD | (e->mode == CPU_ENV_LONG ? flags : X86_PTE_P));
    for (uint64_t i = 0; i < CPU_ENV_RAM >> 21; i++)
        cpu_env_put64(e, CPU_ENV_PD + i * 8, (CPU_ENV_PT + i * PAGE_SIZE) | flags);
    for (uint64_t page = 0; page < CPU_ENV_RAM; page += PAGE_SIZE)
        *cpu_env_pte(e, page) = page | flags | X86_PTE_D;
}

/* --- registers --- */

/* Loads a segment register from the GDT as it stands, without checks. */
static void load_segment(struct cpu_env *e, struct x86_segment *s, uint16_t selector)
{
    uint64_t d = cpu_env_get_descriptor(e, selector);
    s->selector = selector;
    s->attr = (uint32_t)(d >> 40) & 0xF0FF;
    s->limit = (uint32_t)((d & 0xFFFF) | (d >> 32 & 0xF0000));
    if (s->attr & X86_ATTR_G)
        s->limit = s->limit << PAGE_SHIFT | 0xFFF;
    s->base = (d >> 16 & 0xFFFFFF) | (d >> 56 & 0xFF) << 24;
}

static void load_data_segments(struct cpu_env *e, uint16_t selector)
{
    static const uint8_t data[] = {SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS};
    for (size_t i = 0; i < sizeof(data); i++)
        load_segment(e, &e->cpu->seg[data[i]], selector);
}

static void set_real_mode(struct x86_cpu *cpu)
{
    for (unsigned int s = 0; s < SEG_COUNT; s++) {
        cpu->seg[s] = (struct x86_segment){.limit = 0xFFFF, .attr = ATTR_DATA};
    }
    cpu->seg[SEG_CS] = (struct x86_segment){CPU_ENV_CODE, 0xFFFF, ATTR_CODE, CPU_ENV_CODE >> 4};
    cpu->idtr = (struct x86_table){.base = CPU_ENV_IVT, .limit = 0x3FF};
    cpu->cr0 = X86_CR0_ET | X86_CR0_NE;
    cpu->gpr[RSP] = 0xF000;
}

static void set_protected_mode(struct cpu_env *e)
{
    struct x86_cpu *cpu = e->cpu;
    bool long_mode = e->mode == CPU_ENV_LONG;
    cpu->gdtr = (struct x86_table){CPU_ENV_GDT, CPU_ENV_GDT_ENTRIES * 8 - 1};
    cpu->idtr = (struct x86_table){CPU_ENV_IDT, long_mode ? 256 * 16 - 1 : 256 * 8 - 1};
    load_segment(e, &cpu->tr, CPU_ENV_SEL_TSS);
    cpu->ldtr = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    load_segment(e, &cpu->seg[SEG_CS], long_mode ? CPU_ENV_SEL_CODE64 : CPU_ENV_SEL_CODE32);
    load_data_segments(e, CPU_ENV_SEL_DATA);
    cpu->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP;
    cpu->gpr[RSP] = CPU_ENV_STACK0;
    cpu->msr.star = (uint64_t)CPU_ENV_SEL_USER_CODE32 << 48 | (uint64_t)CPU_ENV_SEL_CODE64 << 32;
}

static void set_state(struct cpu_env *e)
{
    struct x86_cpu *cpu = e->cpu;
    cpu->activity = X86_RUNNING;
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->rflags = X86_FLAG_ONE;
    cpu->rip = e->mode == CPU_ENV_REAL ? 0 : CPU_ENV_CODE;
    cpu->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    cpu->xcr0 = cpu->level->xcr0_mask;
    cpu->code_page = ~(uint64_t)0;
    if (e->mode == CPU_ENV_REAL) {
        set_real_mode(cpu);
    } else {
        fill_gdt(e);
        fill_tss(e);
        set_protected_mode(e);
    }
    if (e->mode == CPU_ENV_PAGED || e->mode == CPU_ENV_LONG) {
        fill_page_tables(e);
        cpu->cr0 |= X86_CR0_PG;
        cpu->cr4 |= X86_CR4_PAE;
        cpu->cr3 = e->mode == CPU_ENV_LONG ? CPU_ENV_PML4 : CPU_ENV_PDPT;
        cpu->efer = X86_EFER_NXE;
    }
    for (unsigned int i = 0; i < 4 && e->mode == CPU_ENV_PAGED; i++)
        cpu->pdpte[i] = cpu_env_get64(e, CPU_ENV_PDPT + i * 8);
    if (e->mode == CPU_ENV_LONG)
        cpu->efer |= X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE;
    x86_update_mode(cpu);
    x86_tlb_flush(cpu);
    if (e->mode == CPU_ENV_PAGED && x86_write_cr3(cpu, cpu->cr3) != X86_OK)
        die("page directory pointers refused");
}

static int handle_exit(struct vcpu *v, struct exit *x)
{
    struct cpu_env *e = container_of(v->vm, struct cpu_env, vm);
    if (x->reason == EXIT_PORT && !x->port.write)
        x->port.value = ~(uint64_t)0 >> (64 - x->port.size * 8);
    if (x->reason == EXIT_MMIO && !x->mmio.write)
        x->mmio.value = ~(uint64_t)0 >> (64 - x->mmio.size * 8);
    e->last_exit = *x;
    e->exits++;
    return OK;
}

void cpu_env_create(struct cpu_env *e, enum cpu_env_mode mode)
{
    memset(e, 0, sizeof(*e));
    e->mode = mode;
    vm_init(&e->vm, "test");
    e->ram = seam_pages_alloc(CPU_ENV_RAM >> PAGE_SHIFT);
    if (!e->ram || guest_mem_add(&e->vm.mem, gpa(0), CPU_ENV_RAM, e->ram, true) != OK)
        die("no RAM");
    e->apic_bus.send = lapic_bus_send;
    e->vm.apic_bus = &e->apic_bus;
    e->vm.handle_exit = handle_exit;
    e->vm.vcpu_count = 1;
    if (x86_cpu_create(&e->cpu, &e->vm, 0, x86_level_find("v3")) != OK)
        die("x86_cpu_create failed");
    e->vm.vcpu[0] = &e->cpu->vcpu;
    set_state(e);
}

void cpu_env_destroy(struct cpu_env *e)
{
    x86_cpu_destroy(e->cpu);
    seam_pages_free(e->ram, CPU_ENV_RAM >> PAGE_SHIFT);
}

void cpu_env_reset(struct cpu_env *e)
{
    memset(e->ram, 0, CPU_ENV_RAM);
    x86_cpu_reset(e->cpu);
    e->exits = 0;
    set_state(e);
}

void cpu_env_code(struct cpu_env *e, const void *bytes, size_t size)
{
    memcpy(at(e, CPU_ENV_CODE, size), bytes, size);
    e->cpu->rip = CPU_ENV_CODE - e->cpu->seg[SEG_CS].base;
}

int cpu_env_step(struct cpu_env *e)
{
    return x86_step(e->cpu);
}

int cpu_env_step_raise(struct cpu_env *e)
{
    int status = x86_step(e->cpu);
    return status == X86_FAULT ? x86_raise(e->cpu) : status;
}

void cpu_env_set_cpl(struct cpu_env *e, unsigned int cpl)
{
    bool long_mode = e->mode == CPU_ENV_LONG;
    uint16_t code = long_mode ? CPU_ENV_SEL_CODE64 : CPU_ENV_SEL_CODE32;
    uint16_t data = CPU_ENV_SEL_DATA;
    if (cpl == 3) {
        code = long_mode ? CPU_ENV_SEL_USER_CODE64 : CPU_ENV_SEL_USER_CODE32;
        data = CPU_ENV_SEL_USER_DATA;
    } else if (cpl) {
        uint64_t dpl = (uint64_t)cpl << (40 + X86_ATTR_DPL_SHIFT);
        uint16_t first = (uint16_t)(CPU_ENV_SEL_FREE + cpl * 16);
        cpu_env_set_descriptor(e, first, cpu_env_get_descriptor(e, code) | dpl);
        cpu_env_set_descriptor(e, first + 8, cpu_env_get_descriptor(e, data) | dpl);
        code = first;
        data = first + 8;
    }
    load_segment(e, &e->cpu->seg[SEG_CS], (uint16_t)(code | cpl));
    load_data_segments(e, (uint16_t)(data | cpl));
    e->cpu->gpr[RSP] = cpl == 3 ? CPU_ENV_STACK3 : CPU_ENV_STACK0;
    x86_update_mode(e->cpu);
}

void cpu_env_set_compat(struct cpu_env *e)
{
    uint16_t code = e->cpu->cpl == 3 ? CPU_ENV_SEL_USER_CODE32 : CPU_ENV_SEL_CODE32;
    load_segment(e, &e->cpu->seg[SEG_CS], (uint16_t)(code | e->cpu->cpl));
    x86_update_mode(e->cpu);
}
