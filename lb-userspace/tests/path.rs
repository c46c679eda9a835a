//! The users' path as each kernel has it: by links of tcx, or by filters of a clsact qdisc, which stay when their maker is gone.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{IoSlice, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_common::encap;
use lb_common::map::Rewrite;
use lb_common::probe::name;
use lb_tests::kernel;
use lb_tests::net::{Arms, AttachMode, Family, Host, Program, Scratch, Topology};
use lb_tests::serve::Nginx;
use lb_userspace::health::{Checker, State, Target, TargetId, Via, VipPath};
use lb_userspace::model::{self, Check, Health, Http, Udp};
use lb_userspace::object;
use lb_userspace::path::program::Hook;
use lb_userspace::path::{self, UsersPath};

#[test]
fn with_a_clsact_qdisc_probes_go_and_come_back_too() -> Result<()> {
    let scratch = Scratch::new()?;
    let net = Topology::new(Arms::Two, 1)?;
    let backend = &net.backends[0];
    let vip = Topology::vip(Family::V4, 10);
    backend.host.ip(&format!("addr add {vip}/32 dev lo"))?;
    let _server = Nginx::start(&backend.host, &scratch)?;
    let macs = (backend.host.mac("eth0")?, net.edge.mac("eth1")?);
    let filters = || net.edge.run("tc", &["filter", "show", "dev", "eth1", "ingress"]);
    // A qdisc that somebody else made is used as it is.
    net.edge.run("tc", &["qdisc", "add", "dev", "eth1", "clsact"])?;

    net.edge.enter(|| -> Result<()> {
        let eth1 = nix::net::if_::if_nametoindex("eth1")?;
        let mut path = UsersPath::set_up(object::PROBE, Hook::Clsact)?;
        let rewrite = Rewrite {
            ifindex: eth1,
            ..encap::l2(macs.0, macs.1)
        };
        let source: IpAddr = "10.0.0.5".parse()?;
        path.add_sources([source])?;
        path.set_targets(HashMap::from([(7, rewrite)]))?;
        path.expect_answers(&HashSet::from([eth1, 9_999]))?;
        ensure!(filters()?.contains(name::ANSWER), "{}", filters()?);
        // Link messages were lost: the interface may have been made again, and was not.
        for _ in 0..3 {
            ensure!(path.forget_interfaces(|_| true), "what became of a filter is not known");
            path.expect_answers(&HashSet::from([eth1]))?;
        }
        ensure!(filters()?.matches(" handle ").count() == 1, "{}", filters()?);
        let via = Via::Vip(VipPath {
            tunnel: false,
            vip,
            source,
            number: 7,
            namespace: path.namespace(),
        });
        ensure!(verdict(backend.v4.into(), via)? == State::Up, "no answer");
        // As by a kill: nobody takes the filter away.
        std::mem::forget(path);
        Ok(())
    })??;
    ensure!(
        net.edge.ip("link show lb-probe").is_ok(),
        "the interface went by itself"
    );
    net.edge.enter(path::clear)??;
    ensure!(!filters()?.contains(name::ANSWER), "{}", filters()?);
    ensure!(
        net.edge.ip("link show lb-probe").is_err(),
        "the interface is still there"
    );
    Ok(())
}

/// The way that the daemon takes on this kernel, in both families. `cargo xtask kernels` runs it on the oldest and on the newest.
#[test]
fn as_this_kernel_has_it_probes_of_both_families_go_and_come_back() -> Result<()> {
    go_and_come_back(None)
}

/// What a program of generic XDP passes on reaches tc copied, with no Ethernet header in sight (Linux 6.9 and newer).
#[test]
fn the_same_behind_generic_xdp() -> Result<()> {
    go_and_come_back(Some(AttachMode::Generic))
}

/// The same where the balancer sees the answers first, in native mode.
#[test]
fn the_same_behind_native_xdp() -> Result<()> {
    go_and_come_back(Some(AttachMode::Native))
}

fn go_and_come_back(xdp: Option<AttachMode>) -> Result<()> {
    let hook = Hook::of_kernel();
    let newer = kernel::version()? >= (6, 6);
    ensure!(hook == if newer { Hook::Tcx } else { Hook::Clsact }, "{hook:?}");
    let scratch = Scratch::new()?;
    let mut net = Topology::new(Arms::Two, 1)?;
    if let Some(mode) = xdp {
        net.edge.attach_in("eth1", &Program::PASS, mode)?;
    }
    let backend = &net.backends[0];
    let _server = Nginx::start(&backend.host, &scratch)?;
    let macs = (backend.host.mac("eth0")?, net.edge.mac("eth1")?);
    net.edge.enter(|| -> Result<()> {
        let eth1 = nix::net::if_::if_nametoindex("eth1")?;
        let mut path = UsersPath::set_up(object::PROBE, hook)?;
        let sources: [IpAddr; 2] = ["10.0.0.5".parse()?, "2001:db8:b::5".parse()?];
        path.add_sources(sources)?;
        path.expect_answers(&HashSet::from([eth1]))?;
        let forgotten = path.forget_interfaces(|_| true);
        ensure!(
            forgotten == (hook == Hook::Clsact),
            "{hook:?}: a link that is whole is kept"
        );
        path.expect_answers(&HashSet::from([eth1]))?;
        let rewrite = Rewrite {
            ifindex: eth1,
            ..encap::l2(macs.0, macs.1)
        };
        path.set_targets((1..=2).map(|number| (number, rewrite)).collect())?;
        for (number, family, source) in [(1, Family::V4, sources[0]), (2, Family::V6, sources[1])] {
            let vip = Topology::vip(family, 10);
            let way = |number| {
                Via::Vip(VipPath {
                    vip,
                    source,
                    number,
                    namespace: path.namespace(),
                    tunnel: false,
                })
            };
            let address = backend.address(family);
            // Silence is the same whatever the program on the interface, and takes its time.
            let silent =
                |number| Ok::<_, anyhow::Error>(xdp.is_some() || verdict(address, way(number))? == State::Down);
            ensure!(silent(number)?, "{family:?}: no VIP, and an answer");
            let prefix = if vip.is_ipv4() { 32 } else { 128 };
            backend.host.ip(&format!("addr add {vip}/{prefix} dev lo"))?;
            ensure!(
                verdict(address, way(number))? == State::Up,
                "{family:?}, XDP {xdp:?}: no answer"
            );
            ensure!(silent(9)?, "{family:?}: no target has that number");
        }
        Ok(())
    })??;
    ensure!(
        net.edge.ip("link show lb-probe").is_err(),
        "the interface is still there"
    );
    Ok(())
}

