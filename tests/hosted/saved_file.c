/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Saved VMs as files: what was written is mapped again, as large on the disk as it has pages that are not
 * zero; damage is noticed; and what cannot be written leaves nothing, and what was there before.
 */
#include "hosted/saved_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/unit.h"

enum { MEMORY = 4 << 20 };

static char directory[] = "/tmp/lodge-saved-XXXXXX", path[sizeof(directory) + 8];
static char message[SAVED_MESSAGE];
static struct vm_config config;
static const uint8_t machine[] = "sections of processors and devices";
static uint8_t *memory, buffer[SAVED_PIECE];

static struct saved_image image_of(uint8_t *ram, uint64_t size)
{
    static struct saved_range whole;

    config.memory = size;
    whole = (struct saved_range){0, size};
    return (struct saved_image){.config = &config,
                                .level = x86_level_find("v3"),
                                .tsc_khz = 2000000,
                                .machine = machine,
                                .machine_size = sizeof(machine),
                                .ram = ram,
                                .range = &whole,
                                .ranges = 1,
                                .gap = SAVED_FILE_GAP};
}

/* Four pages, the middle two near enough to be one run, the last alone: 3 runs, 4 pages. */
static void fill(void)
{
    static const unsigned int pages[] = {0, 100, 131, MEMORY / PAGE_SIZE - 1};

    memset(memory, 0, MEMORY);
    for (size_t n = 0; n < ARRAY_SIZE(pages); n++) {
        for (unsigned int k = 0; k < PAGE_SIZE; k++)
            memory[pages[n] * PAGE_SIZE + k] = (uint8_t)(k * 7 + n);
    }
}

static int save(void)
{
    struct saved_image i = image_of(memory, MEMORY);

    return saved_file_write(path, &i, message);
}

static unsigned int files(void)
{
    DIR *d = opendir(directory);
    unsigned int n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n - 2; /* . and .. */
}

static void test_there_and_back(void)
{
    struct saved_file f;
    struct stat st;
    struct ram ram;
    uint64_t piece = 0;

    fill();
    CHECK_EQ(save(), OK);
    CHECK_EQ(files(), 1);
    CHECK(stat(path, &st) == 0);
    CHECK_EQ(st.st_mode & 07777, 0600);
    CHECK_EQ(saved_file_open(&f, path, message), OK);
    CHECK_EQ(f.saved.runs, 3);
    CHECK_EQ(saved_run_at(&f.saved, 1).size, 32 * PAGE_SIZE);
    CHECK((uint64_t)st.st_blocks * 512 <= f.head.pages + 4 * PAGE_SIZE);
    CHECK_EQ(f.saved.machine_size, sizeof(machine));
    CHECK_EQ(memcmp(f.saved.machine, machine, sizeof(machine)), 0);
    CHECK_EQ(ram_create(&ram, MEMORY, false, message, sizeof(message)), OK);
    CHECK_EQ(saved_file_map(&f, &ram, message), OK);
    CHECK_EQ(memcmp(ram.base, memory, MEMORY), 0);
    ram.base[5] ^= 1; /* is not the file's */
    while (piece < f.saved.pieces)
        CHECK_EQ(saved_file_verify(&f, &piece, 1, buffer, message), OK);
    CHECK_EQ(piece, 1 + 2 + 1);
    CHECK(ram_zero(&ram));
    munmap(ram.base, MEMORY);
    saved_file_close(&f);
}

static void test_all_zero(void)
{
    struct saved_file f;
    uint64_t piece = 0;

    memset(memory, 0, MEMORY);
    CHECK_EQ(save(), OK);
    CHECK_EQ(saved_file_open(&f, path, message), OK);
    CHECK_EQ(f.saved.runs, 0);
    CHECK_EQ(saved_file_verify(&f, &piece, 10, buffer, message), OK);
    saved_file_close(&f);
}

static void change_byte(uint64_t at)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;

    CHECK(pread(fd, &byte, 1, (off_t)at) == 1);
    byte ^= 0x10;
    CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
    close(fd);
}

