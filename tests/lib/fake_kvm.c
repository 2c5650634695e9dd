/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * See fake_kvm.h. What a real KVM does in an order that the engine depends on is done in that
 * order: KVM_RUN takes dirty registers, ends the access that it had left to us, looks at
 * immediate_exit, and only then goes on; KVM_GET_MP_STATE takes a latched INIT, which changes the
 * registers.
 */
#include "tests/lib/fake_kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/types.h"

struct fake_kvm fake_kvm;

enum { RUN_SIZE = 3 * 4096, DATA_OFFSET = 4096, EXIT_PORT_NUMBER = 0xF4, PROBE_PORT = 0xE0 };

/* --- what the host is like ----------------------------------------------------------------------
 */

static void add_leaf(uint32_t function, uint32_t index)
{
    fake_kvm.leaf[fake_kvm.leaves++] = (struct kvm_cpuid_entry2){.function = function,
                                                                 .index = index,
                                                                 .eax = UINT32_MAX,
                                                                 .ebx = UINT32_MAX,
                                                                 .ecx = UINT32_MAX,
                                                                 .edx = UINT32_MAX};
}

static int write_exit_port(struct fake_kvm_vcpu *v, void *owner)
{
    (void)owner;
    v->run->exit_reason = KVM_EXIT_IO;
    v->run->io.direction = KVM_EXIT_IO_OUT;
    v->run->io.size = 1;
    v->run->io.port = EXIT_PORT_NUMBER;
    v->run->io.count = 1;
    v->run->io.data_offset = DATA_OFFSET;
    *((uint8_t *)v->run + DATA_OFFSET) = 21;
    return 0;
}

void fake_kvm_reset(bool intel)
{
    static const uint32_t leaves[][2] = {
        {1, 0},   {7, 0},          {7, 1},          {7, 2},          {0xD, 0},
        {0xD, 1}, {0x80000001, 0}, {0x80000007, 0}, {0x80000008, 0}, {0x40000001, 0},
    };
    static const uint32_t vendor[2][3] = {{0x68747541, 0x444D4163, 0x69746E65},  /* AuthenticAMD */
                                          {0x756E6547, 0x6C65746E, 0x49656E69}}; /* GenuineIntel */

    for (uint32_t i = 0; i < FAKE_KVM_VCPUS; i++)
        if (fake_kvm.vcpu[i].run)
            munmap(fake_kvm.vcpu[i].run, RUN_SIZE);
    memset(&fake_kvm, 0, sizeof(fake_kvm));
    fake_kvm.api_version = KVM_API_VERSION;
    fake_kvm.feature_msr = UINT64_MAX;
    fake_kvm.run = write_exit_port;
    add_leaf(0, 0);
    fake_kvm.leaf[0].ebx = vendor[intel][0];
    fake_kvm.leaf[0].ecx = vendor[intel][1];
    fake_kvm.leaf[0].edx = vendor[intel][2];
    for (size_t i = 0; i < ARRAY_SIZE(leaves); i++)
        add_leaf(leaves[i][0], leaves[i][1]);
    for (uint32_t i = 0; i < fake_kvm.leaves; i++)
        if (fake_kvm.leaf[i].function == 0x80000008)
            fake_kvm.leaf[i].eax = 48 << 8 | 48;
}

void fake_kvm_fail(unsigned long request, uint32_t nth, int error)
{
    if (fake_kvm.rules < FAKE_KVM_RULES)
        fake_kvm.rule[fake_kvm.rules++] =
            (struct fake_kvm_rule){.request = request, .nth = nth, .error = error};
}

void fake_kvm_clear(uint32_t leaf, uint32_t subleaf, uint32_t reg, uint32_t bit)
{
    for (uint32_t i = 0; i < fake_kvm.leaves; i++) {
        struct kvm_cpuid_entry2 *e = &fake_kvm.leaf[i];
        uint32_t *const value[4] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

        if (e->function == leaf && e->index == subleaf)
            *value[reg] &= ~(UINT32_C(1) << bit);
    }
}

