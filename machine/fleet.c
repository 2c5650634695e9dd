/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The fleet file.
 *
 * A VM is one element of the array of tables [[vm]], since that is what TOML has for "several of the same": what
 * follows a [[vm]] is what a VM's own file has, plus what it only has beside others (shares, autostart) and on a
 * machine that starts by itself (restore). The keys that both have come from config.c's table and are checked by the
 * same functions. [machine] says what the file is for, so that a fleet that cannot fit is refused where the image is
 * made and not where it is booted.
 *
 * Three steps, since they know different things. fleet_parse has the text only: every value, and each VM by itself.
 * A restored VM's memory and vCPUs stand in another file: fleet_vm_adopt, when somebody has read it. Then
 * fleet_fits holds the whole against a machine, the one that the file names or the one that runs.
 *
 * VMs that do not start by themselves are held against the machine one by one: the operator may start them in turn.
 *
 * Pure: no state but the caller's, no allocation. The text is the operator's, and yet bounded in every way: it may
 * have come with an image of somebody else's.
 */
#include "machine/fleet.h"

#include "core/fmt.h"
#include "core/mem.h"
#include "machine/config_keys.h"
#include "machine/toml.h"

#define MACHINE_MEMORY_MIN (FLEET_OWN_MEMORY + MIB(2))
#define MACHINE_MEMORY_MAX ((uint64_t)1 << 46) /* the direct map's room (docs/native.md) */

/* --- what values mean ---------------------------------------------------------------------------
 */

static int check_weight(const void *owner, char *message)
{
    const struct fleet_vm *v = owner;
    if (v->weight < 1 || v->weight > FLEET_WEIGHT_MAX)
        return config_refuse(message, "a weight of %u is out of range (1 to %d)", v->weight, FLEET_WEIGHT_MAX);
    return OK;
}

static int check_reservation(const void *owner, char *message)
{
    const struct fleet_vm *v = owner;
    if (v->reservation > VM_MAX_VCPUS * FLEET_CPU_PERCENT)
        return config_refuse(message, "a reservation of %u is out of range (percent of one CPU, 0 to %d)",
                             v->reservation, VM_MAX_VCPUS * FLEET_CPU_PERCENT);
    return OK;
}

static int check_limit(const void *owner, char *message)
{
    const struct fleet_vm *v = owner;
    if (v->limit > VM_MAX_VCPUS * FLEET_CPU_PERCENT)
        return config_refuse(message, "a limit of %u is out of range (percent of one CPU, 1 to %d, or 0 for none)",
                             v->limit, VM_MAX_VCPUS * FLEET_CPU_PERCENT);
    return OK;
}

static int check_credit(const void *owner, char *message)
{
    const struct fleet_vm *v = owner;
    if (v->credit > FLEET_CREDIT_MAX)
        return config_refuse(message, "a credit of %u is out of range (milliseconds of CPU time, 0 to %d)", v->credit,
                             FLEET_CREDIT_MAX);
    return OK;
}

static int check_tenant(const void *owner, char *message)
{
    const struct fleet_vm *v = owner;
    return config_check_name("tenant", v->tenant, message);
}

static int check_machine_memory(const void *owner, char *message)
{
    const struct fleet *f = owner;
    if (f->memory < MACHINE_MEMORY_MIN || f->memory > MACHINE_MEMORY_MAX)
        return config_refuse(message, "a machine with %llu bytes of memory is out of range (%lluM to %lluT)",
                             (unsigned long long)f->memory, (unsigned long long)(MACHINE_MEMORY_MIN / MIB(1)),
                             (unsigned long long)(MACHINE_MEMORY_MAX / GIB(1024)));
    return OK;
}

static int check_machine_cpus(const void *owner, char *message)
{
    const struct fleet *f = owner;
    if (f->cpus < 1 || f->cpus > FLEET_CPUS)
        return config_refuse(message, "a machine with %u CPUs is out of range (1 to %d)", f->cpus, FLEET_CPUS);
    return OK;
}

static int check_machine_smt(const void *owner, char *message)
{
    const struct fleet *f = owner;
    if (!str_equal(f->smt, "off") && !str_equal(f->smt, "shared"))
        return config_refuse(message, "smt is '%s' (off: one thread of each core runs VMs; shared: all do, and VMs may "
                                      "learn of each other's secrets)",
                             f->smt);
    return OK;
}

