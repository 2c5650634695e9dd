/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What PVH hands over: struct hvm_start_info, version 1 (xen.git,
 * public/arch-x86/hvm/start_info.h), field by field, and the processor as pvh.pandoc asks for. */
#include "guests/lib/boot.h"

struct start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    uint32_t memmap_entries, reserved;
};

struct module {
    uint64_t paddr, size, cmdline_paddr, reserved;
};

struct memmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};

static const struct start_info *info;

static void test_processor(void)
{
    boot_check_registers((const uint64_t[16]){[3] = BOOT_INFO});
    boot_check_state(false);
}

static void test_start_info(void)
{
    CHECK_EQ(info->magic, 0x336EC578);
    CHECK_EQ(info->version, 1);
    CHECK_EQ(info->flags, 0);
    CHECK_EQ(info->reserved, 0);
    boot_check_command_line(info->cmdline_paddr);
    boot_check_rsdp(info->rsdp_paddr);
}

static void test_memory_map(void)
{
    const struct memmap_entry *e = boot_pointer(info->memmap_paddr);
    for (uint32_t n = 0; n < info->memmap_entries; n++) {
        boot_check_range(n, info->memmap_entries, e[n].addr, e[n].size, e[n].type);
        CHECK_EQ(e[n].reserved, 0);
    }
    CHECK(info->memmap_entries > 0);
}

static void test_module(void)
{
    const struct module *m = boot_pointer(info->modlist_paddr);
    CHECK_EQ(info->nr_modules, boot_told.initrd > 0);
    if (!boot_told.initrd) {
        CHECK_EQ(info->modlist_paddr, 0);
        guest_skip("no initrd");
        return;
    }
    boot_check_initrd(m->paddr, m->size, boot_ram_below());
    CHECK_EQ(m->paddr, (boot_ram_below() - m->size) & ~(uint64_t)4095); /* as high as possible */
    CHECK_EQ(m->cmdline_paddr, 0);
    CHECK_EQ(m->reserved, 0);
}

int main(void)
{
    info = boot_pointer(guest_boot_info);
    GUEST_RUN(test_processor);
    GUEST_RUN(test_start_info);
    GUEST_RUN(test_memory_map);
    GUEST_RUN(test_module);
    GUEST_RUN(boot_check_bda);
    return guest_done();
}