/* --- the device ---------------------------------------------------------------------------------
 */

static int new_file(size_t size)
{
    int fd = memfd_create("fake-kvm", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        abort();
    return fd;
}

static ino_t file_of(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

bool fake_kvm_open(const char *path, int *result)
{
    if (strcmp(path, "/dev/kvm") != 0)
        return false;
    if (fake_kvm.open_error) {
        errno = fake_kvm.open_error;
        *result = -1;
        return true;
    }
    *result = new_file(1);
    return true;
}

static int create_vm(void)
{
    struct fake_kvm_vm *vm = &fake_kvm.vm[fake_kvm.vms % FAKE_KVM_VMS];
    int fd;

    fake_kvm.vms++;
    *vm = (struct fake_kvm_vm){.file = 0};
    for (uint32_t i = 0; i < FAKE_KVM_CAPABILITIES; i++)
        vm->enabled[i] = FAKE_KVM_NOT_ASKED;
    fd = new_file(1);
    vm->file = file_of(fd);
    return fd;
}

static int supported_cpuid(struct kvm_cpuid2 *c)
{
    if (c->nent < fake_kvm.leaves)
        return -E2BIG;
    c->nent = fake_kvm.leaves;
    memcpy(c->entries, fake_kvm.leaf, fake_kvm.leaves * sizeof(fake_kvm.leaf[0]));
    return 0;
}

static int has_capability(unsigned long number)
{
    if ((int)number == fake_kvm.missing)
        return 0;
    return number == KVM_CAP_DISABLE_QUIRKS2 ? 0x7F : 1;
}

static int device_ioctl(unsigned long request, void *argument)
{
    struct kvm_msrs *m = argument;

    switch (request) {
    case KVM_GET_API_VERSION:
        return fake_kvm.api_version;
    case KVM_CHECK_EXTENSION:
        return has_capability((unsigned long)(uintptr_t)argument);
    case KVM_GET_VCPU_MMAP_SIZE:
        return RUN_SIZE;
    case KVM_CREATE_VM:
        return create_vm();
    case KVM_GET_SUPPORTED_CPUID:
        return supported_cpuid(argument);
    case KVM_GET_MSRS:
        m->entries[0].data = fake_kvm.feature_msr;
        return 1;
    default:
        return -ENOTTY;
    }
}

/* --- a VM ---------------------------------------------------------------------------------------
 */

static int create_vcpu(uint32_t vm, uint32_t id)
{
    struct fake_kvm_vcpu *v = &fake_kvm.vcpu[fake_kvm.vcpus % FAKE_KVM_VCPUS];
    int fd = new_file(RUN_SIZE);

    fake_kvm.vcpus++;
    if (v->run)
        munmap(v->run, RUN_SIZE);
    memset(v, 0, sizeof(*v));
    v->file = file_of(fd);
    v->vm = vm;
    v->id = id;
    v->mp.mp_state = id == 0 ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
    v->xcrs = (struct kvm_xcrs){.nr_xcrs = 1, .xcrs = {{.value = 1}}};
    v->run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (v->run == MAP_FAILED)
        abort();
    return fd;
}

static int set_routing(struct fake_kvm_vm *vm, const struct kvm_irq_routing *r)
{
    if (r->nr > ARRAY_SIZE(vm->route))
        return -EINVAL;
    memcpy(vm->route, r->entries, r->nr * sizeof(vm->route[0]));
    vm->routes = r->nr;
    vm->routings++;
    return 0;
}

static int vm_ioctl(uint32_t index, unsigned long request, void *argument)
{
    struct fake_kvm_vm *vm = &fake_kvm.vm[index];
    const struct kvm_enable_cap *cap = argument;

    switch (request) {
    case KVM_CHECK_EXTENSION:
        return has_capability((unsigned long)(uintptr_t)argument);
    case KVM_ENABLE_CAP:
        vm->enabled[cap->cap % FAKE_KVM_CAPABILITIES] = cap->args[0];
        vm->is_machine |= cap->cap == KVM_CAP_SPLIT_IRQCHIP;
        return has_capability(cap->cap) ? 0 : -EINVAL;
    case KVM_CREATE_VCPU:
        return create_vcpu(index, (uint32_t)(uintptr_t)argument);
    case KVM_SET_GSI_ROUTING:
        return set_routing(vm, argument);
    case KVM_SIGNAL_MSI:
        vm->messages++;
        return 1;
    case KVM_SET_USER_MEMORY_REGION:
    case KVM_SET_TSS_ADDR:
    case KVM_SET_IDENTITY_MAP_ADDR:
    case KVM_X86_SET_MSR_FILTER:
    case KVM_SET_CLOCK:
    case KVM_GET_CLOCK:
    case KVM_IRQFD:
    case KVM_IOEVENTFD:
        return 0;
    default:
        return -ENOTTY;
    }
}

/* --- a vCPU -------------------------------------------------------------------------------------
 */

static int move_msrs(struct fake_kvm_vcpu *v, struct kvm_msrs *m, bool set)
{
    v->msr_sets += set;
    for (uint32_t i = 0; i < m->nmsrs; i++) {
        uint32_t at = 0;

        while (at < v->msrs && v->msr[at].index != m->entries[i].index)
            at++;
        if (at == v->msrs && v->msrs < FAKE_KVM_MSRS)
            v->msr[v->msrs++] = (struct kvm_msr_entry){.index = m->entries[i].index};
        if (at == FAKE_KVM_MSRS)
            return (int)i;
        if (set)
            v->msr[at].data = m->entries[i].data;
        else
            m->entries[i].data = v->msr[at].data;
    }
    return (int)m->nmsrs;
}

static void take_init(struct fake_kvm_vcpu *v)
{
    if (!v->init_pending)
        return;
    v->init_pending = false;
    v->regs = (struct kvm_regs){.rip = 0xFFF0, .rflags = 2};
    v->sregs.cr0 = 0x60000010;
    v->mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
}

static void take_dirty(struct fake_kvm_vcpu *v)
{
    struct kvm_run *run = v->run;

    if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS) {
        v->regs = run->s.regs.regs;
        v->events.exception.pending = 0;
        v->handed_over++;
    }
    if (run->kvm_dirty_regs & KVM_SYNC_X86_EVENTS)
        v->events = run->s.regs.events;
    run->kvm_dirty_regs = 0;
}

static int run_probe(struct fake_kvm_vcpu *v)
{
    v->run->exit_reason = KVM_EXIT_IO;
    v->run->io.port = (uint16_t)(PROBE_PORT + v->probed++ % 3);
    if (fake_kvm.crawls)
        (void)nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    return 0;
}

static int run_vcpu(struct fake_kvm_vcpu *v)
{
    if (!fake_kvm.vm[v->vm].is_machine)
        return run_probe(v);
    take_dirty(v);
    if (v->pieces > 0 && --v->pieces > 0)
        return 0; /* the next piece, as the one before */
    if (v->run->immediate_exit)
        return -EINTR;
    take_init(v);
    v->entries++;
    return fake_kvm.run(v, fake_kvm.run_owner);
}

/* Requests that move a structure: which, where. */
static bool move(struct fake_kvm_vcpu *v, unsigned long request, void *argument)
{
    const struct {
        unsigned long get, set;
        void *place;
        size_t size;
    } rows[] = {
        {KVM_GET_REGS, KVM_SET_REGS, &v->regs, sizeof(v->regs)},
        {KVM_GET_SREGS, KVM_SET_SREGS, &v->sregs, sizeof(struct kvm_sregs)},
        {KVM_GET_SREGS2, KVM_SET_SREGS2, &v->sregs, sizeof(v->sregs)},
        {KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, &v->events, sizeof(v->events)},
        {KVM_GET_MP_STATE, KVM_SET_MP_STATE, &v->mp, sizeof(v->mp)},
        {KVM_GET_LAPIC, KVM_SET_LAPIC, &v->lapic, sizeof(v->lapic)},
        {KVM_GET_XSAVE, KVM_SET_XSAVE, &v->xsave, sizeof(v->xsave)},
        {KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, &v->debug, sizeof(v->debug)},
        {KVM_GET_XCRS, KVM_SET_XCRS, &v->xcrs, sizeof(v->xcrs)},
    };

    if (request == KVM_GET_MP_STATE)
        take_init(v);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (request == rows[i].get)
            memcpy(argument, rows[i].place, rows[i].size);
        else if (request == rows[i].set)
            memcpy(rows[i].place, argument, rows[i].size);
        else
            continue;
        return true;
    }
    return false;
}

