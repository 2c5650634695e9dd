/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the local APIC: random use with save, check and load in between; refused and
 * damaged states; posts from other threads. */
#include <pthread.h>

#include "tests/unit/lapic_env.h"

/* --- every access, and state --- */

static uint64_t rng = 88172645463325252u;

static uint64_t next_random(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static void poke(unsigned int cpu)
{
    uint64_t r = next_random(), v;
    switch (r & 7) {
    case 0:
        (void)lapic_msr_read(&cpus[cpu], 0x7F0 + (uint32_t)(r >> 8 & 0x13F), &v);
        break;
    case 1:
        (void)lapic_msr_write(&cpus[cpu], 0x7F0 + (uint32_t)(r >> 8 & 0x13F), next_random() >> 8);
        break;
    case 2:
        if ((r >> 8 & 31) == 0)
            (void)wrmsr(cpu, MSR_APIC_BASE, 0xFEE00000 | (r >> 16 & 0xF00));
        (void)wrmsr(cpu, MSR_TSC_DEADLINE, vm_clock_ns(&vm) * 2 + (r >> 32 & 0xFFFFF));
        break;
    case 3:
        (void)lapic_take_interrupt(&cpus[cpu]);
        break;
    case 4:
        rd(cpu, (uint32_t)(r >> 8 & 0xFFF));
        break;
    case 5:
        wr(cpu, (uint32_t)(r >> 8 & 0x3F) * 16, (uint32_t)next_random());
        fake_seam_advance(r >> 40 & 0xFFFFF);
        break;
    default:
        wr(cpu, (uint32_t)(r >> 8 & 0xFFF), (uint32_t)next_random() & 0x1FFFF);
        break;
    }
}

static size_t save(unsigned int cpu, uint8_t *buf, size_t size)
{
    struct state_writer w = {buf, size, 0};
    lapic_state_ops.save(&cpus[cpu], &w);
    CHECK(w.used <= size);
    return w.used;
}

static int check(unsigned int cpu, const uint8_t *buf, size_t size)
{
    struct state_reader r = {.buf = buf, .size = size, .version = 1};
    return lapic_state_ops.check(&cpus[cpu], &r);
}

static void load(unsigned int cpu, const uint8_t *buf, size_t size)
{
    struct state_reader r = {.buf = buf, .size = size, .version = 1};
    CHECK_EQ(lapic_state_ops.load(&cpus[cpu], &r), OK);
}

/* Whatever a guest does, the state that results can be saved, passes check, and comes back. */
static void test_random_access_and_state(void)
{
    uint8_t a[512], b[512], fresh[512];
    setup();
    size_t size = save(1, fresh, sizeof(fresh));
    for (unsigned int i = 0; i < 60000; i++) {
        poke(i & 3);
        if (i % 16 != 0)
            continue;
        save(1, a, sizeof(a));
        CHECK_EQ(check(1, a, size), OK);
        bool has = lapic_has_interrupt(&cpus[1]);
        uint32_t count = rd(1, LAPIC_TIMER_CURRENT), ppr = lapic_reg(cpus[1].lapic, LAPIC_PPR);
        load(1, fresh, size);
        load(1, a, size);
        CHECK(save(1, b, sizeof(b)) == size && memcmp(a, b, size) == 0);
        CHECK_EQ(lapic_has_interrupt(&cpus[1]), has);
        CHECK_EQ(rd(1, LAPIC_TIMER_CURRENT), count);
        CHECK_EQ(lapic_reg(cpus[1].lapic, LAPIC_PPR), ppr);
    }
}

/* Offsets in the saved section. */
enum {
    AT_BASE = 0,
    AT_ISR = 8,
    AT_IRR = AT_ISR + 64,
    AT_TPR = AT_ISR + 96,
    AT_LDR = AT_TPR + 4,
    AT_DFR = AT_TPR + 8,
    AT_SVR = AT_TPR + 12,
    AT_ESR = AT_TPR + 16,
    AT_ICR = AT_TPR + 20,
    AT_LVT_TIMER = AT_TPR + 28,
    AT_LVT_LINT0 = AT_TPR + 40,
    AT_INITIAL = AT_TPR + 52,
    AT_DIVIDE = AT_TPR + 56,
    AT_ESR_PENDING = AT_TPR + 60,
    AT_EXTINT = AT_TPR + 64,
    AT_DEADLINE = AT_EXTINT + 9,
    AT_TSC_DEADLINE = AT_EXTINT + 17,
    STATE_SIZE = AT_EXTINT + 25,
};

static void test_check_refuses(void)
{
    /* table: of a state with the APIC software-disabled, vCPU 1 */
    static const struct {
        uint32_t at, value;
    } rows[] = {
        {AT_BASE, 0xFEE00900}, /* boot processor's flag */
        {AT_BASE, 0xFEE00400}, /* x2APIC without enable */
        {AT_BASE, 0xFEE00801}, /* reserved bit */
        {AT_BASE, 0xFEE00C00}, /* x2APIC: LDR does not fit */
        {AT_ISR, 0x00000001},  /* illegal vectors */
        {AT_ISR, 0x00008000},     {AT_IRR, 0x00000100},    {AT_TPR, 0x100},
        {AT_LDR, 0x01000001},     {AT_DFR, 0xF0000000},    {AT_SVR, 0x20FF},
        {AT_ESR, 0x01},           {AT_ESR_PENDING, 0x100}, {AT_ICR, 0x1000},
        {AT_ICR + 4, 0x01000001}, {AT_LVT_TIMER, 0x00040}, /* not masked */
        {AT_LVT_TIMER, 0x90040},                           /* reserved bit */
        {AT_LVT_LINT0, 0x00700},  {AT_LVT_LINT0, 0x11700}, {AT_DIVIDE, 0x4},
        {AT_DEADLINE, 1000},     /* armed with a count of 0 */
        {AT_TSC_DEADLINE, 1000}, /* not in that mode */
    };
    uint8_t good[STATE_SIZE], bad[STATE_SIZE];
    setup();
    CHECK_EQ(save(1, good, sizeof(good)), STATE_SIZE);
    CHECK_EQ(check(1, good, STATE_SIZE), OK);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        memcpy(bad, good, sizeof(bad));
        store_u32(bad + rows[i].at, rows[i].value);
        CHECK_EQ(check(1, bad, STATE_SIZE), (uint64_t)ERR_CORRUPT);
    }
    unit_context(NULL);
    for (size_t n = 0; n < STATE_SIZE; n++)
        CHECK_EQ(check(1, good, n), (uint64_t)ERR_TRUNCATED);
    bad[AT_EXTINT] = 2;
    CHECK(check(1, bad, STATE_SIZE) != OK);
}

