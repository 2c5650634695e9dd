/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The operator's commands: a table of small functions. Each gets what stands behind its name; those that are for a VM get the VM. All run
 * on the operator's thread and wait for nothing longer than a VM takes to be taken apart, but for save, which has the line for as long as a
 * receiver takes.
 */
#include "core/fmt.h"
#include "core/mem.h"
#include "core/seam.h"
#include "native/cpu.h"
#include "native/engine.h"
#include "native/fleet.h"
#include "native/frames.h"
#include "native/insn.h"
#include "native/log.h"
#include "native/main.h"
#include "native/operator.h"
#include "native/power.h"
#include "native/serial.h"
#include "native/thread.h"

#define MS 1000000ull
#define S  (1000 * MS)

enum { STOP_S = 30, LOG_SIZE = 8192 };

struct command {
    const char *name;
    const char *what; /* for help */
    void (*vm)(struct guest *g);     /* it is for a VM, whose name follows */
    void (*plain)(const char *rest); /* it is not */
    void (*with)(struct guest *g, const char *rest); /* it is, and more may follow */
};

static const struct command commands[];

/* --- VMs ----------------------------------------------------------------------------------------- */

static const char *state_name(const struct guest *g)
{
    static const char *const names[] = {"off", "starting", "running", "paused", "ending"};

    return names[guest_state(g)];
}

static void ps(const char *rest)
{
    static uint64_t ran[FLEET_VMS]; /* by the operator's thread only */

    (void)rest;
    usage_cpu_ns(ran);
    operator_say("%-20s %-8s %5s %8s %9s %9s  %s", "NAME", "STATE", "VCPUS", "MEM/MiB", "UP/s", "CPU/s", "LAST");
    for (uint32_t i = 0; i < fleet_guests(); i++) {
        struct guest *g = fleet_guest(i);
        const struct vm_config *c = g->exists ? &g->storage_config : &g->definition->config;
        uint64_t up = g->exists ? (seam_time_ns() - g->started_ns) / MS : 0, cpu = ran[i] / MS;

        operator_say("%-20s %-8s %5u %8llu %5llu.%03llu %5llu.%03llu  %s", c->name, state_name(g), c->vcpus,
                     (unsigned long long)(c->memory >> 20), (unsigned long long)(up / 1000),
                     (unsigned long long)(up % 1000), (unsigned long long)(cpu / 1000),
                     (unsigned long long)(cpu % 1000), g->ended);
    }
}

static void start(struct guest *g)
{
    if (guest_state(g) != GUEST_OFF)
        operator_say("it is not off");
    else if (usage_fits(g, g->account.share.terms.reservation, g->pin))
        guest_order(g, GUEST_ORDER_START);
}

static void stop(struct guest *g)
{
    if (guest_press_power(g))
        operator_say("its power button is pressed (kill ends it at once)");
    else
        operator_say("it does not run");
}

static void order_if(struct guest *g, uint32_t order, enum guest_state a, enum guest_state b)
{
    enum guest_state now = guest_state(g);

    if (now == a || now == b)
        guest_order(g, order);
    else
        operator_say("it is %s", state_name(g));
}

static void kill(struct guest *g)
{
    if (guest_state(g) == GUEST_OFF) {
        operator_say("it is off");
        return;
    }
    guest_order(g, GUEST_ORDER_KILL);
    if (!guest_wait_state(g, GUEST_OFF, seam_time_ns() + 2 * S))
        operator_say("it does not end yet");
}

static void reset(struct guest *g)
{
    order_if(g, GUEST_ORDER_RESET, GUEST_RUNS, GUEST_PAUSED);
}

/* The command after it finds it at rest. */
static void pause(struct guest *g)
{
    if (guest_state(g) != GUEST_RUNS) {
        operator_say("it is %s", state_name(g));
        return;
    }
    guest_order(g, GUEST_ORDER_PAUSE);
    if (!guest_wait_state(g, GUEST_PAUSED, seam_time_ns() + 2 * S))
        operator_say("it does not come to rest yet");
}

static void resume(struct guest *g)
{
    order_if(g, GUEST_ORDER_RESUME, GUEST_PAUSED, GUEST_PAUSED);
}

static void console(struct guest *g)
{
    operator_attach(g);
}

/* --- the machine --------------------------------------------------------------------------------- */

static void help(const char *rest)
{
    (void)rest;
    for (const struct command *c = commands; c->name; c++)
        operator_say("  %-9s %-5s %s", c->name, c->plain ? "" : "NAME", c->what);
}

static void info(const char *rest)
{
    uint64_t total, left, up = seam_time_ns() / MS;
    const struct hw_engine *engine = engine_found();

    (void)rest;
    frames_count(&total, &left);
    operator_say("Lodge %s, engine %s, up %llu.%03llu s", LODGE_VERSION, engine ? engine->engine->name : "none",
                 (unsigned long long)(up / 1000), (unsigned long long)(up % 1000));
    operator_say("memory: %llu MiB, %llu MiB free", (unsigned long long)(total >> 20), (unsigned long long)(left >> 20));
    for (uint32_t i = 0; i < cpu_count; i++) {
        const struct cpu *c = cpu_table[i];
        uint64_t idle = c->idle ? c->idle->share.ran_ns / MS : 0;

        operator_say("CPU %u: APIC id %u, %s %llu.%03llu s, %llu interrupts, %llu switches", i, c->apic_id,
                     c->parked ? "parked; idle" : "idle", (unsigned long long)(idle / 1000),
                     (unsigned long long)(idle % 1000), (unsigned long long)c->interrupts,
                     (unsigned long long)c->switches);
    }
}

