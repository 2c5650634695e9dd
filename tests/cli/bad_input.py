#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Kernels and initrds that are none, machines that do not fit this host: one line that says what to
do, the documented status, and nothing left behind."""
from lodge import (ENGINE, HOST, LIMIT, OK, UNDER_TEST, USAGE, background, check, check_refused, check_status, guest, main,
                   path, read_until, run, run_as_nobody, run_guest, work_dir, write)
import os
import random
import resource
import socket
import struct
import subprocess
import time


def refuse_kernel(kernel, pattern):
    check_refused(run("run", "-m", "32M", "-k", kernel), USAGE, pattern)


def refuse_to_boot(kernel, pattern="kernel"):
    check_refused(run("run", "-m", "32M", "-k", kernel), USAGE, f"cannot boot '{kernel}': .*{pattern}",
                  hint=False)


def test_missing():
    refuse_kernel(path("missing"), "cannot read kernel .*No such file")
    refuse_kernel(guest() + "/x", "cannot read kernel .*Not a directory")
    check_refused(run("run", "-k", guest(), "-i", path("missing")), USAGE,
                  "cannot read initrd .*No such file")


def test_directory():
    refuse_kernel(work_dir(), "is a directory")


def test_devices():
    refuse_kernel("/dev/null", "is a device")
    refuse_kernel("/dev/zero", "is a device")


def test_fifo_does_not_block():
    os.mkfifo(path("fifo"))
    began = time.monotonic()
    refuse_kernel(path("fifo"), "is a pipe")
    check_refused(run("run", "-k", guest(), "-i", path("fifo")), USAGE, "is a pipe")
    check(time.monotonic() - began < 5, "took too long")


def test_socket():
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path("socket"))
        refuse_kernel(path("socket"), "is a socket")


def test_unreadable():
    secret = write("secret", "x" * 5000)
    os.chmod(secret, 0)
    if os.geteuid() != 0:  # root reads everything
        refuse_kernel(secret, "Permission denied .*permissions")
        return
    check_refused(run_as_nobody("run", "-k", secret), USAGE, "Permission denied .*permissions")


def test_empty():
    refuse_kernel(write("empty", ""), "is empty")
    check_refused(run("run", "-k", guest(), "-i", path("empty")), USAGE, "is empty")


def test_files_without_a_true_size():
    """Those of /proc say that they have none, those of /sys that they have a page."""
    for option in ("-k", "-i"):
        arguments = ["run", "-m", "32M", "-k", guest(), option]
        what = "kernel" if option == "-k" else "initrd"
        check_refused(run(*arguments, "/proc/cpuinfo"), USAGE,
                      f"{what} '/proc/cpuinfo' does not say how long it is .*copy it")
        if os.path.exists("/sys/devices/system/cpu/online"):  # not in every container
            check_refused(run(*arguments, "/sys/devices/system/cpu/online"), USAGE,
                          f"{what} .*fewer bytes than its size says .*copy it")
    check_refused(run("run", "/proc/cpuinfo"), USAGE, "does not say how long")


def test_not_a_kernel():
    refuse_to_boot(write("text", "This is not a kernel. " * 1000), "not a kernel")
    refuse_to_boot(write("one-byte", "x"))
    refuse_to_boot(write("zeroes", bytes(100000)))
    refuse_to_boot("/bin/sh")
    random.seed(1)
    for n in (2, 511, 512, 4096, 100000):
        refuse_to_boot(write("random", random.randbytes(n)))


def test_truncated():
    whole = open(guest(), "rb").read()
    for n in (4, 16, 51, 52, 60, 84, 4096):
        if n < len(whole):
            check_status(run("run", "-m", "16M", "-k", write("cut", whole[:n])), USAGE)


def bzimage(setup_sects=4, size=65536, boot_flag=0xAA55, magic=b"HdrS", version=0x20F,
            syssize=None, loadflags=1, init_size=1 << 20):
    """The header of a bzImage (Documentation/arch/x86/boot.rst) before zeroes."""
    image = bytearray(size)
    image[0x1F1] = setup_sects
    struct.pack_into("<I", image, 0x1F4,
                     max(0, size - 512 * (setup_sects + 1)) // 16 if syssize is None else syssize)
    struct.pack_into("<H", image, 0x1FE, boot_flag)
    image[0x202:0x206] = magic
    struct.pack_into("<H", image, 0x206, version)
    image[0x211] = loadflags
    struct.pack_into("<H", image, 0x236, 1)  # xloadflags: 64-bit entry
    struct.pack_into("<I", image, 0x238, 2047)
    struct.pack_into("<I", image, 0x230, 0x200000)
    struct.pack_into("<Q", image, 0x258, 0x1000000)
    struct.pack_into("<I", image, 0x260, init_size)
    return bytes(image)


def test_truncated_bzimage():
    refuse_to_boot(write("bz", bzimage(setup_sects=255)))
    refuse_to_boot(write("bz", bzimage(size=2560)))
    refuse_to_boot(write("bz", bzimage(syssize=0x100000)))
    refuse_to_boot(write("bz", bzimage()[:0x230]))


def test_absurd_bzimage():
    refuse_to_boot(write("bz", bzimage(version=0x100)))
    refuse_to_boot(write("bz", bzimage(init_size=0xFFFFFFFF)), "does not lie in free RAM")
    refuse_to_boot(write("bz", bzimage(init_size=1 << 30)), "needs memory up to .*-m")
    refuse_to_boot(write("bz", bzimage(magic=b"XXXX")))


def test_initrd_that_does_not_fit():
    write("big", "")
    os.truncate(path("big"), 100 << 20)
    check_refused(run("run", "-k", guest(), "-m", "32M", "-i", path("big")), USAGE,
                  "initrd .*too large.*-m")
    os.truncate(path("big"), (32 << 20) - 4096)
    check_refused(run("run", "-k", guest(), "-m", "32M", "-i", path("big")), USAGE,
                  "no room for the (initrd|module)")


def test_huge_kernel_is_not_read():
    write("sparse", "")
    os.truncate(path("sparse"), 1 << 40)
    began = time.monotonic()
    refuse_kernel(path("sparse"), "kernel .*too large")
    check(time.monotonic() - began < 2, "took too long")


def host_mib():
    fields = dict(line.split(":") for line in open("/proc/meminfo"))
    return sum(int(fields[k].split()[0]) for k in ("MemTotal", "SwapTotal")) >> 10


def test_memory_larger_than_host():
    if host_mib() + 64 > 512 << 10:
        return  # more than a VM may have at all
    check_refused(run("run", "-k", guest(), "-m", f"{host_mib() + 64}M"), HOST,
                  "more than this host has.*-m")


def test_promises_beyond_free_memory_are_fine():
    """Half of the host's memory is promised and a little of it used."""
    r = run("run", "-k", guest(), "-m", f"{host_mib() // 2}M", keys=b"o")
    check_status(r, OK)


