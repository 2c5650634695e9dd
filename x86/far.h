/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Transfers of control that go through descriptors: far JMP, CALL, RET, IRET, gates of the IDT,
 * hardware task switches, system calls. Shared by the files that implement them; nobody else needs
 * it (events are delivered by x86_deliver and x86_raise of x86/cpu.h).
 *
 * All return X86_JUMP when done, or X86_FAULT with nothing changed, unless said otherwise.
 */
#ifndef LODGE_X86_FAR_H
#define LODGE_X86_FAR_H

#include "x86/segment.h"

/* One event on its way through the IVT or IDT. */
struct x86_event {
    enum x86_event_kind kind;
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint32_t ext;  /* X86_ERROR_EXT, or 0 for what an instruction asked for (INT n, INT3, INTO) */
    bool switched; /* out: a task switch took place; an X86_FAULT then belongs to the new task */
};

/* x86/gate.c */
int x86_gate_deliver(struct x86_cpu *cpu, struct x86_event *ev); /* protected mode, v86 */
int x86_gate_deliver_long(struct x86_cpu *cpu, const struct x86_event *ev);
/* Error code that names the event's entry in the IDT. */
uint32_t x86_event_idt_error(const struct x86_event *ev);
/* RFLAGS as they are pushed for the event. */
uint64_t x86_event_flags(const struct x86_cpu *cpu, const struct x86_event *ev);
/* The stack for CPL `dpl` out of the current TSS, checked (#TS, #SS). Not for IST. */
int x86_tss_stack(struct x86_cpu *cpu, uint8_t dpl, uint32_t ext, struct x86_stack *st);

/* x86/far.c. size: operand size 2, 4, 8; selector and offset as the instruction has them. */
int x86_far_jump(struct x86_cpu *cpu, uint8_t size, uint16_t selector, uint64_t offset);
int x86_far_call(struct x86_cpu *cpu, uint8_t size, uint16_t selector, uint64_t offset);

/* Is `rip` a place where execution can go on in that code segment? Else #GP(ext). */
int x86_check_target(struct x86_cpu *cpu, const struct x86_descriptor *code, uint64_t rip,
                     uint32_t ext);
/* CS and RIP become those; CPL becomes cpl. The caller ends with x86_update_mode. */
void x86_set_code(struct x86_cpu *cpu, const struct x86_descriptor *code, uint16_t selector,
                  uint8_t cpl, uint64_t rip);
/* The end of every far transfer: derived state, shadows. Returns X86_JUMP. */
int x86_far_done(struct x86_cpu *cpu);

/* x86/far_return.c */
int x86_far_return(struct x86_cpu *cpu, uint8_t size, uint16_t release);
int x86_iret(struct x86_cpu *cpu, uint8_t size);

/* x86/task.c */
enum x86_task_reason { X86_TASK_JUMP, X86_TASK_CALL, X86_TASK_IRET, X86_TASK_EVENT };
/* Switches to the task of that TSS selector, whose descriptor is *d (type and DPL checked by the
 * caller as the manual orders; presence, limit and all else here). flags: RFLAGS as the old task
 * will have them. *switched says whether the new task is the current one: then X86_FAULT is the
 * new task's, and cpu->rip is in it. */
int x86_task_switch(struct x86_cpu *cpu, enum x86_task_reason reason, uint16_t selector,
                    struct x86_descriptor *d, uint64_t flags, uint32_t ext, bool *switched);
/* IRET with NT: to the task in the back link. */
int x86_task_return(struct x86_cpu *cpu);
/* Far JMP and CALL to a TSS or a task gate. */
int x86_task_transfer(struct x86_cpu *cpu, enum x86_task_reason reason, uint16_t selector,
                      struct x86_descriptor *d);
/* Delivery through a task gate of the IDT. */
int x86_task_deliver(struct x86_cpu *cpu, struct x86_event *ev, uint16_t selector);

/* x86/syscall.c */
int x86_syscall(struct x86_cpu *cpu, const struct insn *i);
int x86_sysret(struct x86_cpu *cpu, const struct insn *i);
int x86_sysenter(struct x86_cpu *cpu, const struct insn *i);
int x86_sysexit(struct x86_cpu *cpu, const struct insn *i);

#endif
