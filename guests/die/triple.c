/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Dies: an exception without an IDT. */
#include "guests/lib/guest.h"

int main(void)
{
    guest_print("triple fault follows\n");
    load_idt(NULL, 0);
    __asm__ volatile("int3");
    return 0;
}
