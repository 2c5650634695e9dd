#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# run.sh BUILD_DIR: boots Debian's cloud kernel under Lodge. With a terminal it ends in the guest's
# shell; without one the guest says hello and powers off.
set -eu

out=$1
guest=$out/guests/debian-6.1-cloud
if [ -t 0 ] && [ -t 1 ]; then
    exec "$out/lodge" run -k "$guest/vmlinuz" -i "$guest/initrd" -m 512M -c 2 \
        --append "console=ttyS0 quiet"
fi
exec "$out/lodge" run -k "$guest/vmlinuz" -i "$guest/initrd" -m 512M -c 2 \
    --append "console=ttyS0 lodge.run=hello" </dev/null
