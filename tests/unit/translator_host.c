/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Translated code and the host's memory: no address of the guest's, in whatever state the
 * translator's tables are, leads anywhere but to the page that the guest's page tables name.
 */
#include "tests/unit/translator_env.h"

#define FLAGS (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D)

/* A page at a linear address that shares its TLB index with low RAM, and then is gone: bits 28 and
 * above are all that differs. `linear` is below 512 GiB and in the gigabyte of a page directory of
 * its own. */
static void map_alias(uint64_t linear, uint64_t physical)
{
    const uint64_t pd = CPU_ENV_RAM - 3 * PAGE_SIZE, pt = CPU_ENV_RAM - 2 * PAGE_SIZE;
    uint64_t table = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A;
    memset(e.ram + pd, 0, 2 * PAGE_SIZE);
    cpu_env_put64(&e, CPU_ENV_PDPT + (linear >> 30) * 8, pd | table);
    cpu_env_put64(&e, pd + (linear >> 21 & 511) * 8, pt | table);
    cpu_env_put64(&e, pt + (linear >> 12 & 511) * 8, physical ? physical | FLAGS : 0);
}

/*
 * Entries of the TLB that were emptied keep their addend. An operand that would hit one all the
 * same is where the guest chooses: host page - linear + address. Tried with every operand size and
 * alignment that there is, reading and writing, for each index below 64 and the last ones.
 */
struct access {
    const char *name;
    const char *bytes; /* at [rax] */
    size_t size;
};
static const struct access accesses[] = {
    {"mov al", "\x8A\x08\xF4", 3},
    {"mov cx", "\x66\x8B\x08\xF4", 4},
    {"mov ecx", "\x8B\x08\xF4", 3},
    {"mov rcx", "\x48\x8B\x08\xF4", 4},
    {"movups", "\x0F\x10\x08\xF4", 4},
    {"movaps", "\x0F\x28\x08\xF4", 4},
    {"vmovups ymm", "\xC5\xFC\x10\x08\xF4", 5},
    {"vmovaps ymm", "\xC5\xFC\x28\x08\xF4", 5},
    {"vmovntdqa ymm", "\xC4\xE2\x7D\x2A\x08\xF4", 6},
    {"store cl", "\x88\x08\xF4", 3},
    {"store rcx", "\x48\x89\x08\xF4", 4},
    {"store xmm", "\x0F\x11\x08\xF4", 4},
    {"store aligned xmm", "\x0F\x29\x08\xF4", 4},
    {"store ymm", "\xC5\xFC\x11\x08\xF4", 5},
    {"store aligned ymm", "\xC5\xFC\x29\x08\xF4", 5},
    {"store vmovntps", "\xC5\xFC\x2B\x08\xF4", 5},
    {"lock xadd", "\xF0\x48\x0F\xC1\x08\xF4", 6},
    {"lock cmpxchg16b", "\xF0\x48\x0F\xC7\x08\xF4", 6},
    {"xchg", "\x48\x87\x08\xF4", 4},
};

static const unsigned int indexes[] = {0,  1,  15,     16,     17,     31,    32,
                                       33, 63, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF};
static const unsigned int offsets[] = {0, 8, 32, 4032, 4064, 4080, 4088, 4095};

static void try_emptied_entry(const struct access *a, unsigned int index, uint64_t bias)
{
    const uint64_t page = CPU_ENV_DATA, low = (uint64_t)index << PAGE_SHIFT, linear = bias + low;
    /* the low page is absent; so are most that have no RAM */
    if (low < CPU_ENV_RAM)
        *cpu_env_pte(&e, low) = 0;
    map_alias(linear, page);
    x86_tlb_flush(e.cpu);
    e.cpu->gpr[RAX] = linear + 64;
    CHECK_EQ(run_at(CPU_ENV_CODE, 0), HALTED); /* in the TLB now */
    map_alias(linear, 0);
    x86_tlb_flush_page(e.cpu, linear);
    for (unsigned int n = 0; n < ARRAY_SIZE(offsets); n++) {
        const uint64_t at_page[] = {low, linear, low - PAGE_SIZE};
        for (unsigned int k = 0; k < ARRAY_SIZE(at_page); k++) {
            uint64_t address = at_page[k] + offsets[n];
            if (address - PAGE_SIZE < CPU_ENV_RAM - PAGE_SIZE && address >> PAGE_SHIFT != index)
                continue; /* there is something */
            e.cpu->gpr[RAX] = address;
            e.cpu->gpr[RSP] = CPU_ENV_STACK0;
            unit_context("%s at %lx, index %x", a->name, address, index);
            int vector = run_at(CPU_ENV_CODE, 0);
            CHECK(vector == X86_PF || vector == X86_GP);
        }
    }
    if (low && low < CPU_ENV_RAM)
        *cpu_env_pte(&e, low) = low | FLAGS;
    cpu_env_put64(&e, CPU_ENV_PDPT + (linear >> 30) * 8, 0);
    x86_tlb_flush(e.cpu);
}

