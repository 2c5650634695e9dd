/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A KVM that has neither hardware nor a kernel, for tests of the engine that must run anywhere: it
 * answers open("/dev/kvm") and the ioctls that the engine uses, keeps what it is given, and fails
 * where it is told to. It runs no guest code: what KVM_RUN ends with, `run` says.
 *
 * Descriptors are those of memory files, so close and mmap need no replacement. The program is
 * linked with --wrap for open and ioctl (Makefile); fake_kvm_program.c makes it part of the whole of Lodge.
 */
#ifndef LODGE_TESTS_LIB_FAKE_KVM_H
#define LODGE_TESTS_LIB_FAKE_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define FAKE_KVM_NOT_ASKED UINT64_MAX /* in enabled */

enum {
    FAKE_KVM_VMS = 4,
    FAKE_KVM_VCPUS = 24,
    FAKE_KVM_RULES = 8,
    FAKE_KVM_MSRS = 96,
    FAKE_KVM_LEAVES = 40,
    FAKE_KVM_CAPABILITIES = 256,
};

/* The nth call of a request from now on (0: every one) gives this errno. */
struct fake_kvm_rule {
    unsigned long request;
    uint32_t nth, seen;
    int error;
};

struct fake_kvm_vcpu {
    ino_t file;
    uint32_t vm; /* index of fake_kvm.vm */
    uint32_t id;
    struct kvm_run *run;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
    struct kvm_lapic_state lapic;
    struct kvm_xsave xsave;
    struct kvm_debugregs debug;
    struct kvm_xcrs xcrs;
    struct kvm_msr_entry msr[FAKE_KVM_MSRS];
    uint32_t msrs;
    uint32_t msr_sets; /* KVM_SET_MSRS */
    uint64_t tsc_offset;
    bool init_pending; /* as latched in KVM's local APIC: taken by KVM_GET_MP_STATE and KVM_RUN */
    uint32_t pieces;   /* of an access, that are still to come */
    uint32_t entries;  /* of KVM_RUN that went on to guest code */
    uint32_t handed_over; /* times that general registers were taken */
    uint32_t probed;      /* ports that the probe's guest has written */
};

struct fake_kvm_vm {
    ino_t file;
    bool is_machine; /* else it is the probe's: nobody asked for its interrupts */
    uint64_t enabled[FAKE_KVM_CAPABILITIES]; /* argument of KVM_ENABLE_CAP */
    uint32_t routes, routings;               /* entries of the last table, tables */
    struct kvm_irq_routing_entry route[256];
    uint32_t messages;
};

struct fake_kvm {
    /* what the host is like */
    int open_error;  /* errno of open("/dev/kvm") */
    int device_mode; /* of /dev/kvm, for stat; 0: the real one's */
    uint32_t device_gid;
    int api_version;
    int missing;                                   /* a capability that is not there; 0: none */
    uint64_t feature_msr;                          /* IA32_ARCH_CAPABILITIES */
    struct kvm_cpuid_entry2 leaf[FAKE_KVM_LEAVES]; /* supported */
    uint32_t leaves;
    struct fake_kvm_rule rule[FAKE_KVM_RULES];
    uint32_t rules;
    int (*run)(struct fake_kvm_vcpu *v, void *owner); /* 0 or -errno; fills v->run */
    void *run_owner;
    bool crawls; /* the probe's guest takes long */

    /* what became of it */
    struct fake_kvm_vm vm[FAKE_KVM_VMS];
    uint32_t vms;
    struct fake_kvm_vcpu vcpu[FAKE_KVM_VCPUS];
    uint32_t vcpus;
};

extern struct fake_kvm fake_kvm;

/* A host of Intel or AMD that can do everything; KVM_RUN writes 21 to the exit port. */
void fake_kvm_reset(bool intel);
void fake_kvm_fail(unsigned long request, uint32_t nth, int error);
/* Takes a bit from what the host supports: register 0 eax .. 3 edx. */
void fake_kvm_clear(uint32_t leaf, uint32_t subleaf, uint32_t reg, uint32_t bit);

/* -1 and errno as the real ones. ioctl and open: not handled means that the descriptor or path is
 * not ours. */
bool fake_kvm_open(const char *path, int *result);
bool fake_kvm_ioctl(int fd, unsigned long request, void *argument, int *result);

#endif
