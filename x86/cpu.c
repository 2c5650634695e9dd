/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The processor as a whole: its making and end, power-on, INIT and start-up, what the emulator
 * derives from control state, and how a fault is recorded.
 *
 * Reset values are SDM 3A table 9-1; what INIT leaves alone is its third column. There is no
 * firmware in this machine: what firmware would set up (MTRRs, the boot processor's mode) is
 * machine/'s to write after x86_cpu_reset.
 */
#include "x86/cpu.h"

#include "core/err.h"
#include "core/fmt.h"
#include "core/mem.h"
#include "x86/lapic.h"
#include "x86/level.h"
#include "x86/mem.h"
#include "x86/native.h"

/* --- faults --- */

/* Vectors that push an error code (SDM 3A, table 6-1). */
#define ERROR_CODE_VECTORS                                                                         \
    (X86_BIT(X86_DF) | X86_BIT(X86_TS) | X86_BIT(X86_NP) | X86_BIT(X86_SS) | X86_BIT(X86_GP) |     \
     X86_BIT(X86_PF) | X86_BIT(X86_AC))

int x86_fault(struct x86_cpu *cpu, uint8_t vector, uint32_t error)
{
    bool has_error = vector < 32 && ERROR_CODE_VECTORS >> vector & 1;
    cpu->fault = (struct x86_fault){
        .vector = vector,
        .has_error = has_error,
        .error = has_error ? error : 0,
    };
    return X86_FAULT;
}

int x86_fault_page(struct x86_cpu *cpu, uint64_t address, uint32_t error)
{
    (void)x86_fault(cpu, X86_PF, error);
    cpu->fault.payload = address;
    return X86_FAULT;
}

int x86_fault_debug(struct x86_cpu *cpu, uint64_t dr6_bits)
{
    (void)x86_fault(cpu, X86_DB, 0);
    cpu->fault.payload = dr6_bits;
    return X86_FAULT;
}

/* --- life --- */

static size_t cpu_pages(void)
{
    return (sizeof(struct x86_cpu) + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

int x86_cpu_create(struct x86_cpu **out, struct vm *vm, uint32_t id, const struct x86_level *level)
{
    struct x86_cpu *cpu = seam_pages_alloc(cpu_pages());
    if (!cpu)
        return ERR_NO_MEMORY;
    vcpu_init(&cpu->vcpu, vm, id);
    cpu->level = level;
    cpu->tlb_generation[0] = cpu->tlb_generation[1] = 1;
    int err = lapic_create(cpu);
    if (err != OK)
        goto free_cpu;
    err = native_create(cpu);
    if (err != OK)
        goto free_lapic;
    x86_cpu_reset(cpu);
    *out = cpu;
    return OK;

free_lapic:
    lapic_destroy(cpu);
free_cpu:
    seam_pages_free(cpu, cpu_pages());
    return err;
}

void x86_cpu_destroy(struct x86_cpu *cpu)
{
    if (!cpu)
        return;
    native_destroy(cpu);
    lapic_destroy(cpu);
    seam_pages_free(cpu, cpu_pages());
}

/* --- reset --- */

enum {
    ATTR_RESET_CODE = 0x9B, /* present, code, readable, accessed */
    ATTR_RESET_DATA = 0x93, /* present, data, writable, accessed */
    ATTR_RESET_LDT = 0x82,
    ATTR_RESET_TSS = 0x8B, /* busy 32-bit TSS */
};

/* What power-on and INIT have in common. */
static void reset_common(struct x86_cpu *cpu)
{
    uint32_t id[4];
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    x86_cpuid(cpu, 1, 0, id);
    cpu->gpr[RDX] = id[0]; /* family, model and stepping */
    cpu->rip = 0xFFF0;
    cpu->rflags = X86_FLAG_ONE;

    const struct x86_segment data = {.limit = 0xFFFF, .attr = ATTR_RESET_DATA};
    for (unsigned int s = 0; s < SEG_COUNT; s++)
        cpu->seg[s] = data;
    cpu->seg[SEG_CS] = (struct x86_segment){0xFFFF0000, 0xFFFF, ATTR_RESET_CODE, 0xF000};
    cpu->ldtr = (struct x86_segment){.limit = 0xFFFF, .attr = ATTR_RESET_LDT};
    cpu->tr = (struct x86_segment){.limit = 0xFFFF, .attr = ATTR_RESET_TSS};
    cpu->gdtr = cpu->idtr = (struct x86_table){.limit = 0xFFFF};

    cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
    memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
    memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr6 = X86_DR6_FIXED;
    cpu->dr7 = X86_DR7_FIXED;

    cpu->shadow = 0;
    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    cpu->nmi_masked = cpu->nmi_pending = false;
    cpu->pv_kick = false;
    cpu->debug_pending = 0;
    cpu->fault = (struct x86_fault){0};
    cpu->code_page = ~(uint64_t)0;
    cpu->code_written = false;
}

static void reset_fpu(struct x86_cpu *cpu)
{
    memset(&cpu->fpu, 0, sizeof(cpu->fpu));
    cpu->fpu.fcw = 0x40;
    cpu->fpu.ftw = 0xFF; /* full tag word 5555H: all valid, holding zeros */
    cpu->fpu.mxcsr = X86_MXCSR_RESET;
    cpu->fpu.mxcsr_mask = 0xFFFF;
    cpu->xcr0 = X86_XCR0_X87;
}

static void reset_msrs(struct x86_cpu *cpu)
{
    cpu->msr = (struct x86_msrs){
        .pat = UINT64_C(0x0007040600070406),
        .misc_enable = X86_MISC_ENABLE_RESET,
    };
    cpu->tsc_offset = 0;
}

void x86_cpu_reset(struct x86_cpu *cpu)
{
    cpu->cr0 = X86_CR0_CD | X86_CR0_NW | X86_CR0_ET;
    reset_msrs(cpu);
    reset_fpu(cpu);
    lapic_reset(cpu, false);
    reset_common(cpu);
    cpu->activity = cpu->vcpu.id == 0 ? X86_RUNNING : X86_WAIT_SIPI;
    x86_update_mode(cpu);
    x86_tlb_flush(cpu);
}

void x86_cpu_init(struct x86_cpu *cpu)
{
    cpu->cr0 = (cpu->cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
    lapic_reset(cpu, true);
    reset_common(cpu);
    bool boot = lapic_base_msr(cpu) & X86_APIC_BASE_BSP;
    cpu->activity = boot ? X86_RUNNING : X86_WAIT_SIPI;
    x86_update_mode(cpu);
    x86_tlb_flush(cpu);
}

void x86_cpu_sipi(struct x86_cpu *cpu, uint8_t vector)
{
    if (cpu->activity != X86_WAIT_SIPI)
        return;
    cpu->seg[SEG_CS].selector = (uint16_t)(vector << 8);
    cpu->seg[SEG_CS].base = (uint64_t)vector << 12;
    cpu->rip = 0;
    cpu->activity = X86_RUNNING;
}

/* --- derived state --- */

static uint8_t current_cpl(const struct x86_cpu *cpu)
{
    const struct x86_segment *cs = &cpu->seg[SEG_CS];
    if (cpu->v86)
        return 3;
    if (!cpu->protected_mode)
        return 0;
    /* Right after CR0.PE was set CS still holds a real-mode selector, whose low bits mean nothing:
     * so not simply the RPL. */
    bool conforming = (cs->attr & 0xC) == 0xC;
    return conforming ? cs->selector & 3 : cs->attr >> X86_ATTR_DPL_SHIFT & 3;
}

/* Base 0, limit 4 GiB, writable, expand-up data of 32 bits. */
static bool is_flat(const struct x86_segment *s)
{
    enum { CHECKED = X86_ATTR_UNUSABLE | X86_ATTR_P | X86_ATTR_DB | X86_ATTR_S | 0xE };
    return s->base == 0 && s->limit == UINT32_MAX &&
           (s->attr & CHECKED) == (X86_ATTR_P | X86_ATTR_DB | X86_ATTR_S | 2);
}

#define PAGING_CR0 (X86_CR0_PG | X86_CR0_WP)
#define PAGING_CR4                                                                                 \
    (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP)
#define PAGING_EFER (X86_EFER_NXE | X86_EFER_LMA)

static void update_paging(struct x86_cpu *cpu, uint64_t key)
{
    cpu->paging_key = key;
    if (!(cpu->cr0 & X86_CR0_PG))
        cpu->paging = X86_PAGING_OFF;
    else if (cpu->long_mode)
        cpu->paging = X86_PAGING_4LEVEL;
    else
        cpu->paging = cpu->cr4 & X86_CR4_PAE ? X86_PAGING_PAE : X86_PAGING_32BIT;
    x86_tlb_flush(cpu);
}

void x86_update_mode(struct x86_cpu *cpu)
{
    const struct x86_segment *cs = &cpu->seg[SEG_CS];
    bool pe = cpu->cr0 & X86_CR0_PE;
    cpu->v86 = pe && cpu->rflags & X86_FLAG_VM;
    cpu->protected_mode = pe && !cpu->v86;
    cpu->long_mode = cpu->efer & X86_EFER_LMA;
    cpu->cpl = current_cpl(cpu);

    if (cpu->long_mode && cs->attr & X86_ATTR_L) {
        cpu->mode = INSN_MODE_64;
        cpu->stack_size = 8;
        cpu->flat_data = false;
    } else {
        cpu->mode = cs->attr & X86_ATTR_DB ? INSN_MODE_32 : INSN_MODE_16;
        cpu->stack_size = cpu->seg[SEG_SS].attr & X86_ATTR_DB ? 4 : 2;
        cpu->flat_data = cpu->protected_mode && is_flat(&cpu->seg[SEG_SS]) &&
                         is_flat(&cpu->seg[SEG_DS]) && is_flat(&cpu->seg[SEG_ES]);
    }

    /* the three groups have no bit position in common */
    uint64_t key =
        (cpu->cr0 & PAGING_CR0) | (cpu->efer & PAGING_EFER) | (cpu->cr4 & PAGING_CR4) << 32;
    if (unlikely(key != cpu->paging_key))
        update_paging(cpu, key);

    bool ac = cpu->rflags & X86_FLAG_AC;
    cpu->smap_active = cpu->cpl < 3 && cpu->cr4 & X86_CR4_SMAP && !ac;
    if (cpu->cpl == 3)
        cpu->tlb_context = X86_TLB_USER;
    else
        cpu->tlb_context = ac && cpu->cr4 & X86_CR4_SMAP ? X86_TLB_KERNEL_AC : X86_TLB_KERNEL;
    bool align = cpu->cpl == 3 && ac && cpu->cr0 & X86_CR0_AM;
    cpu->tlb = cpu->tlb_table[unlikely(align) ? X86_TLB_NONE : cpu->tlb_context];
}

_Static_assert(((PAGING_CR0 | PAGING_EFER) & PAGING_CR4 << 32) == 0 &&
                   (PAGING_CR0 & PAGING_EFER) == 0,
               "the paging key's groups must not overlap");

/* --- dump --- */

static const char *mode_name(const struct x86_cpu *cpu)
{
    if (cpu->v86)
        return "virtual-8086";
    if (!cpu->protected_mode)
        return "real";
    if (!cpu->long_mode)
        return "protected";
    return cpu->mode == INSN_MODE_64 ? "64-bit" : "compatibility";
}

static const char *activity_name(const struct x86_cpu *cpu)
{
    static const char *const names[] = {
        [X86_RUNNING] = "running",
        [X86_HALTED] = "halted",
        [X86_WAIT_SIPI] = "waiting for SIPI",
        [X86_SHUTDOWN] = "shut down",
    };
    return cpu->activity < ARRAY_SIZE(names) ? names[cpu->activity] : "?";
}

/* Text that grows in a buffer of fixed size. */
struct dump {
    char *buf;
    size_t size, used;
};

static void dump_line(struct dump *d, const char *format, ...) printf_like(2, 3);

static void dump_line(struct dump *d, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    size_t room = d->used < d->size ? d->size - d->used : 0;
    d->used += fmt_v(room ? d->buf + d->used : NULL, room, format, ap);
    va_end(ap);
}

static void dump_segment(struct dump *d, const char *name, const struct x86_segment *s)
{
    dump_line(d, "%-4s %04x base %016lx limit %08x attr %05x\n", name, s->selector, s->base,
              s->limit, s->attr);
}

size_t x86_cpu_dump(const struct x86_cpu *cpu, char *buf, size_t size)
{
    static const char *const gpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
    struct dump d = {buf, size, 0};
    if (size > 0)
        buf[0] = '\0';
    dump_line(&d, "vCPU %u: %s, %s mode, CPL %u\n", cpu->vcpu.id, activity_name(cpu),
              mode_name(cpu), cpu->cpl);
    dump_line(&d, "rip %016lx rflags %08lx\n", cpu->rip, cpu->rflags);
    for (unsigned int r = 0; r < 16; r++)
        dump_line(&d, "%-3s %016lx%c", gpr[r], cpu->gpr[r], r % 4 == 3 ? '\n' : ' ');
    for (unsigned int s = 0; s < SEG_COUNT; s++)
        dump_segment(&d, seg[s], &cpu->seg[s]);
    dump_segment(&d, "ldtr", &cpu->ldtr);
    dump_segment(&d, "tr", &cpu->tr);
    dump_line(&d, "gdtr %016lx %04x idtr %016lx %04x\n", cpu->gdtr.base, cpu->gdtr.limit,
              cpu->idtr.base, cpu->idtr.limit);
    dump_line(&d, "cr0 %08lx cr2 %016lx cr3 %016lx cr4 %08lx\n", cpu->cr0, cpu->cr2, cpu->cr3,
              cpu->cr4);
    dump_line(&d, "efer %04lx xcr0 %lx dr6 %08lx dr7 %08lx\n", cpu->efer, cpu->xcr0, cpu->dr6,
              cpu->dr7);
    if (d.used < size)
        return d.used;
    return size > 0 ? size - 1 : 0;
}
