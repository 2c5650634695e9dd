#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""lodge image: what it refuses, and with what words; that nothing is left of what was begun, whatever ended it; and
that what it makes boots, in BIOS and UEFI mode, with every file as it was and under the path that the fleet gives."""
from lodge import (HERE, HOST, LODGE, OK, TOP, USAGE, background, check, check_refused, check_status, guest, main,
                   path, read_until, run, run_as_nobody, wait_for, work_dir, write)
import gzip
import os
import resource
import shutil
import signal
import stat
import subprocess

RUNTIME = path("runtime")
os.makedirs(RUNTIME)
os.environ["XDG_RUNTIME_DIR"] = RUNTIME
PROGRAMS = ("grub-mkrescue", "xorriso", "mformat", "mcopy")
ODD = "a b $x*;é[c]{d}#|&`!%"  # in the name of a file: all that a fleet's path may have
VM = '[[vm]]\nname = "a"\nkernel = "k"\nmemory = "16M"\n'


def native():
    """In Lodge's place: a program that says what it was given (image_guest.S)."""
    out = path("lodge-native")
    if not os.path.exists(out):
        cc = os.environ.get("CC", "gcc")
        subprocess.run([cc, "-c", "-o", path("native.o"), os.path.join(HERE, "image_guest.S")], check=True)
        subprocess.run(["ld", "-m", "elf_x86_64", "-N", "-Ttext=0x200000", "-o", out, path("native.o")], check=True,
                       stderr=subprocess.DEVNULL)
    return out


def place(name):
    """An empty directory with a kernel."""
    shutil.rmtree(path(name), True)
    os.makedirs(path(name))
    write(name + "/k", b"kernel")
    return name


def image(name, fleet, *args, **kwargs):
    """Makes NAME/out.iso of the fleet, in the directory NAME of place()."""
    write(name + "/fleet.toml", fleet)
    return run("image", path(name + "/fleet.toml"), "-o", path(name + "/out.iso"), "--native", native(), *args,
               **kwargs)


def check_nothing_left(name, *expected):
    have = sorted(os.listdir(path(name)))
    check(have == sorted(["fleet.toml", "k", *expected]), f"left in {name}: {have}")


def refused(name, fleet, status, pattern, *args, hint=True, **kwargs):
    r = image(name, fleet, *args, **kwargs)
    check_refused(r, status, pattern, hint)
    check(not os.path.exists(path(name + "/out.iso")), "there is an image")
    return r


def programs(name, **fakes):
    """A directory for PATH: the programs that are needed but for those that are None or a script's text."""
    out = path(name)
    shutil.rmtree(out, True)
    os.makedirs(out)
    for program in PROGRAMS:
        text = fakes.get(program.replace("-", "_"), "")
        if text == "":
            os.symlink(shutil.which(program), os.path.join(out, program))
        elif text is not None:
            write(f"{name}/{program}", "#!/bin/sh\n" + text)
            os.chmod(path(f"{name}/{program}"), 0o755)
    return {**os.environ, "PATH": out + ":/nonexistent"}


# --- the command line ---


def test_options():
    place("d")
    check_refused(run("image"), USAGE, "no fleet given .*lodge help image")
    check_refused(run("image", path("d/f.toml")), USAGE, "no name for the image given .*-o FILE.iso")
    check_refused(run("image", "a", "b", "-o", "c"), USAGE, "two files, 'a' and 'b' .*after -o")
    check_refused(run("image", "a", "-o"), USAGE, "'-o' needs a value")
    check_refused(run("image", "a", "-o", ""), USAGE, "is no name of a file")
    check_refused(run("image", "a", "-k", "x"), USAGE, "unknown option '-k' .*lodge help image")
    check_refused(run("image", "a", "-o", "x" * 5000), USAGE, "too long")
    check_refused(run("run", "-o", "x"), USAGE, "unknown option '-o'")


def test_help():
    texts = [run(*args).out for args in (["help", "image"], ["image", "-h"], ["image", "--help"])]
    check(texts[0] == texts[1] == texts[2] and "FLEET.toml -o FILE.iso" in texts[0] and "xorriso" in texts[0], texts)
    check("image " in run("help").out, "listed")


