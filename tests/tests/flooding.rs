//! Links that flood: every balancer on them sees every frame, and forwards those alone that are for it.
//!
//! Needs root, `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`), and bridges in the kernel.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::api::Api;
use lb_tests::edge::Programs;
use lb_tests::net::{Host, Process, Program, Scratch, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any frame is under way here, and than a storm takes to be one.
const QUIET: Duration = Duration::from_millis(300);
const VIP: &str = "192.0.2.10";
const CLIENT: &str = "10.0.0.2";

/// A switch with a client, a sink for what is forwarded, and balancers on it: 10.0.0.11 and so on.
struct Link {
    switch: Host,
    client: Host,
    sink: Host,
    edges: Vec<Edge>,
    scratch: Scratch,
    programs: Programs,
}

struct Edge {
    host: Host,
    configuration: PathBuf,
    process: Option<Process>,
}

impl Link {
    /// The switch learns nothing: it sends every frame out of every port but the one that it came by.
    fn new(edges: u8) -> Result<Self> {
        let mut switch = Host::new("switch")?;
        switch.ip("link add lan1 type bridge forward_delay 0 stp_state 0 mcast_snooping 0")?;
        switch.ip("link set lan1 up")?;
        let client = host(&mut switch, "client", CLIENT)?;
        let sink = host(&mut switch, "sink", "10.0.0.3")?;
        sink.ip(&format!("addr add {VIP}/32 dev lo"))?;
        let scratch = Scratch::new()?;
        let mut link = Self {
            switch,
            client,
            sink,
            edges: Vec::new(),
            scratch,
            programs: Programs::find()?,
        };
        for number in 1..=edges {
            let name = format!("edge-{number}");
            let host = host(&mut link.switch, &name, &edge_address(number))?;
            // Frames for others, or for VIPs that it does not have, are not the host's own business either.
            host.sysctl("net/ipv4/conf/all/forwarding", "0")?;
            link.edges.push(Edge {
                host,
                configuration: PathBuf::new(),
                process: None,
            });
        }
        link.floods(true)?;
        Ok(link)
    }

    fn floods(&self, floods: bool) -> Result<()> {
        let learning = if floods { "off" } else { "on" };
        for port in self.ports() {
            self.switch.ip(&format!(
                "link set {port} type bridge_slave learning {learning} flood on"
            ))?;
        }
        if floods {
            self.flush()?;
        }
        Ok(())
    }

    fn ports(&self) -> Vec<String> {
        let edges = self.edges.iter().map(|edge| edge.host.name().to_owned());
        ["client".to_owned(), "sink".to_owned()]
            .into_iter()
            .chain(edges)
            .collect()
    }

    fn flush(&self) -> Result<()> {
        self.switch.ip("link set lan1 type bridge fdb_flush").map(drop)
    }

    /// Starts the balancer `number` (from 1), on its interfaces, with one backend.
    fn start(&mut self, number: u8, interfaces: &str, backend: &str) -> Result<()> {
        let toml = format!(
            "[node]\ninterfaces = [{interfaces}]\nhash_seed = \"0x5eed\"\n\n[[service]]\nname = \"web\"\nvip = \"{VIP}\"\n\
             protocol = \"udp\"\nport = 53\nforward = \"l2\"\n\n[[service.backend]]\nname = \"b\"\naddress = \"{backend}\"\n"
        );
        let configuration = self.scratch.write(&format!("edge-{number}.toml"), &toml)?;
        let log = self.scratch.path().join(format!("edge-{number}.log"));
        let edge = &mut self.edges[usize::from(number) - 1];
        edge.configuration = configuration;
        let mut command = edge.host.command(&self.programs.lbd);
        command.arg("run").arg("--config").arg(&edge.configuration);
        edge.process = Some(edge.host.spawn(command, &log)?);
        let edge = &self.edges[usize::from(number) - 1];
        wait_until("the balancer to have its backend", PATIENCE, || {
            let Ok(service) = edge.api().and_then(|api| api.get("/v1/services/web")) else {
                return Ok(false);
            };
            Ok(service["backends"][0]["slots"].as_u64() > Some(0))
        })
    }

    /// The client's packets go to this balancer.
    fn aim(&self, number: u8) -> Result<()> {
        let edge = &self.edges[usize::from(number) - 1];
        let mac = mac(&edge.host, "eth0")?;
        self.aim_at(&mac)
    }

    fn aim_at(&self, mac: &str) -> Result<()> {
        self.client
            .ip(&format!("neigh replace 10.0.0.200 lladdr {mac} dev eth0 nud permanent"))?;
        self.client
            .ip(&format!("route replace {VIP}/32 via 10.0.0.200"))
            .map(drop)
    }

    /// Sends so many packets, a pause after each.
    fn send(
        &self,
        packets: u32,
        ttl: u32,
        pause: Duration,
        mut each: impl FnMut(u32) -> Result<()> + Send,
    ) -> Result<()> {
        let target: SocketAddr = format!("{VIP}:53").parse()?;
        self.client.enter(move || -> Result<()> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_ttl(ttl)?;
            for number in 0..packets {
                each(number)?;
                socket.send_to(b"a packet", target)?;
                sleep(pause);
            }
            Ok(())
        })?
    }

    /// How many packets each balancer has forwarded, once no more are.
    fn forwarded(&self) -> Result<Vec<u64>> {
        let read = || {
            self.edges
                .iter()
                .map(|edge| edge.count("forwarded"))
                .collect::<Result<Vec<_>>>()
        };
        let deadline = Instant::now() + PATIENCE;
        let mut last = read()?;
        loop {
            sleep(QUIET);
            let now = read()?;
            if now == last {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "it does not end: {last:?}, then {now:?}");
            last = now;
        }
    }
}

