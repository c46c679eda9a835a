#!/bin/bash
# Makes the guest the edge host of README's example, with all that is around it, in namespaces of the guest:
#
#   client 198.51.100.2 ── fabric 198.51.100.1, 10.0.0.1 ──┬── eth0 of the edge, 10.0.0.2
#                                                          └── web-1 … web-3, 10.0.0.11 … 10.0.0.13
#
# The fabric is a router and a switch. Its link to the edge is a cable between two network cards of the guest, the others are veth. web-1 is
# without edgelb: that is for README. web-2 and web-3 unwrap. A second cable leads from eth1 to the namespace trunk.
set -eu
tree=/root/edgelb

# Cards by their addresses: the kernel numbers them as it finds them.
card() {
    for address in /sys/class/net/*/address; do
        [ "$(cat "$address")" != "52:54:00:00:00:0$1" ] || basename "$(dirname "$address")"
    done
}
for number in 0 1 2 3; do ip link set "$(card $number)" name "card$number"; done
ip link set card0 name eth0
ip link set card2 name eth1

for host in fabric client trunk web-1 web-2 web-3; do
    ip netns add $host
    ip -n $host link set lo up
done
ip link set card1 netns fabric name edge
ip link set card3 netns trunk name eth0
ip -n fabric link add bridge type bridge
ip -n fabric addr add 10.0.0.1/24 dev bridge
ip -n fabric link set edge master bridge

# HOST ADDRESS GATEWAY NAME-IN-THE-FABRIC
host() {
    ip -n "$1" link add eth0 type veth peer name "$4" netns fabric
    ip -n "$1" addr add "$2" dev eth0
    ip -n "$1" link set eth0 up mtu 1540
    ip -n "$1" route add default via "$3"
    ip -n fabric link set "$4" up mtu 1540
}
for number in 1 2 3; do
    host web-$number 10.0.0.1$number/24 10.0.0.1 web-$number
    ip -n fabric link set web-$number master bridge
done
host client 198.51.100.2/24 198.51.100.1 client
ip -n fabric link set client mtu 1500
ip -n client link set eth0 mtu 1500
ip -n fabric addr add 198.51.100.1/24 dev client
ip -n fabric link set edge up mtu 1540
ip -n fabric link set bridge up mtu 1540
ip netns exec fabric sysctl -qw net.ipv4.ip_forward=1
# The routers send the VIP to the edge.
ip -n fabric route add 192.0.2.10 via 10.0.0.2

ip link set eth0 up mtu 1540
ip addr add 10.0.0.2/24 dev eth0
ip route add default via 10.0.0.1

for number in 1 2 3; do
    web=web-$number
    cat > /run/$web.conf <<CONF
events {}
http {
    access_log off;
    server {
        listen 80;
        location / { return 200 "$web\n"; }
    }
}
CONF
    systemd-run --quiet --unit=nginx-$web --property=NetworkNamespacePath=/run/netns/$web \
        nginx -c /run/$web.conf -g "daemon off; pid /run/$web.pid; error_log stderr;"
    [ $number = 1 ] || systemd-run --quiet --unit=edgelb-$web --property=NetworkNamespacePath=/run/netns/$web \
        $tree/target/release/lbd backend --interface eth0 --vip 192.0.2.10
done
# README's unit for a backend runs on web-1, which has its processes in common with the edge.
mkdir -p /run/systemd/system/lbd-backend@eth0.service.d
printf '[Service]\nNetworkNamespacePath=/run/netns/web-1\n' > /run/systemd/system/lbd-backend@eth0.service.d/host.conf
systemctl daemon-reload
for number in 1 2 3; do
    for _ in $(seq 100); do
        ! ip netns exec fabric curl -sf -m 2 http://10.0.0.1$number/ > /dev/null || continue 2
        sleep 0.2
    done
    echo "web-$number does not answer" >&2
    exit 1
done
