/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The fake KVM before the real one's system calls, for the whole program, which is linked with it (Makefile, and
 * tests/cli/host_failures.py). $FAKE_KVM says what the host is like, words that are separated by spaces:
 *
 *   intel              it is Intel's; else AMD's
 *   open=ERRNO         /dev/kvm cannot be opened
 *   mode=OCTAL gid=N   what stat says of it
 *   api=N  missing=N   another version; a capability that is not there
 *   crawls             guest code is slow
 *   clear=LEAF,REG,BIT a CPUID bit that KVM does not support (hexadecimal, 0 .. 3, decimal)
 *   NAME=ERRNO[@N]     the Nth (else every) KVM_NAME fails so
 *   end=ERRNO          the machine's guest ends so; without, it writes the exit port
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/types.h"
#include "tests/lib/fake_kvm.h"

static int end_error;

static int end_with(struct fake_kvm_vcpu *v, void *owner)
{
    (void)v;
    (void)owner;
    return -end_error;
}

static void fail_request(const char *name, size_t length, const char *value)
{
    static const struct {
        const char *name;
        unsigned long request;
    } names[] = {
        /* table */
        {"CREATE_VM", KVM_CREATE_VM},
        {"CREATE_VCPU", KVM_CREATE_VCPU},
        {"ENABLE_CAP", KVM_ENABLE_CAP},
        {"SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION},
        {"GET_SUPPORTED_CPUID", KVM_GET_SUPPORTED_CPUID},
        {"SET_MSR_FILTER", KVM_X86_SET_MSR_FILTER},
        {"GET_TSC_KHZ", KVM_GET_TSC_KHZ},
        {"SET_SREGS", KVM_SET_SREGS},
        {"RUN", KVM_RUN},
    };
    const char *at = strchr(value, '@');

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strlen(names[i].name) == length && strncmp(names[i].name, name, length) == 0) {
            fake_kvm_fail(names[i].request, at ? (uint32_t)atoi(at + 1) : 0, atoi(value));
            return;
        }
    abort(); /* the test asks for what is not there */
}

static void take_word(const char *word)
{
    const char *value = strchr(word, '=');
    uint32_t leaf, reg, bit;

    if (strcmp(word, "crawls") == 0)
        fake_kvm.crawls = true;
    else if (sscanf(word, "open=%d", &fake_kvm.open_error) == 1 ||
             sscanf(word, "mode=%o", (unsigned int *)&fake_kvm.device_mode) == 1 ||
             sscanf(word, "gid=%u", &fake_kvm.device_gid) == 1 ||
             sscanf(word, "api=%d", &fake_kvm.api_version) == 1 ||
             sscanf(word, "missing=%d", &fake_kvm.missing) == 1)
        return;
    else if (sscanf(word, "clear=%x,%u,%u", &leaf, &reg, &bit) == 3)
        fake_kvm_clear(leaf, 0, reg, bit);
    else if (sscanf(word, "end=%d", &end_error) == 1)
        fake_kvm.run = end_with;
    else if (value)
        fail_request(word, (size_t)(value - word), value + 1);
}

static __attribute__((constructor)) void begin(void)
{
    const char *text = getenv("FAKE_KVM");
    char copy[512];
    char *rest = copy;

    fake_kvm_reset(text && strstr(text, "intel"));
    (void)snprintf(copy, sizeof(copy), "%s", text ? text : "");
    for (char *word; (word = strsep(&rest, " "));)
        take_word(word);
}

int __real_stat(const char *path, struct stat *st);
int __wrap_stat(const char *path, struct stat *st);

int __wrap_stat(const char *path, struct stat *st)
{
    if (fake_kvm.device_mode == 0 || strcmp(path, "/dev/kvm") != 0)
        return __real_stat(path, st);
    *st = (struct stat){.st_mode = S_IFCHR | (mode_t)fake_kvm.device_mode,
                        .st_gid = (gid_t)fake_kvm.device_gid};
    return 0;
}