impl Edge {
    fn api(&self) -> Result<Api> {
        let process = self.process.as_ref().context("lbd does not run")?;
        Ok(Api::of(process.pid()))
    }

    fn count(&self, reason: &str) -> Result<u64> {
        let stats = self.api()?.get("/v1/stats")?;
        stats["reasons"][reason]
            .as_u64()
            .with_context(|| format!("no {reason}: {stats}"))
    }
}

/// A host on the switch, with a stub on its port that takes what `XDP_TX` sends.
fn host(switch: &mut Host, name: &str, address: &str) -> Result<Host> {
    let host = Host::new(name)?;
    plug(switch, &host, "eth0", name)?;
    host.ip(&format!("addr add {address}/24 dev eth0"))?;
    Ok(host)
}

fn plug(switch: &mut Host, host: &Host, device: &str, port: &str) -> Result<()> {
    host.connect(device, switch, port, 1500)?;
    switch.ip(&format!("link set {port} master lan1"))?;
    switch.attach(port, &Program::PASS)
}

fn edge_address(number: u8) -> String {
    format!("10.0.0.{}", 10 + number)
}

fn mac(host: &Host, device: &str) -> Result<String> {
    let bytes = host.mac(device)?;
    Ok(bytes.map(|byte| format!("{byte:02x}")).join(":"))
}

const AT_ONCE: Duration = Duration::ZERO;

#[test]
fn two_balancers_on_a_link_that_floods_forward_each_packet_once() -> Result<()> {
    let mut link = Link::new(2)?;
    for number in [1, 2] {
        link.start(number, "\"eth0\"", "10.0.0.3")?;
    }
    link.aim(1)?;
    link.send(50, 64, AT_ONCE, |_| Ok(()))?;
    assert_eq!(link.forwarded()?, [50, 0]);
    ensure!(
        link.edges[1].count("other_host")? >= 50,
        "the other saw none: the link does not flood"
    );
    link.aim(2)?;
    link.send(30, 64, AT_ONCE, |_| Ok(()))?;
    assert_eq!(link.forwarded()?, [50, 30]);
    // Broadcast, multicast and a host that is nobody.
    for mac in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "02:00:00:00:77:77"] {
        link.aim_at(mac)?;
        link.send(10, 64, AT_ONCE, |_| Ok(()))?;
    }
    assert_eq!(link.forwarded()?, [50, 30]);
    drop(link.sink);
    Ok(())
}

#[test]
fn three_balancers_whose_switch_forgets_forward_each_packet_once() -> Result<()> {
    let mut link = Link::new(3)?;
    for number in [1, 2, 3] {
        link.start(number, "\"eth0\"", "10.0.0.3")?;
    }
    link.aim(2)?;
    // 100 packets a second; the switch's table is emptied ten times, when it learns nothing and when it does.
    let flush = |number: u32| if number % 20 == 10 { link.flush() } else { Ok(()) };
    for (learning, expected) in [(false, 200), (true, 400)] {
        link.floods(!learning)?;
        link.send(200, 64, Duration::from_millis(10), flush)?;
        assert_eq!(link.forwarded()?, [0, expected, 0], "learning: {learning}");
    }
    Ok(())
}

#[test]
fn a_balancer_with_two_interfaces_on_one_link_forwards_once() -> Result<()> {
    let mut link = Link::new(1)?;
    let Link { switch, edges, .. } = &mut link;
    plug(switch, &edges[0].host, "eth1", "second")?;
    link.switch
        .ip("link set second type bridge_slave learning off flood on")?;
    link.start(1, "\"eth0\", \"eth1\"", "10.0.0.3")?;
    link.aim(1)?;
    link.send(40, 64, AT_ONCE, |_| Ok(()))?;
    assert_eq!(link.forwarded()?, [40]);
    Ok(())
}

