/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The boot processor's first state. The three protocols agree on nearly everything: flat segments
 * with selectors 0x10 and 0x18, interrupts off, no IDT. Linux's 64-bit entry runs in long mode on
 * an identity map of the first 4 GiB; PVH and Multiboot kernels in 32-bit protected mode without
 * paging. What a protocol leaves open is as after reset.
 */
#include "core/mem.h"
#include "machine/boot.h"

enum {
    SELECTOR_CODE = 0x10, /* __BOOT_CS */
    SELECTOR_DATA = 0x18, /* __BOOT_DS */
    SELECTOR_TSS = 0x20,
    GDT_ENTRIES = 6, /* a 64-bit TSS descriptor takes two */
};

#define ATTR_CODE                                                                                  \
    (0xBu | X86_ATTR_S | X86_ATTR_P | X86_ATTR_G) /* execute, read, accessed; 4 KiB granularity */
#define ATTR_DATA (0x3u | X86_ATTR_S | X86_ATTR_P | X86_ATTR_G | X86_ATTR_DB)
#define ATTR_TSS  (0xBu | X86_ATTR_P) /* busy */

/* PML4 and PDPT, then four page directories of 2 MiB pages. */
static int write_identity_map(const struct boot *b)
{
    enum { PDPT = BOOT_PAGE_TABLES + 0x1000, PD = BOOT_PAGE_TABLES + 0x2000, PDS = 4 };
    const uint64_t table = X86_PTE_P | X86_PTE_W;
    uint64_t page[512] = {PDPT | table};
    int err = guest_mem_write(b->mem, gpa(BOOT_PAGE_TABLES), page, sizeof(page));
    for (uint64_t n = 0; n < PDS; n++)
        page[n] = (PD + n * PAGE_SIZE) | table;
    if (err == OK)
        err = guest_mem_write(b->mem, gpa(PDPT), page, sizeof(page));
    for (uint64_t d = 0; err == OK && d < PDS; d++) {
        for (uint64_t n = 0; n < 512; n++)
            page[n] = (d * 512 + n) * MIB(2) | table | X86_PTE_PS;
        err = guest_mem_write(b->mem, gpa(PD + d * PAGE_SIZE), page, sizeof(page));
    }
    return err;
}

static int write_gdt(const struct boot *b)
{
    const uint64_t gdt[GDT_ENTRIES] = {
        [SELECTOR_CODE / 8] = b->entry.long_mode ? 0x00AF9B000000FFFF : 0x00CF9B000000FFFF,
        [SELECTOR_DATA / 8] = 0x00CF93000000FFFF,
        [SELECTOR_TSS / 8] = 0x00008B0000000067,
    };
    return guest_mem_write(b->mem, gpa(BOOT_GDT), gdt, sizeof(gdt));
}

static void set_segments(struct x86_cpu *cpu, bool long_mode)
{
    const struct x86_segment data = {
        .limit = UINT32_MAX, .attr = ATTR_DATA, .selector = SELECTOR_DATA};
    for (int s = 0; s < SEG_COUNT; s++)
        cpu->seg[s] = data;
    cpu->seg[SEG_CS] = (struct x86_segment){
        .limit = UINT32_MAX,
        .attr = ATTR_CODE | (long_mode ? X86_ATTR_L : X86_ATTR_DB),
        .selector = SELECTOR_CODE,
    };
    cpu->tr = (struct x86_segment){.limit = 0x67, .attr = ATTR_TSS, .selector = SELECTOR_TSS};
    cpu->ldtr = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    cpu->gdtr = (struct x86_table){.base = BOOT_GDT, .limit = GDT_ENTRIES * 8 - 1};
    cpu->idtr = (struct x86_table){.base = 0, .limit = 0};
}

int boot_enter(const struct boot *b, struct x86_cpu *cpu)
{
    const struct boot_entry *e = &b->entry;
    int err = write_gdt(b);
    if (err == OK && e->long_mode)
        err = write_identity_map(b);
    if (err != OK)
        return err;
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[RAX] = e->rax;
    cpu->gpr[RBX] = e->rbx;
    cpu->gpr[RSI] = e->rsi;
    cpu->gpr[RSP] = BOOT_STACK_TOP;
    cpu->rip = e->rip;
    cpu->rflags = X86_FLAG_ONE;
    set_segments(cpu, e->long_mode);
    cpu->cr0 = X86_CR0_PE | X86_CR0_ET;
    cpu->cr3 = 0;
    cpu->cr4 = 0;
    cpu->efer = 0;
    if (e->long_mode) {
        cpu->cr0 |= X86_CR0_PG;
        cpu->cr3 = BOOT_PAGE_TABLES;
        cpu->cr4 = X86_CR4_PAE;
        cpu->efer = X86_EFER_LME | X86_EFER_LMA;
    }
    x86_update_mode(cpu);
    return OK;
}