bool fleet_shares_cores(const struct fleet *f)
{
    return str_equal(f->smt, "shared");
}

#define VM(member) offsetof(struct fleet_vm, member)

_Static_assert(VM(config) == 0, "keys of struct vm_config are keys of struct fleet_vm at the same offsets");

/* What may be changed while it runs, too. */
#define SHARE_KEYS \
    {"cpu.weight", CONFIG_U32, VM(weight), 0, "100", check_weight}, \
    {"cpu.reservation", CONFIG_U32, VM(reservation), 0, "50", check_reservation}, \
    {"cpu.limit", CONFIG_U32, VM(limit), 0, "150", check_limit}, \
    {"cpu.credit", CONFIG_U32, VM(credit), 0, "5000", check_credit}, \
    {"cpu.pin", CONFIG_CPUS, VM(cpus), 0, "\"0,2-3\"", NULL}

static const struct config_key fleet_keys[] = {
    /* table */
    SHARE_KEYS,
    {"tenant", CONFIG_STRING, VM(tenant), VM_NAME_SIZE, "\"acme\"", check_tenant},
    {"autostart", CONFIG_BOOL, VM(autostart), 0, "true", NULL},
    {"restore", CONFIG_STRING, VM(restore), CONFIG_PATH, "\"debian.saved\"", NULL},
};

static const struct config_key machine_keys[] = {
    /* table */
    {"machine.memory", CONFIG_SIZE, offsetof(struct fleet, memory), 0, "\"16G\"", check_machine_memory},
    {"machine.cpus", CONFIG_U32, offsetof(struct fleet, cpus), 0, "4", check_machine_cpus},
    {"machine.smt", CONFIG_STRING, offsetof(struct fleet, smt), FLEET_SMT, "\"off\"", check_machine_smt},
};

static const char *const vm_tables[] = {"cpu", "memory"};
static const char *const machine_tables[] = {"machine"};

static const char *const vm_reserved[] = {
    "memory.reservation", "memory.weight", "memory.limit", "disk", "network", "serial", "firmware",
};
static const char *const machine_reserved[] = {"fleet", "tenant", "disk", "network", "serial", "firmware"};

static const struct config_schema machine_schema = {
    .list = {{machine_keys, ARRAY_SIZE(machine_keys)}},
    .table = machine_tables,
    .tables = ARRAY_SIZE(machine_tables),
    .reserved = machine_reserved,
    .reserved_count = ARRAY_SIZE(machine_reserved),
};

/* --- reading ------------------------------------------------------------------------------------
 */

struct fleet_reader {
    struct toml toml;
    struct fleet *fleet;
    struct config_schema vm_schema; /* vm_config_keys and fleet_keys */
    struct config_scope machine, vm;
};

enum { PREFIX = 3 }; /* "vm." */

static bool is_of_vm(const char *path)
{
    return path[0] == 'v' && path[1] == 'm' && path[2] == '.';
}

/* Has any [[vm]] been read? */
static bool is_in_vm(const struct fleet_reader *r)
{
    return r->fleet->count > 0;
}

static struct fleet_vm *newest(const struct fleet_reader *r)
{
    return &r->fleet->vm[r->fleet->count - 1];
}

/* Where the VM was given that member, else where it begins: what is said next is said of that line. */
static struct toml *at(struct fleet_reader *r, uint32_t offset)
{
    uint32_t line = config_scope_line(&r->vm, offset);
    r->toml.line = line != 0 ? line : newest(r)->line;
    return &r->toml;
}

/* GRUB hands a command line on with quotes around it if there is a space in it, and different versions of it treat
 * quotes and backslashes differently (grub-core/lib/cmdline.c): there are none. */
static const char *refuse_path(const char *path)
{
    for (const char *p = path; *p != 0; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7F)
            return "has a control character";
        if (*p == '\\' || *p == '"' || *p == '\'')
            return "has a quote or backslash, which a boot loader cannot hand on";
    }
    return str_equal(path, FLEET_MODULE) ? "is what the fleet file itself is called in an image" : NULL;
}

static int check_path(struct fleet_reader *r, const char *what, uint32_t offset)
{
    const char *why = refuse_path((const char *)newest(r) + offset);
    return why ? toml_error(at(r, offset), "the path of '%s' %s (rename it, or write it as ./NAME)", what, why) : OK;
}

