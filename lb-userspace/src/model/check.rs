//! What a probe does, by kind.

use std::fmt;
use std::path::PathBuf;

use super::Protocol;
use crate::run_as::NamedUser;

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// Opens a TCP connection and closes it.
    Tcp,
    /// Sends a request over HTTP/1.1, inside TLS or not, and judges status and body.
    Http(Http),
    /// Asks the standard health service of gRPC (`grpc.health.v1.Health/Check`).
    Grpc(Grpc),
    /// Sends a DNS query.
    Dns(Dns),
    /// Sends a datagram and waits for another.
    Udp(Udp),
    /// Sends an ICMP echo.
    Icmp,
    /// Runs a program, whose exit code decides.
    Exec(Exec),
}

/// A request for `GET path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    /// Path and query, beginning with a slash.
    pub path: String,
    /// The `Host` header; the probed address by default.
    pub host: Option<String>,
    /// The statuses that mean that the backend serves.
    pub statuses: Statuses,
    /// What the body must contain, within its first 64 KiB.
    pub body: Option<String>,
    /// Inside TLS.
    pub tls: Option<Tls>,
}

/// Ranges of HTTP statuses, first and last of each: 100 ..= 599.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Statuses(pub Vec<(u16, u16)>);

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The name in the handshake, and in the certificate; by default the host's, else the probed address.
    pub server_name: Option<String>,
    /// PEM file of the certificates to trust; by default the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the certificate must be valid.
    pub verify: bool,
}

/// A question to the standard health service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grpc {
    /// The service asked about; empty: the server as a whole.
    pub service: String,
    /// The authority of the request; the probed address by default.
    pub host: Option<String>,
    /// Inside TLS.
    pub tls: Option<Tls>,
}

/// A DNS query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dns {
    /// The name that is asked for.
    pub name: String,
    /// The number of the record's type.
    pub record: u16,
    /// The response code that is expected.
    pub rcode: u8,
    /// What one of the answers must be, as text: an address, a name.
    pub answer: Option<String>,
    /// What carries it.
    pub over: Protocol,
}

/// A datagram and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Udp {
    /// What is sent.
    pub send: Vec<u8>,
    /// What the answer must contain; nothing: any answer will do.
    pub expect: Option<Vec<u8>>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exec {
    /// Its absolute path.
    pub program: PathBuf,
    /// Its arguments, as they are.
    pub args: Vec<String>,
    /// The user it runs as; nothing: the daemon's own.
    pub run_as: Option<NamedUser>,
}

impl Http {
    /// `GET path`, any status of 200 to 399 expected.
    pub fn get(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            host: None,
            statuses: Statuses::default(),
            body: None,
            tls: None,
        }
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

impl Statuses {
    /// Whether a status is among them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

impl fmt::Display for Statuses {
    /// `200 to 399`, `200 to 299 or 301`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.0.iter().enumerate() {
            let or = if number == 0 { "" } else { " or " };
            if first == last {
                write!(f, "{or}{first}")?;
            } else {
                write!(f, "{or}{first} to {last}")?;
            }
        }
        Ok(())
    }
}

impl Check {
    /// The kind as the configuration names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Check::Tcp => "tcp",
            Check::Http(Http { tls: None, .. }) => "http",
            Check::Http(_) => "https",
            Check::Grpc(_) => "grpc",
            Check::Dns(_) => "dns",
            Check::Udp(_) => "udp",
            Check::Icmp => "icmp",
            Check::Exec(_) => "exec",
        }
    }

    /// What is asked for, if the kind asks for something.
    pub fn target(&self) -> Option<String> {
        match self {
            Check::Http(http) => Some(http.path.clone()),
            Check::Grpc(grpc) if !grpc.service.is_empty() => Some(grpc.service.clone()),
            Check::Dns(dns) => Some(dns.name.clone()),
            Check::Exec(exec) => Some(exec.program.display().to_string()),
            Check::Tcp | Check::Grpc(_) | Check::Udp(_) | Check::Icmp => None,
        }
    }
}
