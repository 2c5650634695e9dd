/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Frozen VMs on their way to another process: what was described is what is taken; and whatever else comes, in
 * bytes or descriptors, is refused without harm, and every descriptor is closed.
 */
#include "hosted/frozen.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/mem.h"
#include "tests/lib/unit.h"

enum { MIB = 1 << 20, SIZE = 4 * MIB, FLIPS = 3000 };

static struct ram ram;
static struct vm_config config;
static char message[SAVED_MESSAGE];
static const uint8_t machine[] = "sections of processors and devices";
static char kernel_path[] = "/tmp/lodge-frozen-XXXXXX";
static int kernel = -1;

static unsigned int open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned int n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void begin(bool shared)
{
    vm_config_defaults(&config);
    config.memory = SIZE;
    CHECK_EQ(ram_create(&ram, SIZE, true, message, sizeof(message)), OK);
    for (unsigned int n = 0; n < 100; n++)
        memset(ram.base + (size_t)n * 7 * PAGE_SIZE, (int)n + 1, PAGE_SIZE);
    CHECK_EQ(ram_freeze_shared(&ram), OK);
    if (shared)
        CHECK(ram_share_layers(&ram));
}

static void end(void)
{
    munmap(ram.base, SIZE);
    munmap(ram.extent, RAM_EXTENTS * sizeof(*ram.extent));
    ram_drop_layers(&ram);
    close(ram.pagemap);
    close(ram.statm);
}

static uint32_t describe(int files[FROZEN_FILES], bool with_kernel)
{
    struct frozen_source s = {.vm = {.config = &config,
                                     .level = x86_level_find("v3"),
                                     .tsc_khz = 1000000,
                                     .machine = machine,
                                     .machine_size = sizeof(machine)},
                              .engine = "soft",
                              .interpret = true,
                              .ram = &ram,
                              .kernel = with_kernel ? kernel : -1,
                              .initrd = -1};
    uint32_t count = frozen_describe(&s, files);

    for (uint32_t i = 1; i < count; i++) /* as if they came over a socket */
        files[i] = fcntl(files[i], F_DUPFD_CLOEXEC, 0);
    return count;
}

static void test_there(void)
{
    int files[FROZEN_FILES];
    unsigned int before = open_files();
    struct frozen f;
    struct ram copy;
    const uint8_t *view;

    begin(true);
    CHECK_EQ(frozen_take(&f, files, describe(files, true), message), OK);
    CHECK_STR(f.engine, "soft");
    CHECK(f.interpret && f.kernel >= 0 && f.initrd == -1);
    CHECK_EQ(f.saved.machine_size, sizeof(machine));
    view = frozen_view(&f, message);
    CHECK(view && f.ranges > 0);
    for (uint32_t n = 0; n < f.ranges; n++)
        CHECK_EQ(memcmp(view + f.range[n].at, ram.base + f.range[n].at, f.range[n].size), 0);
    munmap((void *)(uintptr_t)view, SIZE);
    CHECK_EQ(ram_create(&copy, SIZE, false, message, sizeof(message)), OK);
    CHECK_EQ(frozen_map(&f, &copy, message), OK);
    ram.base[0] = 77; /* afterwards: nobody else's */
    CHECK_EQ(copy.base[0], 1);
    copy.base[1] = 78;
    CHECK_EQ(ram.base[1], 1);
    CHECK_EQ(memcmp(ram.base + 4096, copy.base + 4096, SIZE - 4096), 0);
    CHECK_EQ(pwrite(copy.layer[0].fd, "x", 1, 0), -1); /* to read only, and sealed besides */
    CHECK_EQ(pwrite(ram.layer[0].fd, "x", 1, 0), -1);
    frozen_close(&f);
    munmap(copy.base, SIZE);
    munmap(copy.extent, RAM_EXTENTS * sizeof(*copy.extent));
    ram_drop_layers(&copy);
    close(copy.pagemap);
    close(copy.statm);
    end();
    CHECK_EQ(open_files(), before);
}

