. /root/steps/lib.sh
folder=/etc/systemd/system
units="$folder/lbd.service $folder/lbd-backend@.service:lbd-backend@eth0.service"
systemd-analyze verify $units 2>&1 | tee "$scratch/complaints" || :
[ ! -s "$scratch/complaints" ] || fail "the units are complained about"
for unit in lbd lbd-backend@eth0; do
    echo "figure: $unit $(systemd-analyze --no-pager security $unit.service | sed -n 's/.*Overall exposure level[^:]*: \([0-9.]*\).*/\1/p')"
done
