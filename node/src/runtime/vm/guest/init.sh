#!/bin/sh
# The first process of a kernel machine: mounts, drivers, the task's files, and on to them.
@COMMON@
mkdir -p /proc /sys /dev /run /tmp /work
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
ip link set lo up 2>/dev/null
[ -x /etc/opencloud/boot ] && /etc/opencloud/boot
for driver in virtio_pci virtio_mmio virtio_blk virtio_console virtio_rng; do
    modprobe -q "$driver" 2>/dev/null
done
@NETWORK@
mount -t tmpfs -o size=@WORK_BYTES@,mode=0755 work /work
mount -t tmpfs -o size=@WORK_BYTES@,mode=1777 tmp /tmp
input=$(disk oc-in) || exit 1
tar -xf "$input" -C / || { echo "opencloud: the task's files do not fit" >/dev/console; exit 1; }
exec sh /run/opencloud/run
