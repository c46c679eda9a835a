# No step of the list's. Installs what README's commands should have, if they did not, so that the steps have something to look at; and gives
# the checks more time: processors are emulated, and a server that is not late by README's 100 ms now and then would be rare.
. /root/steps/lib.sh
cd /root/edgelb
if ! request; then
    install -m 755 target/release/lbd target/release/lbctl /usr/local/sbin/
    install -m 644 packaging/lbd.service packaging/lbd-backend@.service /etc/systemd/system/
    install -d -m 700 /etc/lbd
    [ -e $good ] || install -m 600 example.toml $good
    echo VIPS=$vip > /etc/lbd/backend-eth0.env
    systemctl daemon-reload
    systemctl enable lbd lbd-backend@eth0
    systemctl restart lbd-backend@eth0
fi
sed -i -e 's/^interval = .*/interval = "2s"/' -e 's/^timeout = .*/timeout = "1500ms"/' -e 's/^rise = .*/rise = 1/' -e 's/^fall = .*/fall = 5/' $good
systemctl restart lbd
wait_for 120 serves
wait_for 120 request
