/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The other CPUs: started one after the other by INIT and start-up IPIs (SDM 3A, 8.4.4), in a page below 1 MiB that
 * is also mapped at its own address, executable, while they start. Each gets its struct cpu and its stacks before.
 * One that has not claimed its turn after a while is said and left out: it is given an INIT again, so it waits, and
 * should it come after all, it halts in trampoline.S.
 *
 * What is started waits, halted, until smp_go; an interrupt that comes meanwhile does what it always does.
 *
 * Threads of one core see each other's traces in caches and buffers that no barrier between VMs reaches. So of each core
 * the first thread alone works, unless the fleet says that cores are shared; the others have been started, so that a
 * machine check or an NMI finds them in order, and stay halted where they wait.
 *
 * The end. Before power-off and reset every CPU leaves SVM or VMX operation, in which an INIT would not reach it (SDM
 * 3C 24.8; APM 2, 15.28), and halts for good. Who is in no haste asks by VECTOR_KICK, which is taken where no spin lock is
 * held, so that what is said afterwards waits for nobody; who does not hear it, and everybody in a panic, is stopped
 * by an NMI.
 */
#include <stdatomic.h>

#include "core/mem.h"
#include "engine/hw.h"
#include "native/acpi.h"
#include "native/apic.h"
#include "native/clock.h"
#include "native/cpu.h"
#include "native/cpu_start.h"
#include "native/engine.h"
#include "native/frames.h"
#include "native/insn.h"
#include "native/log.h"
#include "native/memory.h"
#include "native/stack.h"
#include "native/thread.h"
#include "native/topology.h"

enum {
    INIT_US = 10000,
    STARTUP_US = 200,
    POLL_US = 100,
    CLAIM_POLLS = 2000, /* 200 ms */
    STOP_US = 10,
    STOP_POLLS = 20000, /* 200 ms */
};

struct start_words { /* trampoline_words in trampoline.S */
    _Atomic uint32_t claim;
    uint32_t cr3, far_offset, far_selector, long_mode, unused;
    uint64_t stack, cpu, entry;
} __attribute__((packed, aligned(4)));

/* What a CPU that starts is given; never taken back once it has begun. */
struct newcomer {
    struct cpu cpu;
    struct clock_pair tsc;
    _Atomic bool arrived;
};

static _Atomic bool go, stopping;
static _Atomic uint32_t stopped;

extern uint8_t trampoline[], trampoline_end[], trampoline_words[], trampoline_gdt[], trampoline_gdt_base[],
    trampoline_long[];

/* The first C of a CPU that starts. One that was left out after all is not in the table: another has its number. */
static void smp_entry(struct newcomer *n)
{
    struct cpu *c = &n->cpu;

    paging_cpu_init();
    cpu_load(c);
    apic_cpu_init();
    __atomic_store_n(&c->online, true, __ATOMIC_RELEASE);
    if (clock_check_pair(&n->tsc, 1) == ERR_BUSY)
        halt_forever();
    atomic_store(&n->arrived, true);
    while (!atomic_load_explicit(&go, memory_order_acquire))
        cpu_halt();
    if (cpu_table[c->index] != c)
        halt_forever();
    while (c->parked)
        cpu_halt();
    scheduler_run();
}

static struct start_words *prepare_page(uint64_t page)
{
    uint8_t *p = hw_virt(page);
    uint32_t base = (uint32_t)page;
    struct start_words *w = (struct start_words *)(void *)(p + (trampoline_words - trampoline));

    memcpy(p, trampoline, (size_t)(trampoline_end - trampoline));
    store_u32(p + (trampoline_gdt_base - trampoline), base + (uint32_t)(trampoline_gdt - trampoline));
    w->cr3 = (uint32_t)paging_root();
    w->far_offset = w->long_mode = base + (uint32_t)(trampoline_long - trampoline);
    w->entry = (uint64_t)smp_entry;
    return w;
}

enum { NEWCOMER_PAGES = (sizeof(struct newcomer) + PAGE_SIZE - 1) / PAGE_SIZE };

static void free_newcomer(struct newcomer *n, void *stack)
{
    stack_free(stack, CPU_STACK);
    frames_free(n, NEWCOMER_PAGES);
}

static struct newcomer *make_newcomer(uint32_t apic, void **stack)
{
    struct newcomer *n = frames_alloc(NEWCOMER_PAGES, FRAME_OWN);

    *stack = stack_alloc(CPU_STACK);
    if (n && *stack) {
        cpu_prepare(&n->cpu, cpu_count);
        n->cpu.apic_id = apic;
        if (cpu_give_stacks(&n->cpu) == OK)
            return n;
    }
    free_newcomer(n, *stack);
    return NULL;
}

/* Did it claim its turn, or can it not any more? */
static bool claimed(struct start_words *w)
{
    uint32_t expected = 1;

    for (uint32_t i = 0; i < CLAIM_POLLS; i++) {
        if (atomic_load(&w->claim) == 2)
            return true;
        apic_delay_us(POLL_US);
    }
    return !atomic_compare_exchange_strong(&w->claim, &expected, 0);
}

/* The second start-up IPI is for those that lost the first one. */
static bool wake(struct start_words *w, uint32_t apic, uint64_t page)
{
    atomic_store(&w->claim, 1);
    apic_send_init(apic);
    apic_delay_us(INIT_US);
    for (uint32_t i = 0; i < 2 && atomic_load(&w->claim) == 1; i++) {
        apic_send_startup(apic, page);
        apic_delay_us(STARTUP_US);
    }
    if (claimed(w))
        return true;
    apic_send_init(apic);
    return false;
}