static int check_paths(struct fleet_reader *r)
{
    int err = check_path(r, "kernel", VM(config.kernel));
    if (err == OK)
        err = check_path(r, "initrd", VM(config.initrd));
    return err != OK ? err : check_path(r, "restore", VM(restore));
}

static int check_name(struct fleet_reader *r)
{
    const struct fleet_vm *v = newest(r);
    if (config_scope_line(&r->vm, VM(config.name)) == 0)
        return toml_error(at(r, VM(config.name)), "this VM has no name (add name = \"...\" to it)");
    for (const struct fleet_vm *other = r->fleet->vm; other < v; other++)
        if (str_equal(other->config.name, v->config.name))
            return toml_error(at(r, VM(config.name)),
                              "there is a VM '%s' already, in line %u (give this one another name)", v->config.name,
                              other->line);
    return OK;
}

/* A saved VM is what it was: what would change it is refused, not ignored. */
static int check_restored(struct fleet_reader *r)
{
    static const uint32_t saved[] = {VM(config.append),    VM(config.memory),   VM(config.vcpus),  VM(config.level),
                                     VM(config.exit_port), VM(config.portable), VM(config.tsc_khz)};
    const struct fleet_vm *v = newest(r);
    for (size_t n = 0; n < ARRAY_SIZE(saved); n++)
        if (config_scope_line(&r->vm, saved[n]) != 0)
            return toml_error(at(r, saved[n]),
                              "this VM is restored, and has what it was saved with (remove this line)");
    if (v->config.initrd[0] != 0 && v->config.kernel[0] == 0)
        return toml_error(at(r, VM(config.initrd)),
                          "an initrd without a kernel (a reset would boot both: give both or neither)");
    return OK;
}

_Static_assert(FLEET_CPUS == 64, "a bit of fleet_vm.cpus for each");

/* Of the CPUs in that mask. Not __builtin_popcountll, which is a call into libgcc where POPCNT may not be assumed. */
static uint32_t percent_of(uint64_t cpus)
{
    uint32_t percent = 0;
    for (; cpus != 0; cpus &= cpus - 1)
        percent += FLEET_CPU_PERCENT;
    return percent;
}

void fleet_cpus_text(uint64_t cpus, char *text)
{
    size_t used = 0;
    text[0] = 0;
    for (uint32_t n = 0; n < FLEET_CPUS; n++) {
        uint32_t first = n;
        if (!(cpus & BIT(n)))
            continue;
        while (n + 1 < FLEET_CPUS && cpus & BIT(n + 1))
            n++;
        used += fmt(text + used, FLEET_CPUS_TEXT - used, first == n ? "%s%u" : "%s%u-%u", used ? "," : "", first, n);
    }
}

static int check_pin(const struct fleet_vm *v, char *message)
{
    char cpus[FLEET_CPUS_TEXT];
    if (v->reservation <= percent_of(v->cpus))
        return OK;
    fleet_cpus_text(v->cpus, cpus);
    return config_refuse(message, "VM '%s' cannot use its reservation of %u %% of a CPU, pinned to %s (at most %u)",
                         v->config.name, v->reservation, cpus, percent_of(v->cpus));
}

static int check_shares(const struct fleet_vm *v, char *message)
{
    if (v->reservation > v->config.vcpus * FLEET_CPU_PERCENT)
        return config_refuse(message, "VM '%s' cannot use its reservation of %u %% of a CPU with %u vCPUs (at most %u)",
                             v->config.name, v->reservation, v->config.vcpus, v->config.vcpus * FLEET_CPU_PERCENT);
    if (v->limit != 0 && v->limit < v->reservation)
        return config_refuse(message,
                             "VM '%s' has a limit of %u %% of a CPU, less than its reservation of %u %% (raise it)",
                             v->config.name, v->limit, v->reservation);
    return check_pin(v, message);
}

/* The VM that was being read is complete. */
static int end_vm(struct fleet_reader *r)
{
    const struct fleet_vm *v = newest(r);
    char why[CONFIG_MESSAGE];
    int err = check_name(r);
    if (err == OK)
        err = check_paths(r);
    if (err != OK)
        return err;
    if (!str_equal(v->config.engine, "auto"))
        return toml_error(at(r, VM(config.engine)),
                          "a fleet's engine is what its machine's processor has (remove this line)");
    if (v->restore[0] != 0)
        return check_restored(r);
    if (v->config.kernel[0] == 0)
        return toml_error(at(r, VM(config.kernel)),
                          "VM '%s' has no kernel (add kernel = \"FILE\", or restore = \"FILE\")", v->config.name);
    if (check_shares(v, why) != OK)
        return toml_error(at(r, VM(reservation)), "%s", why);
    return OK;
}

