/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A whole machine is saved and goes on in another one, under the interpreter.
 *
 * A small guest runs in long mode: local APIC timer and PIT interrupt it, it computes with general,
 * AVX and x87 registers, copies strings, prints, waits in HLT. Virtual time moves only when it
 * writes to EVENT_PORT or to the I/O APIC's index register (which is not an exit that ends a block,
 * so that moments inside of one are reached), and when it halts: so a run is the same each time,
 * and what one that was interrupted, saved, loaded into a new machine and continued there leaves in
 * memory, registers and devices must be what an undisturbed one does, to the last bit.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/err.h"
#include "core/mem.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/pc_env.h"
#include "tests/lib/unit.h"

enum {
    EVENT_PORT = 0xED,
    DONE_PORT = 0xEE,
    IOREGSEL = 0xFEC00000,
    EVENT_NS = 4000, /* virtual time that an event takes, on the average half of this */
    HALT_NS = 50000, /* steps of time in HLT */
    EVENTS_MIN = 2000,
    HALTS_MAX = 100000,
    MOMENTS = 60,
    STATE_MAX = 32768,
    HEADER = 32,
    NAME_SIZE = 16,
    LENGTH_AT = NAME_SIZE + 8,
    CHECKSUM_AT = NAME_SIZE + 12,
    GUEST_MEMORY = 32 << 20,
    STACK = 0x300000, /* its top; only handlers use it */
};

/* clang-format off */
/* At 1 MiB. 0x200000: page tables, 0x206000: IDT; results at 0x280000; buffers at 0x290000. */
#define AT(label) "(" label " - guest_begin + 0x100000)"
#define GATE(vector, label)                                                                       \
    "mov $" AT(label) ", %eax\n movl $0x80000, 0x206000 + " vector " * 16\n"                      \
    "mov %ax, 0x206000 + " vector " * 16\n shr $16, %eax\n shl $16, %eax\n"                       \
    "or $0x8E00, %eax\n mov %eax, 0x206004 + " vector " * 16\n"
#define OUT(value, port) "mov $" value ", %al\n out %al, $" port "\n"
#define EVENT "out %al, $0xED\n"

