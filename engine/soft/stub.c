/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Between emitted code and C. The code that saves and loads the guest's registers is emitted too, at
 * the beginning of the cache, since it needs the offsets of frame and struct x86_cpu.
 *
 * enter   saves what the ABI wants saved, loads the guest's state, goes to frame.resume.
 * stub n  is called by emitted code. Saves the guest's state to struct x86_cpu, vector registers
 *         included if they are live, and calls stub_land with the return address. If that returns an
 *         address, the state is loaded and emitted code goes on there; if NULL, enter returns.
 *
 * In C the image in struct x86_cpu is always the guest's whole state, but for RIP, which is
 * frame.page plus what the site says; who leaves for the run loop sets it.
 *
 * Vector registers are loaded on the way back if frame.vectors_dead is 0. C code is compiled without
 * them, but what it calls (the home, libc) may use them, so they are saved at every stub.
 *
 * Emitted code calls stubs with the stack pointer aligned to 16 bytes, as enter leaves it.
 */
#include "core/assert.h"
#include "core/mem.h"
#include "engine/soft/soft.h"
#include "engine/soft/translator.h"
#include "x86/mem.h"
#include "x86/native.h"

/* --- emitting them --- */

enum { CPU = RCX, MXCSR_MASK = 0xFFFF, STATUS_FLAGS_OFF = 0x7FFFF72A /* ~0x8D5, bits below 31 */ };

static struct emit_mem in_cpu(size_t offset)
{
    return emit_at(CPU, (int32_t)offset);
}

static struct emit_mem gpr_of(unsigned int guest)
{
    return in_cpu(offsetof(struct x86_cpu, gpr) + 8 * guest);
}

static void put_string(struct emit *e, const char *bytes, size_t size)
{
    memcpy(e->p, bytes, size);
    e->p += size;
}
#define PUT(e, string) put_string((e), (string), sizeof(string) - 1)

/* Guest registers that live in host registers, but for RAX, which carries flags meanwhile. */
static const uint8_t pinned[] = {RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R12, R13};
static const uint8_t displaced[FRAME_DISPLACED] = {R10, R11, R14, R15};

/* XSAVE64 /4 or XRSTOR64 /5 of SSE and AVX state, with EAX and EDX destroyed; or FXSAVE's kin. */
static void put_vectors(struct translator *t, struct emit *e, bool save)
{
    size_t fpu = offsetof(struct x86_cpu, fpu);
    struct emit_mem header = in_cpu(fpu + offsetof(struct x86_fpu, xstate_bv));
    uint32_t components = t->has_avx ? 6 : 2;
    PUT(e, "\x31\xD2"); /* xor edx, edx */
    emit_mov_imm(e, RAX, components);
    if (!save)
        emit_store(e, header, RAX);
    emit_rm(e, EMIT_OP(0, 1, 0xAE), EMIT_W, save ? 4 : 5, in_cpu(fpu));
    PUT(e, "\x31\xC0"); /* xor eax, eax */
    emit_store(e, header, RAX);
    if (!save)
        return;
    /* XSAVE has stored which bits of MXCSR the host has. */
    emit_rm(e, 0xC7, 0, 0, in_cpu(fpu + offsetof(struct x86_fpu, mxcsr_mask)));
    emit32(e, MXCSR_MASK);
    emit_rm(e, EMIT_OP(0, 1, 0xAE), 0, 2, emit_frame(offsetof(struct frame, host_mxcsr)));
    if (t->has_avx)
        PUT(e, "\xC5\xF8\x77"); /* vzeroupper */
}

/* If vectors are live. */
static void put_vectors_if_live(struct translator *t, struct emit *e, bool save)
{
    if (!t->has_xsave)
        return;
    emit_load32(e, RAX, emit_frame(offsetof(struct frame, vectors_dead)));
    PUT(e, "\x85\xC0"); /* test eax, eax */
    uint8_t *dead = emit_jcc(e, 5);
    put_vectors(t, e, save);
    emit_patch(dead, e->p);
}