static int begin_vm(struct fleet_reader *r)
{
    struct fleet *f = r->fleet;
    struct toml *t = &r->toml;
    uint32_t line = t->line;
    if (!str_equal(t->path, "vm"))
        return toml_error(t, "[[%s]] is not known (VMs are [[vm]])", t->path);
    int err = is_in_vm(r) ? end_vm(r) : OK;
    if (err != OK)
        return err;
    t->line = line;
    if (f->count >= f->capacity)
        return toml_error(t, "more than %u VMs (make a second fleet)", f->capacity);
    struct fleet_vm *v = &f->vm[f->count++];
    memset(v, 0, sizeof(*v));
    vm_config_defaults(&v->config);
    v->config.name[0] = 0;
    v->weight = FLEET_WEIGHT_DEFAULT;
    v->cpus = UINT64_MAX;
    v->autostart = true;
    v->line = line;
    config_scope_begin(&r->vm, &r->vm_schema, v, PREFIX);
    return OK;
}

/* Is it a key or a table of a VM's that stands where no VM is? */
static bool is_known_to_vms(const struct fleet_reader *r, const char *path)
{
    for (size_t l = 0; l < ARRAY_SIZE(r->vm_schema.list); l++)
        for (uint32_t n = 0; n < r->vm_schema.list[l].count; n++)
            if (str_equal(r->vm_schema.list[l].key[n].path, path))
                return true;
    return str_equal(path, "cpu") || str_equal(path, "memory");
}

static int read_table(struct fleet_reader *r)
{
    struct toml *t = &r->toml;
    if (str_equal(t->path, "vm"))
        return toml_error(t, "a VM begins with two brackets (write [[vm]])");
    if (is_of_vm(t->path) && is_in_vm(r))
        return config_scope_table(&r->vm, t);
    if (is_of_vm(t->path))
        return toml_error(t, "[%s] is of no VM (put it behind the [[vm]] that it is of)", t->path);
    if (is_known_to_vms(r, t->path))
        return toml_error(t, "[%s] is of no VM (write [vm.%s], behind the [[vm]] that it is of)", t->path, t->path);
    return config_scope_table(&r->machine, t);
}

static int read_key(struct fleet_reader *r)
{
    struct toml *t = &r->toml;
    if (is_of_vm(t->path) && t->table[0] != 0)
        return config_scope_key(&r->vm, t);
    if (is_of_vm(t->path) || is_known_to_vms(r, t->path))
        return toml_error(t, "'%s' is of no VM (put it behind the [[vm]] that it is of)", t->path);
    return config_scope_key(&r->machine, t);
}

static int read_event(struct fleet_reader *r, enum toml_event event)
{
    if (event == TOML_ELEMENT)
        return begin_vm(r);
    return event == TOML_TABLE ? read_table(r) : read_key(r);
}

static int read_all(struct fleet_reader *r)
{
    for (;;) {
        enum toml_event event = TOML_END;
        int err = toml_next(&r->toml, &event);
        if (err != OK)
            return err;
        if (event == TOML_END)
            break;
        err = read_event(r, event);
        if (err != OK)
            return err;
    }
    if (!is_in_vm(r))
        return toml_error(&r->toml, "the fleet has no VMs (add [[vm]] with a name and a kernel)");
    return end_vm(r);
}

/* [machine] may stand behind the VMs, so this comes last. */
static int check_pins(struct fleet_reader *r)
{
    const struct fleet *f = r->fleet;
    uint64_t has = f->cpus == 0 || f->cpus == FLEET_CPUS ? UINT64_MAX : BIT(f->cpus) - 1;
    for (const struct fleet_vm *v = f->vm; v < f->vm + f->count; v++) {
        char cpus[FLEET_CPUS_TEXT];
        if (v->cpus == UINT64_MAX || (v->cpus & ~has) == 0)
            continue;
        fleet_cpus_text(v->cpus & ~has, cpus);
        r->toml.line = v->line;
        return toml_error(&r->toml, "VM '%s' is pinned to CPU %s, and a machine of %u CPUs has 0 to %u (see cpu.pin)",
                          v->config.name, cpus, f->cpus, f->cpus - 1);
    }
    return OK;
}