/* The one attribute there is: the TSC's offset. */
static int move_attribute(struct fake_kvm_vcpu *v, const struct kvm_device_attr *a, bool set)
{
    uint64_t *place = (uint64_t *)(uintptr_t)a->addr;

    if (a->group != KVM_VCPU_TSC_CTRL || a->attr != KVM_VCPU_TSC_OFFSET)
        return -ENXIO;
    if (set)
        v->tsc_offset = *place;
    else
        *place = v->tsc_offset;
    return 0;
}

static int vcpu_ioctl(struct fake_kvm_vcpu *v, unsigned long request, void *argument)
{
    switch (request) {
    case KVM_GET_DEVICE_ATTR:
    case KVM_SET_DEVICE_ATTR:
        return move_attribute(v, argument, request == KVM_SET_DEVICE_ATTR);
    case KVM_RUN:
        return run_vcpu(v);
    case KVM_GET_MSRS:
        return move_msrs(v, argument, false);
    case KVM_SET_MSRS:
        return move_msrs(v, argument, true);
    case KVM_GET_TSC_KHZ:
        return 2000000;
    case KVM_SET_TSC_KHZ:
    case KVM_SET_CPUID2:
    case KVM_NMI:
    case KVM_KVMCLOCK_CTRL:
    case KVM_ENABLE_CAP:
        return 0;
    default:
        return move(v, request, argument) ? 0 : -ENOTTY;
    }
}

