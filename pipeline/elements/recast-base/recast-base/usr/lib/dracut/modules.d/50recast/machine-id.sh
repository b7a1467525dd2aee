#!/bin/sh
# A machine's id is made on it and kept on its data partition. systemd reads it before anything
# else of the root runs, so it is put there from the initrd. Without a data partition the id lasts
# until the next boot, and the machine comes up all the same.
set -eu
device=/dev/disk/by-partlabel/recast-data
udevadm wait --timeout=15 "$device"
mkdir -p /run/recast-data
mount -t ext4 -o nodev,nosuid,noexec "$device" /run/recast-data
trap 'umount /run/recast-data' EXIT
kept=/run/recast-data/recast/machine-id
if [ ! -s "$kept" ]; then
    mkdir -p /run/recast-data/recast
    tr -d - < /proc/sys/kernel/random/uuid > "$kept.new"
    sync
    mv "$kept.new" "$kept"
    sync
fi
cat "$kept" > /sysroot/etc/machine-id