# --- fleets ---


def test_bad_fleets():
    place("d")
    for fleet, pattern in (("", r"fleet file '.*' is empty"), ("x", "fleet.toml:1: expected '='"),
                           ("\n[[vm]]\n", "fleet.toml:2: this VM has no name"),
                           (VM + VM, "fleet.toml:6: there is a VM 'a' already, in line 1"),
                           (VM + "cpu.wieght = 1", "fleet.toml:5: unknown key 'cpu.wieght' .*'cpu.weight'"),
                           (VM + "engine = 'kvm'", "fleet.toml:5: a fleet's engine"),
                           (VM + "cpu.credit = 3600001", "fleet.toml:5: a credit of 3600001 is out of range"),
                           (VM + "cpu.pin = '2-1'", "fleet.toml:5: 'cpu.pin' has a range that descends, 2-1"),
                           (VM + "tenant = ''", "fleet.toml:5: the tenant is empty"),
                           (VM + "initrd = \"it's\"", "fleet.toml:5: the path of 'initrd' has a quote"),
                           (VM + 'initrd = "a\\nb"', "fleet.toml:5: the path of 'initrd' has a control character"),
                           (b"\xff", "fleet.toml:1: byte 0xff"), (b"\x7fELF\0", "fleet.toml:1:")):
        refused("d", fleet, USAGE, pattern, hint="expected" not in pattern)
    check_nothing_left("d")


def test_no_fleet():
    place("d")
    check_refused(run("image", path("d/none"), "-o", path("d/x")), USAGE, "cannot read fleet file .*No such file")
    check_refused(run("image", path("d"), "-o", path("d/x")), USAGE, "is a directory")
    check_refused(run("image", "/dev/zero", "-o", path("d/x")), USAGE, "is a device")
    write("d/fleet.toml", "#" * (1 << 20) + "\n")
    check_refused(run("image", path("d/fleet.toml"), "-o", path("d/x")), USAGE, "too large: .*is it a FLEET.toml")
    check_refused(run("run", write("d/fleet.toml", VM)), USAGE,
                  r"fleet.toml:1: \[\[vm\]\] makes this a fleet, .*'lodge image'")


def test_that_does_not_fit():
    place("d")
    big = VM.replace("16M", "1G")
    refused("d", "machine.memory = '1G'\n" + big, USAGE,
            "fleet.toml: VM 'a' has 1024 MiB of memory; with Lodge's own 68 MiB and the image's files of 1 MiB that is "
            "1093 MiB, and the machine has 1024 MiB .give it less.")
    refused("d", "machine.memory = '2G'\n" + big + big.replace('"a"', '"b"'), USAGE,
            "fleet.toml: the VMs that start by themselves have 2048 MiB of memory; .*autostart = false")
    refused("d", "machine.cpus = 1\n" + VM + "vcpus = 2\ncpu.reservation = 60\n" + VM.replace('"a"', '"b"') +
            "cpu.reservation = 41\n", USAGE,
            "fleet.toml: .* have reserved 101 % of a CPU, and a machine of 1 CPUs has 100 %")
    refused("d", "machine.cpus = 2\n" + VM + "cpu.pin = '1-2'\n", USAGE,
            "fleet.toml:2: VM 'a' is pinned to CPU 2, and a machine of 2 CPUs has 0 to 1")
    refused("d", VM + "cpu.reservation = 60\ncpu.pin = '1'\n" + VM.replace('"a"', '"b"') +
            "cpu.reservation = 41\ncpu.pin = '1'\n", USAGE,
            "fleet.toml: .* pinned within CPUs 1 have reserved 101 % of a CPU, and these have 100 %")
    check_nothing_left("d")
    check_status(image("d", "machine.memory = '2G'\n" + big + big.replace('"a"', '"b"') + "autostart = false\n"), OK)


# --- the files that it names ---


