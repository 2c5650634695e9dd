/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * MC146818 real-time clock with 128 bytes of CMOS memory at 0x70/0x71, IRQ 8 (Motorola MC146818A
 * data sheet). The time is the VM's wall clock (UTC) plus what the guest has set.
 */
#ifndef LODGE_DEVICE_RTC_H
#define LODGE_DEVICE_RTC_H

#include "core/irq.h"
#include "core/vm.h"

enum { RTC_CMOS_SIZE = 128, RTC_CENTURY = 0x32 };

struct rtc {
    struct vm *vm;
    struct irq_line irq; /* level: asserted while register C's IRQF is set */
    struct vm_timer timer;
    uint8_t index;               /* port 0x70, bits 6:0 */
    bool nmi_masked;             /* port 0x70, bit 7: remembered, for whoever raises NMI */
    uint8_t cmos[RTC_CMOS_SIZE]; /* alarm bytes and registers A to C at their places; the time's own
                                    bytes (0-9, century) are valid only while it stands (halted) */
    int64_t offset;              /* ns: guest's time - VM wall clock; kept while the time runs */
    bool halted;                 /* register B SET, or the divider held in reset: the time stands */
    uint64_t periodic;           /* VM clock (ns) up to which periodic events are accounted for */
    uint64_t second; /* guest time (s) up to which updates and alarms are accounted for */
};

int must_check rtc_create(struct rtc *r, struct vm *vm, struct irq_line irq);
/* RESET pin: interrupts off, time and memory kept, as a battery does. Board lock held. */
void rtc_reset(struct rtc *r);
/* The firmware's CMOS bytes: memory size fields (0x15-0x18, 0x30-0x31, 0x34-0x35, 0x5B-0x5D) for
 * that much RAM below and above 4 GiB. While the machine is built or at rest. */
void rtc_set_memory_size(struct rtc *r, uint64_t below_4g, uint64_t above_4g);

#endif
