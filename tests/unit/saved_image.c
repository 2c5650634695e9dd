/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* A VM as the bytes of a file (machine/saved_image.c): whatever pieces are asked for, they are those of one file, which says what RAM is. */
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "machine/saved_image.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

enum { MEMORY = 4 << 20, PAGES = MEMORY / PAGE_SIZE, FILE_MAX = MEMORY + (1 << 20) };

static struct vm_config config;
static const uint8_t machine[] = "sections of processors and devices";
static uint8_t ram[MEMORY] __attribute__((aligned(PAGE_SIZE))), back[MEMORY];
static uint8_t file[FILE_MAX] __attribute__((aligned(8))), piece[FILE_MAX], packed[MEMORY];
static char message[SAVED_MESSAGE];
static unsigned int polls;

static void poll(void)
{
    polls++;
}

static struct saved_image image_of(uint32_t gap)
{
    static const struct saved_range range[] = {{0, 1 << 20}, {2 << 20, 2 << 20}}; /* the second MiB is known to be zero */

    vm_config_defaults(&config);
    config.memory = MEMORY;
    return (struct saved_image){.config = &config,
                                .level = x86_level_find("v3"),
                                .tsc_khz = 2000000,
                                .machine = machine,
                                .machine_size = sizeof(machine),
                                .ram = ram,
                                .range = range,
                                .ranges = 2,
                                .gap = gap,
                                .poll = poll};
}

static void fill(unsigned int one_in)
{
    memset(ram, 0, MEMORY);
    for (unsigned int n = 0; n < PAGES; n++) {
        if ((n < 256 || n >= 512) && (unsigned int)rand() % one_in == 0)
            memset(ram + n * PAGE_SIZE, 1 + rand() % 255, PAGE_SIZE);
    }
}

/* Reads the file as a restore does. */
static void check_file(uint64_t size)
{
    struct saved_head h;
    struct saved s;
    uint64_t sum = 0;

    CHECK_EQ(saved_get_head(&h, file, size, message), OK);
    CHECK_EQ(saved_get_metadata(&s, &h, file + SAVED_HEAD, message), OK);
    memset(back, 0, MEMORY);
    for (uint32_t n = 0; n < s.runs; n++) {
        struct saved_run r = saved_run_at(&s, n);

        for (uint64_t at = 0; at < r.size; at += SAVED_PIECE)
            CHECK_EQ(saved_crc32c(0, file + r.file + at, r.size - at < SAVED_PIECE ? r.size - at : SAVED_PIECE),
                     saved_sum_at(&s, sum++));
        memcpy(back + r.ram, file + r.file, r.size);
    }
    CHECK_EQ(memcmp(back, ram, MEMORY), 0);
    CHECK_EQ(s.machine_size, sizeof(machine));
    CHECK_EQ(memcmp(s.machine, machine, sizeof(machine)), 0);
}

static void check_pieces(const struct saved_writing *w)
{
    for (uint64_t at = 0, n; at < w->file_size; at += n) {
        n = 1 + (uint64_t)rand() % 10000;
        if (n > w->file_size - at)
            n = w->file_size - at;
        memset(piece, 0xA5, n + 1);
        saved_writing_read(w, at, piece, n);
        CHECK_EQ(memcmp(piece, file + at, n), 0);
        CHECK_EQ(piece[n], 0xA5);
    }
}

static void check_image(unsigned int one_in, uint32_t gap)
{
    struct saved_image i = image_of(gap);
    struct saved_writing w;

    fill(one_in);
    CHECK_EQ(saved_writing_begin(&w, &i), OK);
    CHECK(w.file_size <= FILE_MAX);
    saved_writing_read(&w, 0, file, w.file_size);
    check_file(w.file_size);
    check_pieces(&w);
    memcpy(packed, file + w.pages, w.file_size - w.pages);
    w.packed = packed;
    memset(ram, 0xEE, MEMORY); /* it goes on */
    check_pieces(&w);
    saved_writing_end(&w);
    CHECK_EQ(fake_seam_allocations(), 0);
}

static void test_images(void)
{
    static const unsigned int one_in[] = {1, 2, 7, 100, 100000};

    for (size_t i = 0; i < ARRAY_SIZE(one_in); i++) {
        check_image(one_in[i], 1);
        check_image(one_in[i], 32);
    }
    CHECK(polls > 0);
}

/* No page that is zero is in the file when none may be. */
static void test_gaps(void)
{
    struct saved_image i = image_of(1);
    struct saved_writing w;

    memset(ram, 0, MEMORY);
    for (unsigned int n = 0; n < 200; n += 2)
        ram[n * PAGE_SIZE + 4095] = 1;
    CHECK_EQ(saved_writing_begin(&w, &i), OK);
    CHECK_EQ(w.source.runs, 100);
    CHECK_EQ(w.file_size - w.pages, 100 * PAGE_SIZE);
    saved_writing_end(&w);
    i.gap = 2;
    CHECK_EQ(saved_writing_begin(&w, &i), OK);
    CHECK_EQ(w.source.runs, 1);
    CHECK_EQ(w.file_size - w.pages, 199 * PAGE_SIZE);
    saved_writing_end(&w);
}

static void test_no_memory(void)
{
    struct saved_image i = image_of(1);
    struct saved_writing w;

    fill(3);
    for (unsigned int n = 1; n <= 3; n++) {
        fake_seam_fail_allocation(n);
        CHECK_EQ(saved_writing_begin(&w, &i), (uint64_t)ERR_NO_MEMORY);
        CHECK_EQ(fake_seam_allocations(), 0);
    }
    fake_seam_fail_allocation(0);
}

int main(void)
{
    UNIT_RUN(test_images);
    UNIT_RUN(test_gaps);
    UNIT_RUN(test_no_memory);
    return unit_done();
}