/// A driver may hand up packets whose headers lie in a page, beyond the linear part. A tap that is asked to (`IFF_NAPI_FRAGS`, Linux 4.15)
/// makes a piece of each buffer that is written.
#[test]
fn answers_whose_headers_lie_in_a_page_are_read() -> Result<()> {
    const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_NAPI | libc::IFF_NAPI_FRAGS;
    const ETH: usize = 14;
    let edge = Host::new("edge")?;
    let tap = edge.enter(|| -> Result<File> {
        let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
        let mut request = [0_u8; 40];
        request[..4].copy_from_slice(b"tap0");
        request[16..18].copy_from_slice(&(FLAGS as u16).to_ne_bytes());
        // SAFETY: the request is a `struct ifreq`, 40 bytes, and lives through the call.
        let made = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
        ensure!(made == 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        Ok(tap)
    })??;
    edge.ip("addr add 10.0.0.5/24 dev tap0")?;
    edge.ip("link set tap0 up")?;
    let (own, backend) = (edge.mac("tap0")?, [2, 0, 0, 0, 0, 9]);
    std::thread::spawn({
        let mut tap = tap.try_clone()?;
        move || {
            let mut frame = [0; 2_000];
            while let Ok(length) = tap.read(&mut frame) {
                let question = length > ETH + 28
                    && frame[..6] == backend
                    && frame[12..15] == [0x08, 0x00, 0x45]
                    && frame[ETH + 9] == 17;
                if !question {
                    continue;
                }
                let mut answer = frame[..length].to_vec();
                answer[..12].copy_from_slice(&[own, backend].concat());
                let exchange =
                    |answer: &mut [u8], at: usize, bytes: usize| answer[at..at + 2 * bytes].rotate_left(bytes);
                exchange(&mut answer, ETH + 12, 4);
                exchange(&mut answer, ETH + 20, 2);
                // No checksum (RFC 768).
                answer[ETH + 26..ETH + 28].fill(0);
                let (head, packet) = answer.split_at(ETH);
                // A write that fails leaves the probe without an answer.
                let _ = tap.write_vectored(&[IoSlice::new(head), IoSlice::new(packet)]);
            }
        }
    });
    edge.enter(|| -> Result<()> {
        let tap0 = nix::net::if_::if_nametoindex("tap0")?;
        let mut path = UsersPath::set_up(object::PROBE, Hook::of_kernel())?;
        let (vip, source) = (Topology::vip(Family::V4, 10), "10.0.0.5".parse()?);
        path.add_sources([source])?;
        path.expect_answers(&HashSet::from([tap0]))?;
        let rewrite = Rewrite {
            ifindex: tap0,
            ..encap::l2(backend, own)
        };
        path.set_targets(HashMap::from([(1, rewrite)]))?;
        let via = Via::Vip(VipPath {
            vip,
            source,
            number: 1,
            namespace: path.namespace(),
            tunnel: false,
        });
        let check = Check::Udp(Udp {
            send: b"a question".to_vec(),
            expect: Some(b"a question".to_vec()),
        });
        let verdict = verdict_of(check, 53, "10.0.0.9".parse()?, via)?;
        ensure!(verdict == State::Up, "no answer");
        Ok(())
    })?
}

/// How long a probe waits: a guest without KVM is slow.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the first probe of an HTTP server on port 80 says.
fn verdict(address: IpAddr, via: Via) -> Result<State> {
    verdict_of(Check::Http(Http::get("/healthz")), 80, address, via)
}

/// What the first probe says.
fn verdict_of(check: Check, port: u16, address: IpAddr, via: Via) -> Result<State> {
    let (sender, events) = channel();
    let checker = Checker::start(move |changes| drop(sender.send(changes)))?;
    checker.set(vec![Target {
        id: TargetId::new("web", "web-1"),
        address,
        via,
        health: Health {
            check,
            port,
            interval: PATIENCE,
            fast_interval: PATIENCE,
            timeout: PATIENCE,
            rise: 1,
            fall: 1,
            jitter: 0.0,
            via: model::Via::Vip,
        },
        initial: None,
    }]);
    let changes = events.recv_timeout(Duration::from_secs(20)).context("no verdict")?;
    let change = changes.first().context("no change")?;
    ensure!(change.address == SocketAddr::new(address, port));
    println!("{}", change.reason);
    Ok(change.transition.to)
}