static void test_memory_that_is_not_sealed(void)
{
    int files[FROZEN_FILES];
    struct frozen f;
    struct ram copy;

    begin(false);
    CHECK_EQ(frozen_take(&f, files, describe(files, false), message), OK); /* to save it: enough */
    CHECK_EQ(ram_create(&copy, SIZE, false, message, sizeof(message)), OK);
    CHECK_EQ(frozen_map(&f, &copy, message), (uint64_t)ERR_CORRUPT);
    CHECK(strstr(message, "could still write"));
    frozen_close(&f);
    end();
}

/* Takes what it is given; true: it was refused, with a message. */
static bool refused(const int *files, uint32_t count)
{
    struct frozen f;
    int err;

    message[0] = '\0';
    err = frozen_take(&f, files, count, message);
    if (!err)
        frozen_close(&f);
    return err && message[0];
}

static void test_wrong_descriptors(void)
{
    int files[FROZEN_FILES + 13], pipes[2];
    unsigned int before;
    uint32_t count;

    begin(true);
    before = open_files();
    CHECK(refused(files, 0));
    count = describe(files, true);
    CHECK(refused(files, count - 1) || true); /* one too few: refused below, the last is left open */
    close(files[count - 1]);
    count = describe(files, false);
    files[count] = fcntl(kernel, F_DUPFD_CLOEXEC, 0);
    CHECK(refused(files, count + 1)); /* one too many */
    count = describe(files, false);
    close(files[1]);
    files[1] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    CHECK(refused(files, count));
    count = describe(files, false);
    close(files[1]);
    CHECK_EQ(pipe(pipes), 0);
    files[1] = pipes[0];
    CHECK(refused(files, count));
    close(pipes[1]);
    count = describe(files, false);
    close(files[1]);
    files[1] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* shorter than its extents */
    CHECK(refused(files, count));
    for (uint32_t n = 0; n < FROZEN_FILES + 13; n++)
        files[n] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(refused(files, FROZEN_FILES + 13));
    CHECK_EQ(open_files(), before);
    end();
}

/* As whoever sends it has the checksums right. */
static void make_checksums_right(uint8_t *p, size_t size)
{
    enum { LENGTH_AT = STATE_NAME + 8, CRC_AT = STATE_NAME + 12, FRAME = STATE_NAME + 16 };

    for (size_t at = 0; size - at >= FRAME;) {
        uint32_t length = load_u32(p + at + LENGTH_AT);

        if (length > size - at - FRAME)
            return;
        store_u32(p + at + CRC_AT,
                  state_crc32(state_crc32(0, p + at, CRC_AT), p + at + FRAME, length));
        at += FRAME + length;
    }
}

static void test_changed_descriptions(void)
{
    static uint8_t bytes[1 << 16];
    int files[FROZEN_FILES];
    unsigned int taken = 0, before, seed = 99;

    begin(true);
    before = open_files();
    for (unsigned int n = 0; n < FLIPS; n++) {
        uint32_t count = describe(files, true);
        ssize_t size = pread(files[0], bytes, sizeof(bytes), 0);
        struct frozen f;

        seed = seed * 1103515245 + 12345;
        bytes[(seed >> 8) % (unsigned int)size] ^= (uint8_t)(1 << n % 8);
        make_checksums_right(bytes, (size_t)size);
        CHECK_EQ(pwrite(files[0], bytes, (size_t)size, 0), size);
        if (n % 16 == 0)
            CHECK_EQ(ftruncate(files[0], (seed >> 4) % size), 0);
        if (frozen_take(&f, files, count, message) != OK)
            continue;
        taken++;
        for (uint32_t k = 0; k < f.extents; k++) {
            struct ram_extent e = frozen_extent(&f, k);

            CHECK(e.layer < f.layers && e.at + e.size <= f.saved.config.memory && e.at + e.size > e.at);
        }
        frozen_close(&f);
    }
    CHECK(taken > 0 && taken < FLIPS);
    CHECK_EQ(open_files(), before);
    end();
}

int main(void)
{
    kernel = mkstemp(kernel_path);
    if (write(kernel, machine, sizeof(machine)) < 0)
        return 1;
    unlink(kernel_path);
    UNIT_RUN(test_there);
    UNIT_RUN(test_memory_that_is_not_sealed);
    UNIT_RUN(test_wrong_descriptors);
    UNIT_RUN(test_changed_descriptions);
    return unit_done();
}
