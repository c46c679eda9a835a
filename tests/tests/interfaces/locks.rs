//! Who may keep a daemon from starting: another daemon of the same network namespace, wherever it runs, and nobody else.

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

#[test]
fn an_ordinary_user_keeps_no_daemon_from_starting() -> Result<()> {
    let site = Site::new(None)?;
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all";
    // Nothing is there yet: the abstract socket, and the folders in the BPF file system, to which anybody may write.
    let squat = r#"
import fcntl, os, socket, sys, time
held = []
name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
try:
    name.bind("\0edgelb.lbd")
except OSError as error:
    print("abstract socket", error)
for path in sys.argv[1:]:
    try:
        os.makedirs(path)
    except OSError as error:
        print(path, error)
    while path != "/":
        try:
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(descriptor)
            print("locked", path)
        except OSError as error:
            print(path, error)
        path = os.path.dirname(path)
print("squatting", flush=True)
time.sleep(600)
"#;
    let script = site.scratch.write("squat.py", squat)?.display().to_string();
    let instance = instance_name(&site)?;
    // First of all: it may take whatever is free.
    let _before = squatter(&site, nobody, &script, &instance)?;
    let mut edge = site.edge()?;
    ensure!(site.answered(10)? == 10, "{}", edge.log());
    // While it runs, and after it was killed.
    let private = |squatter: &Process| {
        let log = squatter.log();
        for folder in ["/sys/fs/bpf/edgelb", "/run/lbd"] {
            ensure!(!log.contains(&format!("locked {folder}/{instance}")), "{log}");
        }
        Ok(())
    };
    let during = squatter(&site, nobody, &script, &instance)?;
    private(&during)?;
    edge.kill()?;
    let after = squatter(&site, nobody, &script, &instance)?;
    private(&after)?;
    edge.start_again()?;
    edge.stop()?;
    site.net.edge.run(&site.programs.lbd, &["detach"])?;
    edge.start_again()?;
    ensure!(site.answered(10)? == 10, "{}", edge.log());
    Ok(())
}

/// The folder's name of the edge's instance: what `SO_NETNS_COOKIE` (71) says.
fn instance_name(site: &Site) -> Result<String> {
    let cookie = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
                  print(int.from_bytes(s.getsockopt(socket.SOL_SOCKET, 71, 8), 'little'))";
    Ok(format!("net-{}", site.net.edge.run("python3", &["-c", cookie])?.trim()))
}

/// An ordinary user's process that takes all that it can.
fn squatter(site: &Site, nobody: &str, script: &str, instance: &str) -> Result<Process> {
    let mut command = site.net.edge.command("sh");
    let folders = format!("/sys/fs/bpf/edgelb/{instance} /run/lbd/{instance} /run/lbd/lock");
    command.args(["-c", &format!("exec {nobody} python3 {script} {folders}")]);
    let log = site.scratch.path().join(format!("squatter-{}.log", rand()));
    let mut process = site.net.edge.spawn(command, &log)?;
    wait_until("the squatter", PATIENCE, || {
        process.check()?;
        Ok(process.log().contains("squatting"))
    })?;
    println!("{}", process.log());
    Ok(process)
}

fn rand() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn one_daemon_to_a_namespace_whatever_its_mounts() -> Result<()> {
    let site = Site::new(None)?;
    let mut edge = site.edge()?;
    let pid = edge.pid()?;
    for (mounts, said) in [
        ("", "has locked"),
        ("exec unshare -m sh -c 'mount -t tmpfs tmpfs /run && exec \"$@\"' sh", "has locked"),
        (
            "exec unshare -m sh -c 'mount -t tmpfs tmpfs /run && mount -t bpf bpf /sys/fs/bpf && exec \"$@\"' sh",
            "another mount namespace",
        ),
    ] {
        let error = site.refused(mounts)?;
        ensure!(error.contains("another lbd") && error.contains(said), "{mounts}: {error}");
        ensure!(error.contains(&format!("process {pid}")), "{mounts}: the owner is not named: {error}");
        ensure!(site.answered(5)? == 5, "{mounts}: {}", edge.log());
    }
    let error = site.net.edge.run(&site.programs.lbd, &["detach"]);
    let error = format!("{:#}", error.expect_err("lbd runs"));
    ensure!(error.contains("stop it first") && error.contains(&format!("process {pid}")), "{error}");
    edge.kill()?;
    edge.start_again()?;
    edge.stop()
}

#[test]
fn what_was_pinned_for_a_namespace_that_is_gone_is_removed() -> Result<()> {
    let site = Site::new(None)?;
    let mut edge = site.edge()?;
    let count = || -> Result<usize> { Ok(site.sh("ls /sys/fs/bpf/edgelb")?.lines().count()) };
    let config = site.scratch.write("other.toml", "[node]\ninterfaces = [\"one\"]\nhash_seed = \"0x5eed\"\n")?;
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
    ensure!(count()? == 2, "its daemon was killed, its tables are there: {}", count()?);
    let mut stays = Vec::new();
    for (name, after) in [("attached", ""), ("empty", "ip link del one;")] {
        let mut command = site.net.edge.command("sh");
        command.args(["-c", &format!("exec unshare -n sh -c '{serve}; {after} echo is there; exec sleep 600'")]);
        let process = site.net.edge.spawn(command, &site.scratch.path().join(format!("{name}.log")))?;
        wait_until("the namespace", PATIENCE, || Ok(process.log().contains("is there"))).with_context(|| process.log())?;
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
