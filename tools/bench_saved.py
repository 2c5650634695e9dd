#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Saving, restoring and forking an idle Debian of 512 MiB under soft, beside QEMU's migration to and from a file
(docs/bench.md): bench_saved.py BUILD_DIR [--rounds N] [--lodge PROGRAM] [--peer PROGRAM] [-o FILE]

Everything is looked at from outside but the rest, which the guest measures by its own clock. Status 1 if a floor is
missed. Rounds of lodge and peer are interleaved.
"""
import argparse
import atexit
import json
import os
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

KERNEL = "debian-6.1-cloud"
PAGE, LIMIT, PAUSE = 4096, 60, 0.3
ROWS = {  # name: what, and the floor: from the results, what is to be at most what
    "save": "ms, from exec until the file is written (lodge: and on the disk)",
    "restore": "ms, from exec until the guest runs",
    "rest_first": "us, the longest step of the guest's clock over its first save",
    "rest": "us, over later ones",
    "noise": "us, over as much time without",
    "blocks": "KiB of the file on the disk",
    "pages": "KiB of the guest's pages that are not zero",
    "fork": "ms, from exec until the copy runs",
    "fork_each": "ms, for each of twenty copies that are made at once",
    "fork_memory": "KiB, private memory of a copy with its page tables, before its first instruction",
}


def fail(text):
    sys.exit(f"bench: {text}")


class Results(dict):
    def add(self, row, who, value):
        self.setdefault((row, who), []).append(value)

    def of(self, row, who):
        return statistics.median(self[row, who]) if (row, who) in self else None


def wait_for_text(path, text, process):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with open(path, errors="replace") as f:
            if text in f.read():
                return
        if process and process.poll() is not None:
            break
        time.sleep(0.05)
    fail(f"no {text!r} in {path}")


# --- lodge -----------------------------------------------------------------------------------------

class Lodge:
    def __init__(self, o):
        self.o, self.program = o, o.lodge

    def run(self, *args):
        done = subprocess.run([self.program, *args], capture_output=True, text=True, timeout=LIMIT)
        if done.returncode:
            fail(f"lodge {' '.join(args)}: {done.stderr}")
        return done.stdout

    def time(self, *args):
        """Milliseconds from exec to its end, with as little of this program's own as can be."""
        null = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
        began = time.monotonic()
        pid = os.posix_spawn(self.program, [self.program, *args], os.environ, file_actions=null)
        _, status = os.waitpid(pid, 0)
        took = time.monotonic() - began
        if status:
            fail(f"lodge {' '.join(args)}: status {status}")
        return took * 1e3

    def boot(self, name, append=""):
        self.run("run", "-e", "soft", "-m", "512M", "-d", "--name", name, "-k", self.o.kernel, "-i", self.o.initrd,
                 "--append", f"console=ttyS0 {append}")
        return Console(self.program, name)

    def pid(self, name):
        return json.loads(self.run("inspect", name))["pid"]


class Console:
    def __init__(self, program, name):
        self.text = ""
        self.process = subprocess.Popen([program, "console", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(self.process.kill)

    def expect(self, pattern):
        end = time.monotonic() + LIMIT
        while not (found := re.search(pattern, self.text)):
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                fail(f"no {pattern!r}: {self.text[-500:]}")
            self.text += os.read(self.process.stdout.fileno(), 65536).decode(errors="replace")
        self.text = self.text[found.end():]
        return found

    def gap(self):
        self.process.stdin.write(b"gap\n")
        self.process.stdin.flush()
        return int(self.expect(r"longest gap (\d+) us").group(1))


def pages_that_are_not_zero(path):
    """Of a saved VM's file: its pages, from where the head says that they begin (docs/saved.md)."""
    zero, count = bytes(PAGE), 0
    with open(path, "rb") as f:
        f.seek(int.from_bytes(f.read(32)[24:32], "little"))
        while page := f.read(PAGE):
            count += page != zero
    return count


def private_kib(pid):
    kib = 0
    with open(f"/proc/{pid}/smaps_rollup") as f:
        kib += sum(int(line.split()[1]) for line in f if line.startswith("Private_"))
    with open(f"/proc/{pid}/status") as f:
        return kib + sum(int(line.split()[1]) for line in f if line.startswith("VmPTE"))


def lodge_round(lodge, o, results):
    file = os.path.join(o.work, "lodge.saved")
    results.add("save", "lodge", lodge.time("save", "idle", file))
    results.add("blocks", "lodge", os.stat(file).st_blocks // 2)
    results.add("pages", "lodge", pages_that_are_not_zero(file) * PAGE // 1024)
    results.add("restore", "lodge", lodge.time("restore", "-e", "soft", "-d", "--name", "copy", file))
    lodge.run("kill", "copy")
    for _ in range(3):
        time.sleep(PAUSE)  # the copy before is taken apart, by the other processor
        results.add("fork", "lodge", lodge.time("fork", "--name", "copy", "idle"))
        lodge.run("kill", "copy")
    results.add("fork_each", "lodge", lodge.time("fork", "-n", "20", "--name", "many", "idle") / 20)
    for k in range(20):
        lodge.run("kill", f"many-{k + 1}")
    lodge.run("fork", "--paused", "--name", "copy", "idle")
    results.add("fork_memory", "lodge", private_kib(lodge.pid("copy")))
    lodge.run("kill", "copy")


def rests(lodge, o, results):
    for n in range(o.rounds):
        console = lodge.boot("spin", "quiet lodge.run=load:spin")
        console.expect("load: ready")
        for k in range(3):
            time.sleep(PAUSE)
            console.gap()
            lodge.run("save", "spin", os.path.join(o.work, "spin.saved"))
            results.add("rest" if k else "rest_first", "lodge", console.gap())
            time.sleep(PAUSE)
            results.add("noise", "lodge", console.gap())
        lodge.run("kill", "spin")


# --- QEMU ------------------------------------------------------------------------------------------

class Qemu:
    def __init__(self, o, name, *more):
        self.socket_path = os.path.join(o.work, f"{name}.qmp")
        self.console = os.path.join(o.work, f"{name}.console")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [o.peer, "-accel", "tcg", "-cpu", "max", "-m", "512M", "-display", "none", "-kernel", o.kernel,
             "-initrd", o.initrd, "-append", "console=ttyS0", "-serial", f"file:{self.console}",
             "-qmp", f"unix:{self.socket_path},server=on,wait=off", *more])
        atexit.register(self.process.kill)
        self.socket = self.connect()
        self.events = self.socket.makefile("rb")
        self.ask("qmp_capabilities")

    def connect(self):
        while time.monotonic() < self.began + LIMIT:
            try:
                s = socket.socket(socket.AF_UNIX)
                s.connect(self.socket_path)
                return s
            except OSError:
                s.close()
                time.sleep(0.001)
        return fail("QEMU does not listen")

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.events.readline())
            if "return" in answer or "error" in answer:
                return answer

    def save(self, file):
        began = time.monotonic()
        self.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 2000})
        self.ask("migrate", uri=f"exec:cat > {file}")
        while (status := self.ask("query-migrate")["return"].get("status")) != "completed":
            if status == "failed":
                fail("QEMU does not save")
            time.sleep(0.001)
        took = time.monotonic() - began
        self.ask("cont")
        return took

    def until_running(self):
        while (status := self.ask("query-status")["return"]["status"]) != "running":
            if time.monotonic() > self.began + LIMIT:
                fail(f"QEMU does not run: {status}")
            time.sleep(0.0005)
        return time.monotonic() - self.began

    def end(self):
        self.process.kill()
        self.process.wait()


