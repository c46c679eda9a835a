//! The backend's side as a whole: real packets on a veth pair, and the host before, during and after.

use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::frames::{ethernet, tunnel, udp};
use crate::net::{Net, Role, sh, sysctl};

const VIP_V4: &str = "192.0.2.10";
const VIP_V6: &str = "2001:db8:1::a";
const BOTH: &str = "--interface eth0 --vip 192.0.2.10 --vip 2001:db8:1::a --from 10.0.0.1,2001:db8::/64";

/// What of the host the role may change, as text.
fn host() -> String {
    let addresses = sh("ip -o address show dev lo | sed 's/  */ /g'");
    let link = sh("ip -o link show eth0 | grep -o 'xdp[a-z]*' || true");
    let settings: Vec<_> = [
        "eth0/arp_ignore",
        "eth0/arp_announce",
        "all/arp_ignore",
        "lo/arp_ignore",
    ]
    .map(|name| format!("{name}={}", sysctl(name)))
    .into();
    format!("{addresses}{link}{settings:?}")
}

/// Records that name an interface.
fn records_naming(text: &str) -> Vec<String> {
    sh(&format!("grep -l '{text}' /run/lbd/backend-*.json 2>/dev/null || true"))
        .lines()
        .map(str::to_owned)
        .collect()
}

/// A datagram for each pair of families, answered from the VIP to the client.
fn serves_all_pairs(net: &Net) {
    let wire = net.wire();
    let macs = net.macs();
    for (edge, host) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
        for (client, vip) in [("198.51.100.7", VIP_V4), ("2001:db8:f::7", VIP_V6)] {
            let what = format!("{vip} by {host}");
            let server = UdpSocket::bind((vip, 53)).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let request = udp(client, vip, (1234, 53), 0, b"a question");
            wire.send(&ethernet(macs, &tunnel(edge, host, 0, &request)));
            let mut buffer = [0; 100];
            let (length, from) = server
                .recv_from(&mut buffer)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(&buffer[..length], b"a question", "{what}");
            assert_eq!((from.ip().to_string().as_str(), from.port()), (client, 1234), "{what}");
            server.send_to(b"an answer", from).unwrap();
            let answer = wire.sees(b"an answer").unwrap_or_else(|| panic!("{what}: no answer"));
            // In plain, from the VIP to the client: the inner request with addresses and ports exchanged.
            let (addresses, length) = if vip == VIP_V4 { (26, 4) } else { (22, 16) };
            assert_eq!(answer[addresses..addresses + length], address(vip), "{what}");
            assert_eq!(
                answer[addresses + length..addresses + 2 * length],
                address(client),
                "{what}"
            );
        }
    }
}