/* --- all ----------------------------------------------------------------------------------------
 */

static int failure_of(unsigned long request)
{
    for (uint32_t i = 0; i < fake_kvm.rules; i++) {
        struct fake_kvm_rule *r = &fake_kvm.rule[i];

        if (r->request == request && (r->seen++, r->nth == 0 || r->seen == r->nth))
            return -r->error;
    }
    return 0;
}

/* By the file behind it: numbers of closed descriptors are used again. */
static int dispatch(ino_t file, unsigned long request, void *argument)
{
    uint32_t vms = fake_kvm.vms < FAKE_KVM_VMS ? fake_kvm.vms : FAKE_KVM_VMS;
    uint32_t vcpus = fake_kvm.vcpus < FAKE_KVM_VCPUS ? fake_kvm.vcpus : FAKE_KVM_VCPUS;

    for (uint32_t i = 0; i < vcpus; i++)
        if (fake_kvm.vcpu[i].file == file)
            return vcpu_ioctl(&fake_kvm.vcpu[i], request, argument);
    for (uint32_t i = 0; i < vms; i++)
        if (fake_kvm.vm[i].file == file)
            return vm_ioctl(i, request, argument);
    return device_ioctl(request, argument);
}

bool fake_kvm_ioctl(int fd, unsigned long request, void *argument, int *result)
{
    if (_IOC_TYPE(request) != KVMIO)
        return false;
    *result = failure_of(request);
    if (*result == 0)
        *result = dispatch(file_of(fd), request, argument);
    if (*result < 0) {
        errno = -*result;
        *result = -1;
    }
    return true;
}
