. /root/steps/lib.sh
# A unit may answer a system call that it denies by an error, which stays unseen: here such a call ends the process, and is logged.
undo() {
    rm -f /run/systemd/system/{lbd,lbd-backend@eth0}.service.d/denied.conf
    systemctl daemon-reload
    systemctl restart lbd-backend@eth0 lbd
}
for unit in lbd lbd-backend@eth0; do
    mkdir -p /run/systemd/system/$unit.service.d
    printf '[Service]\nSystemCallErrorNumber=kill\n' > /run/systemd/system/$unit.service.d/denied.conf
done
systemctl daemon-reload
systemctl restart lbd-backend@eth0 lbd
wait_for 120 serves
request
systemctl reload lbd
lbctl apply $good
lbctl -o json stats > "$scratch/stats"
wait_for 120 serves
systemctl restart lbd
wait_for 120 serves
systemctl stop lbd-backend@eth0
systemctl start lbd-backend@eth0
wait_for 120 serves
# Of all that the steps before had the units do, too.
! journalctl --no-pager -b | grep -E 'SIGSYS|status=31/|type=1326|audit.*SECCOMP' || fail "system calls were denied"
