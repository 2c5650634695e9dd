#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""bench.py BUILD_DIR [RUNS]: boot to userland and power-off, beside qemu-system-x86_64 -accel tcg.

Same kernel, initrd, vCPUs, memory and command line. Runs are interleaved (A B B A ...), since the
machines are shared and their speed drifts; each figure is the median over the runs, and the ratio is
the median of the ratios of neighbouring runs. CPU is user plus system time of the whole process.
Written to BUILD_DIR/bench.tsv: name, lodge, peer, ratio_peer (how many times as fast as the peer).
"""
import os
import resource
import statistics
import subprocess
import sys
import time

APPEND = "console=ttyS0 lodge.run=hello"
ROWS = [("boot", "debian-6.1-cloud", 1), ("boot_smp2", "debian-6.1-cloud", 2)]


def measure(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=600)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if b"lodge: userland reached" not in done.stdout or b"reboot: Power down" not in done.stdout:
        sys.exit(f"bench: did not boot: {' '.join(command)}\n{done.stdout[-2000:].decode(errors='replace')}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


def commands(build, kernel, vcpus):
    guest = os.path.join(build, "guests", kernel)
    lodge = [os.path.join(build, "lodge"), "run", "-k", f"{guest}/vmlinuz", "-i", f"{guest}/initrd",
             "-m", "512M", "-c", str(vcpus), "--append", APPEND]
    peer = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512M", "-smp", str(vcpus),
            "-nographic", "-no-reboot", "-kernel", f"{guest}/vmlinuz", "-initrd", f"{guest}/initrd",
            "-append", APPEND]
    return lodge, peer


def compare(build, kernel, vcpus, runs):
    lodge, peer = commands(build, kernel, vcpus)
    results = {"lodge": [], "peer": []}
    for i in range(runs):
        order = ("lodge", "peer") if i % 2 == 0 else ("peer", "lodge")
        for who in order:
            results[who].append(measure(lodge if who == "lodge" else peer))
    return results


def summary(results, index):
    lodge = [r[index] for r in results["lodge"]]
    peer = [r[index] for r in results["peer"]]
    ratio = statistics.median(b / a for a, b in zip(lodge, peer))
    return statistics.median(lodge), statistics.median(peer), ratio


def version(command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]


def main():
    build = sys.argv[1]
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), "unknown")
    header = [f"# {model}, {os.cpu_count()} CPUs; {version(['qemu-system-x86_64', '--version'])}",
              f"# {runs} runs each, interleaved; medians, seconds"]
    lines = ["name\tlodge\tpeer\tratio_peer"]
    for name, kernel, vcpus in ROWS:
        results = compare(build, kernel, vcpus, runs)
        for index, what in enumerate(("cpu", "wall")):
            lodge, peer, ratio = summary(results, index)
            lines.append(f"{name}_{what}\t{lodge:.2f}\t{peer:.2f}\t{ratio:.3f}")
    text = "\n".join(header + lines) + "\n"
    with open(os.path.join(build, "bench.tsv"), "w") as out:
        out.write(text)
    print(text.replace("\t", "   "), end="")


main()
