/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The unit tests' frame: counts, prints, and fails a program in which nothing ran. */
#include "tests/lib/unit.h"

#include <stdarg.h>
#include <string.h>

static unsigned int tests_run, tests_failed, failures_now;
static char context[256];

void unit_context(const char *format, ...)
{
    context[0] = '\0';
    if (!format)
        return;
    va_list ap;
    va_start(ap, format);
    vsnprintf(context, sizeof(context), format, ap);
    va_end(ap);
}

/* Only the first few are shown: a broken loop must not drown the rest. */
static bool count_failure(void)
{
    return failures_now++ < 10;
}

void unit_fail(const char *file, int line, const char *text)
{
    if (count_failure())
        printf("  %s:%d: failed: %s%s%s\n", file, line, text, context[0] ? " in " : "", context);
}

void unit_check_eq(const char *file, int line, const char *text, uint64_t a, uint64_t b)
{
    if (a != b && count_failure())
        printf("  %s:%d: failed: %s: %#" PRIx64 " and %#" PRIx64 "%s%s\n", file, line, text, a, b,
               context[0] ? " in " : "", context);
}

void unit_check_str(const char *file, int line, const char *text, const char *a, const char *b)
{
    if (strcmp(a, b) != 0 && count_failure())
        printf("  %s:%d: failed: %s: \"%s\" and \"%s\"%s%s\n", file, line, text, a, b,
               context[0] ? " in " : "", context);
}

unsigned int unit_failures(void)
{
    return failures_now;
}

void unit_run(const char *name, void (*test)(void))
{
    failures_now = 0;
    context[0] = '\0';
    test();
    tests_run++;
    if (failures_now > 0) {
        tests_failed++;
        printf("not ok %s (%u failures)\n", name, failures_now);
    } else {
        printf("ok %s\n", name);
    }
    fflush(stdout);
}

int unit_done(void)
{
    return tests_run > 0 && tests_failed == 0 ? 0 : 1;
}
