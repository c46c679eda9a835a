//! Which configuration counts after a restart, what a bad file does, and who may read what the daemon keeps.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::edge::Edge;
use lb_tests::net::{Arms, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{File, Site, Svc};

const TOKEN: &str = "T0ken4711";

/// A file with one service of this name.
fn named(name: &str) -> File {
    let mut file = File::new([Svc::new("web", 10, 2)]);
    file.services[0].name = name.into();
    file
}

fn served(edge: &Edge) -> Result<String> {
    let services = edge.json(&["service", "list"])?;
    Ok(services[0]["name"].as_str().context("no service")?.to_owned())
}

fn problem(edge: &Edge) -> Result<Option<String>> {
    let status = edge.api()?.get("/v1/status")?;
    Ok(status["config"]["problem"].as_str().map(str::to_owned))
}

fn has_event(edge: &Edge, kind: &str) -> Result<bool> {
    let events = edge.api()?.get("/v1/events")?;
    let events = events.as_array().context("events")?;
    Ok(events.iter().any(|event| event["kind"] == kind))
}

fn restart(edge: &mut Edge) -> Result<()> {
    edge.kill()?;
    edge.start_again()
}

#[test]
fn what_was_applied_last_counts_until_the_file_changes_after_that() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    let mut edge = site.edge(&named("first"))?;
    // The file is edited and applied, then another one is.
    edge.rewrite(&named("edited").to_string())?;
    edge.apply(&named("edited").to_string())?;
    edge.apply(&named("other").to_string())?;
    restart(&mut edge)?;
    assert_eq!(served(&edge)?, "other", "the file has not changed since the last apply");
    assert!(!has_event(&edge, "config_dropped")?);
    // It is edited and applied, and the old text restored.
    edge.rewrite(&named("again").to_string())?;
    edge.apply(&named("again").to_string())?;
    edge.rewrite(&named("edited").to_string())?;
    restart(&mut edge)?;
    assert_eq!(served(&edge)?, "edited", "the file has changed since the last apply");
    assert!(has_event(&edge, "config_dropped")?, "{}", edge.log());
    let status = edge.lbctl(&["status"])?;
    assert!(
        status.contains("is dropped") && status.contains("has changed since"),
        "{status}"
    );
    Ok(())
}

#[test]
fn a_bad_file_keeps_nobody_from_starting_and_is_said() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    // Nothing good is known: EX_CONFIG, so that nobody tries it again for ever.
    let half = named("half").to_string();
    let half = &half[..half.len() / 2];
    let path = site.scratch.write("lbd.toml", half)?.display().to_string();
    let lbd = site.programs.lbd.display().to_string();
    let refused = site.net.edge.run(&lbd, &["run", "--config", &path]);
    let refused = format!("{:#}", refused.expect_err("the file is bad"));
    assert!(refused.contains("exit status: 78"), "{refused}");

    let mut edge = site.edge(&named("good"))?;
    assert_eq!(problem(&edge)?, None);
    edge.rewrite(half)?;
    edge.signal(Signal::SIGHUP)?;
    wait_until("the refusal to stand in the status", Duration::from_secs(10), || {
        Ok(problem(&edge)?.is_some())
    })?;
    let refused = format!("{:#}", edge.lbctl(&["reload"]).expect_err("the file is bad"));
    assert!(
        refused.contains("exit status: 1") && refused.contains("lbd.toml"),
        "{refused}"
    );
    let status = edge.lbctl(&["status"])?;
    assert!(status.starts_with("CONFIGURATION: "), "{status}");
    // What is applied meanwhile is good.
    edge.apply(&named("applied").to_string())?;
    assert_eq!(problem(&edge)?, None);
    edge.lbctl(&["reload"]).expect_err("the file is bad");

    restart(&mut edge)?;
    assert_eq!(served(&edge)?, "applied", "the last good one");
    let said = problem(&edge)?.context("a bad file is said")?;
    assert!(said.contains("is bad") && said.contains("lbd.toml"), "{said}");
    assert!(has_event(&edge, "config_fallback")?);
    assert!(
        edge.log().contains("what was accepted last is served"),
        "{}",
        edge.log()
    );
    let status = edge.lbctl(&["status"])?;
    assert!(status.starts_with("CONFIGURATION: "), "{status}");
    // A file that is gone is as bad.
    fs::remove_file(edge.configuration())?;
    restart(&mut edge)?;
    assert_eq!((served(&edge)?.as_str(), problem(&edge)?.is_some()), ("applied", true));

    edge.rewrite(&named("mended").to_string())?;
    edge.lbctl(&["reload"])?;
    assert_eq!((served(&edge)?.as_str(), problem(&edge)?), ("mended", None));
    restart(&mut edge)?;
    assert_eq!((served(&edge)?.as_str(), problem(&edge)?), ("mended", None));

    // What cannot be read of the state stops nobody either, and is said until somebody has looked.
    edge.kill()?;
    let folder = state_folder(&site)?;
    site.net.edge.run(
        "sh",
        &[
            "-c",
            &format!("echo '[' > {folder}/state.json; echo '[' > {folder}/positions.json"),
        ],
    )?;
    edge.start_again()?;
    let status = edge.lbctl(&["status"])?;
    for name in ["state.json.unreadable", "positions.json.unreadable"] {
        assert!(status.contains(name), "{status}");
    }
    Ok(())
}