static bool becomes_true(_Atomic bool *flag)
{
    for (uint32_t i = 0; i < CLAIM_POLLS && !atomic_load(flag); i++)
        apic_delay_us(POLL_US);
    return atomic_load(flag);
}

/* Its TSC beside ours, then it is there. It keeps what it was given, even if not. */
static bool arrives(struct newcomer *n)
{
    int err = clock_check_pair(&n->tsc, 0);

    if (err == ERR_BUSY || !becomes_true(&n->arrived))
        return false;
    if (err == ERR_UNSUPPORTED) {
        log_line("the TSC of the CPU with APIC id %u differs, by %lld at least: time is kept by a shared word",
                 n->cpu.apic_id, (long long)n->tsc.ahead);
        clock_distrust();
    }
    return true;
}

static void start_one(struct start_words *w, uint64_t page, uint32_t apic)
{
    void *stack;
    struct newcomer *n = make_newcomer(apic, &stack);

    if (!n) {
        log_line("no memory for the CPU with APIC id %u: left out", apic);
        return;
    }
    w->stack = (uint64_t)stack + CPU_STACK;
    w->cpu = (uint64_t)n;
    if (!wake(w, apic, page)) {
        log_line("the CPU with APIC id %u did not start: left out", apic);
        free_newcomer(n, stack);
    } else if (!arrives(n)) {
        log_line("the CPU with APIC id %u started and did not arrive: left out", apic);
    } else {
        cpu_table[cpu_count++] = &n->cpu;
        cpu_working++;
    }
}

void smp_start(const struct acpi *a)
{
    uint64_t page = memory_start_page();
    struct start_words *w;

    if (!page || paging_map(page, page, PAGE_SIZE, PAGING_EXECUTE) != OK) {
        log_line("no page below 1 MiB to start CPUs in: one CPU only");
        return;
    }
    w = prepare_page(page);
    for (uint32_t i = 0; i < a->cpus; i++) {
        if (a->apic_id[i] == cpu_table[0]->apic_id)
            continue;
        if (cpu_count == HW_CPUS)
            log_line("the CPU with APIC id %u is one more than %u: left out", a->apic_id[i], HW_CPUS);
        else
            start_one(w, page, a->apic_id[i]);
    }
    paging_unmap(page, PAGE_SIZE);
    paging_flush_others();
    paging_collect(page, PAGE_SIZE, NULL);
}

/* Does a CPU before it belong to the same core? */
static bool has_sibling_before(uint32_t index, uint32_t thread_bits)
{
    for (uint32_t i = 0; i < index; i++) {
        if (cpu_table[i]->apic_id >> thread_bits == cpu_table[index]->apic_id >> thread_bits)
            return true;
    }
    return false;
}

bool smp_cores(bool shared)
{
    uint32_t bits = topology_thread_bits(cpuid), siblings = 0;

    for (uint32_t i = 1; i < cpu_count; i++) {
        if (!has_sibling_before(i, bits))
            continue;
        siblings++;
        cpu_table[i]->parked = !shared;
    }
    if (!siblings)
        return false;
    if (shared) {
        log_line("SMT: %u CPUs are threads of %u cores, and run different VMs at once, as the fleet file says", cpu_count,
                 cpu_count - siblings);
        return true;
    }
    cpu_working -= siblings;
    log_line("SMT: %u of %u CPUs are second threads of their cores and run nothing (machine.smt = \"shared\" in the fleet "
             "file lets them)",
             siblings, cpu_count);
    return false;
}

void smp_go(void)
{
    atomic_store_explicit(&go, true, memory_order_release);
    for (uint32_t i = 1; i < cpu_count; i++)
        cpu_send_ipi(i, VECTOR_KICK);
}

/* --- the end ------------------------------------------------------------------------------------ */

bool cpu_is_stopping(void)
{
    return atomic_load(&stopping);
}

noreturn void cpu_stop_here(void)
{
    struct cpu *c = this_cpu();

    if (!c->stopped) {
        c->stopped = true; /* should what follows panic, it is not done again */
        engine_stop_here();
        atomic_fetch_add(&stopped, 1);
    }
    for (;;)
        halt_forever();
}

static void await_stopped(void)
{
    for (uint32_t i = 0; i < STOP_POLLS && atomic_load(&stopped) + 1 < cpu_count; i++)
        apic_delay_us(STOP_US);
}

/* An NMI reaches them whatever they do. */
static void stop_by_nmi(void)
{
    for (uint32_t i = 0; i < cpu_count; i++) {
        if (cpu_table[i] != this_cpu() && !__atomic_load_n(&cpu_table[i]->stopped, __ATOMIC_RELAXED))
            apic_send_nmi(cpu_table[i]->apic_id);
    }
    await_stopped();
}

uint32_t cpu_stop_others(bool at_once)
{
    atomic_store(&stopping, true);
    if (!at_once) {
        for (uint32_t i = 0; i < cpu_count; i++) {
            if (cpu_table[i] != this_cpu())
                cpu_send_ipi(i, VECTOR_KICK);
        }
        await_stopped();
    }
    if (atomic_load(&stopped) + 1 < cpu_count)
        stop_by_nmi();
    return atomic_load(&stopped);
}
