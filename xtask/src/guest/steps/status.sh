. /root/steps/lib.sh
# Each time from nothing, as a new host.
for _ in 1 2 3; do
    systemctl disable --now lbd
    lbd detach
    systemctl enable --now lbd && lbctl status
done
wait_for 120 serves
