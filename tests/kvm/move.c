/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A guest runs to its own result while it is moved, again and again, from one machine into a new
 * one.
 *
 *   move [OPTION VALUE]... KERNEL [INITRD]
 *     --vcpus N  --memory MIB  --append TEXT  --seed N
 *     --engines LIST   which the guest is under in turn, as letters: sk (default), k, kks...
 *     --least MS --most MS   between two moves (5, 200)
 *     --longer N       one in eight of these times is N times as long (1), so that the guest gets on
 *                      where a move costs most of a short one
 *     --expect TEXT    in the guest's output
 *     --excused TEXT   in the output of a guest whose end is another's fault: status 77
 *
 * A move: the VM is brought to rest, its clock stopped, all sections saved; a new machine is made
 * over the same memory, loaded, and goes on with new threads, while the old one is unmade. No file
 * is between, and none of the hosted process.
 *
 * The guest judges: it must end by itself, by its exit port with 0 or by power-off, having printed
 * what is expected and nothing of what a kernel complains with.
 */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/err.h"
#include "core/fmt.h"
#include "hosted/files.h"
#include "hosted/seam.h"
#include "tests/kvm/random_state.h"
#include "tests/kvm/vm_env.h"
#include "tests/lib/unit.h"
#include "x86/msr.h"

enum {
    OUTPUT = 1 << 20,
    SHOWN = 3000,
    MS = 1000000,
    PATIENCE_S = 300,
    FILE_MAX = 64 << 20,
    EXCUSED = 77
};

struct options {
    uint32_t vcpus, least, most, longer;
    uint64_t memory, seed;
    const char *append, *engines, *expect, *excused, *kernel, *initrd;
};

struct machine {
    struct vm_env env;
    pthread_t thread[VM_MAX_VCPUS];
    struct runner {
        struct machine *machine;
        uint32_t id;
    } runner[VM_MAX_VCPUS];
    _Atomic uint32_t running;
};

static struct options options = {1, 5, 200, 1, 128 << 20, 1, "", "sk", "", "", NULL, NULL};
static struct vm_shape shape;
static struct machine machines[2]; /* one, and the one that it moves to */
static struct boot_files files;
static char output[OUTPUT];
static size_t output_length;
static unsigned int moves;

static void keep_output(void *console, const uint8_t *bytes, size_t size)
{
    (void)console;
    for (; size > 0 && output_length < OUTPUT - 1; size--)
        output[output_length++] = (char)*bytes++;
}

static const struct console_ops console_ops = {.write = keep_output};

static const struct engine *engine_at(unsigned int move)
{
    return options.engines[move % strlen(options.engines)] == 's' ? &engine_soft : &engine_kvm;
}

/* --- a machine and its threads -----------------------------------------------------------------
 */

static void *run_vcpu(void *arg)
{
    struct runner *r = arg;
    struct vm *vm = vm_env_vm(&r->machine->env);

    pc_run_vcpu(vm, r->id);
    atomic_fetch_sub(&r->machine->running, 1);
    seam_wake_main(&r->machine->env.home);
    return NULL;
}

static void go(struct machine *m)
{
    atomic_store(&m->running, options.vcpus);
    pc_start_clock(vm_env_vm(&m->env));
    for (uint32_t id = 0; id < options.vcpus; id++) {
        m->runner[id] = (struct runner){m, id};
        CHECK_EQ(pthread_create(&m->thread[id], NULL, run_vcpu, &m->runner[id]), 0);
    }
}

static void join(struct machine *m)
{
    for (uint32_t id = 0; id < options.vcpus; id++)
        pthread_join(m->thread[id], NULL);
}

/* The VM's timer thread, until then or until its vCPUs are out. */
static void wait_until(struct machine *m, uint64_t deadline)
{
    struct home *h = &m->env.home;

    while (atomic_load(&m->running) > 0) {
        struct pollfd p[] = {{h->timer_fd, POLLIN, 0}, {h->wake_fd, POLLIN, 0}};
        uint64_t now = seam_time_ns(), count;

        if (now >= deadline)
            return;
        (void)poll(p, 2, (int)((deadline - now) / MS) + 1);
        if (p[1].revents)
            (void)!read(h->wake_fd, &count, sizeof(count));
        if (p[0].revents && read(h->timer_fd, &count, sizeof(count)) > 0) {
            seam_timer_fired(h);
            vm_timers_run(&h->vm);
        }
    }
}

