/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Random numbers.
 *
 * The generator is a key of 256 bits. What goes in is XORed to it, 32 bytes at a time, and the key is replaced by
 * half a ChaCha20 block under the result, which cannot be computed backwards (the block function adds its input to
 * its output). What comes out is the other half of a block whose first half becomes the new key, so that whoever
 * reads the machine's memory later cannot tell what was given out before ("fast key erasure", Bernstein 2017). A
 * caller's bytes are then made from a key of its own, outside the lock.
 *
 * What goes in: RDSEED or RDRAND, where CPUID has them and they do not say the same four times over (some
 * processors did, after a resume); always the TSC, read over and over around memory accesses, whose time differs
 * with caches, clocks and refresh; the real-time clock, the PIT's count; boot information; later, the times of
 * interrupts. An attacker who knows some of these gains nothing against the others. Under an emulator that counts
 * instructions there is nothing but RDRAND, and where there is not even that it is said. Every RESEED draws more is
 * taken.
 *
 * Locking: one spin lock, a leaf below all others. State: the pool.
 */
#include "native/random.h"

#include "core/assert.h"
#include "core/fmt.h"
#include "core/mem.h"
#include "native/chacha.h"
#include "native/io.h"
#include "native/spin.h"

enum {
    RESEED = 1024,
    HARDWARE_WORDS = 4, /* 256 bits */
    RDRAND_TRIES = 10,  /* SDM vol. 1, 7.3.17.1 */
    RDSEED_TRIES = 100,
    JITTER_SAMPLES = 512,
    JITTER_MEMORY = 4096,

    CPUID_1_C_RDRAND = 1 << 30,
    CPUID_7_B_RDSEED = 1 << 18,
    PORT_CMOS_INDEX = 0x70,
    PORT_CMOS_DATA = 0x71,
    PORT_PIT_CHANNEL_0 = 0x40,
};

/* What a block is made for, in its nonce: no two uses share one. */
enum { FOR_ABSORB = 1, FOR_DRAW, FOR_CALLER };

static struct {
    struct spin lock;
    uint32_t key[8];
    uint32_t draws; /* since the last seed */
    bool has_rdrand, has_rdseed, seeded;
    _Atomic uint64_t events;
} pool;

/* What was secret and is not needed is not left on the stack: a plain memset would be optimized away. */
static void forget(void *p, size_t size)
{
    memset(p, 0, size);
    __asm__ volatile("" : : "r"(p) : "memory");
}

/* --- the generator ----------------------------------------------------------------------------- */

static void absorb_block(const void *p, size_t size, uint32_t index)
{
    uint32_t mixed[8] = {0}, nonce[3] = {FOR_ABSORB, (uint32_t)size, index};
    uint8_t block[CHACHA_BLOCK];

    memcpy(mixed, p, size);
    for (unsigned int i = 0; i < 8; i++)
        mixed[i] ^= pool.key[i];
    chacha_block(mixed, 0, nonce, block);
    memcpy(pool.key, block, CHACHA_KEY);
    forget(mixed, sizeof(mixed));
    forget(block, sizeof(block));
}

static void absorb(const void *p, size_t size)
{
    const uint8_t *bytes = p;
    uint32_t index = 0;

    for (; size > 0; index++) {
        size_t n = size < CHACHA_KEY ? size : CHACHA_KEY;
        absorb_block(bytes, n, index);
        bytes += n;
        size -= n;
    }
}

static void draw_key(uint32_t key[8])
{
    static const uint32_t nonce[3] = {FOR_DRAW, 0, 0};
    uint8_t block[CHACHA_BLOCK];

    chacha_block(pool.key, pool.draws, nonce, block);
    memcpy(pool.key, block, CHACHA_KEY);
    memcpy(key, block + CHACHA_KEY, CHACHA_KEY);
    forget(block, sizeof(block));
    pool.draws++;
}

static void fill(uint8_t *p, size_t size, uint32_t key[8])
{
    uint32_t nonce[3] = {FOR_CALLER, 0, 0};
    uint8_t block[CHACHA_BLOCK];

    for (uint64_t i = 0; size > 0; i++) {
        size_t n = size < CHACHA_BLOCK ? size : CHACHA_BLOCK;
        nonce[1] = (uint32_t)(i >> 32);
        chacha_block(key, (uint32_t)i, nonce, block);
        memcpy(p, block, n);
        p += n;
        size -= n;
    }
    forget(block, sizeof(block));
}

/* --- what goes in ------------------------------------------------------------------------------ */

