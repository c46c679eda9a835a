//! The interface where clients' packets come in.

use nix::sys::signal::Signal;

use super::*;

#[test]
fn an_interface_that_is_made_again_is_served_and_its_loss_is_said() -> Result<()> {
    let site = Site::new(None)?;
    let mut edge = site.edge()?;
    ensure!(site.answered(20)? == 20, "all is well at first");
    ensure!(events(&edge, "xdp_detached")?.is_empty(), "nothing is lost at first");
    let mac = site.net.edge.mac("eth0")?;
    let generation = edge.api()?.get("/v1/status")?["generation"].clone();

    site.net.edge.ip("link del eth0")?;
    wait_until("the event", PATIENCE, || Ok(events(&edge, "xdp_detached")?.len() == 1))?;
    ensure!(
        events(&edge, "xdp_detached")?[0].contains("critical"),
        "{:?}",
        events(&edge, "xdp_detached")
    );
    complaint(&edge, &["status"])?;
    // A good file is accepted and kept all the same.
    let path = edge.configuration().display().to_string();
    edge.rewrite(&site.text.replace("0x5eed", "0x5eee"))?;
    let applied = complaint(&edge, &["apply", &path])?;
    ensure!(applied.contains("is in force"), "{applied}");
    edge.signal(Signal::SIGHUP)?;
    wait_until("what SIGHUP says", PATIENCE, || {
        Ok(events(&edge, "xdp_detached")?.len() == 3)
    })?;
    let log = edge.log();
    ensure!(
        log.contains("the configuration is kept, but the program is not on this interface"),
        "{log}"
    );
    let status = edge.api()?.get("/v1/status")?;
    ensure!(status["detached"][0]["interface"] == "eth0", "{status}");
    ensure!(
        status["generation"].as_u64() == generation.as_u64().map(|before| before + 2),
        "{status}"
    );

    let pass = site.make_again(&FRONT, mac, None)?;
    let begun = Instant::now();
    wait_until("the program to be back", PATIENCE, || {
        Ok(site.net.edge.ip("link show dev eth0")?.contains("xdp"))
    })?;
    let attached = begun.elapsed();
    site.wait_answer(&edge)?;
    println!(
        "made again: attached after {attached:?}, the first answer {:?} after it was there",
        begun.elapsed()
    );
    ensure!(site.answered(20)? == 20, "{}", edge.log());
    ensure!(
        events(&edge, "xdp_attached")?.len() == 1,
        "{:?}",
        events(&edge, "xdp_attached")
    );
    edge.lbctl(&["status"])?;
    edge.lbctl(&["apply", &path])?;

    // It goes while no daemon runs; the next one waits for it, since an earlier one served here.
    edge.kill()?;
    drop(pass);
    site.net.edge.ip("link del eth0")?;
    let mut command = site.net.edge.command(&site.programs.lbd);
    command.arg("run").arg("--config").arg(edge.configuration());
    let mut waiting = site.net.edge.spawn(command, &site.scratch.path().join("waiting.log"))?;
    wait_until("it to wait", PATIENCE, || {
        waiting.check()?;
        Ok(waiting.log().contains("the program is not on this interface"))
    })?;
    let _pass = site.make_again(&FRONT, mac, None)?;
    wait_until("an answer", PATIENCE, || Ok(site.answered(1)? == 1)).with_context(|| waiting.log())?;
    Ok(())
}

#[test]
fn what_somebody_takes_off_is_put_back() -> Result<()> {
    let site = Site::new(None)?;
    let edge = site.edge()?;
    ensure!(site.answered(5)? == 5, "all is well at first");
    // As that process sees them: a host has a BPF file system of its own.
    let pins = format!("/proc/{}/root/sys/fs/bpf/edgelb", edge.pid()?);
    let pin = || -> Result<std::path::PathBuf> {
        for instance in std::fs::read_dir(&pins)? {
            for file in std::fs::read_dir(instance?.path())? {
                let path = file?.path();
                if path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("link-"))
                {
                    return Ok(path);
                }
            }
        }
        anyhow::bail!("no link is pinned in {pins}")
    };
    // The pin alone: no packet is lost.
    let removed = pin()?;
    std::fs::remove_file(&removed)?;
    ensure!(site.answered(20)? == 20, "the daemon holds the link");
    wait_until("the pin", PATIENCE, || Ok(removed.exists()))?;
    ensure!(events(&edge, "xdp_pin_restored")?.len() == 1, "it is said");
    ensure!(events(&edge, "xdp_detached")?.is_empty(), "nothing was lost");

    lb_tests::net::detach_pinned(&removed)?;
    let begun = Instant::now();
    wait_until("the program to be back", PATIENCE, || {
        Ok(events(&edge, "xdp_attached")?.len() == 1 && events(&edge, "xdp_detached")?.len() == 1)
    })?;
    println!("detached by force: back after {:?}", begun.elapsed());
    ensure!(site.answered(20)? == 20, "{}", edge.log());
    edge.lbctl(&["status"])?;
    Ok(())
}

#[test]
fn an_interface_that_is_renamed_is_served_and_it_is_said() -> Result<()> {
    let site = Site::new(None)?;
    let mut edge = site.edge()?;
    for command in ["link set eth0 down", "link set eth0 name wan0", "link set wan0 up"] {
        site.net.edge.ip(command)?;
    }
    site.wait_answer(&edge)?;
    let status = edge.lbctl(&["status"])?;
    ensure!(status.contains("eth0 is named wan0 now"), "{status}");
    ensure!(events(&edge, "xdp_detached")?.is_empty(), "{}", edge.log());
    // Another weight, another seed: both reach it.
    edge.apply(&site.text.replace("0x5eed", "0x5eee"))?;
    ensure!(site.answered(5)? == 5, "{}", edge.log());
    // The configured name counts when it is there again.
    for command in ["link set wan0 down", "link set wan0 name eth0", "link set eth0 up"] {
        site.net.edge.ip(command)?;
    }
    site.wait_answer(&edge)?;
    let status = edge.lbctl(&["status"])?;
    ensure!(!status.contains("wan0"), "{status}");
    edge.stop()
}

#[test]
fn an_interface_that_was_renamed_is_served_on_by_the_next_daemon() -> Result<()> {
    let site = Site::new(None)?;
    let mut edge = site.edge()?;
    for command in ["link set eth0 down", "link set eth0 name wan0", "link set wan0 up"] {
        site.net.edge.ip(command)?;
    }
    site.wait_answer(&edge)?;
    edge.kill()?;
    let mut command = site.net.edge.command(&site.programs.lbd);
    command.arg("run").arg("--config").arg(edge.configuration());
    let mut next = site.net.edge.spawn(command, &site.scratch.path().join("next.log"))?;
    wait_until("it to say what it misses", PATIENCE, || {
        next.check()?;
        Ok(next.log().contains("the program is not on this interface"))
    })?;
    // Each list of interfaces is taken in by then, and another one comes.
    site.net.edge.ip("link set eth1 alias again")?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(site.answered(20)? == 20, "{}", next.log());
    // An interface that comes and goes changes nothing for it.
    site.net.edge.ip("link add other0 type veth peer name other1")?;
    site.net.edge.ip("link del other0")?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(site.answered(20)? == 20, "{}", next.log());
    Ok(())
}
