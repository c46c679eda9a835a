//! Starts, ends, and what is in the way of them.

use std::time::Duration;

use anyhow::Result;
use lb_tests::net::{Arms, Host, Program, wait_until};
use lb_tests::serve::{UdpResponder, ask_udp};

use super::{File, Site, Svc, clients, shown, snapshot};

fn web() -> File {
    File::new([Svc::new("web", 10, 2)])
}

impl Site {
    /// What `lbd` says when it does not start, and must: exit code 1 within some seconds.
    fn refusal(&self, file: &str, more: &[&str]) -> Result<String> {
        self.refusal_with(1, file, more)
    }

    fn refusal_with(&self, code: u8, file: &str, more: &[&str]) -> Result<String> {
        let path = self.scratch.write("refused.toml", file)?.display().to_string();
        let lbd = self.programs.lbd.display().to_string();
        let words = [&["10", &lbd, "run", "--config", &path], more].concat();
        match self.net.edge.run("timeout", &words) {
            Ok(text) => panic!("lbd ended well: {text}"),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains(&format!("exit status: {code}\n")), "{error}");
                Ok(error)
            }
        }
    }

    fn detach(&self) -> Result<String> {
        self.net.edge.run(&self.programs.lbd, &["detach"])
    }

    fn xdp(&self, device: &str) -> Result<bool> {
        Ok(self.net.edge.ip(&format!("link show dev {device}"))?.contains("xdp"))
    }
}

/// What the daemon has left on a host: neither the kernel's own `progs.debug` and `maps.debug`, nor the socket's lock, which stays.
fn left(host: &Host) -> Result<Vec<String>> {
    let found = host.run("find", &["/sys/fs/bpf", "/run", "-mindepth", "1"])?;
    let own = |file: &&str| !file.ends_with(".debug") && !file.ends_with(".lock") && *file != "/run/lbd";
    Ok(found.lines().filter(own).map(str::to_owned).collect())
}

#[test]
fn one_daemon_to_a_namespace_and_one_to_a_socket() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    let edge = site.edge(&web())?;
    let before = snapshot(&edge.api()?, &["web"])?;
    for more in [&[][..], &["--socket", "/run/elsewhere.sock"]] {
        let error = site.refusal(&web().to_string(), more)?;
        assert!(error.contains("another lbd runs in this network namespace"), "{error}");
    }
    let error = format!("{:#}", site.detach().expect_err("lbd runs"));
    assert!(error.contains("stop it first"), "{error}");
    assert_eq!(snapshot(&edge.api()?, &["web"])?, before);
    Ok(())
}

#[test]
fn what_keeps_it_from_starting_is_said_and_nothing_is_left() -> Result<()> {
    let mut site = Site::new(Arms::Two, 2)?;
    let mut wrong = web();
    wrong.services[0].vip = "nowhere".into();
    wrong.services[0].port = 0;
    let error = site.refusal_with(78, &wrong.to_string(), &[])?;
    assert!(error.contains("nowhere") && error.contains("port"), "{error}");
    let mut file = web();
    file.node = file.node.replace("eth0", "eth7");
    let error = site.refusal(&file.to_string(), &[])?;
    assert!(error.contains("interface eth7: there is none of this name"), "{error}");
    file.node = web().node.replace("\"eth0\"", "\"eth0\", \"lo\"") + "xdp_mode = \"native\"\n";
    let error = site.refusal(&file.to_string(), &[])?;
    assert!(error.contains("interface lo: its driver refuses native XDP"), "{error}");
    assert!(
        !site.xdp("eth0")?,
        "eth0 was first, but not everything could be attached"
    );
    site.net.edge.attach("eth1", &Program::PASS)?;
    file.node = web().node.replace("\"eth0\"", "\"eth0\", \"eth1\"");
    let error = site.refusal(&file.to_string(), &[])?;
    assert!(error.contains("interface eth1: another XDP program (id "), "{error}");
    assert!(site.xdp("eth1")? && !site.xdp("eth0")?);
    site.net.edge.run("touch", &["/run/not-a-socket"])?;
    let error = site.refusal(&web().to_string(), &["--socket", "/run/not-a-socket"])?;
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(left(&site.net.edge)?, ["/run/not-a-socket"]);

    // It serves eth0; eth1 is refused, and eth0 goes on.
    let edge = site.edge(&web())?;
    let before = snapshot(&edge.api()?, &["web"])?;
    let error = format!("{:#}", edge.apply(&file.to_string()).expect_err("eth1 is taken"));
    assert!(error.contains("interface eth1: another XDP program"), "{error}");
    assert_eq!(snapshot(&edge.api()?, &["web"])?, before);
    Ok(())
}

#[test]
fn detached_nothing_is_left_and_packets_pass_untouched() -> Result<()> {
    let site = Site::new(Arms::Two, 2)?;
    let file = web();
    let _servers = site.serve(&file.services)?;
    let mut edge = site.edge(&file)?;
    edge.lbctl(&["backend", "drain", "web", "web-1"])?;
    let target = file.services[0].target()?;
    let ask = || {
        site.net
            .client
            .enter(|| ask_udp(target, 33_000, Duration::from_millis(300)).unwrap_or_default())
    };
    assert_eq!(ask()?, "web-2");
    edge.stop()?;
    assert!(site.xdp("eth0")?);
    assert_eq!(ask()?, "web-2", "the kernel goes on");
    let said = site.detach()?;
    assert!(said.contains("detached from 1 interface"), "{said}");
    assert!(!site.xdp("eth0")?);
    assert_eq!(left(&site.net.edge)?, [""; 0]);
    site.net.edge.ip("addr add 192.0.2.10/32 dev lo")?;
    let _own = UdpResponder::start(&site.net.edge, target)?;
    wait_until("the edge's own answer", Duration::from_secs(2), || Ok(ask()? == "edge"))?;
    // Nothing is remembered, and a second time nothing is wrong.
    site.detach()?;
    edge.start_again()?;
    assert_eq!(shown(&edge.api()?, "web", "web-1")?["admin"], "enabled");
    Ok(())
}

