#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""lodge save, restore and fork, with a guest that says whether its memory is right: there and back, while it runs
on, what goes wrong on the way, and files that are damaged or made to harm."""
from lodge import (HOST, LODGE, OK, OPERATOR, SLOWER, UNDER_TEST, USAGE, background, check, check_refused,
                   check_status, guest, main, path, read_until, run, wait_for, work_dir)
from saved_file import HEAD, PAGE, edit, level_masks, set_features, set_tsc_aux, set_xcr0_mask
import json
import os
import random
import resource
import signal
import struct
import subprocess
import time

RUNTIME = path("runtime")
os.makedirs(RUNTIME)
os.environ["XDG_RUNTIME_DIR"] = RUNTIME
CUT = "cut off|cannot be read at byte"


def start(name, *args):
    """A VM ready for keys, with its memory filled and having counted to 0. A test that failed may have left others."""
    for line in run("ps").out.splitlines()[1:]:
        run("kill", line.split()[0])
    forget()
    p = background("run", "-k", guest(), "-m", "16M", "--name", name, *args, stdin=subprocess.PIPE)
    read_until(p, b"ready\r\n")
    check(ask(p, b"p") == b"<p>" and ask(p, b"n") == b"<0>", "filled")
    return p


def ask(p, key):
    p.stdin.write(key)
    p.stdin.flush()
    return read_until(p, b">")


def end(p, name):
    check_status(run("kill", name), OK)
    check(p.wait(timeout=20 * SLOWER) == OPERATOR, "the VM's status")


def restore(*args):
    return background("restore", "-e", UNDER_TEST, *args, stdin=subprocess.PIPE)


def attach(name):
    return subprocess.Popen([LODGE, "console", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def saved(name, file="saved", p=None):
    """A file of a VM that is not there any more."""
    p = p or start(name)
    check_status(run("save", name, path(file)), OK)
    end(p, name)
    return path(file)


def files():
    return sorted(f for f in os.listdir(work_dir()) if "saved" in f)


def forget():
    for f in files():
        os.unlink(path(f))


# --- there and back ---


def test_there_and_back():
    p = start("vm")
    check_status(run("save", "vm", path("saved")), OK)
    check(files() == ["saved"] and os.stat(path("saved")).st_mode & 0o777 == 0o600, files())
    check(ask(p, b"n") == b"<1>" and ask(p, b"q") == b"<y>", "the VM that was saved runs on")
    check_refused(run("restore", "-e", UNDER_TEST, path("saved")), USAGE, "a VM with the name 'vm' runs already")
    q = restore(path("saved"), "--name", "other")
    check(ask(q, b"q") == b"<y>" and ask(q, b"n") == b"<1>" and ask(q, b"n") == b"<2>", "its copy is as it was")
    check(ask(p, b"n") == b"<2>", "and is another")
    end(p, "vm")
    end(q, "other")
    q = restore(path("saved"))  # has its own name
    check(ask(q, b"n") == b"<1>", "from the file again")
    end(q, "vm")
    forget()


def test_again_and_again():
    """Saved, restored from that, changed, saved again: each file is of its moment."""
    p = start("vm")
    for n in range(5):
        check_status(run("save", "vm", path(f"saved{n}")), OK)
        check(ask(p, b"n") == b"<%d>" % (n + 1), "counts")
        if n % 2:
            end(p, "vm")
            p = restore(path(f"saved{n}"))
            check(ask(p, b"n") == b"<%d>" % (n + 1), "as it was")
        check(ask(p, b"q") == b"<y>", "memory")
    end(p, "vm")
    for n in range(5):
        p = restore(path(f"saved{n}"), "--verify")
        check(ask(p, b"n") == b"<%d>" % (n + 1) and ask(p, b"q") == b"<y>", f"file {n}")
        end(p, "vm")
    forget()


def test_more_often_than_there_are_layers():
    p = start("vm")
    for n in range(40):
        check_status(run("save", "vm", path("saved")), OK)
        check(ask(p, b"n") == b"<%d>" % ((n + 1) % 10), "counts")
        if n % 7 == 0:
            check(ask(p, b"w") == b"<w>" and ask(p, b"q") == b"<n>" and ask(p, b"p") == b"<p>", "writes")
    layers = json.loads(run("inspect", "vm").out)["memory_layers"]
    check(0 < len(layers) < 16, layers)
    check(ask(p, b"q") == b"<y>", "memory")
    end(p, "vm")
    p = restore(path("saved"))
    check(ask(p, b"q") == b"<y>" and ask(p, b"n") == b"<0>", "the last file")
    end(p, "vm")
    forget()


def test_interpreter_and_translator():
    if UNDER_TEST != "soft":
        return
    file = saved("vm")
    for n, how in enumerate(("off", "on", "off", "on")):
        p = restore(file, "--translator", how)
        check(ask(p, b"n") == b"<%d>" % (n + 1) and ask(p, b"q") == b"<y>", how)
        file = saved("vm", f"saved{n}", p)
    forget()


def test_paused():
    p = start("vm")
    check_status(run("pause", "vm"), OK)
    check_status(run("save", "vm", path("saved")), OK)
    check_status(run("save", "vm", path("saved2")), OK)
    check("paused" in run("ps").out, "still is")
    check_status(run("resume", "vm"), OK)
    check(ask(p, b"n") == b"<1>", "goes on")
    end(p, "vm")
    p = restore(path("saved2"), "--paused")
    wait_for(lambda: "paused" in run("ps").out, "begins paused")
    check_status(run("save", "vm", path("saved3")), OK)
    check_status(run("resume", "vm"), OK)
    check(ask(p, b"n") == b"<1>", "goes on")
    end(p, "vm")
    p = restore(path("saved3"))
    check(ask(p, b"n") == b"<1>" and ask(p, b"q") == b"<y>", "saved before it ever ran")
    end(p, "vm")
    forget()


def test_time_stands():
    file = saved("vm")
    time.sleep(1)
    p = restore(file)
    check(ask(p, b"n") == b"<1>", "runs")
    clock = json.loads(run("inspect", "vm").out)["clock_ns"]
    end(p, "vm")
    p = restore(file, "--paused")
    wait_for(lambda: "paused" in run("ps").out, "begins paused")
    first = json.loads(run("inspect", "vm").out)["clock_ns"]
    end(p, "vm")
    check(0 < first < clock and clock - first < 900e6 * SLOWER, (first, clock))
    forget()


def test_detached():
    file = saved("vm")
    check_status(run("restore", "-e", UNDER_TEST, "-d", file), OK)
    console = attach("vm")
    check(ask(console, b"n") == b"<1>", "runs")
    check_status(run("kill", "vm"), OK)
    check(console.wait(timeout=20 * SLOWER) == OK, "console")
    check_refused(run("restore", "-d", path("nothing")), USAGE, "No such file", hint=False)
    forget()


def test_reset_of_a_restored_vm():
    file = saved("vm")
    p = restore(file)
    p.stdin.write(b"r")
    p.stdin.flush()
    check(p.wait(timeout=20 * SLOWER) == OK and b"a reset is its end" in p.stderr.read(), "without a kernel")
    p = restore(file, "-k", guest())
    p.stdin.write(b"r")
    p.stdin.flush()
    check(b"clean" in read_until(p, b"ready\r\n"), "zeroed memory")
    check(ask(p, b"n") == b"<0>" and ask(p, b"p") == b"<p>", "from the beginning")
    check_status(run("save", "vm", path("saved2")), OK)
    end(p, "vm")
    p = restore(path("saved2"))
    check(ask(p, b"n") == b"<1>" and ask(p, b"q") == b"<y>", "saved after a reset")
    end(p, "vm")
    forget()


def test_reset_after_a_save():
    p = start("vm")
    for _ in range(3):
        check_status(run("save", "vm", path("saved")), OK)
        check_status(run("reset", "vm"), OK)
        check(b"clean" in read_until(p, b"ready\r\n"), "zeroed memory")
        check(ask(p, b"q") == b"<n>" and ask(p, b"p") == b"<p>" and ask(p, b"q") == b"<y>", "memory")
    end(p, "vm")
    forget()


# --- forks ---


def test_fork():
    p = start("vm")
    result = run("fork", "-n", "3", "vm")
    check_status(result, OK)
    check(result.out.split() == ["vm-1", "vm-2", "vm-3"], result)
    copies = [attach(n) for n in result.out.split()]
    check(ask(p, b"n") == b"<1>" and ask(p, b"w") == b"<w>", "the original writes")
    for n, c in enumerate(copies):
        check(ask(c, b"q") == b"<y>", "what the others write is not seen")
        for k in range(n + 1):
            check(ask(c, b"n") == b"<%d>" % (k + 1), "counts for itself")
        check(ask(c, b"w") == b"<w>" and ask(c, b"q") == b"<n>", "writes")
    check(ask(p, b"q") == b"<n>" and ask(p, b"n") == b"<2>", "the original runs on")
    end(p, "vm")
    check(ask(copies[0], b"p") == b"<p>" and ask(copies[0], b"q") == b"<y>", "without the original")
    result = run("fork", "vm-1")
    check(result.out.split() == ["vm-1-1"], result)
    check_status(run("save", "vm-1-1", path("saved")), OK)
    check_status(run("kill", "vm-1"), OK)
    grandchild = attach("vm-1-1")
    check(ask(grandchild, b"q") == b"<y>" and ask(grandchild, b"n") == b"<2>", "a copy's copy")
    for n in ("vm-1-1", "vm-2", "vm-3"):
        check_status(run("kill", n), OK)
    p = restore(path("saved"))
    check(ask(p, b"q") == b"<y>" and ask(p, b"n") == b"<2>", "a copy's copy's file")
    end(p, "vm-1-1")
    forget()


def test_reset_of_forks():
    """They boot what the original was booted from: a copy's copy, too, and one of a restored VM is at its end."""
    p = start("vm")
    check_status(run("fork", "vm"), OK)
    check_status(run("fork", "vm-1"), OK)
    for name in ("vm-1", "vm-1-1"):
        c = attach(name)
        check(ask(c, b"n") == b"<1>", "runs")
        check_status(run("reset", name), OK)
        check(b"clean" in read_until(c, b"ready\r\n"), "zeroed memory")
        check(ask(c, b"n") == b"<0>" and ask(c, b"q") == b"<n>", "from the beginning")
        check_status(run("kill", name), OK)
    check(ask(p, b"q") == b"<y>", "the original's memory")
    file = saved("vm", "saved", p)
    p = restore(file)
    check(ask(p, b"q") == b"<y>", "restored")
    check_status(run("fork", "vm"), OK)
    c = attach("vm-1")
    check(ask(c, b"q") == b"<y>", "forked")
    check_status(run("reset", "vm-1"), OK)
    check(c.wait(timeout=20 * SLOWER) == OK, "its end")
    end(p, "vm")
    forget()


