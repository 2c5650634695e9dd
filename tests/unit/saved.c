/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A saved VM's head and metadata: what was written comes back, every single bit that is changed is
 * noticed, and what a file with right checksums says that cannot be is refused. Levels: what was
 * promised must be there.
 */
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "machine/saved.h"
#include "tests/lib/pc_env.h"
#include "tests/lib/unit.h"
#include "x86/cpuid_bits.h"

enum { METADATA = 1 << 16, RUNS = 3 };

static struct pc_env e;
static struct saved_source source;
static uint8_t head[SAVED_HEAD], metadata[METADATA], other[METADATA], machine[METADATA];
static size_t metadata_size;
static struct saved_run run[RUNS];
static uint32_t sums[8];
static char message[SAVED_MESSAGE];

/* Runs of 1, 33 and 2 pages: 1, 3 and 1 pieces. */
static void set_runs(void)
{
    static const uint32_t at[RUNS] = {0, 7, 100}, pages[RUNS] = {1, 33, 2};
    struct state_writer w = {0};
    source.runs = RUNS;
    source.run = run;
    source.sums = sums;
    saved_put_metadata(&source, &w); /* for its size, which does not depend on where runs are */
    uint64_t file = saved_pages_at(w.used);
    for (unsigned int n = 0; n < RUNS; n++) {
        run[n] = (struct saved_run){(uint64_t)at[n] << PAGE_SHIFT, file, (uint64_t)pages[n] << PAGE_SHIFT};
        file += run[n].size;
    }
    for (unsigned int n = 0; n < ARRAY_SIZE(sums); n++)
        sums[n] = 0x1000 + n;
}

static uint64_t file_size(void)
{
    return run[RUNS - 1].file + run[RUNS - 1].size;
}

static void write_all(void)
{
    struct state_writer w = {.buf = metadata, .size = METADATA};
    saved_put_metadata(&source, &w);
    CHECK(w.used <= METADATA);
    metadata_size = w.used;
    saved_put_head(head, metadata, metadata_size, file_size());
}

static void prepare(void)
{
    pc_env_create(&e, 2);
    str_copy(e.config.name, sizeof(e.config.name), "tried");
    str_copy(e.config.append, sizeof(e.config.append), "console=ttyS0");
    e.config.exit_port = true;
    CHECK_EQ(pc_env_build(&e), OK);
    struct state_writer w = {.buf = machine, .size = METADATA};
    state_save_all(&e.vm.state, &w);
    CHECK(w.used <= METADATA);
    source = (struct saved_source){.config = &e.config,
                                   .level = x86_level_find("v3"),
                                   .tsc_khz = 2000000,
                                   .machine = machine,
                                   .machine_size = w.used};
    set_runs();
    write_all();
}

static int read_all(struct saved *s)
{
    struct saved_head h;
    memset(message, 0, sizeof(message));
    int err = saved_get_head(&h, head, file_size(), message);
    if (err == OK)
        err = saved_get_metadata(s, &h, metadata, message);
    CHECK((err == OK) == (message[0] == 0));
    return err;
}

static void test_comes_back(void)
{
    struct saved s;
    prepare();
    CHECK_EQ(read_all(&s), OK);
    CHECK_STR(s.config.name, "tried");
    CHECK_STR(s.config.append, "console=ttyS0");
    CHECK_STR(s.config.level, "v3");
    CHECK_EQ(s.config.memory, e.config.memory);
    CHECK_EQ(s.config.vcpus, 2);
    CHECK(s.config.exit_port);
    CHECK_EQ(s.tsc_khz, 2000000);
    CHECK_EQ(memcmp(&s.level, source.level, sizeof(s.level)), 0);
    CHECK_EQ(s.runs, RUNS);
    for (uint32_t n = 0; n < RUNS; n++) {
        struct saved_run r = saved_run_at(&s, n);
        CHECK_EQ(memcmp(&r, &run[n], sizeof(r)), 0);
    }
    CHECK_EQ(s.pieces, 5);
    for (uint64_t n = 0; n < s.pieces; n++)
        CHECK_EQ(saved_sum_at(&s, n), sums[n]);
    CHECK_EQ(state_load_all(&e.vm.state, s.machine, s.machine_size), OK);
    pc_env_destroy(&e);
}