#[test]
fn the_mode_is_what_was_asked_for_or_it_is_said() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    let with = |mode: &str, interfaces: &str| {
        let mut file = web();
        file.node = format!("interfaces = [{interfaces}]\nhash_seed = \"0x5eed\"\nxdp_mode = \"{mode}\"\n");
        file.to_string()
    };
    let mut edge = site.edge(&web())?;
    let before = edge.api()?.owners("web", clients(100))?;
    for mode in ["native", "generic", "generic", "native", "generic", "auto"] {
        edge.apply(&with(mode, "\"eth0\""))?;
        let status = edge.api()?.get("/v1/status")?;
        let expected = if mode == "auto" { "generic" } else { mode };
        assert_eq!(status["interfaces"][0]["xdp_mode"], expected, "{mode}: {status}");
        let link = site.net.edge.ip("link show dev eth0")?;
        assert_eq!(link.contains("xdpgeneric"), expected == "generic", "{link}");
        assert_eq!(edge.api()?.owners("web", clients(100))?, before, "{mode}");
        // Nobody asked for it: never in silence.
        let warned = status["warnings"].to_string().contains("generic XDP");
        assert_eq!(warned, mode == "auto", "{status}");
    }
    // A device without native XDP, after a restart with another file.
    edge.stop()?;
    site.detach()?;
    edge.rewrite(&with("auto", "\"eth0\", \"lo\""))?;
    edge.start_again()?;
    let status = edge.api()?.get("/v1/status")?;
    let modes = [
        &status["interfaces"][0]["xdp_mode"],
        &status["interfaces"][1]["xdp_mode"],
    ];
    assert_eq!(modes, ["native", "generic"]);
    assert!(
        status["warnings"].to_string().contains("interface lo: generic XDP"),
        "{status}"
    );
    assert!(edge.log().contains("no native XDP"));
    Ok(())
}

#[test]
fn an_interface_that_goes_is_missed_and_gets_the_program_when_it_is_back() -> Result<()> {
    let site = Site::new(Arms::Two, 2)?;
    let mut file = web();
    let servers = site.serve(&file.services)?;
    let plug = || site.net.edge.connect("eth9", &site.net.fabric, "extra", 1_500);
    plug()?;
    file.node = file.node.replace("\"eth0\"", "\"eth0\", \"eth9\"");
    let mut edge = site.edge(&file)?;
    let status = |edge: &lb_tests::edge::Edge| edge.api()?.get("/v1/status");
    assert_eq!(status(&edge)?["interfaces"][1]["name"], "eth9");
    site.net.edge.ip("link del eth9")?;
    let gone = status(&edge)?;
    assert_eq!(gone["detached"][0]["interface"], "eth9", "{gone}");
    let said = format!("{:#}", edge.lbctl(&["status"]).expect_err("an interface is detached"));
    assert!(said.contains("eth9"), "{said}");
    // The file is right, and in force.
    let said = edge.lbctl(&["reload"])?;
    assert!(said.contains("eth9"), "{said}");
    assert!(site.xdp("eth0")?, "the other one is as it was");
    let target = file.services[0].target()?;
    site.net
        .client
        .enter(|| ask_udp(target, 33_000, Duration::from_secs(1)))??;
    plug()?;
    wait_until("the program to be back", Duration::from_secs(10), || {
        Ok(status(&edge)?["detached"] == serde_json::json!([]))
    })?;
    let mended = status(&edge)?;
    assert_eq!(mended["warnings"], serde_json::json!([]), "{mended}");
    assert!(site.xdp("eth9")? && site.xdp("eth0")?);
    // And a restart takes both over.
    edge.stop()?;
    edge.start_again()?;
    assert!(site.xdp("eth9")? && site.xdp("eth0")?);
    drop(servers);
    Ok(())
}

#[test]
fn what_cannot_be_kept_is_not_accepted() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    let host = &site.net.edge;
    host.run("mkdir", &["-m", "750", "/run/lbd"])?;
    host.run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", "/run/lbd"])?;
    let file = web();
    let mut edge = site.edge(&file)?;
    edge.lbctl(&["backend", "weight", "web", "web-1", "50"])?;
    // Fills the disk: dd fails when it has.
    assert!(host.run("dd", &["if=/dev/zero", "of=/run/lbd/full", "bs=1k"]).is_err());
    let before = snapshot(&edge.api()?, &["web"])?;
    let mut other = file.clone();
    other.services[0].backends.remove(0);
    for refused in [
        edge.apply(&other.to_string()).map(drop),
        edge.lbctl(&["backend", "drain", "web", "web-2"]).map(drop),
        edge.lbctl(&["backend", "reset", "web", "web-1"]).map(drop),
    ] {
        let error = format!("{:#}", refused.expect_err("the disk is full"));
        assert!(
            error.contains("No space left") && error.contains("nothing was changed"),
            "{error}"
        );
    }
    assert_eq!(snapshot(&edge.api()?, &["web"])?, before);
    edge.kill()?;
    edge.start_again()?;
    assert_eq!(shown(&edge.api()?, "web", "web-1")?["weight"], 50);
    host.run("rm", &["/run/lbd/full"])?;
    edge.apply(&other.to_string())?;
    Ok(())
}