def peer_round(peer, o, results):
    file = os.path.join(o.work, "peer.saved")
    results.add("save", "peer", peer.save(file) * 1e3)
    results.add("blocks", "peer", os.stat(file).st_blocks // 2)
    copy = Qemu(o, "copy", "-incoming", f"exec:cat {file}")
    results.add("restore", "peer", copy.until_running() * 1e3)
    copy.end()


# --- what is said ----------------------------------------------------------------------------------

def floors(r):
    """(what is promised, what was found, whether it holds)"""
    restore, blocks = r.of("restore", "lodge") / r.of("restore", "peer"), r.of("blocks", "lodge") / r.of("pages", "lodge")
    rest, fork, memory = r.of("rest", "lodge"), r.of("fork", "lodge"), r.of("fork_memory", "lodge")
    yield "restore in at most a tenth of the peer's time", f"{restore:.3f}", restore <= 0.1
    yield "the guest rests for at most 10 ms", f"{rest / 1e3:.2f} ms", rest <= 10e3
    first = r.of("rest_first", "lodge")
    yield "at its first save, too", f"{first / 1e3:.2f} ms", first <= 10e3
    yield "blocks on the disk at most 1 % more than pages that are not zero", f"{blocks:.4f}", blocks <= 1.01
    yield "fork in at most 5 ms", f"{fork:.2f} ms", fork <= 5
    yield "fork in at most 1 MiB", f"{memory:.0f} KiB", memory <= 1024


def report(results, out):
    lines = ["name\tlodge\tpeer"]
    for row in ROWS:
        values = [results.of(row, who) for who in ("lodge", "peer")]
        lines.append("\t".join([row, *("-" if v is None else f"{v:.4g}" for v in values)]))
    with open(out, "w") as f:
        f.write("\n".join(lines) + "\n")
    print(f"{'saved VMs':<12} {'lodge':>9} {'peer':>9}")
    for line in lines[1:]:
        row, lodge, peer = line.split("\t")
        print(f"{row:<12} {lodge:>9} {peer:>9}  {ROWS[row]}")
    missed = 0
    print("floors:")
    for text, found, held in floors(results):
        print(f"  {'held' if held else 'MISSED':<12}  {text}: {found}")
        missed += not held
    return missed


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("build")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--lodge", metavar="PROGRAM")
    p.add_argument("--peer", metavar="PROGRAM", default="qemu-system-x86_64")
    p.add_argument("-o", metavar="FILE")
    o = p.parse_args()
    o.lodge = o.lodge or os.path.join(o.build, "lodge")
    o.kernel, o.initrd = (os.path.join(o.build, "guests", KERNEL, f) for f in ("vmlinuz", "initrd"))
    o.work = tempfile.mkdtemp(prefix="bench.", dir=os.path.abspath(o.build))
    atexit.register(shutil.rmtree, o.work, True)
    os.environ["XDG_RUNTIME_DIR"] = o.work
    results, lodge = Results(), Lodge(o)
    lodge.boot("idle").expect("This is a Debian kernel")
    atexit.register(subprocess.run, [o.lodge, "kill", "idle"], stderr=subprocess.DEVNULL)
    peer = Qemu(o, "idle")
    wait_for_text(peer.console, "This is a Debian kernel", peer.process)
    time.sleep(2)  # the kernels end what they put off until after boot
    for n in range(o.rounds):
        print(f"bench: saved VMs, round {n + 1} of {o.rounds}", file=sys.stderr, flush=True)
        for one in ((lodge_round, lodge), (peer_round, peer))[::-1 if n % 2 else 1]:
            one[0](one[1], o, results)
    peer.end()
    rests(lodge, o, results)
    sys.exit(1 if report(results, o.o or os.path.join(o.build, "bench-saved.tsv")) else 0)


if __name__ == "__main__":
    main()