/* --- moving ------------------------------------------------------------------------------------
 */

/* What no clock of the guest may be behind afterwards. */
struct seen {
    uint64_t clock, tsc[VM_MAX_VCPUS];
};

static struct seen look(const struct vm *vm)
{
    struct seen s = {.clock = vm_clock_ns(vm)};

    for (uint32_t id = 0; id < vm->vcpu_count; id++)
        s.tsc[id] = x86_tsc(pc_cpu(vm, id));
    return s;
}

static void check_not_behind(const struct seen *before, const struct seen *after)
{
    CHECK(after->clock >= before->clock);
    for (uint32_t id = 0; id < options.vcpus; id++)
        CHECK((int64_t)(after->tsc[id] - before->tsc[id]) >= 0);
}

/* False: it has stopped by itself. */
static bool move(struct machine *from, struct machine *to)
{
    static struct vm_state state;
    struct vm *old = vm_env_vm(&from->env), *new = vm_env_vm(&to->env);
    struct seen before, after;

    vm_rest_begin(old, NULL);
    if (vm_is_stopped(old)) {
        vm_rest_end(old, NULL);
        return false;
    }
    pc_stop_clock(old);
    CHECK_EQ(pc_fetch_vcpus(old), OK);
    before = look(old);
    vm_env_save(&from->env, &state);
    vm_env_create(&to->env, &shape, engine_at(++moves));
    CHECK_EQ(state_load_all(&new->state, state.bytes, state.size), OK);
    after = look(new);
    check_not_behind(&before, &after);
    CHECK_EQ(pc_hand_over_vcpus(new), OK);
    vm_stop(old, VM_STOP_USER, 0, "moved");
    vm_rest_end(old, NULL);
    join(from);
    vm_env_destroy(&from->env);
    go(to);
    return true;
}

/* The machine that the guest ended in. */
static struct machine *run_moving(void)
{
    struct rng r = {.state = options.seed * UINT64_C(0x9E3779B97F4A7C15) | 1};
    uint64_t patience = seam_time_ns() + (uint64_t)PATIENCE_S * 1000 * MS;
    unsigned int on = 0;

    go(&machines[0]);
    while (seam_time_ns() < patience) {
        uint64_t ms = options.least + rng_below(&r, options.most - options.least + 1);

        if (rng_below(&r, 8) == 0)
            ms *= options.longer;
        wait_until(&machines[on], seam_time_ns() + ms * MS);
        if (vm_is_stopped(vm_env_vm(&machines[on].env)) ||
            !move(&machines[on], &machines[on ^ 1])) {
            wait_until(&machines[on], UINT64_MAX);
            return &machines[on];
        }
        on ^= 1;
    }
    vm_stop(vm_env_vm(&machines[on].env), VM_STOP_USER, 0, "not at its end after %u s",
            (unsigned int)PATIENCE_S);
    return &machines[on];
}

/* --- judging -----------------------------------------------------------------------------------
 */

/* In the rig Linux complains, once, of the processor's size of XSAVE state (tests/kvm/boot.py). */
static void forget_excused(void)
{
    char *from = strstr(output, "XSAVE consistency problem");
    char *to = from ? strstr(from, "end trace") : NULL;

    if (to)
        memset(from, ' ', (size_t)(to - from));
}

static bool is_bad(uint32_t reason)
{
    return reason != VM_STOP_POWEROFF && reason != VM_STOP_EXIT_PORT;
}

/* The guest's last words, kept from looking like a test's result. */
static void show_output(void)
{
    size_t length = strlen(output);

    printf("  the guest's last lines:\n  ");
    for (size_t i = length > SHOWN ? length - SHOWN : 0; i < length; i++) {
        putchar(output[i]);
        if (output[i] == '\n')
            printf("  ");
    }
    putchar('\n');
}