#[test]
fn a_file_that_the_host_refuses_keeps_nobody_from_starting() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    let host = &site.net.edge;
    let mut edge = site.edge(&named("good"))?;
    let with = |name: &str, interface: &str, more: &str| {
        let mut file = named(name);
        file.node = format!("interfaces = [\"eth0\", \"{interface}\"]\nhash_seed = \"0x5eed\"\n{more}");
        file.to_string()
    };
    let record = format!("{}/config.json", state_folder(&site)?);
    // It is written beside the loop.
    wait_until("a last good one on record", Duration::from_secs(10), || {
        Ok(host.run("cat", &[&record]).is_ok())
    })?;
    // A driver without native XDP.
    edge.rewrite(&with("native", "lo", "xdp_mode = \"native\"\n"))?;
    edge.lbctl(&["reload"]).expect_err("the host refuses it");
    restart(&mut edge)?;
    assert_eq!(served(&edge)?, "good");
    let said = problem(&edge)?.context("a refused file is said")?;
    for word in ["refuses", "lbd.toml", "interface lo:"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(has_event(&edge, "config_fallback")?);
    let status = edge.lbctl(&["status"])?;
    assert!(status.starts_with("CONFIGURATION: "), "{status}");
    let status = edge.json(&["status"])?;
    assert!(!status["interfaces"].to_string().contains("\"lo\""), "{status}");
    assert!(!edge.log().contains("left behind"), "{}", edge.log());

    // After a reboot nothing is installed, and an interface of the edited file is missing.
    edge.rewrite(&with("missing", "missing0", ""))?;
    edge.kill()?;
    let name = state_folder(&site)?.replace("/run/lbd/", "");
    let pins = format!("/sys/fs/bpf/edgelb/{name}");
    host.run("rm", &["-r", &pins])?;
    edge.start_again()?;
    assert_eq!(served(&edge)?, "good");
    assert!(problem(&edge)?.context("said")?.contains("missing0"));

    // The first error is the one that counts if the last good one is refused, too; and nothing is left.
    edge.kill()?;
    let path = edge.configuration().display().to_string();
    let lbd = site.programs.lbd.display().to_string();
    let kept = host.run("cat", &[&record])?;
    let refused = kept.replace("eth0", "missing1");
    assert_ne!(kept, refused);
    host.run("rm", &["-r", &pins])?;
    host.run("sh", &["-c", &format!("cat > {record} <<'EOF'\n{refused}\nEOF")])?;
    let said = format!("{:#}", host.run(&lbd, &["run", "--config", &path]).expect_err("both"));
    assert!(said.contains("exit status: 1") && said.contains("missing0"), "{said}");
    host.run("ls", &[&pins]).expect_err("nothing is left");

    // The host is mended.
    host.run(
        "ip",
        &["link", "add", "missing0", "type", "veth", "peer", "name", "other0"],
    )?;
    edge.start_again()?;
    assert_eq!((served(&edge)?.as_str(), problem(&edge)?), ("missing", None));
    Ok(())
}

fn state_folder(site: &Site) -> Result<String> {
    let found = site.net.edge.run("sh", &["-c", "ls -d /run/lbd/net-*"])?;
    Ok(found.trim().to_owned())
}

