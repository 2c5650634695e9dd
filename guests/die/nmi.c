/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * NMIs without end, to oneself and to others, whose handlers fault: the IRET that ends the fault ends the masking of
 * NMIs, too (SDM 3A, 6.7.1), in the middle of the handler.
 *
 * run: token => lives vcpus=2
 * run: token => lives vcpus=4
 * run: self => lives
 * run: nested => any seconds=2
 * run: forever => runs vcpus=2 seconds=1
 * run: forever => runs vcpus=4 seconds=1
 * run: no-iret => runs vcpus=2 seconds=1
 * run: shadows => lives vcpus=2
 * run: no-idt => triple-fault
 * run: no-stack => triple-fault
 */
#include "guests/die/die.h"

enum { MAX = 16, NMI = 0x400, SELF = 0x40000, OTHERS = 0xC0000, PASSES = 400 };

extern uint8_t guest_vectors[256][16];

static volatile unsigned int begun, taken[MAX];
static volatile unsigned int passes;

static unsigned int whoami(void)
{
    return (apic_read(APIC_ID) >> 24) % MAX;
}

static void fault(void)
{
    __asm__ volatile("int3; ud2");
}

static void skip_ud2(struct guest_frame *f)
{
    f->rip += 2;
}

static void skip_nothing(struct guest_frame *f)
{
    (void)f;
}

/* Three faults in a handler, each of which unmasks. */
static void let_faults_be_survived(void)
{
    guest_set_handler(X86_UD, skip_ud2);
    guest_set_handler(X86_BP, skip_nothing);
}

/*
 * Each vCPU that NMIs are to come to begins with an IRET, and who waits for one does so again and again: the processor of Bochs 2.7 lets
 * the masking of the vCPU that was on it before go on (docs/rig.md) until there is one. Elsewhere nothing is masked here.
 */
static void unmask(void)
{
    guest_set_handler(X86_BP, skip_nothing);
    __asm__ volatile("int3");
}

/* --- one NMI that goes round --- */

static volatile bool has_token[MAX];

static void receive(struct guest_frame *f)
{
    (void)f;
    unsigned int me = whoami();
    fault();
    taken[me]++;
    has_token[me] = true;
    fault();
}

/* Not from the handler: the next one would be inside of it, and so on. */
static void do_pass(unsigned int n)
{
    unsigned int me = whoami(), count = smp_count();
    (void)n;
    unmask();
    __asm__ volatile("lock; incl %0" : "+m"(begun));
    while (passes < PASSES) {
        if (!has_token[me]) {
            pause();
            unmask();
            continue;
        }
        has_token[me] = false;
        passes++;
        apic_send((me + 1) % count, NMI);
    }
}

static void wait_for_others(void)
{
    while (begun < smp_count() - 1)
        pause();
}

static void token(void)
{
    let_faults_be_survived();
    guest_set_handler(X86_NMI, receive);
    apic_enable();
    smp_start(do_pass);
    wait_for_others();
    apic_send(1, NMI);
    do_pass(0);
    for (unsigned int n = 0; n < smp_count(); n++)
        DIE_UNLESS(taken[n] >= PASSES / smp_count() - 1);
}

/* --- to oneself --- */

static void count(struct guest_frame *f)
{
    (void)f;
    taken[0]++;
    fault();
}

static void self(void)
{
    let_faults_be_survived();
    unmask();
    guest_set_handler(X86_NMI, count);
    apic_enable();
    for (unsigned int n = 0; n < PASSES; n++) {
        unsigned int before = taken[0];

        apic_send(0, SELF | NMI);
        while (taken[0] == before)
            pause();
    }
}

/* Each inside the one before, until the stack has run through what is below it. */
static void again(struct guest_frame *f)
{
    (void)f;
    apic_send(0, SELF | NMI);
    fault();
}

static void nested(void)
{
    let_faults_be_survived();
    unmask();
    guest_set_handler(X86_NMI, again);
    apic_enable();
    apic_send(0, SELF | NMI);
    for (;;)
        pause();
}

/* --- without end --- */

/* One for each that comes, to all others; what comes while one is masked is one. */
static void answer(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_ICR, OTHERS | NMI);
}

static void answer_and_stay(struct guest_frame *f)
{
    answer(f);
    for (;;)
        __asm__ volatile("hlt");
}

static void do_forever(unsigned int n)
{
    unmask();
    /* not while somebody is on its way here and has no IDT */
    __asm__ volatile("lock; incl %0" : "+m"(begun));
    while (begun < smp_count())
        pause();
    for (;;) {
        apic_write(APIC_ICR, OTHERS | NMI);
        if (n & 1)
            fault();
    }
}

static void forever(void)
{
    let_faults_be_survived();
    guest_set_handler(X86_NMI, answer);
    apic_enable();
    smp_start(do_forever);
    do_forever(0);
}

/* Handlers that never come back, with NMIs that stay pending. */
static void no_iret(void)
{
    let_faults_be_survived();
    guest_set_handler(X86_NMI, answer_and_stay);
    apic_enable();
    smp_start(do_forever);
    do_forever(0);
}

/* --- behind STI and MOV SS --- */

static void note(struct guest_frame *f)
{
    (void)f;
    taken[0]++;
}

static volatile bool enough;

static void do_send(unsigned int n)
{
    (void)n;
    begun++;
    while (!enough)
        apic_write(APIC_ICR, OTHERS | NMI);
}

/* Whoever sends may have been put off between saying so and its first NMI. */
static void shadows(void)
{
    unmask();
    guest_set_handler(X86_NMI, note);
    apic_enable();
    smp_start(do_send);
    wait_for_others();
    for (; passes < PASSES || !taken[0]; passes++)
        __asm__ volatile("sti; cli; sti; nop; cli; mov %%ss, %%eax; mov %%eax, %%ss; nop; mov %%eax, %%ss; mov %%eax, %%ss"
                         :
                         :
                         : "eax");
    enough = true;
}

/* --- that cannot be delivered --- */

static void no_idt(void)
{
    unmask();
    apic_enable();
    load_idt(NULL, 0);
    apic_send(0, SELF | NMI);
    for (;;)
        pause();
}

/* On IST 2, which is no address. */
static void no_stack(void)
{
    static const uint64_t nowhere = UINT64_C(1) << 63;

    unmask();
    for (unsigned int n = 0; n < 8; n++)
        guest_tss[44 + n] = (uint8_t)(nowhere >> 8 * n);
    for (uint8_t v = 0; v < 20; v++)
        guest_set_gate(v, guest_vectors[v], 14, 0, 2);
    apic_enable();
    apic_send(0, SELF | NMI);
    for (;;)
        pause();
}

static const struct die_mode modes[] = {
    {"token", token},     {"self", self},       {"nested", nested}, {"forever", forever},
    {"no-iret", no_iret}, {"shadows", shadows}, {"no-idt", no_idt}, {"no-stack", no_stack},
};

DIE_MAIN(modes)
