/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What `lodge help COMMAND` and `lodge COMMAND -h` print. docs/cli.md is the manual. */
#include "hosted/options.h"

/* clang-format off */
const char options_run_help[] =
    "usage: lodge run [OPTION]... [VM.toml]\n"
    "\n"
    "Runs a virtual machine with its serial console on this terminal. What is not given here is\n"
    "taken from VM.toml, then from the defaults.\n"
    "\n"
    "  -k, --kernel FILE    Linux bzImage, or ELF with a PVH or Multiboot header\n"
    "  -i, --initrd FILE    initial RAM disk, or Multiboot module\n"
    "      --append ARGS    the kernel's command line\n"
    "  -m, --memory SIZE    512M, 2G (default 512M)\n"
    "  -c, --cpus N         number of vCPUs, 1 to 16 (default 1)\n"
    "      --cpu LEVEL      v2, v3 or host (default v3)\n"
    "      --portable       claim no freedom from leaks, so that the VM, saved, can go on anywhere\n"
    "  -e, --engine NAME    auto, kvm or soft (default auto)\n"
    "      --translator on|off   engine soft: translate guest code, or only interpret it (default on)\n"
    "      --name NAME      what messages call the VM, and 'lodge ps' and the like find it by\n"
    "  -d, --detach         in the background, without this terminal: see 'lodge console'\n"
    "      --paused         begin at rest, until 'lodge resume'\n"
    "      --exit-port      offer port 0xf4: a guest that writes v there ends with status 2v+1\n"
    "      --no-reboot      a guest's reboot ends the run with status 0\n"
    "      --stats          counters on standard error at the end\n"
    "      --perf-map       write /tmp/perf-PID.map: names of translated guest code, for perf\n"
    "      --no-sandbox     keep all privileges: for debuggers and sanitizers, never otherwise\n"
    "  -v, --verbose        more messages; twice: all\n"
    "  -h, --help           this text\n"
    "\n"
    "Keys on a terminal: Ctrl-] opens a menu, Ctrl-a x quits.\n"
    "Exit status: 0 the guest powered off, 2 usage, 4 the guest died, 6 ended by the operator,\n"
    "8 engine failure, 10 the host lacks something, odd: from the exit port, 128+n: signal n.\n";

const char options_restore_help[] =
    "usage: lodge restore [OPTION]... FILE\n"
    "\n"
    "Goes on with a virtual machine that 'lodge save' has written to FILE, which must stay as it is\n"
    "for as long as the machine runs.\n"
    "\n"
    "  -e, --engine NAME    auto, kvm or soft (default auto)\n"
    "      --translator on|off   engine soft: translate guest code, or only interpret it (default on)\n"
    "      --name NAME      another name than it had\n"
    "      --verify         hold all of the file against its checksums first\n"
    "  -k, --kernel FILE    what a reset boots; without it a reset is the end\n"
    "  -i, --initrd FILE    likewise\n"
    "  -d, --detach         in the background, without this terminal: see 'lodge console'\n"
    "      --paused         begin at rest, until 'lodge resume'\n"
    "      --no-reboot, --stats, --perf-map, --no-sandbox, -v, -h   as with 'lodge run'\n";

const char options_fork_help[] =
    "usage: lodge fork [OPTION]... NAME\n"
    "\n"
    "Makes copies of a running virtual machine, which share its memory until they write to it, and\n"
    "run in the background. Says their names.\n"
    "\n"
    "  -n, --copies N       how many, 1 to 1000 (default 1)\n"
    "      --name NAME      of the copy; of several, NAME-1, NAME-2, ... (default that of the original)\n"
    "  -e, --engine NAME    auto, kvm or soft (default the original's)\n"
    "      --translator on|off   engine soft: translate guest code, or only interpret it\n"
    "      --paused         begin at rest, until 'lodge resume'\n"
    "      --no-reboot, --no-sandbox, -v, -h   as with 'lodge run'\n";

const char options_image_help[] =
    "usage: lodge image [OPTION]... FLEET.toml -o FILE.iso\n"
    "\n"
    "Makes an image that a machine boots by itself, from a disc or a USB stick, in BIOS and UEFI mode: Lodge\n"
    "with nothing below it, the fleet, and the kernels, initial RAM disks and saved virtual machines that the\n"
    "fleet names. A fleet that does not fit is refused.\n"
    "\n"
    "  -o, --output FILE    the image\n"
    "      --native FILE    Lodge for the bare machine (default: lodge-native, beside this program)\n"
    "  -h, --help           this text\n"
    "\n"
    "Needs GRUB, xorriso and mtools. Debian: grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools.\n"
    "To a USB stick: dd if=FILE.iso of=/dev/STICK bs=4M conv=fsync\n";
/* clang-format on */
