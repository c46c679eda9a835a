#!/bin/busybox sh
# Process 1 of a guest: mounts, loads modules, runs the jobs, reports over the second serial port, and switches off.
#
# Every line of the report begins with the token from the kernel's command line, or with "|" if a job wrote it.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/root
/bin/busybox mkdir -p /busybox /proc /sys /dev /tmp /run /root /var/log /var/lib
/bin/busybox --install -s /busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t bpf bpf /sys/fs/bpf
# Everything that is still printed is for the console.
exec < /dev/null > /dev/console 2>&1

report=/dev/ttyS1
token=none
for word in $(cat /proc/cmdline); do
    case $word in edgelb.token=*) token=${word#*=} ;; esac
done
now() { cut -d ' ' -f 1 /proc/uptime; }
say() { echo "$token $(now) $*" > $report; }

say begin "$(uname -r)"
for module in /edgelb/modules/*; do
    [ -e "$module" ] || continue
    insmod "$module" || say unloadable "${module##*/}"
done
ip link set lo up
. /edgelb/environment
set -o pipefail
while IFS='	' read -r name limit directory command; do
    say start "$name"
    cd "$directory"
    timeout -s KILL "$limit" sh -c "exec $command" 2>&1 | sed 's/^/|/' > $report
    say end "$name" $?
done < /edgelb/jobs
say done
poweroff -f
