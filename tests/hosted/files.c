/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Files that are booted from, on their way to guest RAM: the right bytes at the right place, also
 * while RAM is hidden, and none of a file that is not what it was.
 */
#include "hosted/files.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/ram.h"
#include "tests/lib/unit.h"

enum { SIZE = 300000, RAM = 1 << 20, AT = 0x4000 };

static char path[] = "/tmp/lodge-files-XXXXXX";
static uint8_t bytes[SIZE];
static struct ram ram;
static struct file_kept file;

static void begin(void)
{
    struct file_request r = {"kernel", path, RAM, "use a smaller one"};
    char message[512];
    int fd = open(path, O_WRONLY | O_TRUNC);

    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 251);
    CHECK(write(fd, bytes, SIZE) == SIZE);
    close(fd);
    CHECK_EQ(file_keep(&file, &r, message, sizeof(message)), OK);
    CHECK_EQ(ram_create(&ram, RAM, true, message, sizeof(message)), OK);
    file.ram = &ram;
}

static void end(void)
{
    close(file.fd);
    close(ram.fd);
}

/* Nothing but [at, at + n) is written. */
static void check_load(uint64_t offset, uint64_t at, size_t n)
{
    unit_context("%zu bytes from %llu to %llu", n, (unsigned long long)offset,
                 (unsigned long long)at);
    CHECK(ram_zero(&ram));
    CHECK_EQ(file_kept_load(&file, offset, ram.base + at, n), OK);
    CHECK(memcmp(ram.base + at, bytes + offset, n) == 0);
    CHECK(at == 0 || ram.base[at - 1] == 0);
    CHECK(at + n == RAM || ram.base[at + n] == 0);
    unit_context(NULL);
}

static void test_load(void)
{
    begin();
    check_load(0, 0, SIZE);
    check_load(0, RAM - SIZE, SIZE);
    check_load(17408, AT, SIZE - 17408);
    check_load(17409, AT + 3, 70001);
    check_load(SIZE - 1, AT, 1);
    end();
}

static void test_load_while_hidden(void)
{
    begin();
    CHECK(ram_hide(ram.base + AT, 0x20000));
    CHECK_EQ(file_kept_load(&file, 512, ram.base + AT, 0x20000), OK);
    CHECK(ram_show(ram.base + AT, 0x20000));
    CHECK(memcmp(ram.base + AT, bytes + 512, 0x20000) == 0);
    end();
}

static void test_changed(void)
{
    begin();
    CHECK(file_kept_reaches(&file, SIZE) && !file_kept_reaches(&file, SIZE + 1));
    CHECK(truncate(path, 8192) == 0);
    CHECK(!file_kept_reaches(&file, 8192));
    for (int whole = 0; whole < 2; whole++) { /* all that is wanted may be there still */
        CHECK_EQ(file_kept_load(&file, 0, ram.base, whole ? SIZE : 4096), (uint64_t)ERR_IO);
        CHECK_STR(file.failure, "it has changed since the VM was started");
    }
    end();
}

/* One that does not look changed: its size was never true. */
static void test_shorter_than_it_says(void)
{
    begin();
    CHECK(truncate(path, 100000) == 0 && fstat(file.fd, &file.stat) == 0);
    CHECK_EQ(file_kept_load(&file, 0, ram.base, SIZE), (uint64_t)ERR_IO);
    CHECK_STR(file.failure, "it has fewer bytes than its size says");
    end();
}

/* A memfd that refuses stands for a host that has no more memory. */
static void test_ram_that_takes_nothing(void)
{
    begin();
    close(ram.fd);
    ram.fd = open(path, O_RDONLY);
    CHECK_EQ(file_kept_load(&file, 0, ram.base, 4096), (uint64_t)ERR_IO);
    CHECK_STR(file.failure, "Bad file descriptor");
    end();
}

int main(void)
{
    int fd = mkstemp(path);

    if (fd < 0)
        return 1;
    close(fd);
    UNIT_RUN(test_load);
    UNIT_RUN(test_load_while_hidden);
    UNIT_RUN(test_changed);
    UNIT_RUN(test_shorter_than_it_says);
    UNIT_RUN(test_ram_that_takes_nothing);
    unlink(path);
    return unit_done();
}