def test_files_that_cannot_be():
    place("d")
    write("d/empty", b"")
    os.mkdir(path("d/directory"))
    os.mkfifo(path("d/pipe"))
    write("d/large", b"x" * (2 << 20))
    for name, pattern in (("none", "cannot read initrd '.*d/none': No such file"), ("empty", "initrd '.*' is empty"),
                          ("directory", "is a directory"), ("pipe", "is a pipe"), ("/dev/null", "is a device"),
                          ("k/x", "Not a directory"), ("x" * 1020, "too long"),
                          ("large", "too large: .*give the VM more memory")):
        fleet = "\n" + VM.replace("16M", "2M") + f"initrd = '{name}'\n"
        if name == "large":
            write("d/large", b"x" * ((2 << 20) + 1))
        refused("d", fleet, USAGE, "fleet.toml:2: .*" + pattern)
    refused("d", VM.replace("'k'", "'none'").replace('"k"', '"none"'), USAGE, "fleet.toml:1: cannot read kernel")


def test_large_for_one_only():
    """A file of two VMs is looked at for each."""
    place("d")
    write("d/large", b"x" * (4 << 20))
    second = VM.replace('"a"', '"b"').replace("16M", "2M")
    refused("d", VM + "initrd = 'large'\n" + second + "initrd = 'large'\n", USAGE,
            "fleet.toml:6: initrd '.*' is too large")


def test_unreadable():
    place("d")
    os.chmod(path("d"), 0o777)
    os.chmod(write("d/secret", b"x"), 0o600)
    native()
    fleet = write("d/fleet.toml", VM + "initrd = 'secret'\n")
    r = run_as_nobody("image", fleet, "-o", path("d/out.iso"), "--native", native())
    check_refused(r, USAGE, "cannot read initrd '.*': Permission denied .check its permissions")
    os.chmod(path("d"), 0o755)
    r = run_as_nobody("image", write("d/fleet.toml", VM), "-o", path("d/out.iso"), "--native", native())
    check_refused(r, USAGE, "cannot write '.*out.iso': Permission denied .give -o another name")


def test_native():
    place("d")
    write("d/fleet.toml", VM)
    args = ["image", path("d/fleet.toml"), "-o", path("d/out.iso")]
    shutil.copy(LODGE, path("lodge-alone"))
    p = subprocess.run([path("lodge-alone"), *args], capture_output=True, text=True)
    beside = os.path.exists(path("lodge-native"))
    check(beside == (p.returncode == OK), p)
    if beside:
        os.unlink(path("lodge-native"))
        os.unlink(path("d/out.iso"))
    p = subprocess.run([path("lodge-alone"), *args], capture_output=True, text=True)
    check(p.returncode == USAGE and "there is no" in p.stderr and "make native" in p.stderr, p)
    for content in (b"x", b"\x7fELF\2\1" + b"\0" * 40000, open(guest(), "rb").read(), open(LODGE, "rb").read(32768)):
        check_refused(run(*args, "--native", write("d/native", content)), USAGE, "is not Lodge for the bare machine")
    whole = bytearray(open(native(), "rb").read())
    at = whole.index(bytes.fromhex("d65052e8"))
    whole[at + 12] ^= 1  # its checksum
    check_refused(run(*args, "--native", write("d/native", bytes(whole))), USAGE, "is not Lodge for the bare machine")
    check_refused(run(*args, "--native", path("d/none")), USAGE,
                  "cannot read Lodge for the bare machine .*No such file")
    os.unlink(path("d/native"))
    check_nothing_left("d")
    p = subprocess.run([path("lodge-alone"), *args], capture_output=True, text=True)
    check(p.returncode == OK, f"native() has made it again, beside: {p}")


# --- saved VMs ---


def saved():
    """A VM of 16 MiB, saved."""
    file = path("vm.saved")
    if not os.path.exists(file):
        p = background("run", "-k", guest(), "-m", "16M", "-c", "2", "--name", "vm", stdin=subprocess.PIPE)
        read_until(p, b"ready\r\n")
        check_status(run("save", "vm", file), OK)
        check_status(run("kill", "vm"), OK)
        p.wait()
    return file


def restoring(lines=""):
    return f'[[vm]]\nname = "a"\nrestore = "{saved()}"\n{lines}'