static void put_load_state(struct translator *t, struct emit *e)
{
    emit_load(e, CPU, emit_frame(offsetof(struct frame, cpu)));
    put_vectors_if_live(t, e, false);
    for (unsigned int n = 0; n < FRAME_DISPLACED; n++) {
        emit_load(e, RAX, gpr_of(displaced[n]));
        emit_store(e, tr_slot(displaced[n]), RAX);
    }
    for (unsigned int n = 0; n < sizeof(pinned); n++)
        if (pinned[n] != RDX)
            emit_load(e, tr_host_of[pinned[n]], gpr_of(pinned[n]));
    /* Flags as x86/flags.h has them: OF by adding, the others by SAHF. */
    emit_load(e, RAX, in_cpu(offsetof(struct x86_cpu, rflags)));
    PUT(e, "\x89\xC2\xC1\xEA\x0B\x83\xE2\x01"); /* mov edx, eax; shr edx, 11; and edx, 1 */
    PUT(e, "\x80\xC2\x7F\x88\xC4\x9E");         /* add dl, 7Fh; mov ah, al; sahf */
    emit_load(e, RDX, gpr_of(RDX));
    emit_load(e, RAX, gpr_of(RAX));
    emit_load(e, R11, emit_frame(offsetof(struct frame, address)));
    emit_jmp_mem(e, emit_frame(offsetof(struct frame, resume)));
}

static void put_save_state(struct translator *t, struct emit *e)
{
    emit_store(e, emit_frame(offsetof(struct frame, address)), R11);
    emit_load(e, CPU, emit_frame(offsetof(struct frame, cpu)));
    emit_store(e, gpr_of(RAX), RAX);
    emit_store(e, gpr_of(RDX), RDX);
    PUT(e, "\x9F\x0F\x90\xC0");             /* lahf; seto al */
    PUT(e, "\x0F\xB6\xD4\x0F\xB6\xC0");     /* movzx edx, ah; movzx eax, al */
    PUT(e, "\xC1\xE0\x0B\x09\xC2");         /* shl eax, 11; or edx, eax */
    emit_load(e, RAX, in_cpu(offsetof(struct x86_cpu, rflags)));
    PUT(e, "\x25"); /* and eax, ... */
    emit32(e, STATUS_FLAGS_OFF);
    PUT(e, "\x09\xD0"); /* or eax, edx */
    emit_store(e, in_cpu(offsetof(struct x86_cpu, rflags)), RAX);
    for (unsigned int n = 0; n < sizeof(pinned); n++)
        if (pinned[n] != RDX)
            emit_store(e, gpr_of(pinned[n]), tr_host_of[pinned[n]]);
    for (unsigned int n = 0; n < FRAME_DISPLACED; n++) {
        emit_load(e, RAX, tr_slot(displaced[n]));
        emit_store(e, gpr_of(displaced[n]), RAX);
    }
    put_vectors_if_live(t, e, true);
}

static const uint8_t *stub_land(struct translator *t, const uint8_t *ret);

