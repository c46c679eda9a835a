. /root/steps/lib.sh
undo() {
    ip link set eth1 down
    ip addr flush dev eth1
    ip -n trunk link del tagged
    lbctl apply $good
}
ip -n trunk link set eth0 up
ip -n trunk link add link eth0 name tagged type vlan id 5
ip -n trunk addr add 203.0.113.2/24 dev tagged
ip -n trunk link set tagged up
# Without tags it is a host like any other; what it sends with a tag is none of the edge's.
ip -n trunk route add $vip via 203.0.113.1
ip -n trunk neigh add 203.0.113.1 lladdr "$(cat /sys/class/net/eth1/address)" dev tagged
ip addr add 203.0.113.1/24 dev eth1
ip link set eth1 up
wait_for 20 ip -n trunk route get $vip
ethtool -k eth1 | grep 'rx-vlan-offload: on' > /dev/null || skip "the card strips no tags"
counter() { lbctl stats | awk -v name="$1" '$1 == name { gsub(",", "", $2); print $2 }'; }

# How many tagged frames the program sees with their tags, of ten requests for the VIP.
seen() {
    local before after
    before=$(counter vlan)
    for _ in $(seq 10); do
        nsenter --net=/run/netns/trunk curl -s -m 0.3 "http://$vip/" > /dev/null || :
    done
    after=$(counter vlan)
    # A reason that never was is not in the list.
    echo $((${after:-0} - ${before:-0}))
}
sed 's/^interfaces = .*/interfaces = ["eth0", "eth1"]/' $good > "$scratch/two.toml"
# First as it must not be, so that what is seen then means something.
sed 's/^interfaces = .*/&\noffloads = "keep"/' "$scratch/two.toml" > "$scratch/keep.toml"
lbctl apply "$scratch/keep.toml"
echo "figure: with offloads = \"keep\" $(seen) tagged frames were seen with their tags"
lbctl apply "$scratch/two.toml"
ethtool -k eth1 | grep 'rx-vlan-offload: off' || fail "the tags are stripped still"
count=$(seen)
echo "figure: with offloads switched off $count"
[ "$count" -ge 10 ] || { lbctl stats; fail "tagged frames were taken for untagged ones"; }
