#!/bin/bash
# Recast's part of the initrd: at the first boot the second slot and the data partition, and at
# every boot the machine's own id.

check() {
    return 255 # only where it is asked for
}

depends() {
    echo systemd systemd-repart
}

install() {
    inst_multiple mount umount mkdir mv cat tr sync udevadm mountpoint sleep
    inst_script "$moddir/machine-id.sh" /usr/lib/recast/machine-id
    inst_simple "$moddir/recast-machine-id.service" \
        /usr/lib/systemd/system/recast-machine-id.service
    inst_simple "$moddir/repart.conf" /usr/lib/systemd/system/systemd-repart.service.d/50-recast.conf
    inst_simple "$moddir/recast-in-time.service" /usr/lib/systemd/system/recast-in-time.service
    $SYSTEMCTL -q --root "$initdir" add-wants initrd.target recast-in-time.service
    $SYSTEMCTL -q --root "$initdir" add-wants initrd-fs.target recast-machine-id.service
}
