//! One host: a network namespace and a mount namespace, kept alive by file descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::bpf::{AttachMode, Program, XdpLink};
use super::process::Process;
use super::spawner;

/// A host of its own. Dropping it lets the kernel remove it, once its processes are gone.
#[derive(Debug)]
pub struct Host {
    name: String,
    net: Arc<OwnedFd>,
    mounts: Arc<OwnedFd>,
    /// Programs on the host's interfaces; they leave with the host.
    links: Vec<XdpLink>,
}

impl Host {
    /// A new host with loopback up and nothing else. Needs root.
    ///
    /// The settings that a distribution may have changed for new namespaces are put to the kernel's defaults: no reverse
    /// path filter, no forwarding; and IPv6 addresses are usable at once (no duplicate address detection).
    pub fn new(name: &str) -> Result<Self> {
        let (net, mounts) = on_thread(isolate)
            .with_context(|| format!("cannot make namespaces for host {name}: needs root (CAP_SYS_ADMIN)"))?;
        let host = Self {
            name: name.to_owned(),
            net: Arc::new(net),
            mounts: Arc::new(mounts),
            links: Vec::new(),
        };
        for scope in ["all", "default"] {
            host.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
            host.sysctl(&format!("net/ipv4/conf/{scope}/forwarding"), "0")?;
            // Absent if the kernel has no IPv6: the IPv4 tests should run nevertheless.
            if host.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0").is_ok() {
                host.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
            }
        }
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// The host's name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path to the network namespace, valid while this process lives: for `nsenter --net=` and `ip link … netns`.
    pub fn net_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd()).into()
    }

    /// A command that will run on this host and die with this process. Relative paths do not work in it: the working directory is `/`.
    ///
    /// Run it with [`Host::run`] or [`Host::spawn`]: the signal that ends it with us is bound to the *thread* that forked it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let (net, mounts) = (Arc::clone(&self.net), Arc::clone(&self.mounts));
        let parent = std::process::id();
        let mut command = Command::new(program.as_ref());
        // `su` without `-` leaves the directories of ip, ethtool and nginx out.
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .stdin(Stdio::null())
            .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
        let enter = move || {
            setns(&net, CloneFlags::CLONE_NEWNET)?;
            setns(&mounts, CloneFlags::CLONE_NEWNS)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // If the parent died before the line above, nobody is left to send the signal.
            if std::os::unix::process::parent_id() != parent {
                return Err(Errno::ESRCH.into());
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a command to its end and returns what it wrote to stdout. An exit code other than 0 is an error, which has its stderr.
    pub fn run<S: AsRef<str>>(&self, program: impl AsRef<Path>, args: &[S]) -> Result<String> {
        let mut command = self.command(program);
        command.args(args.iter().map(AsRef::as_ref));
        self.output(command)
    }

    /// As [`Host::run`], of a command made by [`Host::command`].
    pub fn output(&self, mut command: Command) -> Result<String> {
        let shown = show(&command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = spawner::spawn(command)
            .and_then(std::process::Child::wait_with_output)
            .with_context(|| format!("{}: cannot run {shown}", self.name))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {shown}: {}\n{errors}{text}", self.name, output.status);
        }
        Ok(text)
    }

    /// Starts a command that goes on; stdout and stderr go to `log`.
    pub fn spawn(&self, command: Command, log: &Path) -> Result<Process> {
        let shown = format!("{}: {}", self.name, show(&command));
        Process::start(shown, command, log)
    }

    /// Runs `ip` with these words.
    pub fn ip(&self, words: &str) -> Result<String> {
        self.run("ip", &words.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs the lines through one `ip -batch`: faster than one process each.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let mut command = self.command("ip");
        command
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawner::spawn(command)?;
        if let Some(mut stdin) = child.stdin.take() {
            io::Write::write_all(&mut stdin, lines.join("\n").as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}: ip: {}", self.name, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Sets a value below `/proc/sys`; the network's own are each namespace's.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| std::fs::write(&path, value))?
            .with_context(|| format!("{}: cannot write {value:?} to {}", self.name, path.display()))
    }

    /// Runs a closure on a thread in this host's network (not its mounts). Sockets made there stay the host's own wherever they go.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            setns(&self.net, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter host {}", self.name))?;
            Ok(work())
        })
    }

    /// Starts a thread that stays in this host's network until it ends.
    pub fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
        let net = Arc::clone(&self.net);
        let (entered, answer) = channel();
        let handle = thread::Builder::new().name(self.name.clone()).spawn(move || {
            // The answer cannot get lost: it is waited for below.
            _ = entered.send(setns(&net, CloneFlags::CLONE_NEWNET));
            work()
        })?;
        answer
            .recv()?
            .with_context(|| format!("cannot enter host {}", self.name))?;
        Ok(handle)
    }

    /// Lays a wire between an interface here and one there. Both are up, compute their checksums in software (on a wire of
    /// memory the kernel would else leave them out, and XDP programs would see half a sum), and have this MTU.
    pub fn connect(&self, device: &str, peer: &Host, peer_device: &str, mtu: u32) -> Result<()> {
        self.ip(&format!(
            "link add {device} mtu {mtu} type veth peer name {peer_device} mtu {mtu} netns {}",
            peer.net_path().display()
        ))?;
        for (host, device) in [(self, device), (peer, peer_device)] {
            host.run("ethtool", &["-K", device, "tx", "off"])?;
            host.ip(&format!("link set {device} up"))?;
        }
        Ok(())
    }

    /// Puts a program on an interface in native mode, for as long as the host lives.
    ///
    /// With [`Program::PASS`] the interface accepts what the other end of its wire sends by `XDP_TX` or redirect. A veth drops
    /// such frames unless its peer has a program. Receive offload on the peer (`ethtool -K DEV gro on`) suffices for redirects, but
    /// not for `XDP_TX`: seen on Linux 6.18, where frames so sent wait in the ring for ever.
    pub fn attach(&mut self, device: &str, program: &Program) -> Result<()> {
        self.attach_in(device, program, AttachMode::Native)
    }

    /// Puts an XDP program on an interface, natively or in the network stack.
    pub fn attach_in(&mut self, device: &str, program: &Program, mode: AttachMode) -> Result<()> {
        let link = self
            .enter(|| program.attach(device, mode))?
            .with_context(|| format!("{}: no XDP program on {device}", self.name))?;
        self.links.push(link);
        Ok(())
    }

    /// As [`Host::attach`], for as long as the answer lives.
    pub fn attach_until_dropped(&self, device: &str, program: &Program) -> Result<XdpLink> {
        self.enter(|| program.attach(device, AttachMode::Native))?
            .with_context(|| format!("{}: no XDP program on {device}", self.name))
    }

    /// Takes away every program that was put on its interfaces.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// The interface's MAC address.
    pub fn mac(&self, device: &str) -> Result<[u8; 6]> {
        let links: serde_json::Value = serde_json::from_str(&self.ip(&format!("-j link show dev {device}"))?)?;
        let text = links[0]["address"]
            .as_str()
            .ok_or_else(|| anyhow!("{}: {device} has no address", self.name))?;
        let mut mac = [0; 6];
        for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(digits, 16)?;
        }
        Ok(mac)
    }
}

/// Makes the namespaces of a host, on a thread that then ends.
fn isolate() -> Result<(OwnedFd, OwnedFd)> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    // Mounts made outside still show up here, ours never outside.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    // A sysfs shows the interfaces of the namespace in which it was mounted.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    Ok((
        File::open("/proc/thread-self/ns/net")?.into(),
        File::open("/proc/thread-self/ns/mnt")?.into(),
    ))
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("a thread panicked, see above"))?
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
