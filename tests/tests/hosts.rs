//! The hosts themselves, without a balancer: what the end-to-end tests stand on.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use lb_tests::load::{self, Demand, Failure, Load, Session};
use lb_tests::net::{Arms, Family, Host, Program, Scratch, Topology, wait_until};
use lb_tests::packet::{Packet, assert_same, describe};
use lb_tests::serve::{Nginx, UdpResponder, ask_udp};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send, socket,
};

fn pair() -> Result<(Host, Host)> {
    let (a, b) = (Host::new("a")?, Host::new("b")?);
    a.connect("eth0", &b, "eth0", 1_500)?;
    for (host, number) in [(&a, 1), (&b, 2)] {
        host.ip(&format!("addr add 10.9.0.{number}/24 dev eth0"))?;
        host.ip(&format!("addr add 2001:db8:9::{number}/64 dev eth0 nodad"))?;
    }
    Ok((a, b))
}

#[test]
fn two_hosts_reach_each_other_and_nothing_else() -> Result<()> {
    let (a, b) = pair()?;
    assert_eq!(knock(&a, "10.9.0.2")?, Failure::Refused);
    assert_eq!(knock(&b, "2001:db8:9::1")?, Failure::Refused);
    let interfaces = |listing: String| listing.lines().filter(|line| !line.starts_with(' ')).count();
    assert_eq!(interfaces(a.ip("-o link")?), 2, "lo and eth0");
    assert_eq!(
        a.run("ls", &["/sys/class/net"])?,
        "eth0\nlo\n",
        "/sys is the host's own"
    );
    for directory in ["/sys/fs/bpf/mine", "/run/mine"] {
        a.run("mkdir", &[directory])?;
        assert!(
            b.run("ls", &[directory]).is_err() && !Path::new(directory).exists(),
            "{directory} is shared"
        );
    }
    assert_eq!(knock(&a, "127.0.0.1")?, Failure::Refused);
    let out = knock(&a, "192.0.2.1")?;
    assert!(
        matches!(&out, Failure::Other(text) if text.contains("unreachable")),
        "there is no way out: {out}"
    );
    Ok(())
}

/// What comes of a connection to a port where nobody listens: refused, if the host is reached.
fn knock(from: &Host, to: &str) -> Result<Failure> {
    let target = SocketAddr::new(to.parse()?, 81);
    from.enter(|| load::request(target, Duration::from_millis(500)))?
        .err()
        .ok_or_else(|| anyhow!("{to} answered"))
}

#[test]
fn nothing_of_a_host_is_left_after_a_panic() -> Result<()> {
    let scratch = Scratch::new()?;
    let log = scratch.path().join("sleep.log");
    let (pid_out, pid_in) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let run = || -> Result<()> {
            let (a, _b) = pair()?;
            let mut command = a.command("sleep");
            command.arg("1000");
            let process = a.spawn(command, &log)?;
            let inode = std::fs::metadata(a.net_path())?;
            pid_out.send((process.pid(), std::os::unix::fs::MetadataExt::ino(&inode)))?;
            panic!("on purpose");
        };
        run()
    })
    .join();
    assert!(panicked.is_err());
    let (pid, namespace) = pid_in.recv()?;
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "the process {pid} lives on"
    );
    // Our own descriptors are all that could keep it.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let target = std::fs::read_link(entry?.path()).unwrap_or_default();
        assert_ne!(target, Path::new(&format!("net:[{namespace}]")));
    }
    Ok(())
}

#[test]
fn processes_die_with_the_one_that_started_them() -> Result<()> {
    const INNER: &str = "LB_TESTS_INNER";
    if let Ok(file) = std::env::var(INNER) {
        let host = Host::new("inner")?;
        let mut command = host.command("sleep");
        command.arg("1000");
        let process = host.spawn(command, Path::new("/dev/null"))?;
        std::fs::write(format!("{file}.new"), process.pid().to_string())?;
        std::fs::rename(format!("{file}.new"), file)?;
        std::thread::sleep(Duration::from_secs(1_000));
    }
    let scratch = Scratch::new()?;
    let file = scratch.path().join("pid");
    let mut inner = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "processes_die_with_the_one_that_started_them"])
        .env(INNER, &file)
        .stdout(Stdio::null())
        .spawn()?;
    wait_until("the inner process", Duration::from_secs(20), || Ok(file.exists()))?;
    let pid: u32 = std::fs::read_to_string(&file)?.parse()?;
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    inner.kill()?;
    inner.wait()?;
    wait_until("its child's end", Duration::from_secs(5), || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        Ok(state.is_ok_and(|state| state.contains(") Z ")) || !Path::new(&format!("/proc/{pid}")).exists())
    })
}

