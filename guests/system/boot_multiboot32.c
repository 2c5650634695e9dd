/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What Multiboot hands over: the information structure (specification 0.6.96, 3.3), field by field,
 * and the processor as 3.2 asks for. */
#include "guests/lib/boot.h"

enum {
    HAS_MEMORY = 1 << 0,
    HAS_CMDLINE = 1 << 2,
    HAS_MODULES = 1 << 3,
    HAS_MMAP = 1 << 6,
    HAS_LOADER_NAME = 1 << 9,
};

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
    uint32_t apm_table, vbe[4];
};

struct module {
    uint32_t start, end, string, reserved;
};

struct __attribute__((packed)) mmap_entry {
    uint32_t size; /* of what follows */
    uint64_t base, length;
    uint32_t type;
};

static const struct multiboot_info *info;

static void check_string(uint32_t address, const char *text)
{
    const char *p = boot_pointer(address);
    do {
        CHECK_EQ(*p, *text);
    } while (*p++ == *text && *text++);
}

static void test_processor(void)
{
    boot_check_registers((const uint64_t[16]){[0] = 0x2BADB002, [3] = BOOT_INFO});
    boot_check_state(false);
}

static void test_information(void)
{
    CHECK_EQ(info->flags, HAS_MEMORY | HAS_CMDLINE | HAS_MODULES | HAS_MMAP | HAS_LOADER_NAME);
    boot_check_command_line(info->cmdline);
    CHECK_EQ(info->mem_lower, 639);
    CHECK_EQ(info->mem_upper, (boot_ram_below() >> 10) - 1024);
    check_string(info->boot_loader_name, "Lodge");
    /* what the flags say is not there */
    CHECK_EQ(info->boot_device, 0);
    CHECK(boot_is_zero(info->syms, sizeof(info->syms)));
    CHECK(!info->drives_length && !info->drives_addr && !info->config_table && !info->apm_table);
    CHECK(boot_is_zero(info->vbe, sizeof(info->vbe)));
}

static void test_memory_map(void)
{
    const struct mmap_entry *e = boot_pointer(info->mmap_addr);
    uint32_t count = info->mmap_length / (uint32_t)sizeof(*e);
    CHECK_EQ(info->mmap_length % sizeof(*e), 0);
    CHECK(count > 0);
    for (uint32_t n = 0; n < count; n++) {
        CHECK_EQ(e[n].size, 20);
        boot_check_range(n, count, e[n].base, e[n].length, e[n].type);
    }
}

static void test_module(void)
{
    const struct module *m = boot_pointer(info->mods_addr);
    CHECK_EQ(info->mods_count, boot_told.initrd > 0);
    if (!boot_told.initrd) {
        guest_skip("no initrd");
        return;
    }
    boot_check_initrd(m->start, m->end - m->start, boot_ram_below());
    CHECK_EQ(m->start, ((uintptr_t)guest_end + 4095) & ~(uintptr_t)4095); /* right behind us */
    check_string(m->string, "initrd");
    CHECK_EQ(m->reserved, 0);
}

int main(void)
{
    info = boot_pointer(guest_boot_info);
    GUEST_RUN(test_processor);
    GUEST_RUN(test_information);
    GUEST_RUN(test_memory_map);
    GUEST_RUN(test_module);
    GUEST_RUN(boot_check_bda);
    return guest_done();
}
