#!/bin/busybox sh
# shellcheck shell=dash
# /init of the initramfs that edge_demo/deploy/initramfs.py builds: load the drivers of what is there, mount root=UUID=…, go.
# Python is not to be had yet.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

root=
read -r words </proc/cmdline
for word in $words; do
    case $word in root=*) root=${word#root=} ;; esac
done

modprobe -a crc32c_generic ext4 sd_mod mmc_block
tries=0
until device=$(findfs "$root" 2>/dev/null) && mount -t ext4 -o ro "$device" /sysroot; do
    # Buses show devices only when their own drivers are there, so: again.
    find /sys/devices -name modalias -exec cat {} + | sort -u | xargs modprobe -a 2>/dev/null
    tries=$((tries + 1))
    if [ "$tries" = 120 ]; then
        echo "initramfs: $root was not found in two minutes. Disks there are:"
        cat /proc/partitions
        exec sh
    fi
    sleep 1
done

mount -o move /proc /sysroot/proc
mount -o move /sys /sysroot/sys
mount -o move /dev /sysroot/dev
exec switch_root /sysroot /sbin/init