#[test]
fn frames_sent_back_by_xdp_arrive() -> Result<()> {
    let (mut a, mut b) = pair()?;
    a.attach("eth0", &Program::PASS)?;
    b.attach("eth0", &Program::REFLECT)?;
    let frame = Packet::ip("10.9.0.1", "10.9.0.2")
        .udp(1, 2)
        .payload(b"and back")
        .build();
    let received = a.enter(|| exchange("eth0", &frame))??;
    assert_same(&received, &frame, "reflected");
    Ok(())
}

/// The way of `XDP_TX` on an edge with one arm: into the switch's port and out of another.
#[test]
fn what_the_edge_sends_back_goes_through_the_switch() -> Result<()> {
    let mut net = Topology::new(Arms::One, 2)?;
    net.edge.attach(Topology::EDGE_INTERFACE, &Program::REFLECT)?;
    let broadcast = Packet::ip("10.0.0.11", "10.0.0.5")
        .macs([0xFF; 6], [2, 0, 0, 0, 0, 9])
        .udp(1, 2)
        .build();
    let received = net.backends[0].host.enter(|| exchange("eth0", &broadcast))??;
    assert_same(&received, &broadcast, "reflected");
    Ok(())
}

/// Sends a frame and returns the first that comes in.
fn exchange(device: &str, frame: &[u8]) -> Result<Vec<u8>> {
    let packet = raw_socket(device)?;
    send(std::os::fd::AsRawFd::as_raw_fd(&packet), frame, MsgFlags::empty())?;
    receive(&packet, |bytes| bytes == frame)
}

fn raw_socket(device: &str) -> Result<std::os::fd::OwnedFd> {
    let packet = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )?;
    let mut address = nix::libc::sockaddr_ll {
        sll_family: nix::libc::AF_PACKET as u16,
        sll_protocol: (nix::libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: nix::net::if_::if_nametoindex(device)?.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a whole `sockaddr_ll`, and the length is its own.
    let link = unsafe {
        LinkAddr::from_raw(
            std::ptr::from_mut(&mut address).cast(),
            Some(size_of_val(&address) as u32),
        )
    };
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&packet),
        &link.ok_or_else(|| anyhow!("not a link address"))?,
    )?;
    nix::sys::socket::setsockopt(
        &packet,
        nix::sys::socket::sockopt::ReceiveTimeout,
        &nix::sys::time::TimeVal::new(2, 0),
    )?;
    Ok(packet)
}