static void log_command(const char *rest)
{
    char *text = seam_pages_alloc(LOG_SIZE / PAGE_SIZE);

    (void)rest;
    if (!text)
        return;
    operator_write(text, log_newest(text, LOG_SIZE));
    seam_pages_free(text, LOG_SIZE / PAGE_SIZE);
}

/* Nothing but this CPU runs when it returns, and that without an engine. */
static void stop_machine(void)
{
    uint32_t stopped;

    fleet_stop(STOP_S * S);
    serial_drain();
    stopped = cpu_stop_others(false);
    engine_stop_here();
    log_alone();
    log_line("%u of %u other CPUs have stopped", stopped, cpu_count - 1);
}

void command_power_off(void)
{
    operator_say("the machine is powered off");
    stop_machine();
    power_off();
    log_line("the machine does not power off: there are no registers for it, or they do nothing. It may be switched off.");
    halt_forever();
}

static void poweroff(const char *rest)
{
    (void)rest;
    command_power_off();
}

static void reboot(const char *rest)
{
    (void)rest;
    operator_say("the machine starts anew");
    stop_machine();
    power_reset();
}

/* --- obeying ------------------------------------------------------------------------------------- */

static const struct command commands[] = {
    {"help", "this text", NULL, help, NULL},
    {"ps", "the VMs", NULL, ps, NULL},
    {"console", "its serial port; Ctrl-] comes back", console, NULL, NULL},
    {"start", "starts it", start, NULL, NULL},
    {"stop", "presses its power button", stop, NULL, NULL},
    {"kill", "ends it at once", kill, NULL, NULL},
    {"pause", "lets it rest", pause, NULL, NULL},
    {"resume", "lets it go on", resume, NULL, NULL},
    {"reset", "presses its reset button", reset, NULL, NULL},
    {"save", "sends it over this line as a file, to a YMODEM receiver; Ctrl-X twice cancels", save_vm, NULL, NULL},
    {"usage", "what each VM has used, and where the rest went", NULL, usage_say, NULL},
    {"top", "who uses what, each second; q ends", NULL, usage_top, NULL},
    {"set", "KEY=VALUE...: its shares from now on, as cpu.weight=200", NULL, NULL, usage_set},
    {"info", "processors and memory", NULL, info, NULL},
    {"log", "what was said last", NULL, log_command, NULL},
    {"poweroff", "stops all VMs and the machine", NULL, poweroff, NULL},
    {"reboot", "stops all VMs and starts the machine anew", NULL, reboot, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* The first word of *text, and *text behind it. */
static size_t next_word(const char **text, const char **word)
{
    size_t n = 0;

    while (**text == ' ')
        (*text)++;
    *word = *text;
    while ((*word)[n] != '\0' && (*word)[n] != ' ')
        n++;
    *text += n;
    return n;
}

bool command_next_word(const char **text, char *word, size_t size)
{
    const char *first;
    size_t n = next_word(text, &first);

    if (n == 0)
        return false;
    if (n >= size)
        n = size - 1;
    memcpy(word, first, n);
    word[n] = '\0';
    return true;
}

static const struct command *find(const char *word, size_t n)
{
    for (const struct command *c = commands; c->name; c++) {
        if (str_len(c->name) == n && memcmp(c->name, word, n) == 0)
            return c;
    }
    return NULL;
}

static void run_for_vm(const struct command *c, const char *rest)
{
    const char *word;
    size_t n = next_word(&rest, &word);
    char name[VM_NAME_SIZE];
    struct guest *g;

    if (n == 0 || n >= sizeof(name)) {
        operator_say("%s takes the name of a VM (see ps)", c->name);
        return;
    }
    memcpy(name, word, n);
    name[n] = '\0';
    g = fleet_find(name);
    if (g && c->with)
        c->with(g, rest);
    else if (g)
        c->vm(g);
    else
        operator_say("there is no VM '%s' (see ps)", name);
}

void command_run(const char *line)
{
    const char *word;
    size_t n = next_word(&line, &word);
    const struct command *c = find(word, n);

    if (n == 0)
        return;
    if (!c)
        operator_say("there is no command '%.*s' (see help)", (int)(n < 64 ? n : 64), word);
    else if (c->plain)
        c->plain(line);
    else
        run_for_vm(c, line);
}

bool command_word(const char *text, uint32_t n, char *word, size_t size)
{
    const char *first;
    const struct command *c;

    if (next_word(&text, &first) == 0) {
        if (n + 1 >= ARRAY_SIZE(commands))
            return false;
        (void)str_copy(word, size, commands[n].name);
        return true;
    }
    c = find(first, (size_t)(text - first));
    if (!c || c->plain || n >= fleet_guests())
        return false;
    (void)str_copy(word, size, fleet_guest(n)->definition->config.name);
    return true;
}
