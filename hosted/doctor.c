/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * `lodge doctor` looks at what `lodge run` would meet, by the same functions, and says it. It
 * changes nothing and always ends with status 0: it answers a question, the answer is the text.
 */
#include "hosted/doctor.h"

#include <cpuid.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/seam.h"
#include "hosted/engines.h"
#include "hosted/ram.h"
#include "hosted/sandbox.h"
#include "hosted/seam.h"

static void line(const char *what, const char *format, ...) printf_like(2, 3);
static void line(const char *what, const char *format, ...)
{
    va_list ap;

    printf("%-12s ", what);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
}

static void show_processor(void)
{
    unsigned int r[12] = {0}, a, b, c = 0, d;
    const char *brand = (const char *)r;

    for (unsigned int i = 0; i < 3; i++)
        (void)__get_cpuid(0x80000002 + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
    line("processor", "%.48s, %ld online", brand + strspn(brand, " "),
         sysconf(_SC_NPROCESSORS_ONLN));
    if (__get_cpuid(1, &a, &b, &c, &d) && c >> 31)
        line("", "is virtual itself (a hypervisor runs below)");
    if (__get_cpuid(1, &a, &b, &c, &d) && c & (1u << 5))
        line("", "has VT-x (vmx)");
    else if (__get_cpuid(0x80000001, &a, &b, &c, &d) && c & (1u << 2))
        line("", "has AMD-V (svm)");
    else
        line("", "offers no hardware virtualization (neither vmx nor svm)");
}

static void show_level(const struct x86_level *level)
{
    const char *missing = x86_level_missing(level);

    if (missing)
        line("level", "%s: no, the processor lacks %s", level->name, missing);
    else
        line("level", "%s: yes", level->name);
}

static void show_levels(void)
{
    static const char *const names[] = {"v2", "v3"};
    struct x86_level host;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const struct x86_level *level = x86_level_find(names[i]);

        if (level)
            show_level(level);
    }
    x86_level_host(&host);
    show_level(&host);
}

static void show_kvm_device(void)
{
    struct stat st;

    if (stat("/dev/kvm", &st) != 0)
        line("/dev/kvm", "%s", errno == ENOENT ? "is not there" : strerror(errno));
    else if (access("/dev/kvm", R_OK | W_OK) != 0)
        line("/dev/kvm", "is there, but may not be opened: %s (owner uid %u, gid %u, mode %03o)",
             strerror(errno), st.st_uid, st.st_gid, st.st_mode & 0777);
    else
        line("/dev/kvm", "is there and may be opened");
}

static void show_memory(void)
{
    struct seam_exec e;
    uint64_t total, available;
    int err;

    ram_of_host(&total, &available);
    line("memory", "%llu MiB with swap, %llu MiB free; one VM may have at most all of it",
         (unsigned long long)total >> 20, (unsigned long long)available >> 20);
    err = seam_exec_alloc(&e, 4096);
    if (err)
        line("", "no executable memory: %s (%s)", strerror(seam_exec_errno()),
             seam_errno_hint(seam_exec_errno()));
    else
        seam_exec_free(&e);
}

static void show_engines(void)
{
    const struct x86_level *level = x86_level_find("v3");
    const struct engine *chosen;
    char why[ENGINES_WHY], not_taken[ENGINES_WHY];

    if (!level)
        return;
    for (const struct engine_row *r = engine_rows; r->name; r++) {
        int err = r->look(level, true, why, sizeof(why));

        line("engine", "%s: %s: %s", r->name, err ? "no" : "yes", why);
    }
    if (engines_choose("auto", level, &chosen, why, not_taken))
        line("auto", "takes none for level %s: %s (try --cpu v2)", level->name, why);
    else
        line("auto", "takes %s: the best that works here; it %s", chosen->name, why);
}

enum lodge_status doctor_run(void)
{
    struct utsname u;
    const char *missing = sandbox_missing();

    if (uname(&u) == 0)
        line("host", "%s %s %s", u.sysname, u.release, u.machine);
    show_processor();
    show_levels();
    show_kvm_device();
    show_memory();
    if (missing)
        line("sandbox", "no: this kernel lacks %s ('lodge run' needs --no-sandbox)", missing);
    else
        line("sandbox", "yes");
    show_engines();
    return STATUS_OK;
}
