#!/bin/sh
# Run by cloud-init after all that the machine's own user data asks for: the task's files, and on to them.
@COMMON@
for driver in virtio_blk virtio_console; do
    modprobe -q "$driver" 2>/dev/null
done
input=$(disk oc-in) || exit 1
mkdir -p /work
tar -xf "$input" -C / || { echo "opencloud: the task's files do not fit" >/dev/console; exit 1; }
exec sh /run/opencloud/run
