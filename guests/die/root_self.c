/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Dies: CR3 points to a page whose entries all point to itself. */
#include "guests/lib/guest.h"

int main(void)
{
    uint64_t *root = guest_page();
    for (unsigned int n = 0; n < 512; n++)
        root[n] = (uintptr_t)root | X86_PTE_P | X86_PTE_W | X86_PTE_U;
    guest_print("triple fault follows\n");
    write_cr3((uintptr_t)root);
    for (;;)
        ;
}
