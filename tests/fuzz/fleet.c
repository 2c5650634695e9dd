/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * libFuzzer target: the fleet file. Whatever the text, the answer is OK, or ERR_INVALID with one line that names the
 * file and a line number of the text; the same text gives the same answer; and what was taken holds what fleet.h
 * promises of it: names that are there and differ, shares in their bounds, paths that a boot loader can hand on. Run it
 * with -max_len=8192.
 */
#include <stdlib.h>
#include <string.h>

#include "machine/fleet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VMS = 5 }; /* few, so that too many are soon found */

static void require(bool x)
{
    if (!x)
        abort();
}

/* "f:LINE: text" without control characters. */
static void require_message(const char *message, const char *text, size_t size)
{
    unsigned long lines = 1;
    char *end;
    for (size_t n = 0; n < size; n++)
        lines += text[n] == '\n';
    require(strncmp(message, "f:", 2) == 0);
    unsigned long line = strtoul(message + 2, &end, 10);
    require(line >= 1 && line <= lines);
    require(strncmp(end, ": ", 2) == 0 && end[2] != 0);
    require(memchr(message, 0, CONFIG_MESSAGE) != NULL);
    for (const char *p = message; *p; p++)
        require(*p >= ' ' && *p <= '~');
}

static void require_path(const char *path)
{
    require(strlen(path) < CONFIG_PATH && strcmp(path, FLEET_MODULE) != 0);
    require(strpbrk(path, "\\\"'\n\r\t") == NULL);
}

static void require_vm(const struct fleet *f, const struct fleet_vm *v)
{
    char message[CONFIG_MESSAGE];
    require(vm_config_check_values(&v->config, message) == OK);
    require(v->config.name[0] != 0 && (v->config.kernel[0] != 0 || v->restore[0] != 0));
    for (const struct fleet_vm *other = f->vm; other < v; other++)
        require(strcmp(other->config.name, v->config.name) != 0 && other->line < v->line);
    require(v->weight >= 1 && v->weight <= FLEET_WEIGHT_MAX);
    require(v->limit <= VM_MAX_VCPUS * FLEET_CPU_PERCENT);
    require(v->credit <= FLEET_CREDIT_MAX && v->cpus != 0 && memchr(v->tenant, 0, sizeof(v->tenant)) != NULL);
    require(v->cpus == UINT64_MAX || f->cpus == 0 || f->cpus == FLEET_CPUS || v->cpus >> f->cpus == 0);
    require(v->restore[0] != 0 ||
            v->reservation <= (uint32_t)__builtin_popcountll(v->cpus) * FLEET_CPU_PERCENT);
    require(v->restore[0] != 0 || v->limit == 0 || v->limit >= v->reservation);
    require(v->restore[0] != 0 || v->reservation <= v->config.vcpus * FLEET_CPU_PERCENT);
    require_path(v->config.kernel);
    require_path(v->config.initrd);
    require_path(v->restore);
}

static void require_fleet(const struct fleet *f)
{
    struct fleet_room room = {f->memory, 1, f->cpus};
    char message[CONFIG_MESSAGE] = "";
    require(f->count >= 1 && f->count <= f->capacity && f->cpus <= FLEET_CPUS);
    for (uint32_t n = 0; n < f->count; n++)
        require_vm(f, &f->vm[n]);
    int err = fleet_fits(f, &room, message);
    require(err == OK ? message[0] == 0 : err == ERR_RANGE && message[0] != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fleet_vm vms[VMS], others[VMS];
    static char message[CONFIG_MESSAGE], again[CONFIG_MESSAGE];
    struct fleet first = {.vm = vms, .capacity = VMS}, second = {.vm = others, .capacity = VMS};
    const char *text = (const char *)data;
    message[0] = again[0] = 0;
    int err = fleet_parse(&first, "f", text, size, message);
    require(err == OK || err == ERR_INVALID);
    require((err == OK) == (message[0] == 0));
    if (err != OK)
        require_message(message, text, size);
    else
        require_fleet(&first);
    require(fleet_parse(&second, "f", text, size, again) == err);
    require(strcmp(message, again) == 0);
    if (err == OK)
        require(first.count == second.count && memcmp(vms, others, first.count * sizeof(vms[0])) == 0);
    return 0;
}
