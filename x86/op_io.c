/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * IN and OUT (SDM 2), and what INS and OUTS share with them: the check against IOPL and the TSS's
 * I/O permission bitmap, and the access, which is a neutral exit that is handled in place.
 *
 * The check comes before anything is done (bad-inputs C2), also in virtual-8086 mode, where IOPL
 * does not matter and the bitmap alone decides (SDM 3B 20.2.8). An access that stops the VM still
 * completes the instruction, so that a saved VM goes on behind it.
 */
#include "x86/io.h"

#include "core/err.h"
#include "x86/operand.h"
#include "x86/segment.h"

enum { TSS_IO_MAP_BASE = 0x66 }; /* SDM 3A, figures 7-2 and 7-11 */

/* The bitmap's bits for the ports, which may span two bytes. Two bytes are always read, as
 * processors do, so the second has to be inside the limit, too (SDM 1, 18.5.2). */
static int io_check_bitmap(struct x86_cpu *cpu, uint16_t port, uint8_t size)
{
    uint16_t base, map;
    uint32_t limit = cpu->tr.limit;
    bool tss32 = (cpu->tr.attr & 0x8) && (cpu->tr.attr & X86_ATTR_P);
    if (!tss32 || limit < TSS_IO_MAP_BASE + 1)
        return x86_fault(cpu, X86_GP, 0);
    int s = x86_system_read(cpu, cpu->tr.base + TSS_IO_MAP_BASE, &base, sizeof(base));
    if (s != X86_OK)
        return s;
    uint32_t offset = (uint32_t)base + port / 8u;
    if (offset + 1 > limit)
        return x86_fault(cpu, X86_GP, 0);
    s = x86_system_read(cpu, cpu->tr.base + offset, &map, sizeof(map));
    if (s != X86_OK)
        return s;
    uint32_t bits = (1u << size) - 1;
    return (uint32_t)map >> (port % 8) & bits ? x86_fault(cpu, X86_GP, 0) : X86_OK;
}

int x86_io_allowed(struct x86_cpu *cpu, uint16_t port, uint8_t size)
{
    bool protected_mode = cpu->protected_mode || cpu->v86;
    uint64_t iopl = cpu->rflags >> X86_FLAG_IOPL_SHIFT & 3;
    if (protected_mode && (cpu->v86 || cpu->cpl > iopl))
        return io_check_bitmap(cpu, port, size);
    return X86_OK;
}

static int io_exit(struct x86_cpu *cpu, struct exit *e)
{
    int err = vcpu_handle_exit(&cpu->vcpu, e);
    x86_debug_io(cpu, e->port.port, e->port.size);
    return err == OK ? X86_OK : X86_EXIT;
}

int x86_io_read(struct x86_cpu *cpu, uint16_t port, uint8_t size, uint64_t *value)
{
    struct exit e = {.reason = EXIT_PORT, .port = {.port = port, .size = size}};
    int s = io_exit(cpu, &e);
    *value = e.port.value & x86_size_mask(size);
    return s;
}

int x86_io_write(struct x86_cpu *cpu, uint16_t port, uint8_t size, uint64_t value)
{
    struct exit e = {
        .reason = EXIT_PORT,
        .port = {.port = port, .size = size, .write = true, .value = value & x86_size_mask(size)}};
    return io_exit(cpu, &e);
}

static int io_in(struct x86_cpu *cpu, const struct insn *i, uint16_t port)
{
    uint64_t v;
    int s = x86_io_allowed(cpu, port, i->opsize);
    if (s != X86_OK)
        return s;
    s = x86_io_read(cpu, port, i->opsize, &v);
    operand_set_reg(cpu, RAX, i->opsize, v);
    return s;
}

static int io_out(struct x86_cpu *cpu, const struct insn *i, uint16_t port)
{
    int s = x86_io_allowed(cpu, port, i->opsize);
    if (s != X86_OK)
        return s;
    return x86_io_write(cpu, port, i->opsize, cpu->gpr[RAX]);
}

static int in_imm(struct x86_cpu *cpu, const struct insn *i)
{
    return io_in(cpu, i, (uint8_t)i->imm);
}

static int in_dx(struct x86_cpu *cpu, const struct insn *i)
{
    return io_in(cpu, i, (uint16_t)cpu->gpr[RDX]);
}

static int out_imm(struct x86_cpu *cpu, const struct insn *i)
{
    return io_out(cpu, i, (uint8_t)i->imm);
}

static int out_dx(struct x86_cpu *cpu, const struct insn *i)
{
    return io_out(cpu, i, (uint16_t)cpu->gpr[RDX]);
}

x86_op_fn *x86_select_io(const struct insn *i)
{
    static x86_op_fn *const table[] = {
        [INSN_IN - INSN_IN] = in_imm,
        [INSN_OUT - INSN_IN] = out_imm,
        [INSN_IN_DX - INSN_IN] = in_dx,
        [INSN_OUT_DX - INSN_IN] = out_dx,
    };
    return table[i->op - INSN_IN];
}
