/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What a state says is still to happen happens, under kvm and under soft alike.
 *
 *   deliver [--seed N] [--count N] [--shadow 0]
 *
 * A small guest in long mode begins in a random state: an exception, NMI or interrupt in flight, an
 * interrupt shadow, NMIs pending and masked, interrupts requested, halted or not, with a kick in
 * store. Its handlers write down the vector, what is on the stack, CR2, DR6 and the order. It then
 * unblocks NMIs by IRET, lets interrupts in, and ends. The same state is loaded into a machine
 * under each engine, over the same memory; what was written and the registers at the end are the
 * same.
 *
 * --shadow 0: without interrupt shadows, where the processor ignores them on VMRUN (QEMU's TCG). If
 * the host is entered right behind the guest's STI, interrupts come there, an instruction too early.
 */
#include <stdlib.h>
#include <string.h>

#include "core/err.h"
#include "core/mem.h"
#include "lodge/ports.h"
#include "tests/kvm/random_state.h"
#include "tests/kvm/vm_env.h"
#include "tests/lib/unit.h"
#include "x86/lapic_private.h"
#include "x86/msr.h"

enum {
    MEMORY = 32 << 20,
    PML4 = 0x1000, /* PDPT, four page directories */
    GDT = 0x8000,
    IDT = 0x9000,
    TSS = 0xA000,
    CODE = 0x10000,
    STUBS = 0x20000,
    STUB_SIZE = 16,
    COMMON = 0x22000,
    STACK = 0x40000,
    LOG_AT = 0x50000, /* where the next record goes */
    LOG = 0x50040,
    LOG_SIZE = 64,
    LOG_RECORDS = 64,
    USED = 0x60000,
    CODE_HLT = 0, /* offset of the first instruction for a vCPU with a kick in store */
    CODE_START = 2,
    CODE_STI = 0x18,
};

static struct vm_shape shape;
static uint64_t seed = 1, count = 300, shadow = 1;

/* clang-format off */
__asm__(
    ".pushsection .rodata\n .globl guest_code, guest_code_end, guest_common, guest_common_end\n"
    ".code64\n"
    "guest_code: cli\n hlt\n"
    "nop\n nop\n nop\n nop\n"
    "mov %rsp, %rax\n pushq $0x10\n push %rax\n pushfq\n pushq $8\n"
    "pushq $(1f - guest_code + 0x10000)\n iretq\n" /* unblocks NMIs */
    "1: nop\n nop\n sti\n nop\n nop\n nop\n cli\n"
    "mov $1, %eax\n out %al, $0xF4\n"
    "2: hlt\n jmp 2b\n"
    "guest_code_end:\n"
    /* Stack: what was pushed by the stub: vector and whether there is an error code, then the
     * processor's. */
    "guest_common: push %rax\n push %rbx\n mov 0x50000, %ebx\n"
    "mov 16(%rsp), %rax\n mov %rax, (%rbx)\n"
    "mov 24(%rsp), %rax\n mov %rax, 8(%rbx)\n"
    "mov 32(%rsp), %rax\n mov %rax, 16(%rbx)\n"
    "mov 40(%rsp), %rax\n mov %rax, 24(%rbx)\n"
    "mov 48(%rsp), %rax\n mov %rax, 32(%rbx)\n"
    "mov %cr2, %rax\n mov %rax, 40(%rbx)\n mov %dr6, %rax\n mov %rax, 48(%rbx)\n"
    "add $64, %ebx\n mov %ebx, 0x50000\n"
    "cmpb $0x20, 16(%rsp)\n jb 1f\n mov $0xFEE000B0, %ebx\n movl $0, (%rbx)\n"
    "1: testl $0x100, 16(%rsp)\n pop %rbx\n pop %rax\n lea 8(%rsp), %rsp\n jz 2f\n"
    "lea 8(%rsp), %rsp\n 2: iretq\n"
    "guest_common_end:\n .popsection\n");
/* clang-format on */

extern const uint8_t guest_code[], guest_code_end[], guest_common[], guest_common_end[];

static bool has_error(uint32_t vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* --- the guest's memory ------------------------------------------------------------------------
 */

/* 4 GiB, identity-mapped by pages of 2 MiB. */
static void make_pages(uint8_t *ram)
{
    store_u64(ram + PML4, (PML4 + 0x1000) | 3);
    for (uint32_t i = 0; i < 4; i++)
        store_u64(ram + PML4 + 0x1000 + i * 8, (PML4 + 0x2000 + i * 0x1000) | 3);
    for (uint64_t i = 0; i < 2048; i++)
        store_u64(ram + PML4 + 0x2000 + i * 8, i << 21 | 0x83);
}

static void make_handlers(uint8_t *ram)
{
    for (uint32_t v = 0; v < 256; v++) {
        uint32_t stub = STUBS + v * STUB_SIZE;
        uint8_t *code = ram + stub, *gate = ram + IDT + v * 16;

        code[0] = 0x68; /* push */
        store_u32(code + 1, v | (has_error(v) ? 0x100 : 0));
        code[5] = 0xE9; /* jmp */
        store_u32(code + 6, COMMON - (stub + 10));
        store_u64(gate,
                  (stub & 0xFFFF) | 8u << 16 | UINT64_C(0x8E) << 40 | (uint64_t)(stub >> 16) << 48);
        store_u64(gate + 8, 0);
    }
    memcpy(ram + COMMON, guest_common, (size_t)(guest_common_end - guest_common));
}

static void make_memory(uint8_t *ram)
{
    memset(ram, 0, USED);
    make_pages(ram);
    make_handlers(ram);
    store_u64(ram + GDT + 8, UINT64_C(0x00AF9B000000FFFF));
    store_u64(ram + GDT + 16, UINT64_C(0x00CF93000000FFFF));
    memcpy(ram + CODE, guest_code, (size_t)(guest_code_end - guest_code));
    store_u32(ram + LOG_AT, LOG);
}

/* --- its first state -------------------------------------------------------------------------- */

static void long_mode(struct x86_cpu *cpu)
{
    const struct x86_segment data = {0, UINT32_MAX, 0xC093, 0x10};

    x86_cpu_reset(cpu);
    cpu->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG | X86_CR0_WP;
    cpu->cr3 = PML4;
    cpu->cr4 = X86_CR4_PAE;
    cpu->efer = X86_EFER_LME | X86_EFER_LMA;
    for (unsigned int s = 0; s < SEG_COUNT; s++)
        cpu->seg[s] = data;
    cpu->seg[SEG_CS] = (struct x86_segment){0, UINT32_MAX, 0xA09B, 8};
    cpu->tr = (struct x86_segment){TSS, 0x67, 0x8B, 0x18};
    cpu->gdtr = (struct x86_table){GDT, 0x17};
    cpu->idtr = (struct x86_table){IDT, 0xFFF};
    for (unsigned int i = 0; i < 16; i++)
        cpu->gpr[i] = 0x1111111111111111u * i;
    cpu->gpr[RSP] = STACK;
    cpu->rip = CODE + CODE_START;
    x86_update_mode(cpu);
    lapic_mmio_write(cpu, LAPIC_SVR, 0x1FF);
}

static uint8_t random_vector(struct rng *r)
{
    return (uint8_t)(0x20 + rng_below(r, 0xD0));
}

static void request_interrupt(struct x86_cpu *cpu, struct rng *r)
{
    struct apic_message m = {.delivery = APIC_FIXED, .vector = random_vector(r)};

    CHECK_EQ(lapic_bus_send(cpu->vcpu.vm, &m), OK);
}

static void random_flight(struct x86_cpu *cpu, struct rng *r)
{
    static const uint8_t vectors[] = {X86_DE, X86_DB, 5,      X86_UD, X86_DF, 11,
                                      12,     13,     X86_PF, 16,     19};
    struct x86_in_flight *e = &cpu->event;

    e->kind = (uint8_t)rng_below(r, X86_FLIGHT_INTERRUPT + 1);
    if (e->kind == X86_FLIGHT_NMI) {
        e->vector = X86_NMI;
        cpu->nmi_masked = true;
    } else if (e->kind == X86_FLIGHT_INTERRUPT) {
        cpu->rflags |= X86_FLAG_IF;
        request_interrupt(cpu, r);
        e->vector = (uint8_t)lapic_take_interrupt(cpu);
    } else if (e->kind != X86_FLIGHT_NONE) {
        e->vector = vectors[rng_below(r, sizeof(vectors))];
        e->has_error = has_error(e->vector);
        e->error = e->has_error ? rng_below(r, 0x10000) : 0;
        if (e->kind == X86_FLIGHT_FAULT && (e->vector == X86_PF || e->vector == X86_DB)) {
            e->has_payload = true;
            e->payload = e->vector == X86_PF ? rng_next(r) >> 17 : 1u << rng_below(r, 4);
        }
    }
}

static void random_start(struct x86_cpu *cpu, struct rng *r)
{
    uint32_t choice = rng_below(r, 4);

    long_mode(cpu);
    (void)vcpu_take_requests(&cpu->vcpu, ~0u);
    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    cpu->cr2 = rng_next(r) >> 17;
    cpu->rflags |= rng_next(r) & (X86_FLAGS_STATUS | X86_FLAG_IF | X86_FLAG_DF);
    cpu->nmi_masked = rng_one_in(r, 3);
    cpu->nmi_pending = rng_one_in(r, 3);
    if (choice == 0) {
        random_flight(cpu, r);
    } else if (choice == 1 && shadow) {
        cpu->shadow = rng_one_in(r, 2) ? X86_SHADOW_STI : X86_SHADOW_MOV_SS;
        cpu->rflags |= X86_FLAG_IF;
    }
    for (uint32_t n = rng_below(r, 4); n > 0; n--)
        request_interrupt(cpu, r);
    if (choice == 2) { /* halted, and something wakes it */
        cpu->activity = X86_HALTED;
        cpu->rflags |= X86_FLAG_IF;
        request_interrupt(cpu, r);
    }
    if (choice == 3 && rng_one_in(r, 2)) {
        cpu->pv_kick = true;
        cpu->rip = CODE + CODE_HLT;
        cpu->rflags &= ~(uint64_t)X86_FLAG_IF;
    } else if (!cpu->nmi_pending && rng_one_in(r, 4)) { /* of two, KVM makes two, soft one */
        vcpu_request(&cpu->vcpu, VCPU_REQ_NMI);
    }
}

/* --- running ---------------------------------------------------------------------------------- */

/* In the records, RFLAGS has no RF: soft keeps none while no breakpoint is set, since nothing else
 * looks at it. */
static void forget_resume_flag(uint8_t *log)
{
    for (uint32_t n = 0; n < LOG_RECORDS; n++) {
        uint8_t *record = log + n * LOG_SIZE;
        uint32_t at = load_u64(record) & 0x100 ? 32 : 24;

        store_u64(record + at, load_u64(record + at) & ~(uint64_t)X86_FLAG_RF);
    }
}

/* The other processors' place for what comes right behind STI. */
static void forget_shadow_of_sti(uint8_t *log)
{
    for (uint32_t n = 0; n < LOG_RECORDS; n++) {
        uint8_t *rip = log + n * LOG_SIZE + 8;

        if (load_u64(rip) == CODE + CODE_STI + 1)
            store_u64(rip, CODE + CODE_STI + 2);
    }
}

struct outcome {
    uint64_t gpr[16], rip, rflags, cr2, dr6;
    uint32_t isr[8], irr[8];
    bool nmi_masked, nmi_pending;
    uint8_t log[LOG_RECORDS * LOG_SIZE];
};

static void run(const struct engine *engine, const struct vm_state *start, struct outcome *o)
{
    static struct vm_env env;
    struct x86_cpu *cpu;
    struct vm *vm = vm_env_vm(&env);

    memset(o, 0, sizeof(*o));
    make_memory(shape.ram);
    vm_env_create(&env, &shape, engine);
    CHECK_EQ(state_load_all(&vm->state, start->bytes, start->size), OK);
    CHECK_EQ(pc_hand_over_vcpus(vm), OK);
    pc_start_clock(vm);
    pc_run_vcpu(vm, 0);
    CHECK_EQ(atomic_load(&vm->stop_reason), VM_STOP_EXIT_PORT);
    pc_stop_clock(vm);
    CHECK_EQ(pc_fetch_vcpus(vm), OK);
    cpu = pc_cpu(vm, 0);
    memcpy(o->gpr, cpu->gpr, sizeof(o->gpr));
    o->rip = cpu->rip;
    o->rflags = cpu->rflags;
    o->cr2 = cpu->cr2;
    o->dr6 = cpu->dr6;
    for (uint32_t i = 0; i < 8; i++) {
        o->isr[i] = lapic_reg(cpu->lapic, LAPIC_ISR + i * 16);
        o->irr[i] = lapic_reg(cpu->lapic, LAPIC_IRR + i * 16);
    }
    o->nmi_masked = cpu->nmi_masked;
    o->nmi_pending = cpu->nmi_pending;
    memcpy(o->log, shape.ram + LOG, sizeof(o->log));
    forget_resume_flag(o->log);
    if (!shadow)
        forget_shadow_of_sti(o->log);
    vm_env_destroy(&env);
}

static void show(const char *name, const struct outcome *o)
{
    printf("  %s: rip %llx rflags %llx rsp %llx cr2 %llx dr6 %llx, NMI masked %d pending %d\n",
           name, (unsigned long long)o->rip, (unsigned long long)o->rflags,
           (unsigned long long)o->gpr[RSP], (unsigned long long)o->cr2, (unsigned long long)o->dr6,
           o->nmi_masked, o->nmi_pending);
    for (uint32_t n = 0; n < LOG_RECORDS && load_u64(o->log + n * LOG_SIZE + 16) != 0; n++) {
        printf("   ");
        for (uint32_t i = 0; i < 7; i++)
            printf(" %llx", (unsigned long long)load_u64(o->log + n * LOG_SIZE + i * 8));
        printf("\n");
    }
}

static void describe(const struct x86_cpu *cpu)
{
    const struct x86_in_flight *e = &cpu->event;

    printf("  seed %llu: flight %u vector %u payload %llx, shadow %u, activity %u, kick %d, NMI "
           "masked %d pending %d requests %x, IF %d\n",
           (unsigned long long)seed, e->kind, e->vector, (unsigned long long)e->payload,
           cpu->shadow, cpu->activity, cpu->pv_kick, cpu->nmi_masked, cpu->nmi_pending,
           vcpu_requests(&cpu->vcpu), (cpu->rflags & X86_FLAG_IF) != 0);
}

static void one_start(void)
{
    static struct vm_env source;
    static struct vm_state start;
    static struct outcome soft, kvm;
    struct rng r = {.state = seed * UINT64_C(0x9E3779B97F4A7C15) | 1};
    struct x86_cpu *cpu;

    vm_env_create(&source, &shape, &engine_soft);
    cpu = pc_cpu(vm_env_vm(&source), 0);
    random_start(cpu, &r);
    vm_env_save(&source, &start);
    run(&engine_soft, &start, &soft);
    run(&engine_kvm, &start, &kvm);
    if (memcmp(&soft, &kvm, sizeof(soft)) != 0) {
        unit_fail(__FILE__, __LINE__, "both engines end alike");
        describe(cpu);
        show("soft", &soft);
        show("kvm", &kvm);
    }
    vm_env_destroy(&source);
}

static void test_deliver(void)
{
    CHECK_EQ(guest_code[CODE_STI], 0xFB);
    for (uint64_t n = 0; n < count; n++, seed++) {
        unit_context("seed %llu", (unsigned long long)seed);
        one_start();
    }
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--count") == 0)
            count = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--shadow") == 0)
            shadow = strtoull(argv[i + 1], NULL, 0);
    }
    printf("seeds %llu to %llu\n", (unsigned long long)seed,
           (unsigned long long)(seed + count - 1));
    vm_shape_init(&shape, 1, MEMORY, &engine_kvm);
    UNIT_RUN(test_deliver);
    return unit_done();
}