static void put_enter(struct emit *e)
{
    PUT(e, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"); /* push rbx, rbp, r12 to r15 */
    emit_lea(e, RSP, emit_at(RSP, -8));
}

static void put_leave(struct emit *e)
{
    emit_lea(e, RSP, emit_at(RSP, 8));
    PUT(e, "\x41\x5F\x41\x5E\x41\x5D\x41\x5C\x5D\x5B\xC3"); /* pops, ret */
}

void stub_emit_all(struct translator *t)
{
    struct emit e = {t->exec.write};
    t->entry = 0;
    put_enter(&e);
    uint8_t *load = e.p;
    put_load_state(t, &e);
    uint8_t *save = e.p;
    put_save_state(t, &e);
    emit8(&e, 0x5E); /* pop rsi: the return address */
    emit_load(&e, RDI, emit_frame(offsetof(struct frame, translator)));
    t->frame->land = stub_land;
    emit_rm(&e, 0xFF, 0, 2, emit_frame(offsetof(struct frame, land)));
    PUT(&e, "\x48\x85\xC0"); /* test rax, rax */
    uint8_t *leave = emit_jcc(&e, 4);
    emit_store(&e, emit_frame(offsetof(struct frame, resume)), RAX);
    emit_patch(emit_jmp(&e), load);
    emit_patch(leave, e.p);
    put_leave(&e);
    for (unsigned int n = 0; n < STUB_COUNT; n++) {
        t->stub[n] = (uint32_t)(e.p - t->exec.write);
        emit_rm(&e, 0xC7, 0, 0, emit_frame(offsetof(struct frame, kind)));
        emit32(&e, n);
        emit_patch(emit_jmp(&e), save);
    }
    t->first_code = (uint32_t)(e.p - t->exec.write + 63) & ~(uint32_t)63;
    t->used = t->first_code;
}

/* --- running --- */

static void serialise_if_needed(struct translator *t)
{
    if (!t->serialise)
        return;
    t->serialise = false;
    native_serialise(t->cpu);
}

/* What emitted code takes from struct x86_cpu in copy. */
static const uint8_t *resume_at(struct translator *t, const uint8_t *code)
{
    t->frame->segment_base[0] = t->cpu->seg[SEG_FS].base;
    t->frame->segment_base[1] = t->cpu->seg[SEG_GS].base;
    serialise_if_needed(t);
    return code;
}

void translator_run(struct translator *t, const struct tblock *b)
{
    typedef void enter_fn(void);
    struct frame *f = t->frame;
    f->page = t->cpu->rip & PAGE_MASK;
    f->vectors_dead = 1;
    f->resume = resume_at(t, tblock_body(t, b));
    t->stats.entered++;
    seam_set_frame(f);
    uint64_t began = t->counts ? __builtin_ia32_rdtsc() : 0;
    ((enter_fn *)(uintptr_t)(t->exec.exec + t->entry))();
    if (t->counts)
        t->stats.cycles += __builtin_ia32_rdtsc() - began;
}

/* --- landing --- */

static const uint8_t *leave_at(struct translator *t, uint64_t rip, int status)
{
    t->cpu->rip = rip;
    t->status = status;
    return NULL;
}

/* To where RIP is now, if emitted code has been there: what the run loop would do, but quicker. */
static const uint8_t *jump_on(struct translator *t)
{
    const struct x86_cpu *cpu = t->cpu;
    if (!translator_can_run(cpu) || soft_needs_attention(cpu) || !translator_is_current(t) ||
        (translator_mode(t) & (MODE_SSE | MODE_AVX)) != t->vector_mode)
        return NULL;
    const struct frame_jump *j = &t->frame->jump[cpu->tlb_context][frame_jump_index(cpu->rip)];
    if (j->minus_rip != -cpu->rip)
        return NULL;
    t->frame->page = cpu->rip & PAGE_MASK;
    t->frame->address = cpu->rip; /* R11 */
    return resume_at(t, j->code);
}

/* After one instruction was interpreted. `ends`: emitted code does not go on behind it. */
static const uint8_t *after(struct translator *t, const struct tsite *s, const uint8_t *ret,
                            int status, bool ends, uint64_t epoch)
{
    struct x86_cpu *cpu = t->cpu;
    t->status = status;
    if (status == X86_JUMP || (status == X86_OK && (ends || s->next == SITE_NO_NEXT)))
        return jump_on(t);
    if (status != X86_OK || t->epoch != epoch || !translator_is_current(t) ||
        cpu->shadow || cpu->debug_pending || cpu->late_code)
        return NULL;
    return resume_at(t, ret + s->next);
}

/*
 * The vCPU's own TLB may have been filled since: then what was just interpreted need not be what was
 * translated, if the page tables say something else by now. Emitted code goes on only behind an
 * instruction of the same length that has left the mode as it was.
 */
static bool is_another(const struct translator *t, const struct tsite *s, uint8_t context)
{
    const struct x86_cpu *cpu = t->cpu;
    return cpu->rip != t->frame->page + s->guest + s->length || cpu->tlb_context != context ||
           !translator_can_run(cpu) || cpu->rflags & (X86_FLAG_TF | X86_FLAG_RF) ||
           cpu->dr7 & X86_DR7_ENABLES ||
           (translator_mode(t) & (MODE_SSE | MODE_AVX)) != t->vector_mode;
}

/* Fetches and decodes anew. */
static const uint8_t *step(struct translator *t, const struct tsite *s, const uint8_t *ret)
{
    struct x86_cpu *cpu = t->cpu;
    uint64_t epoch = t->epoch;
    uint8_t context = cpu->tlb_context;
    cpu->rip = t->frame->page + s->guest;
    cpu->code_page = ~(uint64_t)0;
    cpu->instructions++;
    int status = x86_step(cpu);
    if (status == X86_OK && is_another(t, s, context)) {
        t->status = status;
        return NULL;
    }
    return after(t, s, ret, status, false, epoch);
}

static const uint8_t *land_call(struct translator *t, const struct tsite *s, const uint8_t *ret)
{
    struct x86_cpu *cpu = t->cpu;
    struct uop *u = &t->uops[s->uop];
    uint64_t epoch = t->epoch;
    cpu->rip = t->frame->page + s->guest + s->length;
    cpu->code_page = ~(uint64_t)0;
    cpu->instructions++;
    t->frame->vectors_dead = 1;
    t->stats.calls++;
    t->stats.calls_by_op[u->insn.op]++;
    bool ends = u->insn.flags & INSN_ENDS;
    int status = u->fn(cpu, &u->insn);
    if (status == X86_FAULT)
        cpu->rip -= s->length;
    return after(t, s, ret, status, ends, epoch);
}

/* Only what the vCPU's own TLB has is entered: not pages whose dirty bit could not be set, or that
 * INVLPG would not find. */
static bool is_in_tlb(struct x86_cpu *cpu, uint64_t linear, bool write)
{
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    return (write ? e->write_tag : e->read_tag) == x86_tlb_tag(cpu, linear);
}

static bool is_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static const uint8_t *land_miss(struct translator *t, const struct tsite *s, const uint8_t *ret)
{
    struct x86_cpu *cpu = t->cpu;
    uint64_t linear = s->miss.reg == EMIT_NO_REG ? t->frame->address : cpu->gpr[s->miss.reg];
    uint64_t epoch = t->epoch;
    const struct frame_tlb *tlb = &t->frame->tlb[cpu->tlb_context];
    uint32_t index = linear >> PAGE_SHIFT & (FRAME_INDEXES - 1);
    uint64_t tag = s->miss.write ? tlb->write[index] : tlb->read[index];
    void *host = NULL;
    /* A page that is there already: the operand is not aligned, or goes on in the next page. */
    if (tag != -(linear & PAGE_MASK) && is_canonical(linear) &&
        x86_mem_host(cpu, linear, 1, s->miss.write ? X86_WRITE : X86_READ, &host) == X86_OK && host &&
        is_in_tlb(cpu, linear, s->miss.write)) {
        translator_fill(t, linear, (uint64_t)(uintptr_t)host, s->miss.write);
        if (t->epoch == epoch && translator_is_current(t) && !cpu->late_code)
            return resume_at(t, ret - s->miss.retry);
        cpu->shadow |= s->shadow ? X86_SHADOW_STI : 0;
        return leave_at(t, t->frame->page + s->guest, X86_OK);
    }
    t->stats.tlb_slow++;
    return step(t, s, ret);
}

static const uint8_t *land_chain(struct translator *t, const struct tsite *s, const uint8_t *ret)
{
    const struct tblock *from = tblock_at(t, s->ret);
    uint64_t rip = t->frame->page + s->guest, epoch = t->epoch;
    uint32_t patch = s->patch;
    bool live = s->live;
    bool again;
    (void)ret;
    if (from->stale)
        return leave_at(t, rip, X86_OK);
    uint64_t host = (from->host & PAGE_MASK) + s->guest;
    const struct tblock *b = tblock_get(t, (const uint8_t *)(uintptr_t)host, rip, from->mode, &again);
    if (!b || t->cpu->late_code)
        return leave_at(t, rip, X86_OK);
    if (t->epoch == epoch) {
        emit_patch(t->exec.write + patch, t->exec.write + tblock_target(b, live));
        t->serialise = true;
        t->stats.chains++;
    }
    return resume_at(t, tblock_body(t, b));
}

static const uint8_t *land_branch(struct translator *t, const struct tsite *s, const uint8_t *ret)
{
    t->stats.jump_misses++;
    return step(t, s, ret);
}

static const uint8_t *land_poll(struct translator *t, const struct tsite *s, const uint8_t *ret)
{
    (void)ret;
    t->stats.polls++;
    return leave_at(t, t->frame->page + s->guest, X86_OK);
}

/* The second page of the block's instruction: as it was, or the interpreter's business. */
static const uint8_t *land_cross(struct translator *t, const struct tsite *s, const uint8_t *ret)
{
    struct x86_cpu *cpu = t->cpu;
    const struct tblock *b = tblock_at(t, s->ret);
    uint64_t next = t->frame->page + PAGE_SIZE;
    const uint8_t *second;
    if (is_canonical(next) && x86_fetch_host(cpu, next, &second, NULL) == X86_OK &&
        (uint64_t)(uintptr_t)second == b->second && translator_holds_code(cpu, next) &&
        translator_is_current(t) && !cpu->late_code) {
        translator_enter_cross(t, next, b);
        return resume_at(t, tblock_body(t, b));
    }
    cpu->rip = t->frame->page + s->guest;
    cpu->code_page = ~(uint64_t)0;
    cpu->instructions++;
    return after(t, s, ret, x86_step(cpu), true, t->epoch);
}

/* The block was invalidated. If there is a new one, what jumps here goes on to it. */
static const uint8_t *land_stale(struct translator *t, const uint8_t *ret)
{
    uint32_t at = (uint32_t)(ret - t->exec.exec) - STUB_CALL_BYTES;
    const struct tblock *b = tblock_at(t, at);
    uint64_t offset = b->host & ~PAGE_MASK;
    uint64_t rip = at == b->code ? t->frame->address : t->frame->page + offset;
    const struct tblock *now = tblock_find(t, b->host, b->mode);
    t->stats.stale++;
    if (!now)
        return leave_at(t, rip, X86_OK);
    const uint32_t from[] = {b->code, b->code + b->body, b->code + b->live};
    const uint32_t to[] = {now->code, now->code + now->body, now->code + now->live};
    for (unsigned int n = 0; n < ARRAY_SIZE(from); n++) {
        struct emit e = {t->exec.write + from[n]};
        emit_patch(emit_jmp(&e), t->exec.write + to[n]);
    }
    t->serialise = true;
    t->frame->page = rip & PAGE_MASK;
    return resume_at(t, tblock_body(t, now));
}

static const uint8_t *stub_land(struct translator *t, const uint8_t *ret)
{
    typedef const uint8_t *site_fn(struct translator *, const struct tsite *, const uint8_t *);
    static site_fn *const table[STUB_COUNT] = {
        [STUB_MISS] = land_miss,   [STUB_CALL] = land_call,     [STUB_POLL] = land_poll,
        [STUB_CHAIN] = land_chain, [STUB_BRANCH] = land_branch, [STUB_CROSS] = land_cross,
    };
    uint32_t kind = t->frame->kind;
    if (kind == STUB_VECTOR) {
        t->frame->vectors_dead = 0;
        return ret;
    }
    if (kind == STUB_STALE)
        return land_stale(t, ret);
    return table[kind](t, tsite_at(t, (uint32_t)(ret - t->exec.exec)), ret);
}