def test_saved():
    place("d")
    check_status(image("d", "machine.memory = '90M'\n" + restoring("cpu.reservation = 200\n")), OK)
    check(stat.S_IMODE(os.stat(path("d/out.iso")).st_mode) == 0o600, "it has a guest's memory")
    check(extract("d/out.iso", "/lodge/1") == open(saved(), "rb").read(), "as it was")
    os.unlink(path("d/out.iso"))
    refused("d", restoring("memory = '32M'\n"), USAGE,
            "fleet.toml:4: this VM is restored, and has what it was saved with")
    refused("d", restoring("cpu.reservation = 201\n"), USAGE,
            "fleet.toml:1: VM 'a' cannot use its reservation of 201 %")
    refused("d", "machine.memory = '80M'\n" + restoring(), USAGE, "fleet.toml: VM 'a' has 16 MiB of memory")
    refused("d", restoring("initrd = 'k'\n"), USAGE, "an initrd without a kernel")
    check_nothing_left("d")


def test_saved_that_is_not():
    place("d")
    whole = open(saved(), "rb").read()
    for at, pattern in ((0, "cannot be restored"), (9, "cannot be restored"), (16, "cannot be restored"),
                        (70, "cannot be restored"), (2000, "cannot be restored"), (len(whole) - 1, "is damaged")):
        bad = bytearray(whole)
        bad[at] ^= 4
        status = HOST if "damaged" in pattern else USAGE
        r = image("d", restoring().replace(saved(), write("bad", bytes(bad))))
        check(r.status in (USAGE, HOST), r)
        check_refused(r, r.status, ("fleet.toml:1: .*" if status == USAGE else "") + pattern)
    for size in (0, 10, 64, 1000, len(whole) - 4096):
        r = image("d", restoring().replace(saved(), write("bad", whole[:size])))
        check_refused(r, USAGE, "fleet.toml:1: .*(cut off|cannot be restored)")
    refused("d", restoring().replace(saved(), "k"), USAGE, "fleet.toml:1: '.*d/k' is cut off")
    refused("d", restoring().replace(saved(), "/dev/null"), USAGE, "is no file")
    check_nothing_left("d")


# --- the image's name ---


def test_output():
    place("d")
    write("d/fleet.toml", VM)
    before = open(path("d/k"), "rb").read()
    for output, pattern in ((path("d"), "there is something that is no file"),
                            ("/dev/null", "there is something that is no file"),
                            (path("none/x"), "cannot write '.*none/x': No such file"),
                            (path("d/k/x"), "Not a directory"),
                            (path("d/k"), "which is part of it"), (path("d/fleet.toml"), "which is part of it"),
                            (native(), "which is part of it")):
        r = run("image", path("d/fleet.toml"), "-o", output, "--native", native())
        check_refused(r, USAGE, pattern)
    check(open(path("d/k"), "rb").read() == before, "the kernel is as it was")
    check_nothing_left("d")


def test_output_takes_a_place():
    place("d")
    write("d/out.iso", b"old")
    check_status(image("d", VM), OK)
    check(os.path.getsize(path("d/out.iso")) > 1 << 20, "the new one")
    check_nothing_left("d", "out.iso")


def test_output_names():
    place("d")
    os.makedirs(path("d/" + ODD))
    write("d/fleet.toml", VM)
    for cwd, output in (("d", "-x.iso"), ("d", "./y.iso"), ("d/" + ODD, "z '\"\\.iso"), ("", path("d/w.iso"))):
        r = run("image", path("d/fleet.toml"), "-o", output, "--native", native(), cwd=path(cwd))
        check_status(r, OK)
        check(os.path.getsize(os.path.join(path(cwd), output)) > 1 << 20, output)
    check(os.listdir(path("d/" + ODD)) == ["z '\"\\.iso"], "nothing else")


# --- the programs that make it ---


def test_missing_programs():
    place("d")
    for program in PROGRAMS:
        env = programs("bin", **{program.replace("-", "_"): None})
        r = refused("d", VM, HOST, f"needs {program}, which is not installed", env=env)
        check("apt install grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools" in r.err, r)
    check_nothing_left("d")