__asm__(
    ".pushsection .rodata\n .balign 16\n .globl guest_begin, guest_end\n"
    "guest_begin:\n"
    ".long 0x1BADB002, 0x10000, 0 - 0x1BADB002 - 0x10000, 0x100000, 0x100000, 0, 0, 0x100020\n"
    ".code32\n"
    "mov $0x300000, %esp\n lgdt " AT("gdtr") "\n"
    "movl $0x201007, 0x200000\n movl $0x202007, 0x201000\n movl $0x203007, 0x201008\n"
    "movl $0x204007, 0x201010\n movl $0x205007, 0x201018\n"
    "mov $0x202000, %edi\n mov $0x87, %eax\n"
    "1: mov %eax, (%edi)\n add $0x200000, %eax\n add $8, %edi\n cmp $0x206000, %edi\n jb 1b\n"
    GATE("0x20", "on_pit") GATE("0x40", "on_timer")
    "mov $0x40620, %eax\n mov %eax, %cr4\n mov $0x200000, %eax\n mov %eax, %cr3\n"
    "mov $0xC0000080, %ecx\n rdmsr\n or $0x100, %eax\n wrmsr\n"
    "mov %cr0, %eax\n and $~0xC, %eax\n or $0x80000022, %eax\n mov %eax, %cr0\n"
    "ljmp $8, $" AT("in_long_mode") "\n"

    ".code64\n in_long_mode:\n"
    "mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n"
    "lidt " AT("idtr") "\n"
    "xor %ecx, %ecx\n xor %edx, %edx\n mov $7, %eax\n xsetbv\n"
    OUT("0x11", "0x20") OUT("0x20", "0x21") OUT("4", "0x21") OUT("1", "0x21") OUT("0xFE", "0x21")
    OUT("0x34", "0x43") OUT("0xA9", "0x40") OUT("0x04", "0x40")
    "mov $0xFEE00000, %ebx\n movl $0x1FF, 0xF0(%rbx)\n movl $0x700, 0x350(%rbx)\n"
    "movl $0xB, 0x3E0(%rbx)\n movl $0x20040, 0x320(%rbx)\n movl $700000, 0x380(%rbx)\n"
    "mov $0xFEC00000, %r14d\n"
    "vmovups " AT("guest_begin") ", %ymm0\n vmovups " AT("in_long_mode") ", %ymm1\n"
    "vpxor %ymm2, %ymm2, %ymm2\n fninit\n fldpi\n fld1\n"
    "mov $0x9E3779B97F4A7C15, %r13\n mov $300, %r12d\n"

    "next_round:\n"
    "rdtsc\n shl $32, %rdx\n or %rdx, %rax\n add %rax, %r13\n rol $13, %r13\n"
    "imul $0x5851F42D, %r13, %r13\n"
    EVENT
    "vmovq %r13, %xmm3\n vpbroadcastq %xmm3, %ymm3\n vpaddd %ymm3, %ymm0, %ymm0\n"
    "vpxor %ymm0, %ymm1, %ymm1\n vpaddq %ymm1, %ymm2, %ymm2\n vpsrlq $3, %ymm2, %ymm15\n"
    "fadd %st, %st(1)\n fxch\n fsqrt\n fxch\n"
    "mov %r12d, %eax\n and $0xFF, %eax\n shl $5, %eax\n vmovdqu %ymm15, 0x290000(%rax)\n"
    "mov %eax, (%r14)\n sti\n nop\n" EVENT "cli\n" /* kicked before STI: rests in its shadow */
    "mov %eax, (%r14)\n mov %ss, %ecx\n mov %ecx, %ss\n mov $0x300000, %esp\n"
    "mov $0x290000, %esi\n mov $0x29A000, %edi\n mov $2999, %ecx\n cld\n rep movsb\n"
    "xor %r13, (%rdi)\n"
    "mov $0x290000, %esi\n mov $5, %ecx\n mov $0xED, %edx\n rep outsb\n"  /* kicked partway */
    "mov 0x29A010, %rax\n add %rax, %r13\n"
    "test $15, %r12b\n jnz 2f\n sti\n hlt\n cli\n"
    "2: dec %r12d\n jnz next_round\n"

    "mov %r13, 0x280020\n vmovdqu %ymm2, 0x280040\n fstpt 0x280060\n fstpt 0x280070\n"
    "out %al, $0xEE\n"
    "3: hlt\n jmp 3b\n"

    /* handlers mix in where they interrupted */
    "on_timer: push %rax\n incl 0x280000\n mov 8(%rsp), %rax\n add %rax, 0x280008\n"
    "rolq $7, 0x280008\n" EVENT
    "mov $0x3F8, %eax\n push %rdx\n mov %eax, %edx\n mov $0x2E, %al\n out %al, %dx\n pop %rdx\n"
    "movl $0, 0xB0(%rbx)\n pop %rax\n iretq\n"
    "on_pit: push %rax\n incl 0x280004\n mov 8(%rsp), %rax\n add %rax, 0x280010\n"
    "rolq $7, 0x280010\n" EVENT OUT("0x20", "0x20") "pop %rax\n iretq\n"

    ".balign 8\n gdt: .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF\n"
    "gdtr: .word 23\n .long " AT("gdt") "\n"
    "idtr: .word 0xFFF\n .quad 0x206000\n"
    "guest_end:\n .popsection\n");
/* clang-format on */

extern const uint8_t guest_begin[], guest_end[];

/* --- driving ---------------------------------------------------------------------------------- */

static struct pc_env envs[2]; /* a machine, and the one that it moves to */
static unsigned int events, stop_at, halts;
static bool done;
/* Events in interrupt handlers, from the undisturbed run. */
static unsigned int handler_event[MOMENTS], handler_events, undisturbed_handlers;
/* The odd places that moments were at. */
static unsigned int in_shadow, in_service, in_repeat, in_halt;

static bool is_event(const struct exit *x)
{
    return (x->reason == EXIT_PORT && x->port.write && x->port.port == EVENT_PORT) ||
           (x->reason == EXIT_MMIO && x->mmio.write && x->mmio.address.v == IOREGSEL);
}

