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
    inst_multiple mount umount mkdir mv cat tr sync udevadm mountpoint
    inst_script "$moddir/machine-id.sh" /usr/lib/recast/machine-id
    inst_simple "$moddir/recast-machine-id.service" \
        /usr/lib/systemd/system/recast-machine-id.service
    inst_simple "$moddir/repart.conf" /usr/lib/systemd/system/systemd-repart.service.d/50-recast.conf
    # Nobody is there to see a hang: what has not come to the root by then is counted as a failure.
    local unit
    for unit in initrd.target initrd-cleanup.service initrd-switch-root.target; do
        inst_simple "$moddir/in-time.conf" "/usr/lib/systemd/system/$unit.d/50-recast.conf"
    done
    $SYSTEMCTL -q --root "$initdir" add-wants initrd-fs.target recast-machine-id.service
}