def test_missing_platform():
    """GRUB for one of the two only: bin/grub-mkrescue, and lib/grub/ beside bin."""
    place("d")
    env = programs("grub/bin", grub_mkrescue="exit 1")
    for have, lacks in (("i386-pc", "GRUB for UEFI"), ("x86_64-efi", "GRUB for BIOS")):
        shutil.rmtree(path("grub/lib"), True)
        os.makedirs(path(f"grub/lib/grub/{have}"))
        write(f"grub/lib/grub/{have}/moddep.lst", b"")
        refused("d", VM, HOST, f"needs {lacks} .*which is not installed", env=env)


def test_programs_from_here():
    """A relative part of PATH, or an empty one, is no place to look for programs."""
    place("d")
    programs("d/bin")
    for search in ("bin", ".:bin", "::", ""):
        r = image("d", VM, env={**os.environ, "PATH": search}, cwd=path("d"))
        if search == "":  # the usual places
            check_status(r, OK)
        else:
            check_refused(r, HOST, "needs grub-mkrescue")


def test_environment():
    place("d")
    script = f"/usr/bin/env >{path('environment')}\n/bin/pwd >>{path('environment')}\nexit 3"
    env = programs("bin", grub_mkrescue=script)
    env.update(LD_PRELOAD="", GRUB_X="y", HOME="/root")
    refused("d", VM, HOST, "could not make the image: it does not say why", env=env)
    have = dict(line.partition("=")[::2] for line in open(path("environment")).read().splitlines())
    where = [name for name in have if name.startswith("/")]  # it works there
    check(len(where) == 1 and where[0].startswith(path("d/.lodge-")), have)
    check(set(have) - {"PWD", "SHLVL", "_", "OLDPWD", *where} == {"PATH", "TMPDIR", "HOME", "LC_ALL"}, have)
    check(have["TMPDIR"] == have["HOME"] == "." and have["PATH"] == env["PATH"], have)


def test_failures():
    place("d")
    write("d/out.iso", b"old")
    several = "echo error; echo 'tool : SORRY : no luck'; echo 'tool : FAILURE : more'; echo error >&2; exit 5"
    for script, pattern in ((several, "image: tool : SORRY : no luck"),
                            ("echo 'an error: so'; echo last; exit 5", "image: an error: so"),
                            ("echo last; exit 1", "image: last"), ("kill -9 $$", "was ended by signal 9"),
                            ("exit 0", "cannot write .*No such file"),
                            ("printf 'a\\033[2Jb\\n'; exit 1", r"a\?\[2Jb"),
                            ("head -c 10000000 /dev/zero | tr '\\0' x; exit 1", "xxxx")):
        r = image("d", VM, env=programs("bin", grub_mkrescue="PATH=/usr/bin:/bin\n" + script))
        check_refused(r, HOST, pattern)
        check(len(r.err) < 1000, r)
    check(open(path("d/out.iso")).read() == "old", "the old one is still there")
    check_nothing_left("d", "out.iso")
    write("bin/grub-mkrescue", b"\x7fnot a program")
    check_refused(image("d", VM, env={**os.environ, "PATH": path("bin")}), HOST,
                  "cannot run .*grub-mkrescue: Exec format error")
    check_nothing_left("d", "out.iso")


def test_disk_full():
    """By a limit on files' sizes: where the tree is made, in grub-mkrescue, in xorriso, and just not."""
    place("d")
    write("d/k", os.urandom(3 << 20))
    write("d/out.iso", b"old")
    for kib in (0, 1, 64, 2048, 4096, 8192, 16384):
        limit = kib << 10
        r = image("d", VM, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        check_refused(r, HOST, "File too large")
        check(open(path("d/out.iso")).read() == "old", "the old one is still there")
        check_nothing_left("d", "out.iso")
    check_status(image("d", VM), OK)


def few_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))


def test_few_descriptors():
    place("d")
    files = "".join(VM.replace('"a"', f'"v{n}"').replace('"k"', f'"k{n}"') for n in range(8))
    for n in range(8):
        write(f"d/k{n}", b"x")
    refused("d", files, HOST, "Too many open files|No file descriptors", preexec_fn=few_descriptors)


