//! Two hosts for one test: network namespaces without a name, joined by a veth pair, gone with the test's thread.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::mem;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::Pid;

/// The backend's interface is `eth0` with 10.0.0.2/24 and 2001:db8::2/64; the other end is the client's side, `cli0` with
/// 10.0.0.1/24 and 2001:db8::1/64, and is the backend's gateway. The test's own thread is on the backend.
pub(crate) struct Net {
    backend: File,
    client: File,
}

/// Without duplicate address detection: until it is through, nothing is resolved for packets from addresses of `lo`.
const LO_UP: &str = "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; \
                     echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad";

impl Net {
    pub(crate) fn new() -> Self {
        let current = || File::open("/proc/thread-self/ns/net").unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let client = current();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let net = Net {
            backend: current(),
            client,
        };
        sh(LO_UP);
        sh("ip link add eth0 type veth peer name cli0");
        let client_path = format!("/proc/{}/fd/{}", std::process::id(), net.client.as_raw_fd());
        sh(&format!("ip link set cli0 netns {client_path}"));
        net.configure("eth0", "2");
        sh("ip route add default via 10.0.0.1");
        sh("ip -6 route add default via 2001:db8::1");
        net.on_client(|| {
            sh(LO_UP);
            net.configure("cli0", "1");
        });
        net
    }

    /// The same with a bond as `eth0`, whose port `port0` is what is joined; nothing if this kernel has no bonds.
    pub(crate) fn with_bond() -> Option<Self> {
        let net = Self::new();
        if !succeeds("ip link add bond0 type bond mode active-backup miimon 100") {
            return None;
        }
        // The routes by `eth0` go with its addresses.
        sh(
            "ip link set eth0 down; ip address flush dev eth0; ip link set eth0 name port0; ip link set bond0 name eth0",
        );
        sh("ip link set port0 master eth0; ip link set port0 up");
        sh("ip address add 10.0.0.2/24 dev eth0; ip -6 address add 2001:db8::2/64 dev eth0 nodad; ip link set eth0 up");
        sh("ip route add default via 10.0.0.1; ip -6 route add default via 2001:db8::1");
        Some(net)
    }

    fn configure(&self, device: &str, host: &str) {
        sh(&format!("ethtool -K {device} tx off >/dev/null"));
        sh(&format!("ip address add 10.0.0.{host}/24 dev {device}"));
        sh(&format!("ip -6 address add 2001:db8::{host}/64 dev {device} nodad"));
        sh(&format!("ip link set {device} up"));
    }

