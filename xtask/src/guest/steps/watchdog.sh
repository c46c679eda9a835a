. /root/steps/lib.sh
case $(property WatchdogUSec) in 0 | infinity) skip "the unit has no watchdog" ;; esac
drop_in=/run/systemd/system/lbd.service.d/watchdog.conf
undo() { rm -f $drop_in; systemctl daemon-reload; systemctl restart lbd; }
mkdir -p "${drop_in%/*}"
# An emulated processor is slow; 30 s, as is usual, would be waited for in vain.
printf '[Service]\nWatchdogSec=8\n' > $drop_in
systemctl daemon-reload
systemctl restart lbd
wait_for 120 serves
sleep 12
pid=$(property MainPID)
[ "$(property NRestarts)" = 0 ] || fail "a daemon that works was killed"
begin_traffic
kill -STOP "$pid"
wait_for 120 started_again "$pid"
end_traffic
journalctl --no-pager -u lbd | grep -i watchdog || fail "it was not the watchdog"
wait_for 120 serves
