/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The soft engine: runs guest code without help from the processor. This is the interpreter, the
 * reference for everything else that executes guest instructions.
 *
 * The run loop. Guest code runs block by block (engine/soft/block.c). Between two blocks, the vCPU
 * stands at an instruction boundary, and one test decides whether there is anything to see to:
 * requests from other threads, an interrupt shadow, single step or breakpoints, RFLAGS.RF. If not,
 * the next block is looked up through the software TLB and run; an instruction costs an indirect
 * call. If so, attend() sees to requests and events, and the instruction after a shadow, with TF or
 * with breakpoints armed is run alone, between x86_debug_before and x86_debug_after.
 *
 * Interrupts. VCPU_REQ_INTR says that the local APIC may have something; it is taken only when an
 * interrupt could be accepted, so one that arrives with IF clear stays requested and is found at
 * the first boundary where IF is set. A halted vCPU takes the request in any case (else it could
 * not sleep with IF clear) and asks itself again when something else wakes it.
 *
 * Faults are what handlers return; rip is put back to the instruction and x86_raise delivers.
 *
 * Threads: everything here runs on the vCPU's own thread. The engine has no state per VM.
 */
#include "core/assert.h"
#include "core/fmt.h"
#include "engine/engine.h"
#include "engine/soft/soft.h"
#include "engine/soft/translator.h"
#include "x86/lapic.h"
#include "x86/mem.h"
#include "x86/msr.h"

enum { SOFT_PAGES = (sizeof(struct soft_vcpu) + PAGE_SIZE - 1) / PAGE_SIZE };

static int soft_probe(const struct x86_level *level, bool closely, char *why, size_t size)
{
    (void)closely;
    const char *missing = x86_level_missing(level);
    if (!missing)
        return OK;
    fmt(why, size, "this host's processor lacks %s, which level %s needs", missing, level->name);
    return ERR_UNSUPPORTED;
}

