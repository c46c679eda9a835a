//! Servers on the hosts: nginx for HTTP, a thread for UDP. Each answers with its host's name.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::net::{Host, Process, Scratch, wait_until};

/// nginx on a host: port 80 of all its addresses, `/healthz` and everything else.
///
/// A file `/run/broken` on its host makes all answers 500, and `/run/slow` makes them take many seconds.
#[derive(Debug)]
pub struct Nginx {
    process: Option<Process>,
    configuration: PathBuf,
    log: PathBuf,
}

impl Nginx {
    /// Starts it and waits until it listens.
    pub fn start(host: &Host, scratch: &Scratch) -> Result<Self> {
        let name = host.name();
        let configuration = scratch.write(&format!("nginx-{name}.conf"), &configuration(name))?;
        let mut nginx = Self {
            process: None,
            configuration,
            log: scratch.path().join(format!("nginx-{name}.log")),
        };
        nginx.start_again(host)?;
        Ok(nginx)
    }

    /// Starts it again after [`Nginx::kill`].
    pub fn start_again(&mut self, host: &Host) -> Result<()> {
        let mut command = host.command("nginx");
        command
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg("/run")
            .arg("-c")
            .arg(&self.configuration);
        let process = host
            .spawn(command, &self.log)
            .context("nginx is needed: apt-get install nginx-light")?;
        let process = self.process.insert(process);
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        wait_until("nginx to listen", Duration::from_secs(10), || {
            process.check()?;
            host.enter(|| crate::load::request(address, Duration::from_secs(1)).is_ok())
        })
    }

    /// Kills it: its connections are reset, new ones refused.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Whether all its answers are 500, from now on.
    pub fn set_broken(&self, yes: bool) -> Result<()> {
        self.flag("broken", yes)
    }

    /// Whether all its answers come a few bytes a second, from now on.
    pub fn set_slow(&self, yes: bool) -> Result<()> {
        self.flag("slow", yes)
    }

    fn flag(&self, name: &str, yes: bool) -> Result<()> {
        let pid = self.pid().context("nginx does not run")?;
        // The host's own `/run`.
        let path = format!("/proc/{pid}/root/run/{name}");
        let done = if yes {
            std::fs::write(&path, "")
        } else {
            std::fs::remove_file(&path)
        };
        match done {
            Err(error) if !yes && error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| path),
        }
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
}

/// One process without a master, so that killing it kills all of it. Nothing is written outside of the host's own `/run`.
fn configuration(name: &str) -> String {
    format!(
        "daemon off;
master_process off;
pid /run/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_max_body_size 0;
    client_body_temp_path /run/nginx-body;
    proxy_temp_path /run/nginx-proxy;
    fastcgi_temp_path /run/nginx-fastcgi;
    uwsgi_temp_path /run/nginx-uwsgi;
    scgi_temp_path /run/nginx-scgi;
    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        default_type text/plain;
        if (-f /run/slow) {{ set $limit_rate 8; }}
        if (-f /run/broken) {{ return 500 \"broken\\n\"; }}
        location = /healthz {{ return 200 \"ok\\n\"; }}
        location / {{ return 200 \"{name}\\n\"; }}
    }}
}}
"
    )
}

/// A UDP server on one address and port of a host; it ends when dropped.
#[derive(Debug)]
pub struct UdpResponder {
    stop: Arc<AtomicBool>,
}

impl UdpResponder {
    /// Answers each datagram with `NAME ` and what was in it, from the address that was asked. The host need not have the address yet.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let name = host.name().to_owned();
        Self::with(host, address, move |datagram| {
            [name.as_bytes(), b" ", datagram].concat()
        })
    }

    /// Answers each datagram with what is made of it, likewise.
    pub fn with(host: &Host, address: SocketAddr, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Result<Self> {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        host.sysctl(&format!("net/{family}/ip_nonlocal_bind"), "1")?;
        let socket = host
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("{}: {address}", host.name()))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let responder = Self {
            stop: Arc::clone(&stop),
        };
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                // UDP: an answer that cannot be sent is a lost one.
                _ = socket.send_to(&answer(&buffer[..length]), client);
            }
        });
        Ok(responder)
    }
}

impl Drop for UdpResponder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Asks a [`UdpResponder`] once, from the calling thread's network; returns the name of who answered.
pub fn ask_udp(target: SocketAddr, source_port: u16, timeout: Duration) -> io::Result<String> {
    let any: SocketAddr = if target.is_ipv4() {
        ([0, 0, 0, 0], source_port).into()
    } else {
        ([0u16; 8], source_port).into()
    };
    let socket = UdpSocket::bind(any)?;
    // Connected: an answer from any other address is not an answer.
    socket.connect(target)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"who?")?;
    let mut buffer = [0; 1_500];
    let length = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    Ok(text.split(' ').next().unwrap_or("").to_owned())
}
