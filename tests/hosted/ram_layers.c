/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Frozen RAM: what layers say it was stays so, whatever is written afterwards; what is read through the mapping is
 * always what was written last; memory held twice is given back; and none of it makes too many mappings. A copy in
 * plain memory is what everything is compared with.
 */
#include "hosted/ram_pages.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/err.h"
#include "tests/lib/unit.h"

enum { MIB = 1 << 20, SIZE = 24 * MIB, PAGES_IN_RAM = SIZE / PAGE_SIZE };

static struct ram ram;
static uint8_t *now, *then; /* what RAM is, and was when it was last frozen */
static uint64_t seed = 12345;
static bool never_searched; /* as on hosts that cannot */

static uint32_t random_below(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static void begin(bool shared)
{
    char message[256];

    CHECK_EQ(ram_create(&ram, SIZE, shared, message, sizeof(message)), OK);
    ram_watch(&ram);
    ram.is_searched &= !never_searched;
    memset(now, 0, SIZE);
}

static void end(void)
{
    munmap(ram.base, ram.size);
    ram_drop_layers(&ram);
    munmap(ram.extent, RAM_EXTENTS * sizeof(*ram.extent));
    if (ram.fd >= 0)
        close(ram.fd);
    close(ram.pagemap);
}

static void write_page(uint32_t page)
{
    uint32_t at = page * (uint32_t)PAGE_SIZE + random_below(PAGE_SIZE - 8);

    for (uint32_t i = 0; i < 8; i++)
        ram.base[at + i] = now[at + i] = (uint8_t)random_below(256);
}

static void write_some(uint32_t count)
{
    for (uint32_t n = 0; n < count; n++)
        write_page(random_below(PAGES_IN_RAM));
}

/* As freeze.c does it. */
static int freeze(uint32_t *layer)
{
    int err = OK;

    if (ram.fd >= 0) {
        for (uint64_t p = 0; p < ram_pieces(&ram); p++)
            ram_unmap_piece(&ram, p);
        err = ram_freeze_shared(&ram);
    } else {
        err = ram_begin_move(&ram, layer);
        if (!err)
            err = ram_move_all(&ram, *layer);
        if (!err)
            ram_end_move(&ram);
    }
    memcpy(then, now, SIZE);
    return err;
}

/* Of what the layers say: without the mapping. */
static void read_layers(uint8_t *to)
{
    memset(to, 0, SIZE);
    for (uint32_t i = 0; i < ram.extents; i++) {
        const struct ram_extent *e = &ram.extent[i];

        CHECK(i == 0 || ram.extent[i - 1].at + ram.extent[i - 1].size <= e->at);
        CHECK(e->at + e->size <= SIZE && e->size > 0);
        CHECK_EQ(pread(ram.layer[e->layer].fd, to + e->at, e->size, (off_t)e->offset), (ssize_t)e->size);
    }
}

static void check_all(void)
{
    static uint8_t frozen[SIZE];

    CHECK(memcmp(ram.base, now, SIZE) == 0);
    read_layers(frozen);
    CHECK(memcmp(frozen, then, SIZE) == 0);
}

static uint64_t held(int fd)
{
    struct stat st;

    CHECK_EQ(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void test_shared_is_frozen(void)
{
    uint32_t layer;

    begin(true);
    for (uint32_t n = 0; n < 100; n++)
        write_page(n);
    write_page(PAGES_IN_RAM - 1);
    CHECK_EQ(freeze(&layer), OK);
    CHECK_EQ(ram.fd, -1);
    CHECK_EQ(ram.extents, 2); /* nothing in between is mapped from anything */
    check_all();
    write_some(3000);
    check_all();
    end();
}

static void test_again_and_again(void)
{
    uint32_t layer;

    for (int shared = 0; shared < 2; shared++) {
        begin(shared);
        for (int n = 0; n < 40; n++) { /* more often than there are layers */
            unit_context("%s, freeze %d", shared ? "shared" : "private", n);
            write_some(random_below(400));
            CHECK_EQ(freeze(&layer), OK);
            check_all();
            write_some(random_below(400));
            check_all();
            for (uint64_t p = 0; p < ram_pieces(&ram); p += 1 + random_below(2))
                ram_tidy_piece(&ram, p);
            CHECK(memcmp(ram.base, now, SIZE) == 0);
        }
        end();
    }
    unit_context(NULL);
}

/* What was moved while the guest ran, and written again afterwards, is of the last moment. */
static void test_pieces_while_it_runs(void)
{
    uint32_t layer;

    begin(true);
    write_some(500);
    CHECK_EQ(freeze(&layer), OK);
    for (int n = 0; n < 10; n++) {
        write_some(500);
        CHECK_EQ(ram_begin_move(&ram, &layer), OK);
        for (uint64_t p = 0; p < ram_pieces(&ram); p++) {
            CHECK_EQ(ram_move_piece(&ram, layer, p), OK);
            write_some(50);
        }
        for (uint64_t p = 0; p < ram_pieces(&ram); p++)
            CHECK_EQ(ram_move_piece(&ram, layer, p), OK);
        CHECK_EQ(ram_move_all(&ram, layer), OK);
        ram_end_move(&ram);
        memcpy(then, now, SIZE);
        write_some(50);
        check_all();
    }
    end();
}

/* Marks the guest's own pages in [at, end), and counts runs, which must rise and not touch. */
static uint32_t search(bool own[PAGES_IN_RAM], uint64_t at, uint64_t end)
{
    struct ram_search s;
    struct ram_run run = {0};
    uint64_t last = at;
    uint32_t runs = 0;

    memset(own, 0, PAGES_IN_RAM);
    ram_search_begin(&s, &ram, at, end);
    while (ram_search_next(&s, &run)) {
        CHECK(run.at >= last && (runs == 0 || run.at > last) && run.end > run.at && run.end <= end);
        for (uint64_t page = run.at / PAGE_SIZE; page < run.end / PAGE_SIZE; page++)
            own[page] = true;
        last = run.end;
        runs++;
    }
    CHECK(!s.failed);
    return runs;
}

/* Every other page of the first half, none of some, all of the rest, which go on over whatever is looked at in one go. */
static void test_own_pages_are_found(void)
{
    static bool own[PAGES_IN_RAM];
    uint32_t layer, half = PAGES_IN_RAM / 2, full = half + 100;

    begin(true);
    for (uint32_t page = 0; page < PAGES_IN_RAM; page++)
        write_page(page);
    CHECK_EQ(freeze(&layer), OK);
    CHECK_EQ(search(own, 0, SIZE), 0);
    for (uint32_t page = 0; page < half; page += 2)
        write_page(page);
    for (uint32_t page = full; page < PAGES_IN_RAM; page++)
        write_page(page);
    for (uint32_t page = half; page < full; page++)
        CHECK_EQ(ram.base[page * PAGE_SIZE], now[page * PAGE_SIZE]); /* present, and not its own */
    CHECK_EQ(search(own, 0, SIZE), half / 2 + 1);
    for (uint32_t page = 0; page < PAGES_IN_RAM; page++)
        CHECK_EQ(own[page], page < half ? page % 2 == 0 : page >= full);
    CHECK_EQ(search(own, PAGE_SIZE, SIZE - PAGE_SIZE), half / 2);
    CHECK(!own[0] && own[2] && !own[PAGES_IN_RAM - 1]);
    CHECK_EQ(search(own, PAGE_SIZE, PAGE_SIZE), 0);
    end();
}

/* Whether the host says so or each page is looked at. */
static void test_both_searches_find_the_same(void)
{
    static bool own[PAGES_IN_RAM], same[PAGES_IN_RAM];
    uint32_t layer;

    begin(true);
    for (int n = 0; n < 20; n++) {
        bool can = ram.is_searched;
        uint32_t runs;

        write_some(random_below(2000));
        if (n == 0)
            CHECK_EQ(freeze(&layer), OK);
        runs = search(own, 0, SIZE);
        ram.is_searched = false;
        CHECK_EQ(search(same, 0, SIZE), runs);
        ram.is_searched = can;
        CHECK(memcmp(own, same, sizeof(own)) == 0);
        CHECK(n == 0 || runs > 0);
        CHECK_EQ(freeze(&layer), OK);
    }
    end();
}

static void test_nobody_says_which_pages(void)
{
    uint32_t layer;

    for (int can = 0; can < 2; can++) {
        begin(true);
        write_some(100);
        CHECK_EQ(freeze(&layer), OK);
        write_some(100);
        close(ram.pagemap);
        ram.pagemap = open("/dev/null", O_RDONLY);
        ram.is_searched = can;
        CHECK_EQ(ram_begin_move(&ram, &layer), OK);
        CHECK_EQ(ram_move_all(&ram, layer), (uint64_t)ERR_NO_MEMORY);
        ram_end_move(&ram);
        CHECK(memcmp(ram.base, now, SIZE) == 0);
        end();
    }
}

static void test_zero_pages_are_not_held(void)
{
    uint32_t layer;

    begin(false);
    for (uint32_t at = 0; at < SIZE; at += PAGE_SIZE)
        CHECK_EQ(ram.base[at], 0);           /* the zero page: nobody's own */
    memset(ram.base + MIB, 0, MIB);          /* own, and zero */
    memset(ram.base + 4 * MIB, 1, PAGE_SIZE);
    memset(now + 4 * MIB, 1, PAGE_SIZE);
    CHECK_EQ(freeze(&layer), OK);
    check_all();
    CHECK_EQ(held(ram.layer[layer].fd), PAGE_SIZE);
    memset(ram.base + 4 * MIB, 0, PAGE_SIZE); /* zero over something: that counts */
    memset(now + 4 * MIB, 0, PAGE_SIZE);
    CHECK_EQ(freeze(&layer), OK);
    check_all();
    end();
}

static void test_what_is_held_twice_is_given_back(void)
{
    uint32_t layer, second;

    begin(true);
    for (uint32_t n = 0; n < 1000; n++)
        write_page(n);
    CHECK_EQ(freeze(&layer), OK);
    CHECK_EQ(held(ram.layer[0].fd), 1000 * PAGE_SIZE);
    for (uint32_t n = 200; n < 300; n++)
        write_page(n);
    ram.layer[0].lent = 1; /* somebody reads: it has to stay */
    ram_tidy_piece(&ram, 0);
    CHECK_EQ(held(ram.layer[0].fd), 1000 * PAGE_SIZE);
    CHECK(!ram_can_be_tidied(&ram));
    ram.layer[0].lent = 0;
    CHECK(ram_can_be_tidied(&ram));
    ram_tidy_piece(&ram, 0);
    CHECK_EQ(held(ram.layer[0].fd), 900 * PAGE_SIZE);
    CHECK(memcmp(ram.base, now, SIZE) == 0);
    for (uint32_t n = 0; n < 100; n++)
        write_page(n);
    CHECK_EQ(freeze(&second), OK); /* what is mapped from elsewhere now goes as well */
    CHECK_EQ(held(ram.layer[0].fd), 800 * PAGE_SIZE);
    check_all();
    ram.layer[second].is_shared = true;
    write_page(5);
    ram_tidy_piece(&ram, 0);
    CHECK_EQ(held(ram.layer[second].fd), 200 * PAGE_SIZE);
    end();
}

/* A layer that nothing is mapped from any more does not stay open. */
static void test_layers_end(void)
{
    uint32_t layer;

    begin(true);
    write_page(7);
    CHECK_EQ(freeze(&layer), OK);
    for (uint32_t n = 0; n < 3; n++) {
        write_page(7);
        CHECK_EQ(freeze(&layer), OK);
        CHECK_EQ(ram.extents, 1);
    }
    for (uint32_t i = 0; i < RAM_LAYERS; i++)
        CHECK(ram.layer[i].fd < 0 || i == layer);
    end();
}

static unsigned int mappings(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    unsigned int n = 0;

    for (int c; (c = fgetc(f)) != EOF;)
        n += c == '\n';
    fclose(f);
    return n;
}

/* Every other page, then the others: the worst that a guest can do to the list. */
static void test_mappings_are_bounded(void)
{
    uint32_t layer;

    begin(true);
    memset(ram.base, 3, SIZE);
    memset(now, 3, SIZE);
    CHECK_EQ(freeze(&layer), OK);
    for (int n = 0; n < 4; n++) {
        for (uint32_t page = (uint32_t)n * 9; page < PAGES_IN_RAM; page += 40)
            write_page(page);
        CHECK_EQ(freeze(&layer), OK);
        check_all();
        CHECK(ram.extents <= RAM_EXTENTS / 2 + 1);
        CHECK(mappings() <= ram.extents + 200);
    }
    end();
}

static void test_zeroed(void)
{
    uint32_t layer;

    for (int shared = 0; shared < 2; shared++) {
        begin(shared);
        write_some(300);
        CHECK_EQ(freeze(&layer), OK);
        write_some(300);
        CHECK(ram_zero(&ram));
        memset(now, 0, SIZE);
        CHECK_EQ(ram.extents, 0);
        CHECK(memcmp(ram.base, now, SIZE) == 0);
        write_some(300);
        CHECK_EQ(freeze(&layer), OK);
        check_all();
        end();
    }
}

/* No room for another memfd, or for its pages: RAM is what it was. A limit in a child of its own. */
static void test_no_room(void)
{
    static const struct rlimit none = {MIB, MIB};
    uint32_t layer;
    int status;
    pid_t child;

    begin(true);
    memset(ram.base, 9, 4 * MIB);
    memset(now, 9, 4 * MIB);
    CHECK_EQ(freeze(&layer), OK);
    write_some(2000);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        int err;

        close(ram.pagemap);
        ram.pagemap = open("/proc/self/pagemap", O_RDONLY);
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &none);
        err = ram_begin_move(&ram, &layer);
        _exit(err == ERR_NO_MEMORY && memcmp(ram.base, now, SIZE) == 0 ? 0 : 1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    close(ram.pagemap);
    ram.pagemap = -1;
    CHECK_EQ(ram_begin_move(&ram, &layer), (uint64_t)ERR_UNSUPPORTED);
    CHECK(memcmp(ram.base, now, SIZE) == 0);
    end();
}

static void test_a_file_that_is_cut(void)
{
    char path[] = "/tmp/lodge-layer-XXXXXX";
    struct ram_extent e = {.at = 0, .size = PAGE_SIZE};
    int fd = mkstemp(path);

    begin(false);
    CHECK_EQ(ftruncate(fd, 3 * PAGE_SIZE), 0);
    CHECK_EQ(ram_add_layer(&ram, fd, false, &e.layer), OK);
    CHECK_EQ(ram_map(&ram, &e), OK);
    CHECK(!ram_was_cut(&ram));
    CHECK_EQ(truncate(path, 2 * PAGE_SIZE), 0);
    CHECK(ram_was_cut(&ram));
    unlink(path);
    end();
}

int main(void)
{
    now = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    then = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    UNIT_RUN(test_both_searches_find_the_same);
    UNIT_RUN(test_nobody_says_which_pages);
    for (int n = 0; n < 2; n++) {
        never_searched = n;
        UNIT_RUN(test_shared_is_frozen);
        UNIT_RUN(test_own_pages_are_found);
        UNIT_RUN(test_again_and_again);
        UNIT_RUN(test_pieces_while_it_runs);
        UNIT_RUN(test_zero_pages_are_not_held);
        UNIT_RUN(test_what_is_held_twice_is_given_back);
        UNIT_RUN(test_layers_end);
        UNIT_RUN(test_mappings_are_bounded);
        UNIT_RUN(test_zeroed);
    }
    UNIT_RUN(test_no_room);
    UNIT_RUN(test_a_file_that_is_cut);
    return unit_done();
}
