/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Fatal signals: each case is a child that gets into trouble; its end and last words are checked.
 */
#include "hosted/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/seam.h"
#include "hosted/ram.h"
#include "hosted/status.h"
#include "tests/lib/unit.h"

static uint8_t *ram; /* two pages, of which the host "has" only the first */

static void touch_ram(void)
{
    *(volatile uint8_t *)(ram + 4096) = 1;
}

static void touch_null(void)
{
    *(volatile uint8_t *)(uintptr_t)8 = 1;
}

static int recurse(volatile int *depth)
{
    volatile char frame[4096];

    frame[0] = (char)++*depth;
    if (*depth == 1 << 20) /* 4 GiB of stack: never reached */
        return 0;
    return recurse(depth) + frame[0];
}

static void overflow_stack(void)
{
    volatile int depth = 0;

    (void)recurse(&depth);
}

static void break_promise(void)
{
    seam_panic("file.c", 12, "a promise was broken");
}

static void bad_instruction(void)
{
    __asm__ volatile("ud2");
}

static const struct {
    const char *name;
    void (*body)(void);
    int signal; /* 0: it exits, with `status` */
    int status;
    const char *says;
} cases[] = {
    {"no memory for guest RAM", touch_ram, 0, STATUS_HOST, "no memory left for guest RAM"},
    {"null pointer", touch_null, SIGSEGV, 0, "bad memory access (signal 11, address 8)"},
    {"stack overflow", overflow_stack, SIGSEGV, 0, "bad memory access"},
    {"panic", break_promise, SIGABRT, 0, "panic: file.c:12: a promise was broken"},
    {"undefined instruction", bad_instruction, SIGILL, 0, "illegal instruction"},
};

static void run_child(size_t i, int said)
{
    static const struct rlimit none = {0, 0};

    dup2(said, STDERR_FILENO);
    setrlimit(RLIMIT_CORE, &none);
    terminal_prepare(&(struct ram){.base = ram, .size = 8192});
    cases[i].body();
    _exit(0);
}

static void check_case(size_t i)
{
    char text[1024] = "";
    size_t n = 0;
    int status = 0, fds[2];
    pid_t child;

    unit_context("%s", cases[i].name);
    CHECK(pipe(fds) == 0);
    child = fork();
    if (child == 0)
        run_child(i, fds[1]);
    close(fds[1]);
    for (ssize_t got; (got = read(fds[0], text + n, sizeof(text) - 1 - n)) > 0;)
        n += (size_t)got;
    close(fds[0]);
    CHECK(waitpid(child, &status, 0) == child);
    if (cases[i].signal)
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == cases[i].signal);
    else
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == cases[i].status);
    CHECK(strstr(text, cases[i].says) != NULL);
    CHECK(strstr(text, "lodge: ") != NULL);
}

static void test_last_words(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_case(i);
}

int main(void)
{
    int fd = memfd_create("test", 0);

    if (ftruncate(fd, 4096) == 0)
        ram = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!ram || ram == MAP_FAILED)
        return 1;
    UNIT_RUN(test_last_words);
    return unit_done();
}