static int count_event(struct vcpu *v, struct exit *x)
{
    bool finished = x->reason == EXIT_PORT && x->port.write && x->port.port == DONE_PORT;
    if (is_event(x)) {
        events++;
        if (undisturbed_handlers == 0 && x86_cpu_of(v)->gpr[RSP] < STACK &&
            handler_events < MOMENTS)
            handler_event[handler_events++] = events;
        fake_seam_advance(events * 2654435761u % EVENT_NS);
    }
    done |= finished;
    if (finished || (is_event(x) && events == stop_at))
        vcpu_request(v, VCPU_REQ_KICK);
    return pc_handle_exit(v, x);
}

/* Until the guest is done or the event is reached that the test waits for. */
static void run(struct pc_env *e)
{
    struct x86_cpu *cpu = pc_cpu(&e->vm, 0);
    struct exit x;
    vm_clock_start(&e->vm);
    vcpu_enter(&cpu->vcpu);
    for (unsigned int n = 0; n < HALTS_MAX; n++) {
        CHECK_EQ(engine_soft.vcpu_run(cpu, &x), OK);
        CHECK_EQ(vcpu_handle_exit(&cpu->vcpu, &x), OK);
        if (x.reason != EXIT_HALT)
            break;
        if (stop_at != 0 && events + 1 == stop_at) /* the next one will be after the halt */
            break;
        halts++;
        fake_seam_advance(HALT_NS);
    }
    CHECK(x.reason == EXIT_KICK || x.reason == EXIT_HALT);
    vcpu_leave(&cpu->vcpu);
    vm_clock_stop(&e->vm);
}

static void build(struct pc_env *e)
{
    pc_env_create(e, 2);
    e->engine = &engine_soft;
    e->config.memory = GUEST_MEMORY;
    e->files.kernel = boot_env_file(guest_begin, (size_t)(guest_end - guest_begin));
    CHECK_EQ(pc_env_build(e), OK);
    e->vm.handle_exit = count_event;
}

static void boot(struct pc_env *e)
{
    events = halts = handler_events = 0;
    done = false;
    build(e);
    CHECK_EQ(pc_env_boot(e), OK);
}

/* --- states ----------------------------------------------------------------------------------- */

struct state {
    size_t size;
    uint8_t bytes[STATE_MAX];
};

static void save(const struct pc_env *e, struct state *s)
{
    struct state_writer w = {.buf = s->bytes, .size = STATE_MAX};
    state_save_all(&e->vm.state, &w);
    s->size = w.used;
    CHECK(w.used <= STATE_MAX);
}

