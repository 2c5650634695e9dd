/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A neutral exit: why a vCPU stopped executing guest instructions. Engines only translate into
 * this; what an exit means is written once, in machine/exits.c. The handler may also be called
 * from inside an engine (vcpu_handle_exit) without leaving its run loop.
 */
#ifndef LODGE_CORE_EXIT_H
#define LODGE_CORE_EXIT_H

#include "core/types.h"

enum exit_reason {
    EXIT_NONE,
    EXIT_PORT,      /* port I/O, one access */
    EXIT_MMIO,      /* access to a guest-physical address that is not RAM, one access */
    EXIT_MSR,       /* RDMSR or WRMSR of an MSR that the engine does not keep */
    EXIT_CPUID,     /* kvm, svm, vmx only: soft answers by itself from the level */
    EXIT_HALT,      /* HLT with interrupts to come */
    EXIT_HYPERCALL, /* VMCALL or VMMCALL */
    EXIT_WINDOW,    /* the guest can take an interrupt now, as was asked for */
    EXIT_SHUTDOWN,  /* triple fault */
    EXIT_KICK,      /* a request is pending (vcpu->requests) */
    EXIT_ENGINE_FAILURE,  /* the engine cannot go on; .failure says why */
    EXIT_REASONS,
};

/* Whose doing a failure is. */
enum exit_cause {
    EXIT_CAUSE_ENGINE,      /* the engine's, for all that it knows */
    EXIT_CAUSE_GUEST,       /* what the guest did ends it on any machine like this */
    EXIT_CAUSE_HOST_MEMORY, /* the host has none left */
};

struct exit {
    enum exit_reason reason;
    union {
        struct { /* value: in on write, out on read */
            uint64_t value;
            uint16_t port;
            uint8_t size;
            bool write;
        } port;
        struct {
            struct gpa address;
            uint64_t value;
            uint8_t size;
            bool write;
        } mmio;
        struct {
            uint64_t value;
            uint32_t index;
            bool write;
            bool fault; /* out: #GP(0) */
        } msr;
        struct {
            uint64_t number;
            uint64_t arg[4];
            uint64_t result; /* out */
        } hypercall;
        struct {
            uint32_t eax, ebx, ecx, edx; /* in: leaf and subleaf; out: answer */
        } cpuid;
        struct {
            const char *reason; /* static text */
            uint64_t detail;
            enum exit_cause cause;
        } failure;
    };
};

#endif