def test_fork_names():
    p = start("vm")
    check(run("fork", "--name", "x", "vm").out.split() == ["x"], "one with a name of its own")
    check_refused(run("fork", "--name", "x", "vm"), USAGE, "runs already")
    check(run("fork", "--name", "x", "-n", "2", "vm").out.split() == ["x-1", "x-2"], "several")
    check(run("fork", "--name", "x", "-n", "2", "vm").out.split() == ["x-3", "x-4"], "the next")
    check_refused(run("fork", "nobody"), OPERATOR, "no VM with the name")
    check_refused(run("fork", "vm", "--name", "a/b"), USAGE, "name", hint=False)
    check(len(run("ps").out.splitlines()) == 1 + 6, run("ps").out)
    for n in ("x", "x-1", "x-2", "x-3", "x-4"):
        check_status(run("kill", n), OK)
    check(ask(p, b"q") == b"<y>", "memory")
    end(p, "vm")


def test_forks_at_rest():
    p = start("vm")
    check_status(run("pause", "vm"), OK)
    check_status(run("fork", "-n", "2", "--paused", "vm"), OK)
    check(run("ps").out.count("paused") == 3, run("ps").out)
    check_status(run("resume", "vm-2"), OK)
    c = attach("vm-2")
    check(ask(c, b"n") == b"<1>" and ask(c, b"q") == b"<y>", "a copy alone")
    check_status(run("resume", "vm"), OK)
    check(ask(p, b"n") == b"<1>", "the original")
    for n in ("vm-1", "vm-2"):
        check_status(run("kill", n), OK)
    end(p, "vm")