static bool is_same(const struct state *a, const struct state *b)
{
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

/* The name of the first section that differs, for a message. */
static const char *first_difference(const struct state *a, const struct state *b)
{
    for (size_t at = 0; at + HEADER <= a->size && at + HEADER <= b->size;
         at += HEADER + load_u32(a->bytes + at + LENGTH_AT)) {
        if (load_u32(a->bytes + at + CHECKSUM_AT) != load_u32(b->bytes + at + CHECKSUM_AT))
            return (const char *)a->bytes + at;
    }
    return "none";
}

static void note_place(const struct pc_env *e)
{
    const struct x86_cpu *cpu = pc_cpu(&e->vm, 0);
    const uint8_t *code = e->ram + cpu->rip;
    in_shadow += cpu->shadow != 0;
    in_halt += cpu->activity == X86_HALTED;
    in_repeat +=
        cpu->rip < GUEST_MEMORY - 2 && code[0] == 0xF3 && code[1] == 0x6E && cpu->gpr[RCX] < 5;
    in_service += cpu->gpr[RSP] < STACK;
}

/* From one machine into a new one; the old one is gone afterwards. */
static void move(struct pc_env *from, struct pc_env *to)
{
    static struct state before, after;
    note_place(from);
    save(from, &before);
    build(to);
    if (mremap(from->ram, GUEST_MEMORY, GUEST_MEMORY, MREMAP_MAYMOVE | MREMAP_FIXED, to->ram) ==
        MAP_FAILED)
        abort();
    from->ram = NULL;
    pc_env_destroy(from);
    CHECK_EQ(state_load_all(&to->vm.state, before.bytes, before.size), OK);
    save(to, &after);
    CHECK_STR(first_difference(&before, &after), "none");
    CHECK(is_same(&before, &after));
}

static struct state undisturbed;
static uint8_t undisturbed_ram[0x300000];
static unsigned int undisturbed_events, undisturbed_halts;

static void test_undisturbed(void)
{
    for (unsigned int n = 0; n < 2; n++) { /* the same each time, or nothing can be compared */
        static struct state again;
        boot(&envs[0]);
        stop_at = 0;
        run(&envs[0]);
        CHECK(done);
        save(&envs[0], n ? &again : &undisturbed);
        CHECK(n == 0 || is_same(&again, &undisturbed));
        memcpy(undisturbed_ram, envs[0].ram, sizeof(undisturbed_ram));
        undisturbed_events = events;
        undisturbed_halts = halts;
        if (n == 0)
            undisturbed_handlers = handler_events;
        pc_env_destroy(&envs[0]);
    }
    printf("%u events, %u timer and %u PIT interrupts, %u steps in HLT, state of %zu bytes\n",
           undisturbed_events, load_u32(undisturbed_ram + 0x280000),
           load_u32(undisturbed_ram + 0x280004), undisturbed_halts, undisturbed.size);
    CHECK(undisturbed_events > EVENTS_MIN);
    CHECK(load_u32(undisturbed_ram + 0x280000) > 5 && load_u32(undisturbed_ram + 0x280004) > 5);
    CHECK(undisturbed_halts > 10);
}

/* One run that moves to a new machine at each of the given events (ascending). */
static void run_moving(const unsigned int *at, size_t count)
{
    static struct state end;
    unsigned int on = 0;
    boot(&envs[0]);
    for (size_t n = 0; n < count; n++) {
        stop_at = at[n];
        if (stop_at <= events + 1)
            continue;
        run(&envs[on]);
        move(&envs[on], &envs[on ^ 1]);
        on ^= 1;
    }
    stop_at = 0;
    run(&envs[on]);
    save(&envs[on], &end);
    CHECK(done);
    CHECK_EQ(events, undisturbed_events);
    CHECK_EQ(halts, undisturbed_halts);
    CHECK_STR(first_difference(&undisturbed, &end), "none");
    CHECK(is_same(&undisturbed, &end));
    memcpy(envs[on].ram + BOOT_GENERATION, undisturbed_ram + BOOT_GENERATION, 16); /* two VMs' identities */
    CHECK(memcmp(undisturbed_ram, envs[on].ram, sizeof(undisturbed_ram)) == 0);
    pc_env_destroy(&envs[on]);
}

static int compare(const void *a, const void *b)
{
    return (int)(*(const unsigned int *)a - *(const unsigned int *)b);
}

static void test_moved_often(void)
{
    unsigned int at[MOMENTS], seed = 12345;
    for (size_t n = 0; n < MOMENTS; n++) {
        seed = seed * 1103515245 + 12345;
        at[n] = 2 + (seed >> 8) % (undisturbed_events - 2);
    }
    qsort(at, MOMENTS, sizeof(at[0]), compare);
    run_moving(at, MOMENTS);
}

/* Every event of a stretch in the middle, so that each place in the loop is met. */
static void test_moved_at_every_event(void)
{
    unsigned int at[MOMENTS];
    for (unsigned int n = 0; n < MOMENTS; n++)
        at[n] = undisturbed_events / 2 + n * 2 + (n >= MOMENTS / 2);
    run_moving(at, MOMENTS);
}

/* Where interrupts were taken: in their handlers, and at the event before, after which one may be
 * pending in STI's shadow. */
static void move_at_handlers(unsigned int before)
{
    static unsigned int at[MOMENTS];
    size_t count = undisturbed_handlers;
    for (size_t n = 0; n < count; n++)
        at[n] = handler_event[n] - before;
    run_moving(at, count);
}

static void test_moved_in_handlers(void)
{
    move_at_handlers(0);
}

static void test_moved_before_handlers(void)
{
    move_at_handlers(1);
}

static void test_places(void)
{
    printf("moved in a shadow %u times, in a handler %u, in REP OUTS %u, halted %u\n", in_shadow,
           in_service, in_repeat, in_halt);
    CHECK(in_shadow > 0);
    CHECK(in_service > 0);
    CHECK(in_repeat > 0);
    CHECK(in_halt > 0);
}

/* --- damaged streams -------------------------------------------------------------------------- */

static uint32_t checksum(const uint8_t *section, size_t length)
{
    uint32_t crc = ~0u;
    for (size_t n = 0; n < HEADER + length; n++) {
        if (n >= CHECKSUM_AT && n < HEADER)
            continue;
        crc ^= section[n];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static void flip(struct state *s, size_t bit)
{
    s->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

static void check_refused(struct pc_env *e, const struct state *before, struct state *s, size_t bit,
                          bool look)
{
    static struct state now;
    flip(s, bit);
    CHECK(state_load_all(&e->vm.state, s->bytes, s->size) != OK);
    flip(s, bit);
    if (!look)
        return;
    save(e, &now);
    CHECK(is_same(before, &now));
}

/* A section with one bit changed and the checksum of that: is refused and changes nothing, or is
 * taken, and then is what the machine has. */
static bool check_judged(struct pc_env *e, const struct state *before, struct state *s,
                         size_t section, size_t bit)
{
    static struct state now;
    uint8_t *p = s->bytes + section;
    uint32_t length = load_u32(p + LENGTH_AT), old = load_u32(p + CHECKSUM_AT);
    unit_context("section %s, bit %zu of the payload", (const char *)p,
                 bit - (section + HEADER) * 8);
    flip(s, bit);
    store_u32(p + CHECKSUM_AT, checksum(p, length));
    bool taken = state_load_all(&e->vm.state, s->bytes, s->size) == OK;
    save(e, &now);
    CHECK(is_same(taken ? s : before, &now));
    flip(s, bit);
    store_u32(p + CHECKSUM_AT, old);
    if (taken) /* as it was, for the next one */
        CHECK_EQ(state_load_all(&e->vm.state, before->bytes, before->size), OK);
    return taken;
}

static void test_damaged(void)
{
    static struct state before, other;
    unsigned int sections = 0, taken = 0, judged = 0;
    boot(&envs[0]);
    stop_at = 1000;
    run(&envs[0]);
    save(&envs[0], &other);
    pc_env_destroy(&envs[0]);
    build(&envs[1]);
    save(&envs[1], &before);
    CHECK(!is_same(&before, &other));
    for (size_t at = 0; at < other.size; sections++) {
        size_t payload = at + HEADER, end = payload + load_u32(other.bytes + at + LENGTH_AT);
        for (size_t bit = at * 8; bit < payload * 8; bit++)
            check_refused(&envs[1], &before, &other, bit, bit % 16 == 0);
        for (size_t bit = payload * 8; bit < end * 8; bit += 37)
            check_refused(&envs[1], &before, &other, bit, false);
        for (size_t bit = payload * 8 + 3; bit < end * 8; bit += 53, judged++)
            taken += check_judged(&envs[1], &before, &other, at, bit);
        unit_context(NULL);
        at = end;
    }
    printf("%u sections; of %u with one bit changed and a right checksum %u were taken\n", sections,
           judged, taken);
    CHECK_EQ(sections, envs[1].vm.state.count);
    CHECK_EQ(state_load_all(&envs[1].vm.state, other.bytes, other.size), OK);
    pc_env_destroy(&envs[1]);
}

int main(void)
{
    UNIT_RUN(test_undisturbed);
    UNIT_RUN(test_moved_in_handlers);
    UNIT_RUN(test_moved_before_handlers);
    UNIT_RUN(test_moved_often);
    UNIT_RUN(test_moved_at_every_event);
    UNIT_RUN(test_places);
    UNIT_RUN(test_damaged);
    CHECK_EQ(fake_seam_allocations(), 0);
    return unit_done();
}