/// The first frame that passes the filter; a packet socket does not get back what it sent itself.
fn receive(packet: &std::os::fd::OwnedFd, accept: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut buffer = vec![0; 65_536];
    while Instant::now() < deadline {
        match recv(std::os::fd::AsRawFd::as_raw_fd(packet), &mut buffer, MsgFlags::empty()) {
            Ok(length) if accept(&buffer[..length]) => return Ok(buffer[..length].to_vec()),
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(anyhow!("no such frame within 2 s"))
}

/// The kernel is the third opinion: what it sends is sound to `describe`, and the builder builds the same.
#[test]
fn the_kernel_sends_what_the_builder_builds() -> Result<()> {
    let (a, b) = pair()?;
    let (from, to) = (a.mac("eth0")?, b.mac("eth0")?);
    for (source, destination) in [("10.9.0.1", "10.9.0.2"), ("2001:db8:9::1", "2001:db8:9::2")] {
        let source_address = SocketAddr::new(source.parse()?, 40_001);
        assert_eq!(knock(&a, destination)?, Failure::Refused);
        let sniffer = b.enter(|| raw_socket("eth0"))??;
        a.enter(|| -> Result<()> {
            UdpSocket::bind(source_address)?.send_to(b"odd", (destination.parse::<IpAddr>()?, 9_999))?;
            Ok(())
        })??;
        let got = receive(&sniffer, |bytes| bytes.ends_with(b"odd"))?;
        let seen = describe(&got);
        assert!(seen.sound(), "{seen}");
        let mut expected = Packet::ip(source, destination)
            .macs(to, from)
            .udp(40_001, 9_999)
            .payload(b"odd");
        if let Some(identification) = seen.value("ipv4.identification") {
            expected = expected.identification(identification.parse()?);
        }
        if let Some(label) = seen.value("ipv6.flow_label") {
            expected = expected.flow_label(u32::from_str_radix(label.trim_start_matches("0x"), 16)?);
        }
        assert_same(&got, &expected.build(), destination);
        // A handshake's first segment, with its options.
        assert_eq!(knock(&a, destination)?, Failure::Refused);
        let syn = describe(&receive(&sniffer, |bytes| {
            describe(bytes).value("tcp.flags") == Some("0x02")
        })?);
        assert!(syn.sound(), "{syn}");
        assert!(syn.value("tcp.options").is_some(), "{syn}");
    }
    Ok(())
}

#[test]
fn a_client_asks_servers_over_plain_routing() -> Result<()> {
    let scratch = Scratch::new()?;
    for arms in [Arms::One, Arms::Two] {
        let net = Topology::new(arms, 2)?;
        let servers: Vec<Nginx> = net
            .backends
            .iter()
            .map(|backend| Nginx::start(&backend.host, &scratch))
            .collect::<Result<_>>()?;
        for family in [Family::V4, Family::V6] {
            let backend = &net.backends[1];
            let load = Load::start(
                &net.client,
                Demand {
                    target: SocketAddr::new(backend.address(family), 80),
                    rate: 200,
                    workers: 8,
                    timeout: Duration::from_secs(1),
                },
            )?;
            std::thread::sleep(Duration::from_millis(500));
            let samples = load.stop()?;
            assert!(
                load::failures(&samples).is_empty(),
                "{arms:?} {family:?}: {:?}",
                load::failures(&samples)[0]
            );
            let answers = load::answers(&samples);
            assert_eq!(answers.keys().collect::<Vec<_>>(), ["web-2"]);
            assert!(
                (50..=150).contains(&answers["web-2"]),
                "{answers:?} of 100 in half a second"
            );
            let _responder = UdpResponder::start(&backend.host, SocketAddr::new(backend.address(family), 53))?;
            let target = SocketAddr::new(backend.address(family), 53);
            let answer = net.client.enter(|| ask_udp(target, 0, Duration::from_secs(1)))??;
            ensure!(answer == "web-2", "{answer}");
            // The VIP has no server: it is routed to the edge, which has no way for it.
            let vip = SocketAddr::new(Topology::vip(family, 10), 80);
            let nobody = net.client.enter(|| load::request(vip, Duration::from_millis(300)))?;
            assert!(nobody.is_err(), "{nobody:?}");
        }
        drop(servers);
    }
    Ok(())
}

#[test]
fn a_killed_server_refuses() -> Result<()> {
    let scratch = Scratch::new()?;
    let (a, b) = pair()?;
    let mut server = Nginx::start(&b, &scratch)?;
    let ask = || a.enter(|| load::request(SocketAddr::from(([10, 9, 0, 2], 80)), Duration::from_secs(1)));
    assert_eq!(ask()?, Ok("b".to_owned()));
    let mut session = a.enter(|| Session::open(SocketAddr::from(([10, 9, 0, 2], 80)), Duration::from_secs(1)))??;
    for body in [0, 1, 200_000] {
        assert_eq!(session.ask(body), Ok("b".to_owned()), "{body} bytes");
    }
    server.kill()?;
    assert_eq!(session.ask(0), Err(Failure::Reset));
    assert_eq!(ask()?, Err(Failure::Refused));
    server.start_again(&b)?;
    assert_eq!(ask()?, Ok("b".to_owned()));
    Ok(())
}