int fleet_parse(struct fleet *f, const char *file, const char *text, size_t size, char *message)
{
    struct fleet_reader r;
    memset(&r, 0, sizeof(r));
    f->count = f->cpus = 0;
    f->memory = 0;
    (void)str_copy(f->smt, sizeof(f->smt), "off");
    r.fleet = f;
    r.vm_schema = (struct config_schema){
        .list = {vm_config_keys, {fleet_keys, ARRAY_SIZE(fleet_keys)}},
        .table = vm_tables,
        .tables = ARRAY_SIZE(vm_tables),
        .reserved = vm_reserved,
        .reserved_count = ARRAY_SIZE(vm_reserved),
    };
    config_scope_begin(&r.machine, &machine_schema, f, 0);
    toml_init(&r.toml, file, text, size, message, CONFIG_MESSAGE);
    int err = read_all(&r);
    if (err == OK)
        err = check_pins(&r);
    f->bad_line = r.toml.line;
    return err;
}

/* --- changing shares at run time ----------------------------------------------------------------
 */

static const struct config_key share_keys[] = {
    /* table */
    SHARE_KEYS,
};

static const struct config_schema share_schema = {
    .list = {{share_keys, ARRAY_SIZE(share_keys)}},
    .table = vm_tables,
    .tables = 1,
};

int fleet_vm_set(struct fleet_vm *v, const char *text, size_t size, char *message)
{
    struct config_scope scope;
    enum toml_event event = TOML_END;
    struct toml t;
    int err;
    config_scope_begin(&scope, &share_schema, v, 0);
    toml_init(&t, "set", text, size, message, CONFIG_MESSAGE);
    while ((err = toml_next(&t, &event)) == OK && event != TOML_END) {
        err = event == TOML_VALUE ? config_scope_key(&scope, &t) : toml_error(&t, "only keys, as in cpu.weight=200");
        if (err != OK)
            return err;
    }
    return err != OK ? err : check_shares(v, message);
}

/* --- leaving out --------------------------------------------------------------------------------
 */

/* A VM or a table of the machine's; [vm.cpu] is of the VM before it. Strings end with their line: none looks so. */
static bool begins_section(const char *line, size_t n)
{
    static const char of_vm[] = "[vm.";
    size_t at = 0;
    while (at < n && (line[at] == ' ' || line[at] == '\t'))
        at++;
    if (at == n || line[at] != '[')
        return false;
    return n - at < sizeof(of_vm) - 1 || memcmp(line + at, of_vm, sizeof(of_vm) - 1) != 0;
}

static size_t line_length(const char *text, size_t size, size_t at)
{
    size_t n = 0;
    while (at + n < size && text[at + n] != '\n')
        n++;
    return n;
}

static bool blank(char *text, size_t from, size_t to)
{
    bool any = false;
    for (size_t i = from; i < to; i++) {
        if (text[i] == '\n')
            continue;
        any = any || text[i] != ' ';
        text[i] = ' ';
    }
    return any;
}

bool fleet_leave_out(char *text, size_t size, uint32_t line)
{
    size_t from = 0, at = 0;
    bool in_section = false;
    uint32_t number = 1;
    while (at < size) {
        size_t n = line_length(text, size, at);
        if (begins_section(text + at, n)) {
            if (number > line)
                return blank(text, from, at);
            in_section = true;
            from = at;
        }
        if (number == line && !in_section)
            return blank(text, at, at + n);
        at += n + 1;
        number++;
    }
    return blank(text, from, size);
}

int fleet_vm_adopt(struct fleet_vm *v, const struct vm_config *saved, char *message)
{
    v->config.memory = saved->memory;
    v->config.vcpus = saved->vcpus;
    v->config.exit_port = saved->exit_port;
    v->config.portable = saved->portable;
    v->config.tsc_khz = saved->tsc_khz;
    memcpy(v->config.append, saved->append, sizeof(v->config.append));
    memcpy(v->config.level, saved->level, sizeof(v->config.level));
    return check_shares(v, message);
}

/* --- the whole ----------------------------------------------------------------------------------
 */

static unsigned long long mib(uint64_t bytes)
{
    return (bytes >> 20) + (bytes % MIB(1) != 0);
}

