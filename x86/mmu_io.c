/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Accesses to guest-physical addresses that are neither RAM nor ROM: the local APIC's page, which
 * belongs to the processor itself, and everything else as EXIT_MMIO.
 *
 * An access is cut into naturally aligned pieces of 8, 4, 2 or 1 bytes, low address first, so a
 * device never sees a size or an alignment that no bus would carry. Local APIC registers are 32
 * bits wide on 16-byte boundaries and are defined for aligned 32-bit accesses only (SDM 3A
 * 10.4.1): smaller reads take a part of the register, smaller writes are dropped.
 *
 * When the VM is being stopped a read gives all ones: the vCPU leaves at the next instruction, and
 * what it computed from them is never seen.
 */
#include "core/err.h"
#include "x86/lapic.h"
#include "x86/mmu.h"

/* The largest naturally aligned piece at that address, of at most `size` bytes. */
static uint32_t piece_size(uint64_t physical, uint32_t size)
{
    uint32_t piece = 8;
    while (piece > size || physical & (piece - 1))
        piece /= 2;
    return piece;
}

static uint64_t apic_read(struct x86_cpu *cpu, uint32_t offset, uint32_t size)
{
    uint64_t value = lapic_mmio_read(cpu, offset & ~3u);
    if (size == 8)
        return value | (uint64_t)lapic_mmio_read(cpu, offset + 4) << 32;
    return value >> (offset & 3) * 8;
}

static void apic_write(struct x86_cpu *cpu, uint32_t offset, uint32_t size, uint64_t value)
{
    if (size < 4)
        return;
    lapic_mmio_write(cpu, offset, (uint32_t)value);
    if (size == 8)
        lapic_mmio_write(cpu, offset + 4, (uint32_t)(value >> 32));
}

static uint64_t bus_piece_read(struct x86_cpu *cpu, uint64_t physical, uint32_t size)
{
    struct exit e = {.reason = EXIT_MMIO};
    e.mmio.address = gpa(physical);
    e.mmio.size = (uint8_t)size;
    if (vcpu_handle_exit(&cpu->vcpu, &e) != OK)
        return UINT64_MAX;
    return e.mmio.value;
}

static void bus_piece_write(struct x86_cpu *cpu, uint64_t physical, uint32_t size, uint64_t value)
{
    struct exit e = {.reason = EXIT_MMIO};
    e.mmio.address = gpa(physical);
    e.mmio.size = (uint8_t)size;
    e.mmio.write = true;
    e.mmio.value = value;
    (void)vcpu_handle_exit(&cpu->vcpu, &e); /* ERR_STOPPED is seen by the run loop */
}

void mmu_io_read(struct x86_cpu *cpu, uint64_t physical, uint8_t *buf, uint32_t size)
{
    bool apic = lapic_owns_page(cpu, physical & PAGE_MASK);
    while (size > 0) {
        uint32_t piece = piece_size(physical, size);
        uint64_t value = apic ? apic_read(cpu, (uint32_t)(physical & ~PAGE_MASK), piece)
                              : bus_piece_read(cpu, physical, piece);
        memcpy(buf, &value, piece);
        buf += piece;
        physical += piece;
        size -= piece;
    }
}

void mmu_io_write(struct x86_cpu *cpu, uint64_t physical, const uint8_t *buf, uint32_t size)
{
    bool apic = lapic_owns_page(cpu, physical & PAGE_MASK);
    while (size > 0) {
        uint32_t piece = piece_size(physical, size);
        uint64_t value = 0;
        memcpy(&value, buf, piece);
        if (apic)
            apic_write(cpu, (uint32_t)(physical & ~PAGE_MASK), piece, value);
        else
            bus_piece_write(cpu, physical, piece, value);
        buf += piece;
        physical += piece;
        size -= piece;
    }
}
