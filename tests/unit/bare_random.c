/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The bare machine's random numbers: ChaCha20 by RFC 8439's vectors, and native/random.c on hardware of the test's.
 */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "native/chacha.h"
#include "native/random.h"
#include "tests/fakes/native/io.h"
#include "tests/lib/unit.h"

static uint8_t nibble(char c)
{
    return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static void check_hex(const uint8_t *p, size_t size, const char *hex)
{
    CHECK_EQ(strlen(hex), 2 * size);
    for (size_t i = 0; i < size; i++)
        CHECK_EQ(p[i], nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
}

static void counting_key(uint32_t key[8])
{
    uint8_t bytes[32];
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    memcpy(key, bytes, 32);
}

/* 2.3.2 */
static void test_block(void)
{
    uint32_t key[8];
    const uint32_t nonce[3] = {0x09000000, 0x4A000000, 0};
    uint8_t block[64];
    counting_key(key);
    chacha_block(key, 1, nonce, block);
    check_hex(block, 64,
              "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
              "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e");
}

/* 2.4.2: a text of two blocks */
static void test_encryption(void)
{
    static const char text[] =
        "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        "future, sunscreen would be it.";
    const uint32_t nonce[3] = {0, 0x4A000000, 0};
    uint32_t key[8];
    uint8_t block[64], cipher[114];
    counting_key(key);
    for (uint32_t i = 0; i < sizeof(cipher); i++) {
        if (i % 64 == 0)
            chacha_block(key, 1 + i / 64, nonce, block);
        cipher[i] = (uint8_t)text[i] ^ block[i % 64];
    }
    check_hex(cipher, 114,
              "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
              "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
              "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
              "5af90bbf74a35be6b40b8eedf2785e42874d");
}

/* A.1, vectors 1, 2 and 3 */
static void test_zero_keys(void)
{
    uint32_t key[8] = {0}, nonce[3] = {0};
    uint8_t block[64];
    chacha_block(key, 0, nonce, block);
    check_hex(block, 64,
              "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
              "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586");
    chacha_block(key, 1, nonce, block);
    check_hex(block, 64,
              "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
              "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f");
    key[7] = 1u << 24;
    chacha_block(key, 1, nonce, block);
    check_hex(block, 64,
              "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
              "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0");
}

/* --- the generator ----------------------------------------------------------------------------- */

static struct {
    uint64_t tsc, seed, rand;
    unsigned int seed_fails, rand_fails, seeds, rands; /* fails: so many times first */
    bool has_seed, has_rand, stuck;
    uint8_t cmos;
} m;

static uint64_t tsc(void)
{
    return m.tsc += 100;
}

static struct io_cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    (void)subleaf;
    return (struct io_cpuid){7, leaf == 7 && m.has_seed ? 1 << 18 : 0, leaf == 1 && m.has_rand ? 1 << 30 : 0, 0};
}

static bool rdseed(uint64_t *v)
{
    CHECK(m.has_seed);
    m.seeds++;
    *v = m.stuck ? UINT64_MAX : ++m.seed;
    return m.seed_fails == 0 || m.seed_fails-- == 0;
}

static bool rdrand(uint64_t *v)
{
    CHECK(m.has_rand);
    m.rands++;
    *v = m.stuck ? UINT64_MAX : ++m.rand;
    return m.rand_fails == 0 || m.rand_fails-- == 0;
}

static uint32_t in(uint16_t port, unsigned int size)
{
    (void)port, (void)size;
    return m.cmos;
}

static char message[120];

/* The pool keeps what it had: tests compare machines that differ in one thing, from the same beginning. */
static void start(const char *boot)
{
    fake_io = (struct fake_io){.tsc = tsc, .cpuid = cpuid, .rdseed = rdseed, .rdrand = rdrand, .in = in};
    random_init(boot, strlen(boot), message, sizeof(message));
}

static void machine(bool has_seed, bool has_rand)
{
    memset(&m, 0, sizeof(m));
    m.has_seed = has_seed;
    m.has_rand = has_rand;
}

static void test_sources(void)
{
    machine(true, true);
    start("x");
    CHECK_STR(message, "random numbers by RDSEED and timing");
    CHECK(m.seeds == 4 && m.rands == 0);
    machine(true, true);
    m.seed_fails = 99;
    start("x");
    CHECK_STR(message, "random numbers by RDSEED and timing");
    CHECK_EQ(m.seeds, 103);
    machine(true, true);
    m.seed_fails = 1000000; /* exhausted: RDRAND */
    start("x");
    CHECK(m.seeds == 400 && m.rands == 4);
    machine(false, true);
    m.rand_fails = 9;
    start("x");
    CHECK_STR(message, "random numbers by RDRAND and timing");
    CHECK_EQ(m.rands, 13);
    machine(false, true);
    m.rand_fails = 1000000;
    start("x");
    CHECK(strstr(message, "by timing alone"));
    machine(true, true);
    m.stuck = true;
    start("x");
    CHECK(strstr(message, "by timing alone"));
    machine(false, false);
    start("x");
    CHECK(strstr(message, "by timing alone"));
}

static void test_output(void)
{
    static uint8_t a[100000], guard[3 + 64];
    unsigned int counts[256] = {0}, bits = 0;
    machine(true, true);
    start("x");
    random_bytes(a, sizeof(a));
    for (size_t i = 0; i < sizeof(a); i++) {
        counts[a[i]]++;
        bits += (unsigned int)__builtin_popcount(a[i]);
    }
    for (unsigned int i = 0; i < 256; i++)
        CHECK(counts[i] > 290 && counts[i] < 490); /* 390 expected, deviation 20 */
    CHECK(bits > 398000 && bits < 402000);
    for (size_t n = 0; n <= 64; n++) { /* just those bytes */
        memset(guard, 0xA5, sizeof(guard));
        random_bytes(guard + 1, n);
        CHECK(guard[0] == 0xA5 && guard[n + 1] == 0xA5 && guard[n + 2] == 0xA5);
    }
}

static void test_never_repeats(void)
{
    static uint64_t seen[4096];
    machine(false, false);
    start("x");
    for (size_t i = 0; i < 4096; i++) {
        random_bytes(&seen[i], 8);
        for (size_t k = 0; k < i; k++)
            CHECK(seen[k] != seen[i]);
    }
}

static void test_reseeds(void)
{
    uint8_t b[16];
    machine(true, true);
    start("x");
    for (unsigned int i = 0; i < 1024; i++)
        random_bytes(b, sizeof(b));
    CHECK_EQ(m.seeds, 4);
    random_bytes(b, sizeof(b));
    CHECK_EQ(m.seeds, 8);
    for (unsigned int i = 0; i < 10 * 1024; i++)
        random_bytes(b, sizeof(b));
    CHECK(m.seeds >= 40 && m.seeds <= 52);
    random_event();
    random_add("something", 9);
    random_bytes(b, sizeof(b));
}

/* What a machine that has just been started gives out first, in a process of its own. */
static void first_bytes(const char *boot, const char *add, uint8_t out[16])
{
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        start(boot);
        if (add)
            random_add(add, strlen(add));
        random_bytes(out, 16);
        _exit(write(ends[1], out, 16) == 16 ? 0 : 1);
    }
    CHECK_EQ(read(ends[0], out, 16), 16);
    CHECK_EQ(waitpid(child, NULL, 0), child);
    close(ends[0]);
    close(ends[1]);
}

/* The same machine gives the same; one that differs in anything that goes in, something else. */
static void test_all_goes_in(void)
{
    uint8_t seen[8][16];
    for (unsigned int i = 0; i < 8; i++) {
        machine(true, true);
        m.seed = i == 2 ? 1 : 0;
        m.tsc = i == 3 ? 1 : 0;
        m.cmos = i == 4 ? 1 : 0;
        m.has_seed = i != 5;
        m.rand = 7;
        first_bytes(i == 6 ? "y" : "x", i == 7 ? "z" : NULL, seen[i]);
    }
    for (unsigned int i = 0; i < 8; i++)
        for (unsigned int k = 0; k < i; k++) {
            unit_context("%u and %u", i, k);
            CHECK_EQ(memcmp(seen[i], seen[k], 16) == 0, i == 1 && k == 0);
        }
}

int main(void)
{
    UNIT_RUN(test_all_goes_in); /* first: the others leave something in the pool */
    UNIT_RUN(test_block);
    UNIT_RUN(test_encryption);
    UNIT_RUN(test_zero_keys);
    UNIT_RUN(test_sources);
    UNIT_RUN(test_output);
    UNIT_RUN(test_never_repeats);
    UNIT_RUN(test_reseeds);
    return unit_done();
}
