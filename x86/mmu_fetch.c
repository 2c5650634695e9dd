/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Instruction fetch: where the code at a linear address stands in host memory, and the up to 15
 * bytes of one instruction.
 *
 * Code runs from RAM and ROM. Executing from MMIO or from where nothing is would make devices see
 * fetches whose number depends on how instructions are cached; here such places read as FF bytes,
 * as where nobody answers: an invalid instruction, so the guest gets #UD and its handler can say
 * so.
 */
#include "x86/mmu.h"

/* From a host address of guest memory back to the guest-physical one. */
static uint64_t physical_of(const struct vm *vm, const uint8_t *host)
{
    for (uint32_t i = 0; i < vm->mem.count; i++) {
        const struct guest_mem_slot *s = &vm->mem.slot[i];
        uint64_t offset = (uint64_t)(uintptr_t)host - (uint64_t)(uintptr_t)s->host;
        if (offset < s->size)
            return s->base + offset;
    }
    return UINT64_MAX; /* not reached: TLB entries point into slots */
}

int x86_fetch_host(struct x86_cpu *cpu, uint64_t linear, const uint8_t **host, struct gpa *physical)
{
    struct mmu_page page;
    *host = NULL;
    int status = mmu_find_page(cpu, linear, X86_EXEC, &page);
    if (status != X86_OK)
        return status;
    uint64_t offset = linear & ~PAGE_MASK;
    if (!page.host) {
        if (physical)
            *physical = gpa(page.physical + offset);
        return X86_OK;
    }
    *host = page.host + offset;
    if (physical)
        *physical = gpa(physical_of(cpu->vcpu.vm, *host));
    return X86_OK;
}

/* Bytes that CS lets an instruction at rip have, at most 15; 0: #GP (SDM 3A 5.3). */
static uint32_t code_room(const struct x86_cpu *cpu)
{
    if (cpu->mode == INSN_MODE_64) {
        bool canonical = (uint64_t)((int64_t)(cpu->rip << 16) >> 16) == cpu->rip;
        /* the last byte of the lower half has the hole behind it */
        uint64_t end = UINT64_C(0x0000800000000000);
        if (!canonical)
            return 0;
        if (cpu->rip < end && end - cpu->rip < INSN_MAX_LENGTH)
            return (uint32_t)(end - cpu->rip);
        return INSN_MAX_LENGTH;
    }
    uint32_t limit = cpu->seg[SEG_CS].limit;
    if (cpu->rip > limit)
        return 0;
    uint64_t room = (uint64_t)limit - cpu->rip + 1;
    return room < INSN_MAX_LENGTH ? (uint32_t)room : INSN_MAX_LENGTH;
}

/* Copies up to `size` bytes of code that lie in one page. */
static int fetch_part(struct x86_cpu *cpu, uint64_t linear, uint8_t *buf, uint32_t size)
{
    const uint8_t *host;
    int status = x86_fetch_host(cpu, linear, &host, NULL);
    if (status != X86_OK)
        return status;
    if (host)
        memcpy(buf, host, size);
    else
        memset(buf, 0xFF, size);
    return X86_OK;
}

int x86_fetch_bytes(struct x86_cpu *cpu, uint8_t *buf, uint32_t *got)
{
    *got = 0;
    uint32_t room = code_room(cpu);
    if (room < INSN_MAX_LENGTH)
        (void)x86_fault(cpu, X86_GP, 0); /* what the byte behind the room raises */
    if (room == 0)
        return X86_FAULT;
    uint64_t linear = cpu->rip;
    if (cpu->mode != INSN_MODE_64)
        linear = (uint32_t)(linear + cpu->seg[SEG_CS].base);

    uint32_t first = (uint32_t)(PAGE_SIZE - (linear & ~PAGE_MASK));
    if (first > room)
        first = room;
    int status = fetch_part(cpu, linear, buf, first);
    if (status != X86_OK)
        return status;
    *got = first;
    if (first == room)
        return X86_OK;
    linear = mmu_next_page(cpu, linear, X86_EXEC);
    if (fetch_part(cpu, linear, buf + first, room - first) == X86_OK)
        *got = room;
    return X86_OK;
}
