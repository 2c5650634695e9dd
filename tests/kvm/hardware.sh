#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# hardware.sh BUILD: whether the tests can be run with -e kvm on this machine itself. Status 0, or 1
# and why not, in the words of `lodge doctor`.
set -eu

found=$("$1/lodge" doctor | sed -n 's/^engine  *kvm: //p')
case $found in
yes:*) exit 0 ;;
esac
{
    echo "kvm cannot be tested on this machine itself: ${found#no: }"
    echo "('make test-kvm' tests it in an emulated machine; see docs/rig.md)"
} >&2
exit 1
