#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# debian-archive.sh: prints the first Debian archive that this machine's package sources name for
# bookworm itself (not its updates), so that whoever works with a mirror stays with it.
set -eu

uri=$(
    {
        cat /etc/apt/sources.list.d/debian*.sources 2>/dev/null |
            awk '/^URIs:/ {uri=$2} /^Suites:/ {if ($2 == "bookworm") {print uri; exit}}'
        awk '$1 == "deb" {for (i = 2; i < NF; i++) if ($(i + 1) == "bookworm") print $i}' \
            /etc/apt/sources.list 2>/dev/null
    } | head -n 1
)
[ -n "$uri" ] || {
    echo "no Debian 12 archive in this machine's package sources (/etc/apt)" >&2
    exit 1
}
printf '%s\n' "$uri"
