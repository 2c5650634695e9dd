# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""A machine in QEMU that boots the bare-metal image from a CD: what tests/native's programs share."""
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

OVMF = {"uefi": ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"],
        # Secure Boot is on, and trusts what the key is for that comes with it (password: snakeoil).
        "secure": ["OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.snakeoil.fd"]}
OVMF_DIR = "/usr/share/OVMF"
SNAKEOIL = "/usr/share/ovmf/PkKek-1-snakeoil"
# GRUB's modules that the image needs: the CD is smaller and made faster.
GRUB_MODULES = "multiboot2 iso9660 normal all_video part_gpt part_msdos fat serial"


def make_iso(build, path, command_line="", modules=(), image="lodge-native"):
    """modules: (file, command line) of each."""
    with tempfile.TemporaryDirectory() as tree:
        os.makedirs(f"{tree}/boot/grub")
        shutil.copy(f"{build}/{image}", f"{tree}/boot/lodge-native")
        lines = ["set timeout=0", "insmod all_video", "menuentry lodge {",
                 f"multiboot2 /boot/lodge-native {command_line}"]
        for i, (source, words) in enumerate(modules):
            shutil.copy(source, f"{tree}/boot/{i}")
            lines.append(f"module2 /boot/{i} {words}")
        with open(f"{tree}/boot/grub/grub.cfg", "w") as f:
            f.write("\n".join(lines + ["}", ""]))
        subprocess.run(["grub-mkrescue", f"--install-modules={GRUB_MODULES}", "-o", path, tree], check=True,
                       timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_fleet_iso(build, directory, text):
    """The image that `lodge image` makes of a fleet file with that text; both stay in the directory."""
    fleet, iso = (os.path.join(directory, name) for name in ("fleet.toml", "image.iso"))
    with open(fleet, "w") as f:
        f.write(text)
    subprocess.run([f"{build}/lodge", "image", fleet, "-o", iso], check=True, timeout=120, stdout=subprocess.DEVNULL)
    return iso


def sign_grub(iso):
    """An image that `lodge image` has made: its GRUB for UEFI becomes one that mode "secure" trusts."""
    listing = subprocess.run(["xorriso", "-indev", iso, "-report_el_torito", "plain"], check=True, timeout=60,
                             capture_output=True, text=True).stdout
    disk = f"{iso}@@{int(re.search(r'boot img : .*UEFI.* ([0-9]+)$', listing, re.M)[1]) * 2048}"
    with tempfile.TemporaryDirectory() as t:
        for command in (["openssl", "rsa", "-in", f"{SNAKEOIL}.key", "-passin", "pass:snakeoil", "-out", f"{t}/key"],
                        ["mcopy", "-i", disk, "::/EFI/BOOT/BOOTX64.EFI", f"{t}/grub"],
                        ["sbsign", "--key", f"{t}/key", "--cert", f"{SNAKEOIL}.pem", "--output", f"{t}/signed", f"{t}/grub"],
                        ["mcopy", "-o", "-i", disk, f"{t}/signed", "::/EFI/BOOT/BOOTX64.EFI"]):
            subprocess.run(command, check=True, timeout=60, capture_output=True)


class Machine:
    """with Machine(iso, mode="uefi", memory=1024, cpus=2) as m: m.wait("pattern")"""

    def __init__(self, iso, mode="bios", memory=1024, cpus=2, cpu="EPYC,+svm,+npt", serial="file", more=()):
        self.dir = tempfile.mkdtemp()
        self.serial = os.path.join(self.dir, "serial")
        args = ["qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", cpu, "-smp", str(cpus), "-m", str(memory),
                "-cdrom", iso, "-display", "none", "-serial",
                f"file:{self.serial}" if serial == "file" else f"unix:{self.serial},server=on,wait=on", "-no-reboot",
                "-monitor", f"unix:{self.dir}/monitor,server,nowait", *more]
        if mode in OVMF:
            code, variables = OVMF[mode]
            shutil.copy(f"{OVMF_DIR}/{variables}", f"{self.dir}/vars")
            args += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF_DIR}/{code}",
                     "-drive", f"if=pflash,format=raw,file={self.dir}/vars"]
        if mode == "secure":  # its variables are written in SMM only
            args += ["-M", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on", "-net", "none"]
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir)

    def output(self):
        """What came on the serial port, without a terminal's escapes and the times that the log puts before its lines."""
        try:
            with open(self.serial, "rb") as f:
                text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", f.read().decode(errors="replace").replace("\r", ""))
                return re.sub(r"^\[ *\d+\.\d+\] ", "", text, flags=re.M)
        except FileNotFoundError:
            return ""

    def wait(self, pattern, seconds=90):
        """The match in what came on the serial port; None: it did not, or the machine is off."""
        end = time.monotonic() + seconds
        while True:
            off = self.process.poll() is not None
            match = re.search(pattern, self.output(), re.M)
            if match or off or time.monotonic() > end:
                return match
            time.sleep(0.1)

    def wait_off(self, seconds=20):
        try:
            self.process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False

    def monitor(self, command):
        """What QEMU's monitor answers."""
        text = b""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(0.3)
            s.connect(f"{self.dir}/monitor")
            s.sendall(command.encode() + b"\n")
            end = time.monotonic() + 5
            while time.monotonic() < end:
                try:
                    text += s.recv(65536)
                except TimeoutError:
                    break
        return text.decode(errors="replace")


def tsc_khz(build):
    """Of a machine's processor, which is the host's and has no TSC scaling: what a VM must have that is to go on there."""
    with tempfile.TemporaryDirectory() as directory:
        iso = os.path.join(directory, "iso")
        make_iso(build, iso)
        with Machine(iso, memory=256, cpus=1) as m:
            return int(m.wait(r"TSC: (\d+) kHz")[1])
