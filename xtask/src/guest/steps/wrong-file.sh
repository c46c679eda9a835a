. /root/steps/lib.sh
undo() {
    systemctl stop lbd
    cp "$scratch/good" $good
    systemctl reset-failed lbd
    systemctl start lbd
}
cp $good "$scratch/good"
systemctl stop lbd
# With it goes the last good configuration.
lbd detach
echo 'nonsense = true' > $good
# With Type=simple this succeeds.
systemctl start lbd || :
sleep 5
systemctl show --property=ActiveState,Result,ExecMainStatus,NRestarts lbd
[ "$(property ExecMainStatus)" = 78 ] || fail "exit status is not 78"
[ "$(property ActiveState)" = failed ] || fail "the unit is not at rest"
[ "$(property NRestarts)" = 0 ] || fail "the unit was started again"
