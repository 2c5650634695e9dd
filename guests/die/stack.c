/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Dies: an exception whose stack is not there, whose double fault has none either. */
#include "guests/lib/guest.h"

int main(void)
{
    extern uint8_t guest_vectors[256][16];
    guest_print("triple fault follows\n");
    guest_set_gate(8, guest_vectors[8], 14, 0, 0); /* no IST */
    __asm__ volatile("mov $0x7000000000, %%rsp; ud2" : : : "memory");
    return 0;
}