/* Written from what was read, it is the same. */
static void test_again_is_the_same(void)
{
    struct saved s;
    struct saved_run runs[RUNS];
    uint32_t read_sums[8];
    prepare();
    CHECK_EQ(read_all(&s), OK);
    for (uint32_t n = 0; n < RUNS; n++)
        runs[n] = saved_run_at(&s, n);
    for (uint64_t n = 0; n < s.pieces; n++)
        read_sums[n] = saved_sum_at(&s, n);
    struct saved_source again = {&s.config, &s.level,  s.tsc_khz,      s.runs, runs,
                                 read_sums, s.machine, s.machine_size};
    struct state_writer w = {.buf = other, .size = METADATA};
    saved_put_metadata(&again, &w);
    CHECK_EQ(w.used, metadata_size);
    CHECK_EQ(memcmp(other, metadata, metadata_size), 0);
    pc_env_destroy(&e);
}

static void test_every_bit_counts(void)
{
    struct saved s;
    prepare();
    for (size_t bit = 0; bit < 8 * SAVED_HEAD; bit++) {
        head[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(read_all(&s) != OK);
        head[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t bit = 0; bit < 8 * metadata_size; bit++) {
        metadata[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(read_all(&s) == ERR_CORRUPT);
        metadata[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_EQ(read_all(&s), OK);
    pc_env_destroy(&e);
}

static void test_size_of_the_file(void)
{
    struct saved_head h;
    prepare();
    CHECK_EQ(saved_get_head(&h, head, file_size(), message), OK);
    for (uint64_t size = 0; size < file_size(); size += 1 + size / 3)
        CHECK_EQ(saved_get_head(&h, head, size, message), (uint64_t)ERR_TRUNCATED);
    CHECK_EQ(saved_get_head(&h, head, file_size() - 1, message), (uint64_t)ERR_TRUNCATED);
    CHECK_EQ(saved_get_head(&h, head, file_size() + 1, message), (uint64_t)ERR_CORRUPT);
    pc_env_destroy(&e);
}

/* A head with right checksum that says something else. */
static int with_head(size_t at, size_t size, uint64_t value)
{
    struct saved s;
    uint8_t kept[SAVED_HEAD];
    memcpy(kept, head, SAVED_HEAD);
    memcpy(head + at, &value, size);
    store_u32(head + 60, state_crc32(0, head, 60));
    int err = read_all(&s);
    memcpy(head, kept, SAVED_HEAD);
    return err;
}

static void test_heads_that_cannot_be(void)
{
    prepare();
    CHECK_EQ(with_head(8, 4, 1), OK);
    CHECK_EQ(with_head(8, 4, 2), (uint64_t)ERR_VERSION);
    CHECK_EQ(with_head(12, 4, 8192), (uint64_t)ERR_VERSION);
    CHECK_EQ(with_head(0, 1, 'l'), (uint64_t)ERR_INVALID);
    CHECK_EQ(with_head(16, 8, metadata_size + 1), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_head(16, 8, UINT64_MAX), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_head(16, 8, 0), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_head(24, 8, 0), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_head(32, 8, 0), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_head(32, 8, UINT64_MAX), (uint64_t)ERR_TRUNCATED);
    CHECK_EQ(with_head(44, 1, 1), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_head(59, 1, 1), (uint64_t)ERR_CORRUPT);
    pc_env_destroy(&e);
}

/* Metadata with right checksums that say something else. */
static int with_run(uint32_t n, struct saved_run r)
{
    struct saved s;
    struct saved_run kept = run[n];
    uint64_t size = file_size();
    run[n] = r;
    struct state_writer w = {.buf = metadata, .size = METADATA};
    saved_put_metadata(&source, &w);
    saved_put_head(head, metadata, w.used, size);
    run[n] = kept;
    return read_all(&s);
}

static void test_runs_that_cannot_be(void)
{
    prepare();
    const struct saved_run r = run[1];
    CHECK_EQ(with_run(1, r), OK);
    CHECK_EQ(with_run(1, (struct saved_run){r.ram + 1, r.file, r.size}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(1, (struct saved_run){0, r.file, r.size}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(1, (struct saved_run){run[2].ram - PAGE_SIZE, r.file, r.size}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(1, (struct saved_run){r.ram, r.file - PAGE_SIZE, r.size}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(1, (struct saved_run){r.ram, 0, r.size}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(1, (struct saved_run){r.ram, r.file, 0}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(1, (struct saved_run){r.ram, r.file, r.size + PAGE_SIZE}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(1, (struct saved_run){r.ram, r.file, -(uint64_t)PAGE_SIZE}), (uint64_t)ERR_CORRUPT);
    const struct saved_run last = run[2];
    CHECK_EQ(with_run(2, (struct saved_run){e.config.memory - PAGE_SIZE, last.file, last.size}),
             (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(2, (struct saved_run){e.config.memory, last.file, last.size}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(2, (struct saved_run){-(uint64_t)PAGE_SIZE, last.file, last.size}), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_run(2, (struct saved_run){e.config.memory - last.size, last.file, last.size}), OK);
    CHECK_EQ(with_run(2, (struct saved_run){last.ram, last.file, PAGE_SIZE}), (uint64_t)ERR_CORRUPT);
    pc_env_destroy(&e);
}

static int with_config(const struct vm_config *c)
{
    struct saved s;
    source.config = c;
    write_all();
    return read_all(&s);
}

static void test_definitions_that_cannot_be(void)
{
    struct vm_config c;
    prepare();
    c = e.config;
    c.memory = 1;
    CHECK_EQ(with_config(&c), (uint64_t)ERR_CORRUPT);
    c.memory = UINT64_MAX;
    CHECK_EQ(with_config(&c), (uint64_t)ERR_CORRUPT);
    c = e.config;
    c.vcpus = 0;
    CHECK_EQ(with_config(&c), (uint64_t)ERR_CORRUPT);
    c.vcpus = VM_MAX_VCPUS + 1;
    CHECK_EQ(with_config(&c), (uint64_t)ERR_CORRUPT);
    c = e.config;
    str_copy(c.name, sizeof(c.name), "../name");
    CHECK_EQ(with_config(&c), (uint64_t)ERR_CORRUPT);
    c = e.config;
    memset(c.append, 'x', sizeof(c.append)); /* not terminated */
    CHECK_EQ(with_config(&c), (uint64_t)ERR_CORRUPT);
    c = e.config;
    c.append[sizeof(c.append) - 1] = 'x'; /* something behind the end is not written */
    CHECK_EQ(with_config(&c), OK);
    CHECK_EQ(with_config(&e.config), OK);
    pc_env_destroy(&e);
}

static int with_level(const struct x86_level *l, uint32_t tsc_khz)
{
    struct saved s;
    source.level = l;
    source.tsc_khz = tsc_khz;
    write_all();
    return read_all(&s);
}

static void test_levels_that_cannot_be(void)
{
    struct x86_level l;
    prepare();
    l = *x86_level_find("v3");
    CHECK_EQ(with_level(&l, 999), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(with_level(&l, UINT32_MAX), (uint64_t)ERR_CORRUPT);
    str_copy(l.name, sizeof(l.name), "v9");
    CHECK_EQ(with_level(&l, 1000000), (uint64_t)ERR_CORRUPT);
    pc_env_destroy(&e);
}

/* --- levels ------------------------------------------------------------------------------------- */

static void set_bit(struct x86_level *l, uint32_t leaf, uint8_t reg, uint32_t bits, bool on)
{
    for (uint32_t n = 0; n < l->count; n++) {
        uint32_t *const regs[] = {&l->row[n].eax, &l->row[n].ebx, &l->row[n].ecx, &l->row[n].edx};
        if (l->row[n].leaf == leaf && l->row[n].subleaf == 0)
            *regs[reg] = on ? *regs[reg] | bits : *regs[reg] & ~bits;
    }
}

static void test_promises(void)
{
    struct x86_level offered = *x86_level_find("v3"), wanted = offered;
    char why[128];
    CHECK_EQ(x86_level_offers(&offered, &wanted, why, sizeof(why)), OK);

    set_bit(&offered, 7, 1, CPUID_7B_AVX2, false);
    CHECK_EQ(x86_level_offers(&offered, &wanted, why, sizeof(why)), (uint64_t)ERR_UNSUPPORTED);
    CHECK_STR(why, "avx2, CPUID 7H.0 EBX bit 5 is not offered here");
    set_bit(&wanted, 7, 1, CPUID_7B_AVX2, false);
    CHECK_EQ(x86_level_offers(&offered, &wanted, why, sizeof(why)), OK);
    set_bit(&offered, 7, 1, CPUID_7B_AVX2, true); /* beyond it */
    CHECK_EQ(x86_level_offers(&offered, &wanted, why, sizeof(why)), OK);

    offered = wanted = *x86_level_find("v3");
    offered.arch_capabilities &= ~(uint64_t)1;
    CHECK_EQ(x86_level_offers(&offered, &wanted, why, sizeof(why)), (uint64_t)ERR_UNSUPPORTED);
    CHECK_STR(why, "RDCL_NO, IA32_ARCH_CAPABILITIES bit 0 is not offered here");
    wanted.arch_capabilities &= ~(uint64_t)1;
    CHECK_EQ(x86_level_offers(&offered, &wanted, why, sizeof(why)), OK);
}

/* What is no promise must be the same: here everything of the table, a bit at a time. */
static void test_what_a_file_may_say_of_a_level(void)
{
    const struct x86_level *v3 = x86_level_find("v3");
    char why[128];
    for (uint32_t n = 0; n < v3->count; n++) {
        for (unsigned int bit = 0; bit < 4 * 32; bit++) {
            struct x86_level wanted = *v3;
            struct x86_cpuid_row *r = &wanted.row[n];
            uint32_t *const regs[] = {&r->eax, &r->ebx, &r->ecx, &r->edx};
            uint32_t mask = 1u << bit % 32, before = *regs[bit / 32];
            *regs[bit / 32] ^= mask;
            int err = x86_level_offers(v3, &wanted, why, sizeof(why));
            CHECK(err == ERR_UNSUPPORTED || (err == OK && before & mask));
        }
    }
    struct x86_level wanted = *v3;
    wanted.count--;
    CHECK_EQ(x86_level_offers(v3, &wanted, why, sizeof(why)), (uint64_t)ERR_UNSUPPORTED);
    wanted = *v3;
    wanted.row[1].leaf = 0x1234;
    CHECK_EQ(x86_level_offers(v3, &wanted, why, sizeof(why)), (uint64_t)ERR_UNSUPPORTED);
    wanted = *v3;
    wanted.physical_bits = 0;
    CHECK_EQ(x86_level_offers(v3, &wanted, why, sizeof(why)), (uint64_t)ERR_UNSUPPORTED);
    wanted.physical_bits = 52;
    CHECK_EQ(x86_level_offers(v3, &wanted, why, sizeof(why)), (uint64_t)ERR_UNSUPPORTED);
    uint64_t *const masks[] = {&wanted.insn_features, &wanted.xcr0_mask, &wanted.cr4_mask, &wanted.efer_mask};
    for (size_t m = 0; m < ARRAY_SIZE(masks); m++) {
        wanted = *v3;
        *masks[m] = UINT64_MAX;
        CHECK_EQ(x86_level_offers(v3, &wanted, why, sizeof(why)), (uint64_t)ERR_UNSUPPORTED);
    }
}

/* Of what XCR0 may have, x87 and SSE always; the rest as far as it is offered. */
static void test_what_a_file_may_say_of_xcr0(void)
{
    const uint64_t x87 = X86_XCR0_X87, sse = X86_XCR0_SSE, avx = X86_XCR0_AVX;
    const uint64_t bad[] = {0, x87, sse, avx, x87 | avx, sse | avx};
    const struct x86_level *v3 = x86_level_find("v3");
    struct x86_level wanted = *v3;
    char why[128] = "";
    for (size_t n = 0; n < ARRAY_SIZE(bad); n++) {
        wanted.xcr0_mask = bad[n];
        CHECK_EQ(x86_level_offers(v3, &wanted, why, sizeof(why)), (uint64_t)ERR_UNSUPPORTED);
        CHECK_STR(why, "XCR0 without x87 or SSE is not offered here");
    }
    wanted.xcr0_mask = x87 | sse;
    CHECK_EQ(x86_level_offers(v3, &wanted, why, sizeof(why)), OK);
    wanted.xcr0_mask = x87 | sse | avx;
    CHECK_EQ(x86_level_offers(v3, &wanted, why, sizeof(why)), OK);
}

/* RFC 3720 B.4 */
static void test_crc32c(void)
{
    uint8_t bytes[32] = {0};
    CHECK_EQ(saved_crc32c(0, bytes, 32), 0x8A9136AA);
    memset(bytes, 0xFF, 32);
    CHECK_EQ(saved_crc32c(0, bytes, 32), 0x62A8AB43);
    for (unsigned int n = 0; n < 32; n++)
        bytes[n] = (uint8_t)n;
    CHECK_EQ(saved_crc32c(0, bytes, 32), 0x46DD794E);
    CHECK_EQ(saved_crc32c(saved_crc32c(0, bytes, 8), bytes + 8, 24), 0x46DD794E);
}

int main(void)
{
    UNIT_RUN(test_comes_back);
    UNIT_RUN(test_again_is_the_same);
    UNIT_RUN(test_every_bit_counts);
    UNIT_RUN(test_size_of_the_file);
    UNIT_RUN(test_heads_that_cannot_be);
    UNIT_RUN(test_runs_that_cannot_be);
    UNIT_RUN(test_definitions_that_cannot_be);
    UNIT_RUN(test_levels_that_cannot_be);
    UNIT_RUN(test_promises);
    UNIT_RUN(test_what_a_file_may_say_of_a_level);
    UNIT_RUN(test_what_a_file_may_say_of_xcr0);
    UNIT_RUN(test_crc32c);
    return unit_done();
}