    /// Does something on the client's side.
    pub(crate) fn on_client<T>(&self, what: impl FnOnce() -> T) -> T {
        setns(&self.client, CloneFlags::CLONE_NEWNET).unwrap();
        let result = what();
        setns(&self.backend, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }

    /// Source and destination of a frame from the client's side to the backend, as it starts with them.
    pub(crate) fn macs(&self) -> [u8; 12] {
        let of = |text: String| -> Vec<u8> {
            text.trim()
                .split(':')
                .map(|byte| u8::from_str_radix(byte, 16).unwrap())
                .collect()
        };
        let show = |device| {
            sh(&format!(
                "ip -o link show {device} | sed 's/.*ether \\([^ ]*\\).*/\\1/'"
            ))
        };
        let backend = of(show("eth0"));
        let client = of(self.on_client(|| show("cli0")));
        [backend, client].concat().try_into().unwrap()
    }

    /// Whether the backend answers ARP or ND for `address`.
    pub(crate) fn is_answered(&self, address: &str) -> bool {
        self.on_client(|| {
            sh(&format!(
                "ip neighbour flush dev cli0; ip route replace {address} dev cli0"
            ));
            let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = std::net::UdpSocket::bind(any).unwrap();
            let deadline = Instant::now() + Duration::from_millis(1500);
            let mut answered = false;
            while !answered && Instant::now() < deadline {
                // Resolving starts with the first datagram; that nobody answers it does not matter.
                let _ = socket.send_to(b"?", (address, 9));
                std::thread::sleep(Duration::from_millis(100));
                answered = sh(&format!("ip neighbour show {address} dev cli0")).contains("lladdr");
            }
            sh(&format!("ip route del {address} dev cli0"));
            answered
        })
    }

    /// A packet socket on the client's side that sends and sees whole frames.
    pub(crate) fn wire(&self) -> Wire {
        self.on_client(Wire::open)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // A test that failed may have left a record in /run/lbd, which would outlive the namespace. A failed setns leaves
        // the thread on the client's side, where there is nothing to remove.
        let _ = setns(&self.backend, CloneFlags::CLONE_NEWNET);
        Role::spawn("--remove").end();
    }
}

/// A packet socket on `cli0`.
pub(crate) struct Wire {
    socket: OwnedFd,
}

impl Wire {
    fn open() -> Self {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers are passed; the result is checked below.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)) };
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: all zeros are a `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = nix::net::if_::if_nametoindex("cli0").unwrap() as i32;
        // SAFETY: the address lives through the call and has the length given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of_val(&address) as libc::socklen_t,
            )
        };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
        Wire { socket }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!(nix::unistd::write(&self.socket, frame).unwrap(), frame.len());
    }

    /// Waits up to 2 seconds for a frame that contains `bytes`.
    pub(crate) fn sees(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            let length = match nix::unistd::read(&self.socket, &mut buffer) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => continue,
                Err(errno) => panic!("{errno}"),
            };
            if buffer[..length].windows(bytes.len()).any(|window| window == bytes) {
                return Some(buffer[..length].to_vec());
            }
        }
        None
    }
}

/// Runs a shell command in the thread's namespace and returns what it printed.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn succeeds(command: &str) -> bool {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    output.status.success()
}

pub(crate) fn sysctl(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}"))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .trim()
        .to_owned()
}

/// The command line that [`role_process`] has.
const ROLE_ARGUMENTS: &str = "EDGELB_ROLE_ARGUMENTS";

/// No test, but what `lbd backend` does, with this program's own code: [`Role`] starts it as a process of its own.
#[test]
#[ignore = "the role itself, which the tests start"]
fn role_process() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        backend: lb_userspace::backend::BackendArgs,
    }
    let Ok(arguments) = std::env::var(ROLE_ARGUMENTS) else {
        return;
    };
    let cli: Cli = clap::Parser::parse_from(std::iter::once("backend").chain(arguments.split_whitespace()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Err(error) = runtime.block_on(cli.backend.execute(&crate::object())) {
        panic!("{error}: {error:?}");
    }
}

/// The backend role as a process of its own.
pub(crate) struct Role {
    child: Child,
    output: BufReader<ChildStdout>,
    /// All that it has said so far.
    pub(crate) said: String,
}

impl Role {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(arguments: &str) -> Self {
        let mut role = Self::spawn(arguments);
        role.wait_for("ready:");
        role
    }

    /// Starts it, with standard error and standard output in one.
    pub(crate) fn spawn(arguments: &str) -> Self {
        let this = std::env::current_exe().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$0\" --exact net::role_process --ignored --nocapture 2>&1"])
            .arg(this)
            .env(ROLE_ARGUMENTS, arguments)
            .stdout(Stdio::piped());
        let die_with_parent = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into);
        // SAFETY: one system call between fork and exec, which allocates nothing.
        unsafe { command.pre_exec(die_with_parent) };
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Role {
            child,
            output,
            said: String::new(),
        }
    }

    /// Reads on until a line contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            assert_ne!(
                self.output.read_line(&mut line).unwrap(),
                0,
                "no {text:?} in {}",
                self.said
            );
            self.said.push_str(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end; whether it ended well, and all that it said.
    pub(crate) fn end(mut self) -> (bool, String) {
        std::io::Read::read_to_string(&mut self.output, &mut self.said).unwrap();
        let status = self.child.wait().unwrap();
        (status.success(), mem::take(&mut self.said))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