static void test_damage(void)
{
    struct saved_file f;
    uint64_t piece = 0, last;

    fill();
    CHECK_EQ(save(), OK);
    CHECK_EQ(saved_file_open(&f, path, message), OK);
    last = f.head.file_size - 1;
    saved_file_close(&f);
    change_byte(last);
    CHECK_EQ(saved_file_open(&f, path, message), OK);
    CHECK_EQ(saved_file_verify(&f, &piece, 100, buffer, message), (uint64_t)ERR_CORRUPT);
    CHECK(strstr(message, "damaged at byte"));
    CHECK_EQ(truncate(path, (off_t)f.head.pages), 0);
    piece = 0;
    CHECK_EQ(saved_file_verify(&f, &piece, 100, buffer, message), (uint64_t)ERR_CORRUPT);
    saved_file_close(&f);
    CHECK_EQ(saved_file_open(&f, path, message), (uint64_t)ERR_TRUNCATED);
    CHECK(strstr(message, "cut off") && strstr(message, path));
    CHECK_EQ(truncate(path, 10), 0);
    CHECK_EQ(saved_file_open(&f, path, message), (uint64_t)ERR_TRUNCATED);
    CHECK_EQ(f.fd, -1);
    CHECK_EQ(truncate(path, 0), 0);
    CHECK_EQ(saved_file_open(&f, path, message), (uint64_t)ERR_TRUNCATED);
    CHECK_EQ(save(), OK);
    change_byte(SAVED_HEAD + 40);
    CHECK_EQ(saved_file_open(&f, path, message), (uint64_t)ERR_CORRUPT);
}

static void test_what_is_no_file(void)
{
    struct saved_file f;
    char fifo[64];

    CHECK_EQ(saved_file_open(&f, directory, message), (uint64_t)ERR_INVALID);
    CHECK_EQ(saved_file_open(&f, "/nowhere/x", message), (uint64_t)ERR_INVALID);
    snprintf(fifo, sizeof(fifo), "%s/fifo", directory);
    CHECK_EQ(mkfifo(fifo, 0600), 0);
    CHECK_EQ(saved_file_open(&f, fifo, message), (uint64_t)ERR_INVALID); /* at once */
    unlink(fifo);
}

/* A file size limit stands for a full disk. */
static void test_what_cannot_be_written(void)
{
    struct rlimit none = {8192, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    struct saved_file f;

    fill();
    CHECK_EQ(save(), OK);
    signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
    CHECK_EQ(save(), (uint64_t)ERR_IO);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &all), 0);
    CHECK_EQ(files(), 1);
    CHECK_EQ(saved_file_open(&f, path, message), OK); /* the one from before */
    saved_file_close(&f);

    struct saved_image i = image_of(memory, MEMORY);
    CHECK(saved_file_write("/nowhere/x", &i, message) != OK);
    CHECK(strstr(message, "/nowhere/x"));
    CHECK(saved_file_write(directory, &i, message) != OK); /* is a directory: cannot be replaced */
    CHECK_EQ(files(), 1);
}

/* More runs than a file may have: larger gaps are written as holes. */
static void test_too_many_runs(void)
{
    const uint64_t step = 33 * PAGE_SIZE, size = (SAVED_RUNS_MAX + 2) * step / MIB(1) * MIB(1) + MIB(1);
    uint8_t *large = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct saved_image i = image_of(large, size);
    struct saved_file f;

    CHECK(large != MAP_FAILED);
    for (uint64_t n = 0; n < SAVED_RUNS_MAX + 2; n++)
        large[n * step] = 1;
    CHECK_EQ(saved_file_write(path, &i, message), OK);
    CHECK_EQ(saved_file_open(&f, path, message), OK);
    CHECK_EQ(f.saved.runs, 1);
    saved_file_close(&f);
    munmap(large, size);
}

int main(void)
{
    CHECK(mkdtemp(directory) != NULL);
    snprintf(path, sizeof(path), "%s/vm", directory);
    vm_config_defaults(&config);
    memory = calloc(1, MEMORY);
    UNIT_RUN(test_there_and_back);
    UNIT_RUN(test_all_zero);
    UNIT_RUN(test_damage);
    UNIT_RUN(test_what_is_no_file);
    UNIT_RUN(test_what_cannot_be_written);
    UNIT_RUN(test_too_many_runs);
    unlink(path);
    rmdir(directory);
    return unit_done();
}
