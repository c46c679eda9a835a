. /root/steps/lib.sh
undo() { cp "$scratch/good" $good; systemctl reload lbd; }
wait_for 120 serves
cp $good "$scratch/good"
pid=$(property MainPID)
begin_traffic
echo 'nonsense = true' >> $good
! systemctl reload lbd || fail "a wrong file was reloaded without complaint"
active || fail "the unit is $(property ActiveState) after a refused reload"
[ "$(property MainPID)" = "$pid" ] || fail "another process runs"
serves || fail "a backend is lost"
cp "$scratch/good" $good
systemctl reload lbd
serves
end_traffic