def test_fork_many():
    """What each holds of its own is little: the kernel's own figure for private memory."""
    p = start("vm")
    check_status(run("fork", "-n", "30", "--paused", "vm"), OK)
    lines = run("ps").out.splitlines()[1:]
    check(len(lines) == 31, lines)
    for line in lines:
        if line.split()[0] != "vm":
            check_status(run("kill", line.split()[0]), OK)
    check(ask(p, b"q") == b"<y>", "memory")
    end(p, "vm")


# --- what goes wrong while saving ---


def test_places_that_cannot_be_written():
    p = start("vm")
    os.mkfifo(path("fifo"))
    os.symlink("/dev/null", path("link"))  # a name for something that is not to be replaced by a file
    for place in ("/nowhere/x", work_dir(), "/proc/x", path("fifo"), path("link")):
        result = run("save", "vm", place)
        check(result.status in (USAGE, HOST) and result.err.startswith("lodge: cannot write"), (place, result))
        check(ask(p, b"q") == b"<y>", "the VM runs on")
    check_refused(run("save", "nobody", path("saved")), OPERATOR, "no VM with the name")
    check(os.path.islink(path("link")) and os.path.exists(path("fifo")) and files() == [], files())
    end(p, "vm")


def limit(size):
    def set_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return set_limit