fn address(text: &str) -> Vec<u8> {
    match text.parse().unwrap() {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn serves_and_undoes(mode: &str, shown: &str) {
    let net = Net::new();
    // The way to the clients is by eth0, so a strict check of the way back is no hindrance.
    sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter");
    let before = host();
    let role = Role::start(&format!("{BOTH} --xdp-mode {mode}"));
    assert!(!role.said.contains("warning"), "{}", role.said);
    serves_all_pairs(&net);
    assert!(host().contains(&format!("{VIP_V4}/32 scope host")), "{}", host());
    assert!(
        host().contains(&format!("{VIP_V6}/128 scope global nodad deprecated")),
        "{}",
        host()
    );
    role.signal(Signal::SIGTERM);
    let (ended_well, said) = role.end();
    assert!(ended_well, "{said}");
    assert!(said.contains(shown), "{said}");
    assert!(
        said.lines().any(|line| line.split_whitespace().eq(["unwrapped", "4"])),
        "{said}"
    );
    assert_eq!(host(), before, "{said}");
}

#[test]
fn serves_all_pairs_natively_and_undoes_it_all() {
    serves_and_undoes("native", "native XDP");
}

#[test]
fn serves_all_pairs_generically_and_undoes_it_all() {
    serves_and_undoes("generic", "generic XDP");
}

/// The bond's ports run its native program, which then sees the port's index.
#[test]
fn serves_by_a_bond_natively_and_by_a_port_that_joins_it_later() {
    let Some(net) = Net::with_bond() else {
        println!("skipped: this kernel has no bonds");
        return;
    };
    let role = Role::start(&format!("{BOTH} --xdp-mode native"));
    serves_all_pairs(&net);
    for command in ["down", "nomaster", "master eth0", "up"] {
        sh(&format!("ip link set port0 {command}"));
    }
    let server = server(VIP_V4);
    let joined = (0..20).any(|_| reaches(&net, &server, "10.0.0.1", "10.0.0.2", VIP_V4));
    assert!(joined, "by the port that joined");
    role.signal(Signal::SIGTERM);
    let (ended_well, said) = role.end();
    assert!(ended_well, "{said}");
}

/// Whether a datagram in a tunnel from `outer` to `end` reaches a server on the VIP.
fn reaches(net: &Net, server: &UdpSocket, outer: &str, end: &str, vip: &str) -> bool {
    let client = if vip == VIP_V4 { "8.8.8.8" } else { "2001:4860::8888" };
    let inner = udp(client, vip, (1234, 53), 0, b"a question");
    net.wire().send(&ethernet(net.macs(), &tunnel(outer, end, 0, &inner)));
    server.recv_from(&mut [0; 100]).is_ok()
}

fn server(vip: &str) -> UdpSocket {
    let server = UdpSocket::bind((vip, 53)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    server
}

#[test]
fn tunnels_begin_at_the_edges_that_were_named_and_end_at_addresses_that_are_no_vips() {
    let net = Net::new();
    let role = Role::start(BOTH);
    for (vip, edge, stranger, end) in [
        (VIP_V4, "10.0.0.1", "198.51.100.66", "10.0.0.2"),
        (VIP_V6, "2001:db8::1", "2001:db8:66::66", "2001:db8::2"),
    ] {
        let server = server(vip);
        assert!(reaches(&net, &server, edge, end, vip), "from {edge}");
        assert!(!reaches(&net, &server, stranger, end, vip), "from {stranger}");
        assert!(!reaches(&net, &server, edge, vip, vip), "the tunnel ends at {vip}");
    }
    role.signal(Signal::SIGTERM);
    let (_, said) = role.end();
    let counted = |name: &str| said.lines().any(|line| line.split_whitespace().eq([name, "2"]));
    assert!(
        counted("unwrapped") && counted("source_not_allowed") && counted("not_local"),
        "{said}"
    );
    assert!(!said.contains("no --from"), "{said}");
}

#[test]
fn without_edges_named_it_unwraps_from_everywhere_and_warns_at_start_and_with_the_counters() {
    let net = Net::new();
    // `--from` without a value is what the unit's file has if it names none.
    for from in ["", " --from"] {
        let mut role = Role::start(&format!("--interface eth0 --vip {VIP_V4}{from}"));
        assert!(role.said.contains("warning: no --from"), "{}", role.said);
        assert!(reaches(&net, &server(VIP_V4), "198.51.100.66", "10.0.0.2", VIP_V4));
        role.said.clear();
        role.signal(Signal::SIGUSR1);
        role.wait_for("warning: no --from");
        role.wait_for("unwrapped");
        role.signal(Signal::SIGTERM);
        assert!(role.end().0);
    }
}

#[test]
fn nobody_learns_who_has_the_vip() {
    let net = Net::new();
    // That the question is asked rightly: without the role's settings, the host does answer for an address on lo.
    sh(&format!("ip address add {VIP_V4}/32 dev lo"));
    assert!(net.is_answered(VIP_V4));
    sh(&format!("ip address del {VIP_V4}/32 dev lo"));
    let _role = Role::start(BOTH);
    assert!(net.is_answered("10.0.0.2"));
    assert!(net.is_answered("2001:db8::2"));
    assert!(!net.is_answered(VIP_V4));
    assert!(!net.is_answered(VIP_V6));
    // Nor by the backend's own requests: what it sends from the VIP makes it ask for its gateway.
    sh("ip neighbour flush dev eth0");
    let wire = net.wire();
    let server = UdpSocket::bind((VIP_V4, 53)).unwrap();
    server.send_to(b"unasked", "198.51.100.7:9").unwrap();
    let request = wire
        .sees(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1])
        .expect("an ARP request");
    assert_eq!(request[28..32], [10, 0, 0, 2], "sender of the ARP request");
}

#[test]
fn what_a_killed_one_left_is_taken_over_or_removed() {
    let _net = Net::new();
    // A name that no other test has, to find the record by.
    let device = format!("k{}", std::process::id());
    sh(&format!(
        "ip link set eth0 down; ip link set eth0 name {device}; ip link set {device} up"
    ));
    let killed = |role: Role| {
        role.signal(Signal::SIGKILL);
        let (ended_well, _) = role.end();
        assert!(!ended_well);
    };
    let state = || {
        let addresses = sh("ip -o address show dev lo");
        (
            addresses.contains(VIP_V4),
            addresses.contains(VIP_V6),
            sysctl(&format!("{device}/arp_ignore")),
            sysctl(&format!("{device}/arp_announce")),
            sh(&format!("ip link show {device}")).contains("xdp"),
        )
    };
    let untouched = (false, false, "0".to_owned(), "0".to_owned(), false);
    assert_eq!(state(), untouched);
    let both = &format!("--interface {device} --vip 192.0.2.10,2001:db8:1::a");
    killed(Role::start(both));
    assert_eq!(state(), (true, true, "1".to_owned(), "2".to_owned(), false));
    assert_eq!(records_naming(&device).len(), 1);

    // A new one takes over; what it does not want any more goes. In the end all is as before the first.
    let role = Role::start(&format!("--interface {device} --vip 192.0.2.10"));
    assert_eq!(state(), (true, false, "1".to_owned(), "2".to_owned(), true));
    role.signal(Signal::SIGINT);
    let (ended_well, said) = role.end();
    assert!(ended_well && said.contains("taken over"), "{said}");
    assert_eq!(state(), untouched, "{said}");
    assert_eq!(records_naming(&device).len(), 0);

    killed(Role::start(both));
    let (ended_well, said) = Role::spawn("--remove").end();
    assert!(ended_well, "{said}");
    assert_eq!(state(), untouched, "{said}");
    assert_eq!(records_naming(&device).len(), 0);
    let (ended_well, said) = Role::spawn("--remove").end();
    assert!(ended_well && said.contains("nothing is left"), "{said}");
}

#[test]
fn only_one_runs_and_remove_stops_it() {
    let _net = Net::new();
    let before = host();
    let role = Role::start(BOTH);
    let during = host();
    let (ended_well, said) = Role::spawn(BOTH).end();
    assert!(
        !ended_well && said.contains(&format!("process {}", role.pid())),
        "{said}"
    );
    assert_eq!(host(), during);
    let (ended_well, said) = Role::spawn("--remove").end();
    assert!(ended_well, "{said}");
    assert_eq!(host(), before);
    assert!(role.end().0);
}

#[test]
fn removing_what_is_left_over_spares_one_that_runs() {
    let _net = Net::new();
    let before = host();
    let role = Role::start(BOTH);
    let during = host();
    // As an instance for another interface that cannot start beside this one, and then clears up.
    let (ended_well, said) = Role::spawn("--remove --left-over").end();
    assert!(
        ended_well && said.contains(&format!("process {} runs here", role.pid())),
        "{said}"
    );
    assert_eq!(host(), during);
    role.signal(Signal::SIGKILL);
    assert!(!role.end().0);
    assert_ne!(host(), before);
    let (ended_well, said) = Role::spawn("--remove --left-over").end();
    assert!(ended_well, "{said}");
    assert_eq!(host(), before);
}

#[test]
fn leaves_what_others_have_done() {
    let _net = Net::new();
    sh(&format!("ip address add {VIP_V4}/32 dev lo"));
    sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_announce");
    let role = Role::start(BOTH);
    sh("echo 2 > /proc/sys/net/ipv4/conf/eth0/arp_ignore");
    // Somebody takes our VIP away and puts an own one in its place.
    sh(&format!(
        "ip address del {VIP_V6}/128 dev lo; ip address add {VIP_V6}/128 dev lo"
    ));
    role.signal(Signal::SIGTERM);
    let (ended_well, said) = role.end();
    assert!(ended_well, "{said}");
    assert!(sh("ip address show dev lo").contains(VIP_V4), "{said}");
    assert!(sh("ip address show dev lo").contains(VIP_V6), "{said}");
    assert_eq!(sysctl("eth0/arp_ignore"), "2", "{said}");
    assert_eq!(sysctl("eth0/arp_announce"), "1", "{said}");
    assert!(said.contains("no longer 1"), "{said}");
}

#[test]
fn refusals_change_nothing() {
    let _net = Net::new();
    sh("ip tuntap add tun0 mode tun");
    let before = host();
    let refused = |arguments: &str, text: &str| {
        let (ended_well, said) = Role::spawn(arguments).end();
        assert!(!ended_well && said.contains(text), "{arguments}: {said}");
        assert_eq!(host(), before, "{arguments}");
    };
    refused("--interface eth7 --vip 192.0.2.10", "no interface eth7");
    refused("--interface lo --vip 192.0.2.10", "lo is the loopback interface");
    refused("--interface tun0 --vip 192.0.2.10", "tun0 is no Ethernet interface");
    refused("--interface eth0 --vip 224.0.0.1", "multicast");
    refused(
        "--interface eth0 --vip 192.0.2.10 --from 10.0.0.5/24",
        "10.0.0.0/24 is the prefix",
    );
    refused(
        "--interface eth0 --vip 192.0.2.10 --from edge-1",
        "neither an address nor a prefix",
    );
    refused("--interface eth0", "--vip");
    refused("--vip 192.0.2.10", "--interface");
    refused("--interface eth0 --vip 192.0.2.10 --left-over", "--remove");
    sh("ip link set lo down");
    let (ended_well, said) = Role::spawn(BOTH).end();
    assert!(!ended_well && said.contains("ip link set lo up"), "{said}");
    sh("ip link set lo up");

    // IPv6 is off on lo: the second VIP cannot be added, and the first one is taken away again.
    sh("echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6");
    let without_ipv6 = host();
    let (ended_well, said) = Role::spawn(BOTH).end();
    assert!(!ended_well && said.contains(&format!("put {VIP_V6} on lo")), "{said}");
    assert_eq!(host(), without_ipv6);
}

#[test]
fn a_foreign_program_is_named_and_left() {
    use aya::Ebpf;
    use aya::programs::{Xdp, xdp::XdpMode};
    let _net = Net::new();
    let mut ebpf = Ebpf::load(&crate::object()).unwrap();
    let program: &mut Xdp = ebpf.program_mut("decap").unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach("eth0", XdpMode::Skb).unwrap();
    let id = program.info().unwrap().id();
    let before = host();
    let (ended_well, said) = Role::spawn(BOTH).end();
    assert!(!ended_well && said.contains(&format!("program {id} ")), "{said}");
    assert_eq!(host(), before);
}

#[test]
fn a_new_address_of_the_host_is_learnt() {
    let net = Net::new();
    let _role = Role::start(BOTH);
    let wire = net.wire();
    let macs = net.macs();
    let server = UdpSocket::bind((VIP_V4, 53)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let request = udp("198.51.100.7", VIP_V4, (1234, 53), 0, b"a question");
    let frame = ethernet(macs, &tunnel("10.0.0.1", "10.0.0.77", 0, &request));
    let arrives = || {
        wire.send(&frame);
        server.recv_from(&mut [0; 100]).is_ok()
    };
    assert!(!arrives());
    sh("ip address add 10.0.0.77/24 dev eth0");
    std::thread::sleep(Duration::from_millis(500));
    assert!(arrives());
    sh("ip address del 10.0.0.77/24 dev eth0");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!arrives());
}

#[test]
fn warns_of_what_would_keep_clients_away() {
    let _net = Net::new();
    sh("ip link add eth1 type veth peer name eth2; ip link set eth1 up; ip address add 10.1.0.2/24 dev eth1");
    sh("echo 1 > /proc/sys/net/ipv4/conf/eth1/rp_filter");
    let mut role = Role::start("--interface eth1 --vip 192.0.2.10");
    let said = std::mem::take(&mut role.said);
    assert!(
        said.contains("eth1: rp_filter is strict, but the route to them is by eth0"),
        "{said}"
    );
    assert!(said.contains("eth0 was not named, and still answers ARP"), "{said}");
}