static bool hardware_word(uint64_t *v)
{
    for (unsigned int i = 0; pool.has_rdseed && i < RDSEED_TRIES; i++) {
        if (io_rdseed(v))
            return true;
        io_pause();
    }
    for (unsigned int i = 0; pool.has_rdrand && i < RDRAND_TRIES; i++)
        if (io_rdrand(v))
            return true;
    return false;
}

/* False: none, or not all, or all the same. */
static bool hardware_words(uint64_t v[HARDWARE_WORDS])
{
    bool differ = false;

    for (unsigned int i = 0; i < HARDWARE_WORDS; i++) {
        v[i] = 0;
        if (!hardware_word(&v[i]))
            return false;
        differ |= v[i] != v[0];
    }
    return differ;
}

static void find_hardware(void)
{
    pool.has_rdrand = io_cpuid(0, 0).a >= 1 && (io_cpuid(1, 0).c & CPUID_1_C_RDRAND);
    pool.has_rdseed = io_cpuid(0, 0).a >= 7 && (io_cpuid(7, 0).b & CPUID_7_B_RDSEED);
}

struct seed {
    uint64_t hardware[HARDWARE_WORDS], tsc, events;
};

/* Without the lock: it may take microseconds. */
static bool take_seed(struct seed *s)
{
    bool hardware = hardware_words(s->hardware);

    s->tsc = io_tsc();
    s->events = atomic_load_explicit(&pool.events, memory_order_relaxed);
    return hardware;
}

/* The last bits of the TSC, around memory accesses that depend on what it was before. */
static void absorb_jitter(void)
{
    static volatile uint8_t memory[JITTER_MEMORY];
    uint32_t samples[CHACHA_KEY / 4];
    uint64_t at = 0;

    for (unsigned int i = 0; i < JITTER_SAMPLES; i++) {
        uint64_t t = io_tsc();
        at += t * 0x9E3779B97F4A7C15ull; /* to anywhere in there: 2^64 over the golden ratio */
        memory[(at >> 40) % JITTER_MEMORY] += (uint8_t)t;
        samples[i % ARRAY_SIZE(samples)] = (uint32_t)t;
        if (i % ARRAY_SIZE(samples) == ARRAY_SIZE(samples) - 1)
            absorb(samples, sizeof(samples));
    }
}

static void absorb_clocks(void)
{
    uint8_t bytes[12];

    for (uint8_t i = 0; i < 10; i++) {
        io_out8(PORT_CMOS_INDEX, i);
        bytes[i] = io_in8(PORT_CMOS_DATA);
    }
    bytes[10] = io_in8(PORT_PIT_CHANNEL_0);
    bytes[11] = io_in8(PORT_PIT_CHANNEL_0);
    absorb(bytes, sizeof(bytes));
}

void random_init(const void *boot_information, size_t size, char *message, size_t message_size)
{
    struct seed s;
    const char *by;

    find_hardware();
    bool hardware = take_seed(&s);
    if (!hardware)
        pool.has_rdseed = pool.has_rdrand = false;
    absorb(&s, sizeof(s));
    absorb(boot_information, size);
    absorb_clocks();
    absorb_jitter();
    pool.draws = 0;
    pool.seeded = true;
    forget(&s, sizeof(s));
    by = pool.has_rdseed ? "RDSEED" : pool.has_rdrand ? "RDRAND" : NULL;
    if (by)
        (void)fmt(message, message_size, "random numbers by %s and timing", by);
    else
        (void)fmt(message, message_size,
                  "random numbers by timing alone: this processor has no RDRAND that works; do not rely on them");
}

/* --- callers ----------------------------------------------------------------------------------- */

void random_add(const void *p, size_t size)
{
    uint64_t t = io_tsc();

    spin_lock(&pool.lock);
    absorb(&t, sizeof(t));
    absorb(p, size);
    spin_unlock(&pool.lock);
}

void random_event(void)
{
    uint64_t t = io_tsc(), v = atomic_load_explicit(&pool.events, memory_order_relaxed);

    /* Two at the same time may lose one: no harm. */
    atomic_store_explicit(&pool.events, (v << 7 | v >> 57) ^ t, memory_order_relaxed);
}

void random_bytes(void *buf, size_t size)
{
    uint32_t key[8];
    struct seed s;

    assert(pool.seeded);
    spin_lock(&pool.lock);
    bool due = pool.draws >= RESEED;
    draw_key(key);
    if (due)
        pool.draws = 0; /* others need not do the same meanwhile */
    spin_unlock(&pool.lock);
    fill(buf, size, key);
    forget(key, sizeof(key));
    if (!due)
        return;
    (void)take_seed(&s);
    spin_lock(&pool.lock);
    absorb(&s, sizeof(s));
    spin_unlock(&pool.lock);
    forget(&s, sizeof(s));
}
