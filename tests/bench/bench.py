#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""That `make bench` can be believed, not how fast anything is: bench.py BUILD_DIR

The workloads' results are right on this machine's processor and under Lodge; processor time and memory are those that
were used; ratios, the file's form and the floors' judgement are right on figures that are made up.
"""
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tools"))
import bench  # noqa: E402
from bench_guest import Failed, Run, Sample, private_kib  # noqa: E402

WORK = bench.CPU + bench.SYSTEM
MIB = 1 << 20


def spin(seconds):
    return [sys.executable, "-c", f"""
import time, os
print("bench one begin", flush=True)
while time.process_time() < {seconds}: pass
print("bench one end 10", flush=True)"""]


def made_up(lodge=1.0, memory=100.0):
    """The peer takes 20, native 1; the second round is twice as slow for all, the third ten times for lodge."""
    results = bench.Results()
    for row in [*bench.BOOTS, "boot_userland", *WORK, *bench.USERLAND]:
        for who, value in (("lodge", lodge), ("peer", 20.0), ("native", 1.0)):
            for factor in (1, 2, 10 if who == "lodge" else 1):
                results.add(row, who, Sample(value * factor, value * factor))
    results.add("memory_kib", "lodge", Sample(memory, memory))
    return results


def test_workloads_native(build):
    run = Run([os.path.join(build, "guests", "user", "bench"), "-t", "0.02"])
    assert sorted(run.work) == sorted(WORK), f"{sorted(run.work)}"
    assert all(s.cpu > 0 and s.wall > 0 for s in run.work.values())


def test_workloads_lodge(build):
    guest = os.path.join(build, "guests", bench.KERNEL, "vmlinuz")
    initrd = os.path.join(build, "bench", "initrd")
    run = Run([os.path.join(build, "lodge"), "run", "-e", "soft", "-k", guest, "-i", initrd, "--append",
               "console=ttyS0 quiet lodge.run=bench:-t:0.02"], ram=512 * MIB)
    assert sorted(run.work) == sorted(WORK), f"{sorted(run.work)}"
    assert "lodge: bench: exit 0" in run.text and run.memory["done"] > 0
    assert 0 < run.userland.cpu < run.total.cpu


def test_processor_time_is_counted(build):
    run = Run(spin(0.5), ram=None)
    # Without the count of its own on the line, what it was until the mark before is not counted
    spent = run.work["one"].cpu * 10
    assert 0.3 < spent < 0.6 and run.total.cpu >= spent, f"{spent} of {run.total.cpu}"


def test_wrong_results_end_it(build):
    for program in ("echo bench calls wrong", "exit 3"):
        try:
            Run(["sh", "-c", program])
        except Failed:
            continue
        raise AssertionError(f"{program} was taken for a success")


def test_memory_without_ram(build):
    program = f"""
import mmap, os, sys
fd = os.memfd_create("ram")
os.ftruncate(fd, {256 * MIB})
# byte by byte: what a large object leaves with the C library would be counted
def use(part, size):
    for at in range(0, size, 4096): part[at] = 1
parts = [mmap.mmap(fd, {128 * MIB}, offset=at) for at in (0, {128 * MIB})]
for part in parts: use(part, {32 * MIB})
beside = mmap.mmap(-1, {512 * MIB}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
code = os.memfd_create("code")
os.ftruncate(code, {64 * MIB})
twice = [mmap.mmap(code, {64 * MIB}) for _ in range(2)]
if sys.argv[1] == "use":
    use(beside, {40 * MIB})
    for part in twice: use(part, {8 * MIB})
print("ready", flush=True)
sys.stdin.read()"""
    found = []
    for word in ("leave", "use"):
        with subprocess.Popen([sys.executable, "-c", program, word], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            found.append(private_kib(child.pid, 256 * MIB))
            child.stdin.close()
    assert found[0] < 40 * 1024, f"RAM was counted: {found}"
    # The 8 MiB that are mapped twice count once
    assert abs(found[1] - found[0] - 48 * 1024) < 2048, f"what is beside was not counted: {found}"


def test_ratios_are_medians(build):
    results = made_up()
    assert results.value("calls", "lodge", "cpu") == 2
    assert results.ratio("calls", "peer", "lodge", "cpu") == 20  # of 20, 20, 2
    assert results.ratio("calls", "lodge", "native", "wall") == 1
    assert abs(results.ratio("cpu_geomean", "peer", "lodge", "cpu") - 20) < 1e-9


def test_form_of_the_file(build):
    rows = [row for row in bench.ROWS if made_up().has(row)]
    lines = bench.tsv(made_up(), rows, ["# about"]).splitlines()
    assert lines[:2] == ["# about", "name\tlodge\tpeer\tnative\tratio_peer\tratio_native"], lines[:2]
    assert [line.split("\t")[0] for line in lines[2:16]] == bench.REQUIRED
    assert all(len(line.split("\t")) == 6 for line in lines[1:])
    assert "calls\t2000000000\t20000000000\t1000000000\t20.00\t1.000" in lines
    assert "memory_kib\t100.0\t-\t-\t-\t-" in lines


def test_floors(build):
    def missed(results):
        return [text for text, found, held in bench.floors(results) if found and not held]

    assert missed(made_up()) == []
    assert [t.split()[0] for t in missed(made_up(memory=32769.0))] == ["memory_kib"]
    # 1.4 times as slow as it may be for the boots and matrix; then slower than the peer
    assert [t.split()[0] for t in missed(made_up(lodge=16.0))] == ["cpu_geomean", "cpu_geomean", "matrix", "boot",
                                                                  "boot_userland"]
    assert "no workload slower than the peer" in missed(made_up(lodge=21.0))


def main():
    failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        began = time.monotonic()
        try:
            test(sys.argv[1])
            print(f"ok bench {name[5:]} ({time.monotonic() - began:.1f} s)", flush=True)
        except (AssertionError, Failed, OSError) as e:
            print(f"  {e!r}\nnot ok bench {name[5:]}", flush=True)
            failed += 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