static void check_output(void)
{
    static const char *const bad[] = {"FAIL",     "Oops",        "Call Trace",
                                      "BUG: ",    "soft lockup", "rcu_sched self",
                                      "unstable", "Kernel panic"};

    forget_excused();
    if (options.expect[0])
        CHECK(strstr(output, options.expect));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        CHECK_STR(strstr(output, bad[i]) ? bad[i] : "", "");
}

/* Did the guest end as --excused says, with nothing wrong before? Then nothing is known of the
 * moves. */
static bool is_excused(void)
{
    return options.excused[0] && strstr(output, options.excused) && !strstr(output, "FAIL") &&
           unit_failures() == 0;
}

static void test_moved(void)
{
    char message[PC_MESSAGE];
    struct machine *last;
    struct vm *vm;
    uint32_t reason;

    vm_env_create(&machines[0].env, &shape, engine_at(0));
    CHECK_EQ(pc_boot(vm_env_vm(&machines[0].env), &files, message), OK);
    last = run_moving();
    join(last);
    vm = vm_env_vm(&last->env);
    reason = atomic_load(&vm->stop_reason);
    printf("%u moves, VM clock %llu ms: %s\n", moves, (unsigned long long)(vm_clock_ns(vm) / MS),
           vm->stop_text);
    if (is_bad(reason) || strstr(output, "Kernel panic"))
        show_output();
    if (is_excused()) {
        printf("# the guest was ended by what --excused names: \"%s\"\n", options.excused);
        exit(EXCUSED);
    }
    CHECK(!is_bad(reason));
    CHECK(reason != VM_STOP_EXIT_PORT || vm->stop_status == 1); /* it wrote 0 */
    CHECK(moves > 0);
    check_output();
    vm_env_destroy(&last->env);
}

/* --- options -----------------------------------------------------------------------------------
 */

static struct boot_file open_file(const char *name)
{
    const struct file_request r = {"file", name, FILE_MAX, "use a smaller one"};
    struct file_kept *f = calloc(1, sizeof(*f));
    char message[256] = "no memory";

    if (!f || file_keep(f, &r, message, sizeof(message)) != OK) {
        printf("not ok %s\n", message);
        exit(2);
    }
    return (struct boot_file){.size = (size_t)f->stat.st_size, .read = file_kept_read, .owner = f};
}

static void take_option(const char *name, const char *value)
{
    const struct {
        const char *name;
        uint32_t *small;
        uint64_t *number;
        const char **text;
    } known[] = {
        {"--longer", &options.longer, NULL, NULL},   {"--vcpus", &options.vcpus, NULL, NULL},
        {"--least", &options.least, NULL, NULL},     {"--most", &options.most, NULL, NULL},
        {"--memory", NULL, &options.memory, NULL},   {"--seed", NULL, &options.seed, NULL},
        {"--append", NULL, NULL, &options.append},   {"--expect", NULL, NULL, &options.expect},
        {"--engines", NULL, NULL, &options.engines}, {"--excused", NULL, NULL, &options.excused},
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (strcmp(name, known[i].name) != 0)
            continue;
        if (known[i].text)
            *known[i].text = value;
        else if (known[i].small)
            *known[i].small = (uint32_t)strtoul(value, NULL, 0);
        else
            *known[i].number = strtoull(value, NULL, 0);
        return;
    }
    printf("not ok there is no option %s\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    int i = 1, result;

    options.memory >>= 20;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2)
        take_option(argv[i], argv[i + 1]);
    if (i >= argc)
        return 2;
    options.kernel = argv[i];
    files.kernel = open_file(argv[i]);
    if (i + 1 < argc)
        files.initrd = open_file(argv[i + 1]);
    printf("%s, %u vCPUs, seed %llu, engines %s\n", options.kernel, options.vcpus,
           (unsigned long long)options.seed, options.engines);
    vm_shape_init(&shape, options.vcpus, options.memory << 20,
                  strchr(options.engines, 'k') ? &engine_kvm : &engine_soft);
    shape.console = &console_ops;
    snprintf(shape.config.append, sizeof(shape.config.append), "%s", options.append);
    UNIT_RUN(test_moved);
    result = unit_done();
    if (result)
        printf("--- the guest's output:\n%s\n---\n", output);
    return result;
}
