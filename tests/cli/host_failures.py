#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""What is said, and with which status, when the host cannot give what engine kvm needs: the program as it
is, on a KVM that is not there and fails as it is told (tests/lib/fake_kvm_program.c). Runs anywhere."""
from lodge import (BUILD, ENGINE, HOST, USAGE, check, check_refused, check_status, guest, main,
                   run_as_nobody)
import errno
import grp
import os
import re
import subprocess

LODGE = os.path.abspath(os.path.join(BUILD, "test", "lodge-fake-kvm"))  # the same objects, linked with it
EXIT_PORT = 43  # the fake's guest writes 21 there


def host(*words):
    """The environment of a host that is like this."""
    return dict(os.environ, FAKE_KVM=" ".join(words))


class Run:
    def __init__(self, args, env):
        p = subprocess.run([LODGE, *args], stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=30)
        self.status, self.out, self.err = p.returncode, p.stdout.decode(), p.stderr.decode()

    def __repr__(self):
        return f"status {self.status}\n  out: {self.out!r}\n  err: {self.err!r}"


def run(engine, words, *args):
    """Without the sandbox, which does not know what the fake does in place of system calls."""
    return Run(["run", "-e", engine, "-k", guest(), "-m", "16M", "--exit-port", "--no-sandbox", *args],
               host(*words))


def doctor(*words):
    r = Run(["doctor"], host(*words))
    check_status(r, 0)
    return r.out


def check_auto(words, pattern):
    """auto goes on without kvm, and -v and doctor say why."""
    out = doctor(*words)
    check(re.search(rf"^engine +kvm: no: .*{pattern}", out, re.M), out)
    check(re.search(r"^auto +takes soft", out, re.M), out)
    # What soft does with a guest is others' to test: here it only has to be taken, before a kernel is read.
    r = Run(["run", "-v", "-k", "/", "-m", "16M"], host(*words))
    check_status(r, USAGE)
    check(re.search(rf"^lodge: not kvm: .*{pattern}", r.err, re.M), r)
    check(re.search(r"^lodge: engine soft: ", r.err, re.M), r)


def refused(words, pattern):
    check_refused(run("kvm", words), HOST, pattern)
    check_auto(words, pattern)


def test_a_host_without_fault():
    for words in ((), ("intel",)):
        check_status(run("kvm", words), EXIT_PORT)
        check_status(run("auto", words), EXIT_PORT)
        out = doctor(*words)
        check(re.search(r"^auto +takes kvm", out, re.M), out)
    r = run("kvm", (), "-v")
    check("engine kvm: offers all of level" in r.err, r)
    check_status(run("kvm", ["crawls"]), EXIT_PORT)  # who names it gets it
    r = run("auto", (), "-v")
    check("engine kvm: ran a test guest" in r.err and "not kvm" not in r.err, r)
    check_status(run("kvm", (), "-c", "16"), EXIT_PORT)


def test_no_device():
    for error in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        refused([f"open={error}"], "there is no /dev/kvm: .*VT-x or AMD-V.*modprobe kvm_intel")


def test_permission():
    """As a user who is in no group of the device: the group is named."""
    name = grp.getgrgid(1).gr_name
    for words, pattern in (
            (["mode=660", "gid=1"], rf"by this user: join group {name} \('usermod -aG {name} NAME'"),
            (["mode=600", "gid=1"], "by its owner only, user 0, .*chmod 660 /dev/kvm"),
            (["mode=666", "gid=1"], "though its mode allows it: .*container")):
        for error in (errno.EACCES, errno.EPERM):
            r = run_as_nobody("run", "-e", "kvm", "-k", "/dev/null", env=host(f"open={error}", *words), program=LODGE)
            check_refused(r, HOST, pattern)


def test_permission_of_root():
    """Root is not kept out by modes."""
    if os.geteuid() != 0:
        return
    refused([f"open={errno.EPERM}", "mode=660"], "though its mode allows it: .*--device /dev/kvm")


def test_limits():
    refused([f"open={errno.EMFILE}"], "ulimit -n")
    refused([f"open={errno.ENFILE}"], "too many files open: close some")
    refused([f"open={errno.EIO}"], "(Input/output|I/O) error: see the host's kernel log")


def test_busy():
    for request in ("CREATE_VM", "CREATE_VCPU"):
        refused([f"{request}={errno.EBUSY}"], "another hypervisor .*: end its VMs, or unload its module")
    check_auto([f"RUN={errno.EBUSY}"], "another hypervisor .*: end its VMs, or unload its module")


def test_no_memory():
    for request in ("CREATE_VM", "CREATE_VCPU", "SET_USER_MEMORY_REGION"):
        refused([f"{request}={errno.ENOMEM}"], "no memory left for a VM: free some")
    check_auto([f"RUN={errno.ENOMEM}"], "no memory left for a VM: free some")


def test_what_kvm_refuses():
    refused([f"CREATE_VM={errno.EINVAL}"], "KVM does not make VMs here: Invalid argument")
    check_auto([f"SET_SREGS={errno.EINVAL}"], "KVM does not take registers here")
    check_auto([f"RUN={errno.EFAULT}"], "KVM does not run a test guest here: Bad address")
    refused([f"GET_SUPPORTED_CPUID={errno.ENOMEM}"], "does not say which processor features")


def test_after_the_probe():
    """The probe went well, the VM itself cannot be made: still one line and status 10."""
    for word, pattern in ((f"CREATE_VM={errno.EBUSY}@2", "another hypervisor"),
                          (f"CREATE_VM={errno.ENOMEM}@2", "no memory left for a VM"),
                          (f"ENABLE_CAP={errno.EINVAL}@1", "KVM does not switch on what Lodge needs here"),
                          (f"SET_USER_MEMORY_REGION={errno.ENOMEM}@2", "no memory left for a VM"),
                          (f"CREATE_VCPU={errno.ENOMEM}@2", "no memory left for a VM"),
                          (f"CREATE_VCPU={errno.EINVAL}@4", "KVM does not make as many vCPUs here"),
                          (f"CREATE_VCPU={errno.EMFILE}@5", "ulimit -n"),
                          (f"GET_TSC_KHZ={errno.EIO}", "KVM does not tell the TSC's rate here"),
                          (f"SET_MSR_FILTER={errno.ENOMEM}", "out of memory")):
        check_refused(run("auto", [word], "-c", "4"), HOST, pattern)
        # Without the probe's guest, the VM's own is one call earlier.
        word = re.sub(r"@(\d)", lambda m: f"@{max(int(m[1]) - 1, 1)}", word)
        check_refused(run("kvm", [word], "-c", "4"), HOST, pattern)


def test_version_and_capabilities():
    refused(["api=11"], "another version of the interface")
    for number, name in ((121, "split irqchip"), (188, "MSR exits"), (189, "MSR filter"),
                         (164, "exception payload"), (136, "immediate exit"), (74, "synchronized registers"),
                         (129, "x2APIC"), (72, "TSC-deadline timer"), (39, "clock setting"),
                         (77, "message-signalled interrupts")):
        refused([f"missing={number}"], f"too old \\(Linux 5.10 is needed\\): it has no {name}")


def test_level():
    refused(["clear=7,1,5"], "KVM does not offer avx2 here, which level v3 needs")
    check_status(run("kvm", ["clear=7,1,5"], "--cpu", "v2"), EXIT_PORT)
    check_status(run("auto", ["clear=7,1,5"], "--cpu", "v2"), EXIT_PORT)


def test_without_hardware():
    check_auto(["crawls"], "a test guest crawls: .*without hardware virtualization")


def test_at_run_time():
    """Once the guest runs: the host out of memory is the host's, the rest is not."""
    for error in (errno.EFAULT, errno.ENOMEM):
        r = run("kvm", [f"end={error}"])
        check_status(r, HOST)
        check("the host has no memory left for guest RAM" in r.err and "use less -m" in r.err, r)
    r = run("kvm", [f"end={errno.EIO}"])
    check_status(r, ENGINE)
    check("the engine cannot go on: KVM has given the VM up" in r.err and "vCPU 0: RIP" in r.err, r)


if not os.path.exists(LODGE):
    raise SystemExit(f"not ok host_failures: there is no {LODGE}: make it")
main()