#[test]
fn what_is_kept_is_roots_alone_and_secrets_are_not_shown() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    let file = |token: &str| {
        let alert = format!(
            "[[alert]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/{token}\"\nseverity = \"info\"\n"
        );
        named("web").to_string() + &alert
    };
    let mut edge = site.edge(&named("web"))?;
    edge.apply(&file(TOKEN))?;
    edge.lbctl(&["backend", "drain", "web", "web-1"])?;
    edge.stop()?;
    // As versions that left it to the umask have made them.
    let host = &site.net.edge;
    host.run(
        "sh",
        &[
            "-c",
            "chmod 755 /run/lbd /run/lbd/net-*; find /run/lbd -type f -exec chmod 644 {} +",
        ],
    )?;
    edge.start_again()?;
    wait_until("an alert that fails", Duration::from_secs(10), || {
        Ok(edge.lbctl(&["status"])?.contains("alerts to"))
    })?;
    let open = host.run("find", &["/run/lbd", "-perm", "/077"])?;
    assert_eq!(open.trim(), "", "others may open these");
    let folder = state_folder(&site)?;
    let read = host.run(
        "setpriv",
        &[
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "sh",
            "-c",
            &format!("cat {folder}/*"),
        ],
    );
    assert!(read.is_err(), "{read:?}");

    // The file itself is world-readable and holds the token.
    edge.rewrite(&file(TOKEN))?;
    fs::set_permissions(edge.configuration(), fs::Permissions::from_mode(0o644))?;
    let path = edge.configuration().display().to_string();
    let check = format!("{:?}", edge.json(&["check", &path])?["warnings"]);
    assert!(check.contains("every user of this host can read it"), "{check}");
    edge.lbctl(&["reload"])?;
    let changed = edge.json(&[
        "plan",
        &site
            .scratch
            .write("new.toml", &file("T0ken4711-new"))?
            .display()
            .to_string(),
    ])?;
    ensure!(
        !changed["changes"].as_array().context("changes")?.is_empty(),
        "another token is a change: {changed}"
    );
    // A file that is refused, in the very line of the secret.
    let wrong = file(TOKEN).replace("http://", "htp://");
    edge.rewrite(&wrong)?;
    edge.signal(Signal::SIGHUP)?;
    wait_until("the refusal", Duration::from_secs(10), || Ok(problem(&edge)?.is_some()))?;
    restart(&mut edge)?;
    let everything: Vec<String> = [
        edge.log(),
        changed.to_string(),
        edge.api()?.get("/v1/events")?.to_string(),
        edge.json(&["status"])?.to_string(),
        edge.lbctl(&["status"])?,
        edge.json(&["service", "show", "web"])?.to_string(),
        host.run("sh", &["-c", &format!("cat {folder}/events.jsonl")])?,
    ]
    .into();
    for text in everything {
        assert!(!text.contains(TOKEN), "{text}");
    }
    Ok(())
}

#[test]
fn a_change_that_breaks_connections_is_said_before() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    let edge = site.edge(&named("web"))?;
    let disruptions = |report: &Value| report["disruptions"].to_string();
    for (lines, expected) in [
        ("ring_size = 251\n", "ring_size 65537 → 251"),
        ("hash = \"source\"\n", "hash 5-tuple → source"),
        ("drain_time = \"9s\"\n", ""),
    ] {
        let mut file = named("web");
        file.services[0].more = lines.into();
        let path = site.scratch.write("new.toml", &file.to_string())?.display().to_string();
        for verb in ["plan", "check"] {
            let said = disruptions(&edge.json(&[verb, &path])?);
            match expected {
                "" => assert_eq!(said, "[]", "{verb}"),
                expected => assert!(
                    said.contains(expected) && said.contains("packets/s now"),
                    "{verb}: {said}"
                ),
            }
            let text = edge.lbctl(&[verb, &path])?;
            assert_eq!(text.contains("BREAKS CONNECTIONS: "), !expected.is_empty(), "{text}");
        }
    }
    let mut file = named("web");
    file.node = file.node.replace("0x5eed", "0x5eee");
    let path = site.scratch.write("new.toml", &file.to_string())?.display().to_string();
    assert!(disruptions(&edge.json(&["plan", &path])?).contains("another hash_seed"));
    // New tables remember no flow: that matters where slots are on their way.
    let mut file = named("web");
    file.node += "\n[node.capacity]\nflows = 4096\n";
    let path = site.scratch.write("new.toml", &file.to_string())?.display().to_string();
    assert_eq!(disruptions(&edge.json(&["plan", &path])?), "[]");
    edge.lbctl(&["backend", "drain", "web", "web-1"])?;
    let said = disruptions(&edge.json(&["plan", &path])?);
    assert!(
        said.contains("the tables are made anew, which breaks connections at backends that drain"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_full_disk_refuses_and_keeps_what_was() -> Result<()> {
    let site = Site::new(Arms::One, 2)?;
    let mut edge = site.edge(&named("web"))?;
    edge.stop()?;
    let folder = state_folder(&site)?;
    // Some 64 KiB, with what is there.
    let kept = site.scratch.path().join("kept-state");
    let kept = kept.display();
    let mount = format!(
        "cp -a {folder} {kept} && mount -t tmpfs -o size=64k,mode=700 tmpfs {folder} && cp -a {kept}/. {folder}/"
    );
    site.net.edge.run("sh", &["-c", &mount])?;
    edge.start_again()?;
    site.net
        .edge
        .run("sh", &["-c", &format!("head -c 1M /dev/zero > {folder}/filler; true")])?;
    let refused = format!(
        "{:#}",
        edge.apply(&named("other").to_string()).expect_err("the disk is full")
    );
    assert!(refused.contains("No space left"), "{refused}");
    assert_eq!(served(&edge)?, "web");
    restart(&mut edge)?;
    assert_eq!(served(&edge)?, "web", "what was accepted before is still there");
    site.net.edge.run("rm", &[&format!("{folder}/filler")])?;
    edge.apply(&named("other").to_string())?;
    restart(&mut edge)?;
    assert_eq!(served(&edge)?, "other");
    edge.stop()?;
    site.net.edge.run("umount", &[&folder])?;
    Ok(())
}
