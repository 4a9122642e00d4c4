#!/bin/sh
# Runs the task and gives back what became of it.
@COMMON@
here=/run/opencloud
# Opens the port with a name as a descriptor of this shell.
port() {
    for found in /sys/class/virtio-ports/*; do
        name=
        [ -r "$found/name" ] && read -r name <"$found/name"
        [ "$name" = "org.opencloud.$1" ] && echo "/dev/${found##*/}" && return 0
    done
    echo "opencloud: no port org.opencloud.$1: the machine needs the driver virtio_console" >/dev/console
    return 1
}
# Prints how often the kernel has killed for want of memory.
kills() {
    n=0
    while read -r key value; do
        [ "$key" = oom_kill ] && n=$value
    done </proc/vmstat
    echo "$n"
}
# Makes a directory read-only.
fix() {
    mount -o bind "$1" "$1" && mount -o remount,bind,ro "$1"
}
# Ends what the task has left running. The first process can tell: all others but those that pass the streams on.
sweep() {
    [ -w "$group/cgroup.kill" ] && echo 1 >"$group/cgroup.kill"
    [ "$$" = 1 ] || return 0
    for found in /proc/[0-9]*; do
        case ${found##*/} in
        1 | "$passing1" | "$passing2") ;;
        *) kill -9 "${found##*/}" 2>/dev/null ;;
        esac
    done
}
control=$(port control) && exec 9<>"$control" || exit 1
stdout=$(port stdout) && exec 7>"$stdout" || exit 1
stderr=$(port stderr) && exec 8>"$stderr" || exit 1
@READONLY@
# The clock stands still while the machine is suspended. The node says what time it is then.
(
    exec 7>&- 8>&-
    while :; do
        read -r word now <&9 || { sleep 5; continue; }
        [ "$word" = resumed ] || continue
        date -s "@$now" >/dev/null 2>&1
        echo "$now" >>"$here/resumed"
    done
) </dev/null &
mkfifo "$here/1" "$here/2" || exit 1
cat "$here/1" >&7 7>&- 8>&- 9>&- &
passing1=$!
cat "$here/2" >&8 7>&- 8>&- 9>&- &
passing2=$!
# A group of its own, where the machine has them, so that nothing of the task is left when it ends.
group=/sys/fs/cgroup/opencloud
[ -w /sys/fs/cgroup/cgroup.procs ] && mkdir -p "$group" 2>/dev/null
kills=$(kills)
echo begin >&9
(
    exec 7>&- 8>&- 9>&-
    { [ -w "$group/cgroup.procs" ] && sh -c 'echo $PPID' >"$group/cgroup.procs"; } 2>/dev/null
    cd /work || exit 126
    exec sh "$here/task"
) <"$here/stdin" >"$here/1" 2>"$here/2"
code=$?
why=self
[ "$(kills)" -gt "$kills" ] && why=memory
set -- $(df -P /work | tail -n 1)
[ "$why" = self ] && [ "${4:-1}" = 0 ] && why=disk
echo "exit $code $why" >&9
sweep
# What is still there may hold the streams open.
(
    exec 7>&- 8>&- 9>&-
    sleep 10
    kill -9 "$passing1" "$passing2"
) 2>/dev/null &
wait "$passing1" "$passing2"
printf %s '@TOKEN@' >&7
printf %s '@TOKEN@' >&8
output=$(disk oc-out) || exit 1
tar -cf "$output" -C /work . 2>"$here/tar"
code=$?
sync
said=
read -r said <"$here/tar"
echo "done $code $said" >&9
# The node ends the machine.
while :; do sleep 3600; done