/// A bond's ports run its native program, which then sees the port's index. What is forwarded leaves by the bond.
#[test]
fn a_balancer_on_a_bond_forwards_what_comes_by_its_ports() -> Result<()> {
    let mut link = Link::new(1)?;
    let host = &link.edges[0].host;
    if host
        .ip("link add bond0 type bond mode active-backup miimon 100")
        .is_err()
    {
        println!("skipped: this kernel has no bonds");
        return Ok(());
    }
    for command in [
        "link set eth0 down",
        "addr flush dev eth0",
        "link set eth0 master bond0",
        "link set bond0 up",
        "addr add 10.0.0.11/24 dev bond0",
    ] {
        host.ip(command)?;
    }
    link.start(1, "\"bond0\"", "10.0.0.3")?;
    let host = &link.edges[0].host;
    // Of a port, the kernel does not show it.
    let bond = host.ip("link show bond0")?;
    ensure!(
        bond.contains(" xdp ") || bond.contains("prog/xdp"),
        "no program: {bond}"
    );
    ensure!(!bond.contains("xdpgeneric"), "the ports do not run it: {bond}");
    let own = mac(host, "bond0")?;
    let server = link.sink.enter(|| UdpSocket::bind((VIP, 53)))??;
    server.set_read_timeout(Some(PATIENCE))?;
    link.aim_at(&own)?;
    link.send(40, 64, AT_ONCE, |_| Ok(()))?;
    assert_eq!(link.forwarded()?, [40]);
    for number in 0..40 {
        server
            .recv(&mut [0; 100])
            .with_context(|| format!("packet {number} does not arrive"))?;
    }
    link.aim_at("02:00:00:00:77:77")?;
    link.send(10, 64, AT_ONCE, |_| Ok(()))?;
    assert_eq!(link.forwarded()?, [40], "a neighbour's frames are not this host's");
    Ok(())
}

#[test]
fn balancers_that_are_each_others_backend_end_a_packet() -> Result<()> {
    let mut link = Link::new(2)?;
    // The neighbours' own stacks answer for these addresses; the packets come by the balancers' programs.
    link.start(1, "\"eth0\"", &edge_address(2))?;
    link.start(2, "\"eth0\"", &edge_address(1))?;
    link.aim(1)?;
    link.send(1, 64, AT_ONCE, |_| Ok(()))?;
    // It leaves the client with 64, and whoever gets it with 1 drops it.
    let forwarded = link.forwarded()?;
    assert_eq!(forwarded, [32, 31]);
    assert_eq!(link.edges[1].count("ttl_exceeded")?, 1);
    Ok(())
}

#[test]
fn own_addresses_that_change_are_followed() -> Result<()> {
    let mut link = Link::new(1)?;
    link.start(1, "\"eth0\"", "10.0.0.3")?;
    link.aim(1)?;
    link.send(10, 64, AT_ONCE, |_| Ok(()))?;
    assert_eq!(link.forwarded()?, [10]);
    let mut expected = 10;
    // Each time: what makes an address the host's own, and what takes it away again.
    for (address, makes, takes) in [
        (
            "02:00:00:00:77:01",
            "link set eth0 address 02:00:00:00:77:01",
            "link set eth0 address 02:00:00:00:77:02",
        ),
        (
            "00:00:5e:00:01:07",
            "link add link eth0 name vrrp.7 address 00:00:5e:00:01:07 type macvlan mode private",
            "link delete vrrp.7",
        ),
    ] {
        let host = &link.edges[0].host;
        let begun = Instant::now();
        host.ip(makes)?;
        let asked = Instant::now();
        link.aim_at(address)?;
        let mut sent = 0;
        while link.edges[0].count("forwarded")? == expected {
            ensure!(asked.elapsed() < PATIENCE, "{makes}: not followed");
            link.send(1, 64, AT_ONCE, |_| Ok(()))?;
            sent += 1;
        }
        println!("{makes}: followed within {:?}, {sent} packets", begun.elapsed());
        let now = link.forwarded()?[0];
        link.send(20, 64, AT_ONCE, |_| Ok(()))?;
        expected = now + 20;
        assert_eq!(link.forwarded()?, [expected], "{makes}");
        let host = &link.edges[0].host;
        host.ip(takes)?;
        wait_until("the address to be forgotten", PATIENCE, || {
            let before = link.edges[0].count("forwarded")?;
            link.send(1, 64, AT_ONCE, |_| Ok(()))?;
            sleep(Duration::from_millis(20));
            expected = link.edges[0].count("forwarded")?;
            Ok(expected == before)
        })?;
        expected = link.forwarded()?[0];
        link.send(5, 64, AT_ONCE, |_| Ok(()))?;
        assert_eq!(link.forwarded()?, [expected], "{takes}");
    }
    Ok(())
}
