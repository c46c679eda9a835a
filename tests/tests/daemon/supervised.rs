//! What systemd is told, by tests that listen in its place.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::net::{Arms, Host, Process, wait_until};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{File, Site, Svc};

/// How long the program may be silent, as systemd would tell it.
const LIMIT: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);

/// The socket to which a program reports.
struct Listener(UnixDatagram);

impl Listener {
    fn bind(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path).with_context(|| path.display().to_string())?;
        Ok(Self(socket))
    }

    /// The next message, if there is one in time.
    fn next(&self, within: Duration) -> Result<Option<String>> {
        self.0.set_read_timeout(Some(within))?;
        let mut buffer = [0; 4096];
        match self.0.recv(&mut buffer) {
            Ok(length) => Ok(Some(String::from_utf8(buffer[..length].to_vec())?)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message, which has this line.
    #[track_caller]
    fn expect(&self, line: &str) -> Result<String> {
        let message = self.next(PATIENCE)?.with_context(|| format!("no {line}"))?;
        ensure!(message.lines().any(|found| found == line), "{message:?} is no {line}");
        Ok(message)
    }
}

/// Starts `lbd` as systemd would, which names the process that it watches.
fn start(host: &Host, lbd: &Path, arguments: &[&str], socket: &Path, log: &Path) -> Result<Process> {
    let mut command: Command = host.command("/bin/sh");
    command
        .args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""])
        .arg(lbd)
        .args(arguments)
        .env("NOTIFY_SOCKET", socket)
        .env("WATCHDOG_USEC", LIMIT.as_micros().to_string());
    host.spawn(command, log)
}

/// A thread that is held: it does not run, and all others of its process do.
struct Held(Pid);

impl Held {
    fn hold(thread: u32) -> Result<Self> {
        let thread = Pid::from_raw(thread.cast_signed());
        ptrace::seize(thread, ptrace::Options::empty()).context("ptrace")?;
        ptrace::interrupt(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        Ok(Self(thread))
    }

    fn release(self) -> Result<()> {
        Ok(ptrace::detach(self.0, None)?)
    }
}

/// The states of a process's threads, the main one's first.
fn states(pid: u32) -> Result<Vec<char>> {
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().parse::<u32>()?))
        .collect::<Result<Vec<_>>>()?;
    threads.sort_by_key(|thread| (*thread != pid, *thread));
    let state = |thread: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat"))?;
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.context("a state")
    };
    threads.iter().map(state).collect()
}

/// Alive as long as the loop turns: not while the thread that it runs on is held, though all others run; and again afterwards.
fn is_alive_while_its_loop_turns(listener: &Listener, pid: u32) -> Result<()> {
    for _ in 0..3 {
        listener.expect("WATCHDOG=1")?;
    }
    let held = Held::hold(pid)?;
    // What it had said before.
    while listener.next(Duration::from_millis(1))?.is_some() {}
    let until = Instant::now() + 2 * LIMIT;
    let mut said = Vec::new();
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        said.extend(listener.next(left)?);
    }
    let states = states(pid)?;
    held.release()?;
    ensure!(said.is_empty(), "the loop was held, and said {said:?}");
    ensure!(
        states[0] == 't' && states[1..].iter().any(|state| *state != 't'),
        "{states:?}"
    );
    listener.expect("WATCHDOG=1")?;
    Ok(())
}

#[test]
fn it_is_ready_when_it_answers_and_alive_while_its_loop_turns() -> Result<()> {
    let site = Site::new(Arms::One, 1)?;
    let (edge, scratch) = (&site.net.edge, &site.scratch);
    let socket = scratch.path().join("notify");
    let listener = Listener::bind(&socket)?;
    let file = scratch.write("lbd.toml", &File::new([Svc::new("web", 10, 1)]).to_string())?;
    let file = file.display().to_string();
    let arguments = ["run", "--config", &file];
    let log = scratch.path().join("lbd.log");
    let mut lbd = start(edge, &site.programs.lbd, &arguments, &socket, &log)?;
    listener.expect("READY=1").with_context(|| lbd.log())?;
    // As `systemctl start lbd && lbctl status` has it: no second try.
    edge.run(&site.programs.lbctl, &["status"])?;
    assert!(edge.ip("link show dev eth0")?.contains("xdp"));
    is_alive_while_its_loop_turns(&listener, lbd.pid()).with_context(|| lbd.log())?;
    assert!(lbd.stop(PATIENCE)?.success());
    let mut said = String::new();
    while let Some(message) = listener.next(Duration::from_millis(1))? {
        said += &message;
    }
    assert!(said.ends_with("STOPPING=1\n"), "{said}");
    Ok(())
}

#[test]
fn a_daemon_that_cannot_serve_is_never_ready() -> Result<()> {
    let site = Site::new(Arms::One, 1)?;
    let (edge, scratch) = (&site.net.edge, &site.scratch);
    let socket = scratch.path().join("notify");
    let listener = Listener::bind(&socket)?;
    let text = File::new([Svc::new("web", 10, 1)]).to_string().replace("eth0", "eth7");
    let file = scratch.write("lbd.toml", &text)?.display().to_string();
    let arguments = ["run", "--config", &file];
    let mut lbd = start(
        edge,
        &site.programs.lbd,
        &arguments,
        &socket,
        &scratch.path().join("lbd.log"),
    )?;
    wait_until("lbd to give up", PATIENCE, || Ok(lbd.check().is_err()))?;
    assert!(lbd.log().contains("eth7"), "{}", lbd.log());
    assert_eq!(listener.next(Duration::from_millis(100))?, None);
    Ok(())
}

#[test]
fn a_backend_is_ready_when_it_unwraps_and_alive_while_its_loop_turns() -> Result<()> {
    let site = Site::new(Arms::One, 1)?;
    let (host, scratch) = (&site.net.backends[0].host, &site.scratch);
    let socket = scratch.path().join("notify");
    let listener = Listener::bind(&socket)?;
    let arguments = ["backend", "--interface", "eth0", "--vip", "192.0.2.10"];
    let mut lbd = start(
        host,
        &site.programs.lbd,
        &arguments,
        &socket,
        &scratch.path().join("backend.log"),
    )?;
    let ready = listener.expect("READY=1").with_context(|| lbd.log())?;
    assert!(host.ip("link show dev eth0")?.contains("xdp"));
    assert!(host.ip("-o addr show dev lo")?.contains(" 192.0.2.10/"));
    assert!(ready.contains("STATUS=unwraps IP in IP from everywhere"), "{ready}");
    is_alive_while_its_loop_turns(&listener, lbd.pid()).with_context(|| lbd.log())?;
    assert!(lbd.stop(PATIENCE)?.success());
    let mut said = String::new();
    while let Some(message) = listener.next(Duration::from_millis(1))? {
        said += &message;
    }
    assert!(said.ends_with("STOPPING=1\n"), "{said}");
    Ok(())
}
