# The only interface, whose driver may still be starting.
modprobe -q virtio_net 2>/dev/null
nic=
tries=0
while [ -z "$nic" ] && [ "$tries" -lt 10 ]; do
    for found in /sys/class/net/*; do
        [ -e "$found/device" ] && nic=${found##*/}
    done
    [ -n "$nic" ] || sleep 1
    tries=$((tries + 1))
done
if [ -n "$nic" ]; then
    ip link set "$nic" up
    ip addr add @ADDRESS@ dev "$nic" 2>/dev/null
    @OUTSIDE@
else
    echo "opencloud: no network interface: the machine needs the driver virtio_net" >/dev/console
fi