/* Damaged states that check lets through can be lived with. */
static void test_damaged_state(void)
{
    uint8_t good[STATE_SIZE], bad[STATE_SIZE];
    unsigned int passed = 0;
    setup();
    enable_all();
    wr(1, LAPIC_LVT_TIMER, 0x20040);
    wr(1, LAPIC_TIMER_INITIAL, 100000);
    post(1, 0x55, true);
    save(1, good, sizeof(good));
    for (unsigned int i = 0; i < STATE_SIZE * 8 * 4; i++) {
        memcpy(bad, good, sizeof(bad));
        for (unsigned int flips = i % 4; flips <= 4; flips++) {
            uint64_t bit = flips == i % 4 ? i / 4 : next_random() % (STATE_SIZE * 8);
            bad[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        if (check(1, bad, STATE_SIZE) != OK)
            continue;
        passed++;
        load(1, bad, STATE_SIZE);
        for (unsigned int j = 0; j < 16; j++)
            poke(1);
    }
    CHECK(passed > 0);
}

/* --- other threads post while the own thread takes --- */

enum { POSTS = 20000 };

static void *poster(void *arg)
{
    unsigned int which = *(unsigned int *)arg;
    for (unsigned int i = 0; i < POSTS; i++) {
        struct apic_message m = {.destination = 0,
                                 .vector = (uint8_t)(0x20 + which * 64 + i % 64),
                                 .level = (i & 1) != 0};
        if (apic_send(&vm, &m) != OK)
            return NULL;
        while (lapic_reg(cpus[0].lapic, LAPIC_IRR + m.vector / 32u * 16) & 1u << m.vector % 32)
            ; /* so that each post must be taken */
    }
    return NULL;
}

static void test_posts_are_not_lost(void)
{
    static unsigned int which[2] = {0, 1};
    pthread_t thread[2];
    unsigned int taken = 0;
    setup();
    enable_all();
    for (unsigned int i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, poster, &which[i]);
    while (taken < 2 * POSTS) {
        if (vcpu_requests(&cpus[0].vcpu) == 0)
            continue; /* a post that needs no request must not be needed either */
        vcpu_take_requests(&cpus[0].vcpu, VCPU_REQ_INTR);
        while (lapic_take_interrupt(&cpus[0]) >= 0) {
            taken++;
            wr(0, LAPIC_EOI, 0);
        }
    }
    for (unsigned int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    CHECK_EQ(taken, 2 * POSTS);
    CHECK_EQ(eois, POSTS);
}

int main(void)
{
    UNIT_RUN(test_random_access_and_state);
    UNIT_RUN(test_check_refuses);
    UNIT_RUN(test_damaged_state);
    UNIT_RUN(test_posts_are_not_lost);
    return unit_done();
}
