PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
# Prints the device of the disk with a serial. Its driver may still be starting.
disk() {
    tries=0
    while [ "$tries" -lt 30 ]; do
        for found in /sys/block/*; do
            serial=
            [ -r "$found/serial" ] && read -r serial <"$found/serial"
            [ "$serial" = "$1" ] && echo "/dev/${found##*/}" && return 0
        done
        tries=$((tries + 1))
        sleep 1
    done
    echo "opencloud: no disk with the serial $1: the machine needs the driver virtio_blk" >/dev/console
    return 1
}