def is_alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_killed():
    """In the middle of it: by whatever signal, nothing is left, and nobody works on."""
    place("d")
    slow = (f"PATH=/usr/bin:/bin\nmkdir sub; echo x >sub/y\nsleep 1000 &\necho $! $$ >{path('pids.new')}\n"
            f"mv {path('pids.new')} {path('pids')}\nwait\n")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
        if os.path.exists(path("pids")):
            os.unlink(path("pids"))
        write("d/fleet.toml", VM)
        p = subprocess.Popen([LODGE, "image", path("d/fleet.toml"), "-o", path("d/out.iso"), "--native", native()],
                             env=programs("bin", grub_mkrescue=slow), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        wait_for(lambda: os.path.exists(path("pids")), "it runs")
        pids = open(path("pids")).read().split()
        check(all(is_alive(pid) for pid in pids), "they work")
        p.send_signal(number)
        p.communicate(timeout=20)  # to the end of what the keeper holds open
        check(p.returncode == -number, p.returncode)
        check_nothing_left("d")
        wait_for(lambda: not any(is_alive(pid) for pid in pids), "they have ended")


def test_killed_at_any_time():
    """SIGKILL at 20 moments from the beginning to beyond the end of what a whole run takes."""
    place("d")
    write("d/k", os.urandom(20 << 20))
    fleet = VM.replace("16M", "32M")
    whole = image("d", fleet)
    check_status(whole, OK)
    made = []
    for n in range(20):
        os.unlink(path("d/out.iso")) if made[-1:] != [False] else None
        p = subprocess.Popen([LODGE, "image", path("d/fleet.toml"), "-o", path("d/out.iso"), "--native", native()],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            p.wait(timeout=whole.seconds * n / 12)
        except subprocess.TimeoutExpired:
            p.kill()
        p.communicate(timeout=20)
        made.append(os.path.exists(path("d/out.iso")))
        if made[-1]:
            check(extract("d/out.iso", "/lodge/1") == open(path("d/k"), "rb").read(), "whole or not at all")
        check_nothing_left("d", *["out.iso"] * made[-1])
    print(f"  {sum(made)} of 20 were made")
    check(not made[0], "the first was killed at once")


# --- what is made ---


def extract(name, file):
    out = path("extracted")
    if os.path.exists(out):
        os.unlink(out)
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", path(name), "-extract", file, out], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(out, "rb") as f:
        return f.read()


def rich_fleet():
    """A directory and a fleet with files of all kinds: packed, shared by VMs, with odd names, at odd places."""
    place("d")
    os.makedirs(path("d/sub"))
    os.makedirs(path("elsewhere"), exist_ok=True)
    files = {"k": b"kernel", "sub/" + ODD: os.urandom(5000), "i.gz": gzip.compress(b"x" * 100000),
             "../elsewhere/i 2": os.urandom(1 << 20), path("elsewhere/absolute"): b"y" * 4097, "./k": b"kernel"}
    for name, content in files.items():
        with open(os.path.join(path("d"), name), "wb") as f:
            f.write(content)
    fleet = (f"[machine]\nmemory = '1G'\ncpus = 2\n\n{VM}initrd = 'i.gz'\n"
             f"[[vm]]\nname = 'b'\nmemory = '16M'\nkernel = 'sub/{ODD}'\ninitrd = '../elsewhere/i 2'\n"
             f"[[vm]]\nname = 'c'\nmemory = '16M'\nkernel = './k'\ninitrd = '{path('elsewhere/absolute')}'\n"
             "autostart = false\n"
             f"[[vm]]\nname = 'd'\nmemory = '16M'\nkernel = 'k'\ninitrd = 'i.gz'\n")
    order = ["k", "i.gz", "sub/" + ODD, "../elsewhere/i 2", "./k", path("elsewhere/absolute")]
    return fleet, [(name, files[name]) for name in order]


def test_contents():
    fleet, modules = rich_fleet()
    r = image("d", fleet)
    check_status(r, OK)
    check("6 files" in r.out and "4 VMs, of which 3 start by themselves with 48 MiB" in r.out and not r.err, r)
    umask = os.umask(0)
    os.umask(umask)
    check(stat.S_IMODE(os.stat(path("d/out.iso")).st_mode) == 0o666 & ~umask, "its mode")
    listing = subprocess.run(["xorriso", "-indev", path("d/out.iso"), "-ls", "/lodge/"], check=True,
                             capture_output=True, text=True).stdout.split()
    check(sorted(x.strip("'") for x in listing) == ["1", "2", "3", "4", "5", "6", "fleet", "lodge-native"], listing)
    check(extract("d/out.iso", "/lodge/fleet") == fleet.encode(), "the fleet, as it is")
    check(extract("d/out.iso", "/lodge/lodge-native") == open(native(), "rb").read(), "Lodge")
    lines = extract("d/out.iso", "/boot/grub/grub.cfg").decode().splitlines()
    check("set timeout=0" in lines and "    if multiboot2 /lodge/lodge-native; then true; else" in lines, lines)
    have = [line for line in lines if "module2" in line]
    want = ["    module2 --nounzip /lodge/fleet fleet"]
    for n, (name, content) in enumerate(modules, 1):
        check(extract("d/out.iso", f"/lodge/{n}") == content, name)
        want.append(f"    module2 --nounzip /lodge/{n} '{name}'")
    check(have == want, f"{have}\n{want}")
    for file in ("/boot/grub/i386-pc/multiboot2.mod", "/boot/grub/x86_64-efi/multiboot2.mod"):
        check(len(extract("d/out.iso", file)) > 1000, "both modes")


def test_example():
    for name in ("debian-6.1-cloud", "debian-6.12-cloud"):
        os.makedirs(path(f"top/build/guests/{name}"))
        for file in ("vmlinuz", "initrd"):
            write(f"top/build/guests/{name}/{file}", b"x")
    os.makedirs(path("top/examples"))
    shutil.copy(os.path.join(TOP, "examples/fleet.toml"), path("top/examples"))
    r = run("image", "examples/fleet.toml", "-o", "build/fleet.iso", "--native", native(), cwd=path("top"))
    check_status(r, OK)
    check("3 VMs, of which 2 start by themselves with 1024 MiB" in r.out, r)


def boots(*args):
    """What the program in Lodge's place says."""
    p = subprocess.run(["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-display", "none", "-serial", "stdio",
                        "-monitor", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4", *args],
                       capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    text = p.stdout.decode()
    check("end\n" in text, f"{p.stderr!r} {text[-2000:]!r}")
    return [line.partition("module ")[2] for line in text.replace("\r", "").split("\n") if line.startswith("module ")]


def test_boots():
    """Each file arrives as it was, under the command line that fleet_module_is takes for its path."""
    fleet, modules = rich_fleet()
    check_status(image("d", fleet), OK)
    want = []
    for name, content in [("fleet", fleet.encode()), *modules]:
        want.append(f"{len(content):08x} {sum(content) & 0xFFFFFFFF:08x} " + (f'"{name}"' if " " in name else name))
    iso = path("d/out.iso")
    for args in (["-cdrom", iso], ["-drive", f"file={iso},format=raw"],
                 ["-bios", "/usr/share/ovmf/OVMF.fd", "-cdrom", iso]):
        have = boots(*args)
        check(have == want, f"{args}:\n{have}\n{want}")


def test_longest_paths():
    """1023 bytes in the fleet, and as many VMs as there may be."""
    place("d")
    deep = "d/" + "/".join(["x" * 200] * 3)
    name = "./" * 209 + "/".join(["x" * 200] * 3) + "//k"
    check(len(name) == 1023, len(name))
    os.makedirs(path(deep))
    write(deep + "/k", b"z")
    vms = "".join(VM.replace('"a"', f'"v{n}"').replace("16M", "2M") for n in range(255))
    r = run("image", "fleet.toml", "-o", "out.iso", "--native", native(),
            cwd=os.path.dirname(write("d/fleet.toml", vms + VM.replace('"k"', f'"{name}"'))))
    check_status(r, OK)
    check("with 2 files" in r.out and "256 VMs" in r.out, r)  # what all but one name is there once
    check(boots("-cdrom", path("d/out.iso"))[2] == f"00000001 0000007a {name}", "as it was given")
    os.unlink(path("d/out.iso"))
    refused("d", vms + VM + VM.replace('"a"', '"b"'), USAGE, "fleet.toml:1025: more than 256 VMs")


if __name__ == "__main__":
    work_dir()
    main()
