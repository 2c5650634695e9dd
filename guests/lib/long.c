/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* For 64-bit guests: mapping pages, the local APIC, starting other processors. */
#include "guests/lib/guest.h"

/* --- paging --- */

enum { PAGES = 512 };

static uint8_t pool[PAGES][4096] __attribute__((aligned(4096)));
static unsigned int pool_used;

void *guest_page(void)
{
    if (pool_used == PAGES)
        guest_die("out of pages");
    uint64_t *page = (uint64_t *)(void *)pool[pool_used++];
    for (unsigned int n = 0; n < 512; n++)
        page[n] = 0;
    return page;
}

unsigned int guest_page_mark(void)
{
    return pool_used;
}

void guest_page_release(unsigned int mark)
{
    pool_used = mark;
}

uint64_t *guest_map(uint64_t linear, uint64_t physical, uint64_t flags, unsigned int level)
{
    uint64_t *table = guest_pml4;
    for (unsigned int l = 3;; l--) {
        uint64_t *entry = &table[linear >> (12 + 9 * l) & 511];
        if (l == level) {
            *entry = physical | flags | (l ? X86_PTE_PS : 0);
            invlpg((const void *)(uintptr_t)linear);
            return entry;
        }
        if (!(*entry & X86_PTE_P))
            *entry = (uintptr_t)guest_page() | X86_PTE_P | X86_PTE_W | X86_PTE_U;
        table = (uint64_t *)(uintptr_t)(*entry & 0xFFFFFFFFFF000);
    }
}

uint64_t *guest_entry(uint64_t linear, unsigned int level)
{
    uint64_t *table = guest_pml4;
    for (unsigned int l = 3; l > level; l--)
        table = (uint64_t *)(uintptr_t)(table[linear >> (12 + 9 * l) & 511] & 0xFFFFFFFFFF000);
    return &table[linear >> (12 + 9 * level) & 511];
}

/* --- local APIC --- */

void apic_enable(void)
{
    apic_write(APIC_SPURIOUS, 0x1FF);
}

void apic_send(uint32_t destination, uint32_t command)
{
    apic_write(APIC_ICR_HIGH, destination << 24);
    apic_write(APIC_ICR, command);
    while (apic_read(APIC_ICR) & 1 << 12)
        pause();
}

void apic_send_self(uint8_t vector)
{
    apic_send(0, 0x44000u | vector);
}

/* --- other processors --- */

enum { TRAMPOLINE = 0x8000, ICR_INIT = 0xC4500, ICR_SIPI = 0xC4600, PATIENCE = 200000000 };

extern const uint8_t smp_trampoline[], smp_trampoline_end[];
void smp_entered(unsigned int n);

static void (*smp_fn)(unsigned int n);
static _Atomic unsigned int smp_arrived;

unsigned int smp_count(void)
{
    if (cpuid(0, 0).a >= 11 && cpuid(11, 1).b & 0xFFFF)
        return cpuid(11, 1).b & 0xFFFF;
    unsigned int n = cpuid(1, 0).b >> 16 & 0xFF;
    return cpuid(1, 0).d & 1 << 28 && n ? n : 1;
}

void smp_entered(unsigned int n)
{
    load_idt(guest_idt, sizeof(guest_idt) - 1);
    apic_enable();
    smp_arrived++;
    smp_fn(n);
}

void smp_start(void (*fn)(unsigned int n))
{
    volatile uint8_t *to = (volatile uint8_t *)(uintptr_t)TRAMPOLINE;
    for (const uint8_t *p = smp_trampoline; p < smp_trampoline_end; p++)
        *to++ = *p;
    smp_fn = fn;
    apic_enable();
    apic_send(0, ICR_INIT); /* all but self, level assert */
    for (int n = 0; n < 1000; n++) /* PAUSE may give up the host's processor */
        pause();
    apic_send(0, ICR_SIPI | TRAMPOLINE >> 12);
    unsigned int others = smp_count() - 1;
    for (long n = 0; smp_arrived < others; n++) {
        if (n == PATIENCE)
            guest_die("the other processors did not start");
        pause();
    }
}