static bool is_in_use(unsigned int index)
{
    uint64_t low = (uint64_t)index << PAGE_SHIFT;
    return low == CPU_ENV_CODE || low == CPU_ENV_HANDLERS;
}

static void test_j16_emptied_tlb_entries(void)
{
    begin();
    *cpu_env_pte(&e, 0) = 0;
    for (unsigned int n = 0; n < ARRAY_SIZE(accesses); n++) {
        put_code(CPU_ENV_CODE, accesses[n].bytes, accesses[n].size);
        for (unsigned int k = 0; k < ARRAY_SIZE(indexes); k++)
            if (!is_in_use(indexes[k]))
                try_emptied_entry(&accesses[n], indexes[k], UINT64_C(0x4000000000));
    }
    unit_context(NULL);
    end();
}

/*
 * The guest has guessed where Lodge's own memory is: each access at such an address is the guest's
 * page fault, and the part of the frame that emitted code trusts, and the code itself, stay as they
 * were.
 */
static void test_j16_addresses_of_the_host(void)
{
    static uint8_t kept[PAGE_SIZE], code[PAGE_SIZE];
    begin();
    struct translator *t = soft_translator(e.cpu);
    const void *const places[] = {t,
                                  t->frame,
                                  &t->frame->go,
                                  t->exec.write,
                                  t->exec.exec,
                                  t->blocks,
                                  t->sites,
                                  e.ram,
                                  e.cpu,
                                  &e,
                                  kept,
                                  e.ram + CPU_ENV_RAM,
                                  e.ram - 64};
    for (unsigned int n = 0; n < ARRAY_SIZE(accesses); n++) {
        put_code(CPU_ENV_CODE, accesses[n].bytes, accesses[n].size);
        e.cpu->gpr[RAX] = CPU_ENV_DATA;
        CHECK_EQ(run_at(CPU_ENV_CODE, 0), HALTED); /* translated, and all that is lazy is there */
        memcpy(kept, &t->frame->go, sizeof(kept));
        memcpy(code, t->exec.write, sizeof(code));
        for (unsigned int k = 0; k < ARRAY_SIZE(places); k++) {
            for (unsigned int cpl = 0; cpl <= 3; cpl += 3) {
                unit_context("%s, place %u", accesses[n].name, k);
                e.cpu->gpr[RCX] = 0;
                e.cpu->gpr[RAX] = (uint64_t)(uintptr_t)places[k];
                int vector = run_at(CPU_ENV_CODE, cpl);
                CHECK(vector == X86_PF || (vector == X86_GP && e.cpu->gpr[RAX] & 31));
                CHECK_EQ(at.rip, CPU_ENV_CODE);
            }
        }
        CHECK_EQ(memcmp(kept + offsetof(struct frame, segment_base) - PAGE_SIZE,
                        t->frame->segment_base,
                        offsetof(struct frame, resume) - offsetof(struct frame, segment_base)),
                 0);
        CHECK_EQ(memcmp(code, t->exec.write,
                        t->first_code < sizeof(code) ? t->first_code : sizeof(code)),
                 0);
    }
    end();
}

int main(void)
{
    UNIT_RUN(test_j16_addresses_of_the_host);
    UNIT_RUN(test_j16_emptied_tlb_entries);
    return unit_done();
}