/* Sums saturate: too much is too much. */
static uint64_t plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* `who` is what the message begins with, "VMs ... have": VMs that have `memory` in all. */
static int fits_memory(const struct fleet *f, const struct fleet_room *room, uint64_t memory, const char *who,
                       const char *advice, char *message)
{
    uint64_t own = FLEET_OWN_MEMORY + f->count * FLEET_VM_MEMORY;
    uint64_t all = plus(plus(memory, own), room->files);
    if (room->memory == 0 || all <= room->memory)
        return OK;
    config_refuse(
        message,
        "%s %llu MiB of memory; with Lodge's own %llu MiB and the image's files of %llu MiB that is %llu MiB, "
        "and the machine has %llu MiB (%s)",
        who, mib(memory), mib(own), mib(room->files), mib(all), mib(room->memory), advice);
    return ERR_RANGE;
}

static int fits_cpus(const struct fleet_room *room, uint32_t reserved, const char *who, const char *advice,
                     char *message)
{
    uint32_t all = room->cpus * FLEET_CPU_PERCENT;
    if (room->cpus == 0 || reserved <= all)
        return OK;
    config_refuse(message, "%s reserved %u %% of a CPU, and a machine of %u CPUs has %u %% (%s)", who, reserved,
                  room->cpus, all, advice);
    return ERR_RANGE;
}

static int fits_alone(const struct fleet *f, const struct fleet_vm *v, const struct fleet_room *room, char *message)
{
    char who[VM_NAME_SIZE + 16];
    fmt(who, sizeof(who), "VM '%s' has", v->config.name);
    int err = fits_memory(f, room, v->config.memory, who, "give it less", message);
    if (err == OK)
        err = fits_cpus(room, v->reservation, who, "reserve less", message);
    return err == OK && check_pin(v, message) != OK ? ERR_RANGE : err;
}

/*
 * Whoever may run on CPUs of a set only gets its reservation there: their sum is at most what the set has. That holds
 * for every set, and all together are enough; it is looked at for each that some VM is pinned to. So two VMs on one CPU
 * are caught; three VMs on the three pairs of three CPUs are not, unless that is all of the machine.
 */
static int fits_pinned(const struct fleet *f, uint64_t set, char *message)
{
    char cpus[FLEET_CPUS_TEXT];
    uint32_t reserved = 0;
    for (const struct fleet_vm *v = f->vm; v < f->vm + f->count; v++)
        if (v->autostart && (v->cpus & ~set) == 0)
            reserved += v->reservation;
    if (reserved <= percent_of(set))
        return OK;
    fleet_cpus_text(set, cpus);
    config_refuse(message,
                  "the VMs that start by themselves and are pinned within CPUs %s have reserved %u %% of a CPU, and these "
                  "have %u %% (reserve less, or pin them elsewhere)",
                  cpus, reserved, percent_of(set));
    return ERR_RANGE;
}

static int fit_pinned(const struct fleet *f, char *message)
{
    int err = OK;
    for (const struct fleet_vm *v = f->vm; v < f->vm + f->count && err == OK; v++)
        if (v->autostart && v->cpus != UINT64_MAX)
            err = fits_pinned(f, v->cpus, message);
    return err;
}

int fleet_fits(const struct fleet *f, const struct fleet_room *room, char *message)
{
    static const char together[] = "the VMs that start by themselves have";
    uint64_t memory = 0;
    uint32_t reserved = 0; /* at most FLEET_VMS * VM_MAX_VCPUS * 100 */
    int err = OK;
    for (const struct fleet_vm *v = f->vm; v < f->vm + f->count && err == OK; v++) {
        memory = v->autostart ? plus(memory, v->config.memory) : memory;
        reserved += v->autostart ? v->reservation : 0;
        err = fits_alone(f, v, room, message);
    }
    if (err == OK)
        err = fits_memory(f, room, memory, together, "give them less, or autostart = false", message);
    if (err == OK)
        err = fits_cpus(room, reserved, together, "reserve less, or autostart = false", message);
    return err == OK ? fit_pinned(f, message) : err;
}

bool fleet_module_is(const char *command_line, const char *path)
{
    size_t n = str_len(path);
    if (str_equal(command_line, path))
        return true;
    return n > 0 && command_line[0] == '"' && str_len(command_line) == n + 2 &&
           memcmp(command_line + 1, path, n) == 0 && command_line[n + 1] == '"';
}