def test_limited_address_space():
    r = run("run", "-k", guest(), "-m", "1G", preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_AS, (256 << 20, 256 << 20)))
    check_refused(r, HOST, "memory.*ulimit")


def test_limited_file_size():
    r = run("run", "-k", guest(), "-m", "16M", preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)))
    check_refused(r, HOST, "memory.*ulimit -f")


def test_no_descriptors_left():
    """Whatever it is that gets no descriptor, the message says which limit to raise."""
    ended = []
    for limit in range(4, 64):
        r = run("run", "-k", guest(), "-m", "16M", keys=b"o", preexec_fn=lambda:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
        ended.append(r.status)
        if r.status == OK:
            break
        check_refused(r, HOST, "([Tt]oo many (open files|files are open)|No file descriptors).*ulimit -n")
    check(HOST in ended and ended[-1] == OK, ended)


def test_memory_limits():
    """From too little to enough for all: each time what was short is said, and what to do."""
    seen = set()
    for mib in range(16, 1024, 8):
        r = run("run", "-k", guest(), "-m", "16M", "-c", "2", keys=b"o", preexec_fn=lambda:
                resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20)))
        if r.status == OK:
            break
        check_refused(r, HOST, "ulimit -v")
        seen.add(r.err)
    check(r.status == OK and seen, (r, seen))
    if UNDER_TEST == "soft":
        check(len(seen) > 1 and any("executable memory: " in line for line in seen), seen)


def test_no_threads_left():
    run_it = run_as_nobody if os.geteuid() == 0 else run  # the limit does not bind root
    r = run_it("run", "-k", guest(), "-m", "16M", keys=b"o", preexec_fn=lambda:
               resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)))
    check_refused(r, HOST, "threads .*ulimit -u")


