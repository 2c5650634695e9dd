/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Dies: CR3 points to where there is nothing. */
#include "guests/lib/guest.h"

int main(void)
{
    guest_print("triple fault follows\n");
    write_cr3(0xD0000000);
    for (;;)
        ;
}