def test_a_full_disk():
    p = start("vm")
    check_status(run("save", "vm", path("saved")), OK)
    before = open(path("saved"), "rb").read()
    check(ask(p, b"n") == b"<1>", "counts")
    result = run("save", "vm", path("saved"), preexec_fn=limit(1 << 20))
    check_status(result, HOST)
    check("File too large" in result.err, result)
    check(files() == ["saved"] and open(path("saved"), "rb").read() == before, "the file that was there")
    check(ask(p, b"n") == b"<2>" and ask(p, b"q") == b"<y>", "the VM runs on")
    end(p, "vm")
    forget()


def test_killed_in_the_middle():
    """At random moments: there is the whole file or none, and nothing else; the VM runs on and can be saved."""
    p = start("vm")
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    whole = 0
    for n in range(30):
        saver = subprocess.Popen([LODGE, "save", "vm", path("saved")], stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * 0.03)
        saver.send_signal(rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
        saver.wait()
        check(files() in ([], ["saved"]), f"seed {seed}: {files()}")
        if files():
            whole += 1
            check(subprocess.run([LODGE, "restore", "-e", "soft", "--verify", "--paused", "-d", "--name", "copy",
                                  path("saved")]).returncode == OK, "is whole")
            check_status(run("kill", "copy"), OK)
            forget()
        check(ask(p, b"n") == b"<%d>" % ((n + 1) % 10), f"seed {seed}: counts")
    check(ask(p, b"q") == b"<y>", "memory")
    file = saved("vm", "saved", p)
    p = restore(file)
    check(ask(p, b"q") == b"<y>", f"memory, {whole} of 30 were whole")
    end(p, "vm")
    forget()


def test_two_at_once():
    p = start("vm")
    savers = [subprocess.Popen([LODGE, "save", "vm", path(f"saved{n}")], stderr=subprocess.PIPE) for n in range(5)]
    done = [s.wait(timeout=20 * SLOWER) for s in savers]
    for n, status in enumerate(done):  # one at a time is frozen, who comes meanwhile is told
        check(status == OK or b"try again" in savers[n].stderr.read(), done)
    check(OK in done, done)
    for n in range(5):
        if done[n] == OK:
            q = restore(path(f"saved{n}"), "--name", "copy")
            check(ask(q, b"q") == b"<y>" and ask(q, b"n") == b"<1>", n)
            end(q, "copy")
    end(p, "vm")
    forget()


# --- files that are not right ---


def change(file, at, value=None):
    with open(file, "r+b") as f:
        f.seek(at)
        old = f.read(1)[0]
        f.seek(at)
        f.write(bytes([old ^ 0x40 if value is None else value]))


def refused(pattern, *args, status=USAGE):
    check_refused(run("restore", "-e", UNDER_TEST, *args), status, pattern)


def test_damaged_metadata():
    """Random bits of head and metadata (tests/unit/saved.c has all of them)."""
    file = saved("vm")
    size = struct.unpack_from("<Q", open(file, "rb").read(), 16)[0]
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for _ in range(40):
        at = rng.randrange(HEAD + size)
        change(file, at)
        result = run("restore", "-e", UNDER_TEST, file)
        check(result.status == USAGE and result.err.count("\n") == 1, f"seed {seed}, byte {at}: {result}")
        change(file, at)
    p = restore(file)
    check(ask(p, b"q") == b"<y>", "as it was again")
    end(p, "vm")
    forget()


def test_lengths():
    file = saved("vm")
    size = os.path.getsize(file)
    for length in (0, 1, HEAD - 1, HEAD, HEAD + 100, size // 2, size - 1):
        data = open(file, "rb").read()[:length]
        open(path("saved2"), "wb").write(data)
        refused("cut off|no saved VM", path("saved2"))
    open(path("saved2"), "wb").write(open(file, "rb").read() + b"x")
    refused("longer than it says", path("saved2"))
    for other in (guest(), "/dev/zero", work_dir(), "/nowhere"):
        refused("no saved VM|no file|cannot read", other) if other != "/nowhere" else check_status(
            run("restore", other), USAGE)
    forget()


def test_what_cannot_be():
    file = saved("vm")

    def with_bytes(section, at, value):
        def apply(parts):
            payload = parts[section][2]
            payload[at:at + len(value)] = value
        return apply

    def with_version(section):
        def apply(parts):
            parts[section][1] = 7
        return apply

    cases = [
        ("is of version 9", edit(file, path("saved2"), lambda parts: None, version=9)),
    ]
    for pattern, made in cases:
        refused(pattern, made)
    for section, at, value, pattern in (
            ("definition", 0, b"../x\0", "name"),
            ("definition", 0, b"a\0b", "damaged"),
            ("definition", 64, struct.pack("<Q", 1 << 60), "memory"),
            ("definition", 64, struct.pack("<Q", 32 << 20), "damaged|state"),  # memory is another than its state's
            ("definition", 72, struct.pack("<I", 0), "vCPU|cpus"),
            ("definition", 72, struct.pack("<I", 3), "state"),
            ("definition", 72, struct.pack("<I", 17), "vCPU|cpus"),
            ("level", 0, b"v9\0", "level|features|cpu"),
            ("level", 16, struct.pack("<I", 1), "features"),
            ("level", 20, struct.pack("<I", 49), "features"),
            ("memory", 0, struct.pack("<I", 1 << 30), "memory"),
            ("memory", 4, struct.pack("<Q", 1 << 50), "memory"),
            ("memory", 20, struct.pack("<Q", 1 << 50), "memory"),
            ("machine", 0, b"nonsense", "state")):
        made = edit(file, path("saved2"), with_bytes(section, at, value))
        result = run("restore", "-e", UNDER_TEST, made)
        check(result.status in (USAGE, HOST) and result.err.count("\n") == 1, (section, at, result))
        check(any(p in result.err for p in pattern.split("|")), (section, at, result))
    for section in ("definition", "level", "memory", "machine"):
        refused("version 7", edit(file, path("saved2"), with_version(section)))
    forget()


def test_a_level_that_is_not_offered():
    """A bit that is in no level, one that no host has, and a promise that is not kept: each by its name."""
    file = saved("vm")

    def with_cpuid(leaf, register, bit):
        def apply(parts):
            payload = parts["level"][2]
            for row in range(struct.unpack_from("<I", payload, 20)[0]):
                at = 24 + row * 25
                if struct.unpack_from("<II", payload, at) == (leaf, 0):
                    where = at + 9 + 4 * register
                    struct.pack_into("<I", payload, where, struct.unpack_from("<I", payload, where)[0] | 1 << bit)
                    return
        return apply

    refused(r"avx512f.*CPUID 7H.0 EBX bit 16 is not offered here|CPUID 7H.0 EBX bit 16 is not offered",
            edit(file, path("saved2"), with_cpuid(7, 1, 16)), status=HOST)
    refused("CPUID 1H.0 ECX bit 5 is not offered here", edit(file, path("saved2"), with_cpuid(1, 2, 5)), status=HOST)

    def with_capability(parts):
        payload = parts["level"][2]
        at = level_masks(payload) + 8
        struct.pack_into("<Q", payload, at, struct.unpack_from("<Q", payload, at)[0] | 1 << 63)
    refused("IA32_ARCH_CAPABILITIES bit 63 is not offered here", edit(file, path("saved2"), with_capability), status=HOST)
    for mask in (1, 5):
        refused("XCR0 without x87 or SSE is not offered here", edit(file, path("saved2"), set_xcr0_mask(mask)), status=HOST)
    forget()


def test_an_msr_that_the_level_has_not():
    """No guest could have written it; what does not fit it is refused all the same."""
    file = saved("vm")
    edit(file, path("saved2"), set_features(0))
    q = restore(path("saved2"), "--paused")
    wait_for(lambda: "paused" in run("ps").out, "without features, it is restored")
    end(q, "vm")
    refused("state", edit(path("saved2"), path("saved3"), set_tsc_aux((1 << 64) - 1)))
    forget()


def pages_at(file):
    return struct.unpack_from("<Q", open(file, "rb").read(HEAD), 24)[0]


def test_damaged_pages():
    file = saved("vm")
    change(file, os.path.getsize(file) - 2 * PAGE)
    refused("damaged at byte", "--verify", file)
    p = restore(file)  # found while it runs
    check(p.wait(timeout=20 * SLOWER) == HOST, "ends")
    check(b"memory is lost: the saved VM's file is damaged at byte" in p.stderr.read(), "and says why")
    forget()


def test_damage_does_not_spread():
    """Saved or forked at once: not before all of the file has been looked at."""
    file = saved("vm")
    change(file, os.path.getsize(file) - 2 * PAGE)
    for what in (("save", "vm", path("saved2")), ("fork", "vm")):
        p = restore(file, "--paused")
        wait_for(lambda: os.path.exists(os.path.join(RUNTIME, "lodge", "vm.sock")), "its socket")
        check(run(*what).status != OK and files() == ["saved"], what)
        check(p.wait(timeout=20 * SLOWER) == HOST, "ends")
        check(len(run("ps").out.splitlines()) == 1, "a fork runs")
    forget()


def test_a_file_that_is_cut_while_it_runs():
    """Its process has not looked at the pages yet, so nothing but the file has them."""
    file = saved("vm")
    for verify in (False, True):
        subprocess.run(["cp", file, path("saved2")], check=True)
        p = restore(path("saved2"), "--paused", *(["--verify"] if verify else []))
        wait_for(lambda: "paused" in run("ps").out, "paused")
        os.truncate(path("saved2"), pages_at(file))
        run("resume", "vm")
        try:
            p.stdin.write(b"q")
            p.stdin.flush()
        except BrokenPipeError:
            pass  # found already
        check(p.wait(timeout=20 * SLOWER) == HOST, "its status")
        said = p.stderr.read().decode()
        check(any(c in said for c in CUT.split("|")) or "lost" in said, said)
    forget()


def test_saving_from_a_file_that_is_cut():
    file = saved("vm")
    p = restore(file, "--paused", "--verify")
    wait_for(lambda: "paused" in run("ps").out, "paused")
    os.truncate(file, pages_at(file))
    result = run("save", "vm", path("saved2"))
    check(result.status != OK and files() == ["saved"], (result, files()))
    run("kill", "vm")
    p.wait(timeout=20 * SLOWER)
    forget()


def test_a_removed_file():
    """It is still there for the VM that has it."""
    file = saved("vm")
    p = restore(file)
    check(ask(p, b"n") == b"<1>", "runs")
    os.unlink(file)
    check(ask(p, b"q") == b"<y>", "memory")
    check_status(run("save", "vm", path("saved2")), OK)
    end(p, "vm")
    p = restore(path("saved2"))
    check(ask(p, b"q") == b"<y>" and ask(p, b"n") == b"<2>", "saved again")
    end(p, "vm")
    forget()


if __name__ == "__main__":
    main()