static size_t state_pages(const struct guest_mem_slot *s)
{
    return ((s->size >> PAGE_SHIFT) * sizeof(*s->page_state) + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

static void soft_vm_destroy(struct vm *vm)
{
    vm->code_written = NULL;
    for (uint32_t n = 0; n < vm->mem.count; n++) {
        struct guest_mem_slot *s = &vm->mem.slot[n];
        seam_pages_free((void *)(uintptr_t)s->page_state, s->page_state ? state_pages(s) : 0);
        s->page_state = NULL;
    }
}

/* The words by which stores to translated code are noticed (code_pages.c). */
static int soft_vm_create(struct vm *vm)
{
    if (vm->interpret)
        return OK;
    for (uint32_t n = 0; n < vm->mem.count; n++) {
        struct guest_mem_slot *s = &vm->mem.slot[n];
        if (!s->writable)
            continue;
        s->page_state = seam_pages_alloc(state_pages(s));
        if (!s->page_state) {
            soft_vm_destroy(vm);
            return ERR_NO_MEMORY;
        }
    }
    vm->code_written = code_written;
    return OK;
}

static void page_dropped(struct x86_cpu *cpu, uint64_t linear)
{
    translator_flush_page(soft_translator(cpu), linear);
}

/* Without what emitted code needs of the processor everything is interpreted. */
static int create_translator(struct x86_cpu *cpu, struct soft_vcpu *s)
{
    if (cpu->vcpu.vm->interpret)
        return OK;
    int err = translator_create(&s->translator, cpu);
    if (err == OK)
        cpu->tlb_page_dropped = page_dropped;
    return err == ERR_UNSUPPORTED ? OK : err;
}

static int soft_vcpu_create(struct x86_cpu *cpu)
{
    struct soft_vcpu *s = seam_pages_alloc(SOFT_PAGES);
    if (!s)
        return ERR_NO_MEMORY;
    int err = block_cache_create(&s->cache);
    if (err != OK)
        goto free_vcpu;
    err = create_translator(cpu, s);
    if (err != OK)
        goto free_cache;
    cpu->engine = s;
    return OK;

free_cache:
    block_cache_destroy(&s->cache);
free_vcpu:
    seam_pages_free(s, SOFT_PAGES);
    return err;
}

static void soft_vcpu_destroy(struct x86_cpu *cpu)
{
    struct soft_vcpu *s = cpu->engine;
    if (!s)
        return;
    cpu->tlb_page_dropped = NULL;
    cpu->engine = NULL;
    translator_destroy(s->translator);
    block_cache_destroy(&s->cache);
    seam_pages_free(s, SOFT_PAGES);
}

/* Emitted code polls. Stored before who asks sees that the requests are set: vcpu_request. */
static void soft_vcpu_kick(struct x86_cpu *cpu)
{
    struct translator *t = soft_translator(cpu);
    if (t)
        atomic_store(&t->frame->go, 0);
}

/* Registers, and RAM with them, may have been changed from outside. */
static void soft_vcpu_state_changed(struct x86_cpu *cpu)
{
    struct translator *t = soft_translator(cpu);
    x86_update_mode(cpu);
    x86_tlb_flush(cpu);
    if (t)
        translator_flush_code(t);
}

/* --- executing ------------------------------------------------------------------------------- */

/* Runs at most `max` instructions of a block from its beginning. Returns as a handler does. */
static always_inline int run_block(struct x86_cpu *cpu, const struct block *b, uint32_t max)
{
    const struct uop *u = b->uops;
    const struct uop *end = u + (max < b->count ? max : b->count);
    cpu->code_page = b->host & PAGE_MASK;
    cpu->code_written = false;
    do {
        cpu->rip += u->insn.length;
        int status = u->fn(cpu, &u->insn);
        u++;
        if (unlikely(status != X86_OK)) {
            if (status == X86_FAULT)
                cpu->rip -= u[-1].insn.length;
            cpu->instructions += (uint64_t)(u - b->uops);
            return status;
        }
    } while (u != end && likely(!cpu->code_written));
    cpu->instructions += (uint64_t)(u - b->uops);
    return X86_OK;
}

/* Is the whole block inside CS's limit? In 64-bit mode there is none. */
static always_inline bool inside_limit(const struct x86_cpu *cpu, const struct block *b)
{
    if (likely(cpu->mode == INSN_MODE_64))
        return true;
    uint64_t last = cpu->rip + b->bytes - 1u;
    return cpu->rip <= cpu->seg[SEG_CS].limit && last <= cpu->seg[SEG_CS].limit;
}

/* The host address of the code at cs:rip, or NULL with the reason in *status: X86_FAULT, or X86_OK
 * when the instruction there has to be run by x86_step. */
static always_inline const uint8_t *code_at_rip(struct x86_cpu *cpu, int *status)
{
    uint64_t linear = cpu->rip;
    if (unlikely(cpu->mode != INSN_MODE_64)) {
        cpu->rip = (uint32_t)cpu->rip; /* EIP wraps where the last instruction ended at 4 GiB */
        linear = (uint32_t)(cpu->rip + cpu->seg[SEG_CS].base);
    }
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    *status = X86_OK;
    if (likely(e->exec_tag == x86_tlb_tag(cpu, linear)))
        return (const uint8_t *)(uintptr_t)(linear + e->addend);
    const uint8_t *host = NULL;
    if ((uint64_t)((int64_t)(linear << 16) >> 16) != linear)
        return NULL; /* x86_step finds the right fault */
    *status = x86_fetch_host(cpu, linear, &host, NULL);
    return *status == X86_OK ? host : NULL;
}

/* The decoded block there; NULL as above. */
static always_inline const struct block *next_block(struct x86_cpu *cpu, struct soft_vcpu *s,
                                                    int *status)
{
    const uint8_t *host = code_at_rip(cpu, status);
    if (unlikely(!host))
        return NULL;
    size_t available = PAGE_SIZE - ((uint64_t)(uintptr_t)host & ~PAGE_MASK);
    const struct block *b = block_find(&s->cache, cpu, host, available);
    return b && inside_limit(cpu, b) ? b : NULL;
}

static noinline_cold int run_uncached(struct x86_cpu *cpu, struct soft_vcpu *s, int status)
{
    if (status != X86_OK)
        return status;
    s->uncached++;
    cpu->instructions++;
    cpu->code_page = ~(uint64_t)0;
    return x86_step(cpu);
}

/* One instruction alone. */
static int run_one(struct x86_cpu *cpu, void *owner)
{
    struct soft_vcpu *s = owner;
    int status;
    const struct block *b = next_block(cpu, s, &status);
    s->stepped++;
    return b ? run_block(cpu, b, 1) : run_uncached(cpu, s, status);
}

/* --- between instructions ------------------------------------------------------------------------
 */

/* Could an interrupt be accepted if there were one? */
static bool interrupts_open(const struct x86_cpu *cpu)
{
    return (cpu->rflags & X86_FLAG_IF) != 0 && cpu->shadow == 0;
}

/* Sees to requests and events. X86_OK: go on running; X86_EXIT: *e says why to leave. */
static noinline_cold int attend(struct x86_cpu *cpu, struct soft_vcpu *s, struct exit *e)
{
    struct vcpu *v = &cpu->vcpu;
    uint32_t requests = vcpu_requests(v);
    if (requests & VCPU_REQ_REST) {
        vcpu_rest(v);
        requests = vcpu_requests(v); /* it may not be to go on */
    }
    if (requests & (VCPU_REQ_STOP | VCPU_REQ_KICK)) {
        e->reason = EXIT_KICK;
        return X86_EXIT;
    }
    bool halted = cpu->activity != X86_RUNNING;
    bool look = (requests & (VCPU_REQ_NMI | VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_PV_KICK)) ||
                cpu->nmi_pending;
    if ((requests & VCPU_REQ_INTR) && (halted || interrupts_open(cpu))) {
        /* While it runs x86_take_events takes the request itself: it may find something more urgent
         * first, and then the interrupt has to be found at the next boundary. */
        if (halted)
            (void)vcpu_take_requests(v, VCPU_REQ_INTR);
        look = true;
    }
    if (requests & VCPU_REQ_PV_KICK) {
        (void)vcpu_take_requests(v, VCPU_REQ_PV_KICK);
        if (cpu->activity == X86_HALTED)
            cpu->activity = X86_RUNNING;
        else
            cpu->pv_kick = true;
    }
    if (look && x86_take_events(cpu) == X86_JUMP) {
        s->events++;
        x86_kvm_tick(cpu);
    }
    if (cpu->activity == X86_RUNNING) {
        if (halted) /* what was taken above with IF clear is to be looked at again */
            vcpu_request(v, VCPU_REQ_INTR);
        return X86_OK;
    }
    e->reason = cpu->activity == X86_SHUTDOWN ? EXIT_SHUTDOWN : EXIT_HALT;
    return X86_EXIT;
}

/* Delivers what another engine had begun to deliver. A shutdown is found by who called. */
static noinline_cold void land(struct x86_cpu *cpu)
{
    struct x86_in_flight in = cpu->event;
    int status = X86_FAULT;
    cpu->event = (struct x86_in_flight){.kind = X86_FLIGHT_NONE};
    cpu->activity = X86_RUNNING;
    switch ((enum x86_flight)in.kind) {
    case X86_FLIGHT_NONE:
        return;
    case X86_FLIGHT_FAULT:
    case X86_FLIGHT_EXCEPTION:
        cpu->fault = (struct x86_fault){in.vector, in.has_error, in.error, in.payload};
        if (in.kind == X86_FLIGHT_EXCEPTION) /* what it sets is set: set the same again */
            cpu->fault.payload = in.vector == X86_PF ? cpu->cr2 : 0;
        break;
    case X86_FLIGHT_NMI:
        cpu->nmi_masked = true;
        status = x86_deliver(cpu, X86_EVENT_NMI, X86_NMI, false, 0);
        break;
    case X86_FLIGHT_INTERRUPT:
        status = x86_deliver(cpu, X86_EVENT_EXTERNAL, in.vector, false, 0);
        break;
    }
    if (status == X86_FAULT)
        (void)x86_raise(cpu);
}

static always_inline int run_interpreted(struct x86_cpu *cpu, struct soft_vcpu *s)
{
    int status;
    const struct block *b = next_block(cpu, s, &status);
    s->blocks++;
    return likely(b != NULL) ? run_block(cpu, b, BLOCK_INSNS) : run_uncached(cpu, s, status);
}

/* Translated code, where there can be some. */
static int run_translated(struct x86_cpu *cpu, struct soft_vcpu *s)
{
    int status;
    if (!translator_can_run(cpu))
        return run_interpreted(cpu, s);
    const uint8_t *host = code_at_rip(cpu, &status);
    if (!host)
        return run_uncached(cpu, s, status);
    if (unlikely(cpu->late_code)) /* accessed bits were set: what is there may not be that any more */
        return X86_OK;
    return translator_round(s->translator, host, &status) ? status : run_interpreted(cpu, s);
}

/* Before requests are looked at: the next poll that fails is about a later one. */
static always_inline void rearm_poll(const struct soft_vcpu *s)
{
    if (s->translator && unlikely(!atomic_load_explicit(&s->translator->frame->go,
                                                        memory_order_relaxed)))
        atomic_store(&s->translator->frame->go, 1);
}

static int run_until_exit(struct x86_cpu *cpu, struct soft_vcpu *s, struct exit *e)
{
    if (unlikely(cpu->event.kind != X86_FLIGHT_NONE))
        land(cpu);
    if (cpu->activity != X86_RUNNING && attend(cpu, s, e) == X86_EXIT)
        return OK;
    for (;;) {
        int status;
        rearm_poll(s);
        if (unlikely(soft_needs_attention(cpu))) {
            if (cpu->late_code)
                x86_drop_late_code(cpu);
            if (vcpu_requests(&cpu->vcpu) != 0 || cpu->nmi_pending) {
                if (attend(cpu, s, e) == X86_EXIT)
                    return OK;
            }
            status = x86_step_attended(cpu, run_one, s);
        } else {
            status = s->translator ? run_translated(cpu, s) : run_interpreted(cpu, s);
        }
        if (status == X86_FAULT) {
            s->faults++;
            status = x86_raise(cpu);
        }
        if (unlikely(status == X86_EXIT) &&
            (cpu->activity != X86_RUNNING || vm_is_stopped(cpu->vcpu.vm))) {
            if (attend(cpu, s, e) == X86_EXIT)
                return OK;
        }
    }
}

static int soft_vcpu_run(struct x86_cpu *cpu, struct exit *e)
{
    *e = (struct exit){.reason = EXIT_NONE};
    x86_kvm_refresh(cpu); /* steal time: a thread that slept may have waited to go on */
    int err = run_until_exit(cpu, cpu->engine, e);
    if (cpu->late_code)
        x86_drop_late_code(cpu);
    return err;
}

static size_t soft_vcpu_stats(const struct x86_cpu *cpu, char *buf, size_t size)
{
    const struct soft_vcpu *s = cpu->engine;
    size_t n = fmt(buf, size,
                   "vCPU %u: interpreter: %lu instructions, %lu blocks run, %lu decoded (%lu stale, "
                   "%lu flushes), %lu run alone, %lu uncached, %lu faults, %lu events, %lu TLB misses\n",
                   cpu->vcpu.id, cpu->instructions, s->blocks, s->cache.decoded, s->cache.stale,
                   s->cache.flushed, s->stepped, s->uncached, s->faults, s->events, cpu->tlb_misses);
    if (s->translator && n < size)
        n += translator_print(s->translator, buf + n, size - n);
    return n;
}

const struct engine engine_soft = {
    .name = "soft",
    .description = "binary translator: needs no hardware virtualization",
    .probe = soft_probe,
    .vm_create = soft_vm_create,
    .vm_destroy = soft_vm_destroy,
    .vcpu_create = soft_vcpu_create,
    .vcpu_destroy = soft_vcpu_destroy,
    .vcpu_run = soft_vcpu_run,
    .vcpu_kick = soft_vcpu_kick,
    .vcpu_state_changed = soft_vcpu_state_changed,
    .vcpu_stats = soft_vcpu_stats,
};