def reset_after(change):
    """A run whose kernel something happens to, then a reset: the process, which has not ended."""
    copy = write("copy.elf", open(guest(), "rb").read())
    p = background("run", "-k", copy, "-m", "16M", stdin=subprocess.PIPE)
    read_until(p, b"ready")
    change(copy)
    p.stdin.write(b"r")
    p.stdin.flush()
    return p


def test_kernel_replaced_while_running():
    """A reset boots the kernel that was given, which has no name any more."""
    def replace(copy):
        os.rename(write("new.elf", b"not a kernel"), copy)
    p = reset_after(replace)
    read_until(p, b"ready")
    out, err = p.communicate(b"o", timeout=20)
    check(p.returncode == OK and err == b"", (p.returncode, err))


def test_kernel_changed_while_running():
    """Whatever it is now, it is not what was given: a reset does not boot it."""
    def truncate(copy):
        os.truncate(copy, 0)

    def rewrite(copy):
        time.sleep(0.1) # file systems' time stamps are coarse
        with open(copy, "r+b") as f:
            f.write(b"\x7fELF")
    for change in (truncate, rewrite):
        p = reset_after(change)
        out, err = p.communicate(timeout=20)
        check(p.returncode == ENGINE and b"has changed since the VM was started" in err, (p.returncode, err))


# Engines under which what is large comes to RAM when the guest first touches it
COMES_LATE = UNDER_TEST == "kvm"


def with_module(size=3 << 20):
    """A run with an initrd that is large enough to come late: the process, and the file."""
    initrd = write("module", b"A" + bytes(size - 2) + b"Z")
    p = background("run", "-k", guest(), "-i", initrd, "-m", "32M", stdin=subprocess.PIPE)
    read_until(p, b"ready")
    return p, initrd


def look(p):
    p.stdin.write(b"m")
    p.stdin.flush()
    read_until(p, b"<Z>")


def power_off(p):
    out, err = p.communicate(b"o", timeout=LIMIT)
    check(p.returncode == OK and err == b"", (p.returncode, out, err))


def test_large_initrd():
    """It is there for the guest that looks, also after a reset."""
    p, _ = with_module()
    look(p)
    p.stdin.write(b"r")
    p.stdin.flush()
    read_until(p, b"ready")
    look(p)
    power_off(p)


def test_large_initrd_that_goes_away():
    """A guest that has it, or never looks at it, does not mind what becomes of the file."""
    for change in (os.unlink, lambda name: os.truncate(name, 0)):
        p, initrd = with_module()
        look(p)
        change(initrd)
        look(p)
        power_off(p)
        p, initrd = with_module()
        change(initrd)
        power_off(p)
    p, initrd = with_module()
    os.unlink(initrd)
    look(p)
    power_off(p)


def test_large_initrd_that_changes():
    """Before the guest looks at it: it sees what was given, or the VM ends."""
    def truncate(name):
        os.truncate(name, 4096)

    def rewrite(name):
        time.sleep(0.1) # file systems' time stamps are coarse
        with open(name, "r+b") as f:
            f.write(b"B")
    for change in (truncate, rewrite):
        p, initrd = with_module()
        change(initrd)
        if not COMES_LATE:
            look(p)
            power_off(p)
            continue
        out, err = p.communicate(b"m", timeout=LIMIT)
        check(p.returncode == ENGINE and b"<" not in out, (p.returncode, out))
        check(b"cannot read initrd" in err and b"has changed since the VM was started" in err, err)


def test_clock_in_large_initrd():
    """What the host writes there is not lost, though nobody has looked at it before."""
    p, _ = with_module()
    p.stdin.write(b"k")
    p.stdin.flush()
    read_until(p, b"<y>")
    power_off(p)


def test_nothing_left_behind():
    before = {d: sorted(os.listdir(d)) for d in ("/tmp", "/dev/shm", "/var/tmp") if os.path.isdir(d)}
    here = path("empty-directory")
    os.mkdir(here)
    run_guest(b"o", cwd=here)
    run_guest(b"t", cwd=here)
    run("run", "-k", path("text"), cwd=here)
    check(os.listdir(here) == [], os.listdir(here))
    for d, names in before.items():
        new = [n for n in os.listdir(d) if n not in names and "lodge" in n.lower()
               and not n.startswith("lodge-cli-")]
        check(not new, f"left in {d}: {new}")


if __name__ == "__main__":
    main()
