//! Who may keep a daemon from starting: another daemon of the same network namespace, wherever it runs, and nobody else.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;

use super::*;

impl Site {
    /// Runs a shell's words on the edge, as it is or in a mount namespace of their own.
    fn sh(&self, words: &str) -> Result<String> {
        self.net.edge.run("sh", &["-c", words])
    }

    /// What `lbd` says that must not start, started by these words before its own.
    fn refused(&self, before: &str) -> Result<String> {
        let path = self.scratch.write("second.toml", &self.text)?;
        let words = format!(
            "{before} timeout 10 {} run --config {} --socket /tmp/no-such-socket-{}",
            self.programs.lbd.display(),
            path.display(),
            std::process::id()
        );
        match self.sh(&words) {
            Ok(text) => anyhow::bail!("it ended well: {text}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }
}

/// How an ordinary user's command begins.
const NOBODY: [&str; 5] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--bounding-set=-all",
];

/// An ordinary user's process that tries to lock something; nothing if it cannot.
fn squat(site: &Site, path: &str) -> Result<Option<Process>> {
    let mut command = site.net.edge.command(NOBODY[0]);
    command
        .args(&NOBODY[1..])
        .args(["flock", "--no-fork", "-n", path, "sleep", "60"]);
    let mut process = site
        .net
        .edge
        .spawn(command, &site.scratch.path().join("squatters.log"))?;
    let mut ended = false;
    wait_until("the squatter", PATIENCE, || {
        ended = process.check().is_err();
        // It has the lock once it is the command that it was to become.
        let name = std::fs::read_to_string(format!("/proc/{}/comm", process.pid())).unwrap_or_default();
        Ok(ended || name.trim() == "sleep")
    })?;
    Ok((!ended).then_some(process))
}

#[test]
fn an_ordinary_user_keeps_no_daemon_from_starting() -> Result<()> {
    let site = Site::new(None)?;
    let mut edge = site.edge()?;
    let instance = site.sh("ls /sys/fs/bpf/edgelb")?.trim().to_owned();
    ensure!(instance.starts_with("net-"), "{instance}");
    edge.stop()?;
    site.net.edge.run(&site.programs.lbd, &["detach"])?;

    // Nothing is there: whoever comes first has the abstract name, and the folders where anybody may make some.
    let abstract_name = SocketAddr::from_abstract_name("edgelb.lbd")?;
    let _name = site
        .net
        .edge
        .enter(|| std::os::unix::net::UnixListener::bind_addr(&abstract_name))??;
    let folders = [format!("/sys/fs/bpf/edgelb/{instance}"), format!("/run/lbd/{instance}")];
    let made = site
        .net
        .edge
        .run(NOBODY[0], &[&NOBODY[1..], &["mkdir", "-p", &folders[0]]].concat());
    println!("an ordinary user's folder in the BPF file system: {}", made.is_ok());
    let before = squat(&site, &folders[0])?;
    ensure!(before.is_some() == made.is_ok(), "who has made it can lock it");
    edge.start_again()?;
    ensure!(site.answered(10)? == 10, "{}", edge.log());
    let owners = site.sh("stat -c '%u %a' /sys/fs/bpf/edgelb /sys/fs/bpf/edgelb/* /run/lbd/net-*")?;
    ensure!(owners.lines().all(|line| line == "0 700"), "{owners}");

    // While it runs, and after it was killed.
    for killed in [false, true] {
        if killed {
            edge.kill()?;
        }
        for path in folders.iter().map(String::as_str).chain(["/sys/fs/bpf/edgelb"]) {
            ensure!(squat(&site, path)?.is_none(), "{path} can be locked by anybody");
        }
    }
    edge.start_again()?;
    edge.stop()?;
    site.net.edge.run(&site.programs.lbd, &["detach"])?;
    Ok(())
}

#[test]
fn one_daemon_to_a_namespace_whatever_its_mounts() -> Result<()> {
    let site = Site::new(None)?;
    let mut edge = site.edge()?;
    let pid = edge.pid()?;
    for (mounts, said) in [
        ("", "has locked"),
        (
            "exec unshare -m sh -c 'mount -t tmpfs tmpfs /run && exec \"$@\"' sh",
            "has locked",
        ),
        (
            "exec unshare -m sh -c 'mount -t tmpfs tmpfs /run && mount -t bpf bpf /sys/fs/bpf && exec \"$@\"' sh",
            "another mount namespace",
        ),
    ] {
        let error = site.refused(mounts)?;
        ensure!(
            error.contains("another lbd") && error.contains(said),
            "{mounts}: {error}"
        );
        ensure!(
            error.contains(&format!("process {pid}")),
            "{mounts}: the owner is not named: {error}"
        );
        ensure!(site.answered(5)? == 5, "{mounts}: {}", edge.log());
    }
    let error = site.net.edge.run(&site.programs.lbd, &["detach"]);
    let error = format!("{:#}", error.expect_err("lbd runs"));
    ensure!(
        error.contains("stop it first") && error.contains(&format!("process {pid}")),
        "{error}"
    );
    edge.kill()?;
    edge.start_again()?;
    edge.stop()
}

#[test]
fn what_was_pinned_for_a_namespace_that_is_gone_is_removed() -> Result<()> {
    let site = Site::new(None)?;
    let mut edge = site.edge()?;
    let count = || -> Result<usize> { Ok(site.sh("ls /sys/fs/bpf/edgelb")?.lines().count()) };
    let config = site
        .scratch
        .write("other.toml", "[node]\ninterfaces = [\"one\"]\nhash_seed = \"0x5eed\"\n")?;
    // Another network namespace with the same BPF file system and /run: once it goes, once it stays with its program attached, once it
    // stays without.
    let serve = format!(
        "ip link add one type veth peer name two; ip link set one up; ip link set two up; \
         timeout -s KILL 4 {} run --config {} --socket /run/other.sock",
        site.programs.lbd.display(),
        config.display()
    );
    let gone = |after: &str| site.sh(&format!("unshare -n sh -c '{serve}; {after}' 2>&1 || true"));
    gone("")?;
    ensure!(
        count()? == 2,
        "its daemon was killed, its tables are there: {}",
        count()?
    );
    let mut stays = Vec::new();
    for (name, after) in [("attached", ""), ("empty", "ip link del one;")] {
        let mut command = site.net.edge.command("sh");
        command.args([
            "-c",
            &format!("exec unshare -n sh -c '{serve}; {after} echo is there; exec sleep 600'"),
        ]);
        let process = site
            .net
            .edge
            .spawn(command, &site.scratch.path().join(format!("{name}.log")))?;
        wait_until("the namespace", PATIENCE, || Ok(process.log().contains("is there")))
            .with_context(|| process.log())?;
        stays.push(process);
    }
    // The kernel takes its time to end a namespace.
    wait_until("the first one to be removed", PATIENCE, || {
        edge.kill()?;
        edge.start_again()?;
        Ok(count()? == 3)
    })?;
    edge.kill()?;
    edge.start_again()?;
    ensure!(count()? == 3, "those that live stay");
    drop(stays);
    edge.stop()
}
