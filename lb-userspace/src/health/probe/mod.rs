//! One probe, from its socket to a sentence about how it went.
//!
//! A kind of probe is a file here with one function: it gets the [`Job`] and the [`Deadline`] and returns how it knows that the
//! backend serves, or a [`Fault`]. Sockets are made in [`connect`] alone, so that how a probe travels is settled in one place.

mod compare;
mod connect;
pub(crate) mod dns;
mod exec;
mod grpc;
mod http;
mod icmp;
mod padded;
mod tcp;
mod tls;
mod udp;

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use compare::NO_CONNECTION;
pub(super) use padded::{Padding, Reply, ask_padded};

use super::{LastProbe, Outcome, TargetId, Via};
use crate::model::Check;

/// How much later than its end a wait may be found over before this host, not the backend, is to blame.
const STALL: Duration = Duration::from_millis(100);

/// What a packet filter of this host answers, and a kernel that misses a capability.
const FORBIDDEN: &str = "this host's firewall refuses the probe";

/// What one probe needs to know.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Where the probe is addressed to.
    pub(super) to: SocketAddr,
    pub(super) via: Via,
    pub(super) check: Check,
    pub(super) timeout: Duration,
    /// Whom it is about, if the check wants to know.
    pub(super) subject: Option<TargetId>,
    /// The backend's own address, if a failure by the users' path is to be compared with it.
    pub(super) own: Option<SocketAddr>,
    /// Whether a stalled host excuses a failure. Not twice in a row: a host that is always late must not keep the dead in.
    pub(super) excuse_stall: bool,
    /// Whether its packets are padded. Only by the users' path, and only in a tunnel.
    pub(super) padding: Option<Padding>,
}

/// Makes one probe.
pub(super) async fn run(job: Job) -> LastProbe {
    let start = Instant::now();
    let deadline = Deadline {
        at: start + job.timeout,
        timeout: job.timeout,
        excuse_stall: job.excuse_stall,
    };
    let result = match job.own {
        Some(own) => Box::pin(compare::probe(&job, own, deadline)).await,
        None => ask(&job, deadline).await,
    };
    let end = Instant::now();
    let (outcome, text, answered) = match result {
        Ok(answer) => (Outcome::Passed, answer.text, answer.at),
        Err(Fault::Backend(text) | Fault::Silence(text)) => (Outcome::Failed, text, end),
        Err(Fault::Own(text)) => (Outcome::Skipped, text, end),
    };
    LastProbe {
        outcome,
        text: Arc::from(text),
        took: answered.duration_since(start),
        at: end,
    }
}

/// Large kinds are boxed: every probe is moved to where it runs, and would be as large as the largest.
async fn ask(job: &Job, deadline: Deadline) -> Result<Answer, Fault> {
    match &job.check {
        Check::Tcp => tcp::probe(job, deadline).await,
        Check::Http(http) => http::probe(job, http, deadline).await,
        Check::Grpc(grpc) => Box::pin(grpc::probe(job, grpc, deadline)).await,
        Check::Dns(dns) => dns::probe(job, dns, deadline).await,
        Check::Udp(udp) => udp::probe(job, udp, deadline).await,
        Check::Icmp => icmp::probe(job, deadline).await,
        Check::Exec(exec) => Box::pin(exec::probe(job, exec, deadline)).await,
    }
}

/// A backend's good answer.
struct Answer {
    text: Cow<'static, str>,
    at: Instant,
}

/// Why there is no good answer.
#[derive(Debug)]
enum Fault {
    /// The backend's doing, or that of the way to it.
    Backend(Cow<'static, str>),
    /// The same, and nothing came back in time.
    Silence(Cow<'static, str>),
    /// This host's: nothing was learnt of the backend.
    Own(Cow<'static, str>),
}

/// When a probe has to be over.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    timeout: Duration,
    excuse_stall: bool,
}

impl Answer {
    fn now(text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: text.into(),
            at: Instant::now(),
        }
    }
}

impl Fault {
    fn backend(text: impl Into<Cow<'static, str>>) -> Self {
        Fault::Backend(text.into())
    }

    /// Errors that say "this host has none left" are its own, all others are about the backend or the way to it.
    fn of_io(error: &io::Error) -> Self {
        let text = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => return Fault::Own("this host has no file descriptor left".into()),
            Some(libc::EADDRNOTAVAIL) => return Fault::Own("this host has no source port or address left".into()),
            Some(libc::ENOBUFS | libc::ENOMEM) => {
                return Fault::Own("this host has no memory left for a socket".into());
            }
            Some(libc::EAFNOSUPPORT) => return Fault::Own("this host does not speak that address family".into()),
            Some(libc::EPERM) => return Fault::Own(FORBIDDEN.into()),
            Some(libc::ECONNREFUSED) => "connection refused",
            Some(libc::ECONNRESET | libc::EPIPE) => "connection reset",
            Some(libc::ETIMEDOUT) => "connection timed out",
            Some(libc::EHOSTUNREACH) => "host unreachable",
            Some(libc::ENETUNREACH) => "no route to it",
            // A router's word (ICMPv6, administratively prohibited), or a route of this host's to nowhere.
            Some(libc::EACCES) => "administratively prohibited",
            _ => return Fault::backend(error.to_string().to_lowercase()),
        };
        Fault::backend(text)
    }
}

impl Deadline {
    /// Waits for `future` until the deadline; `missing` is what there then was none of.
    async fn wait<T>(self, missing: &str, future: impl Future<Output = T>) -> Result<T, Fault> {
        let outcome = tokio::time::timeout_at(self.at.into(), future).await;
        outcome.map_err(|_elapsed| self.missed(missing, Instant::now()))
    }

    fn missed(self, missing: &str, now: Instant) -> Fault {
        let late = now.saturating_duration_since(self.at);
        if late > STALL && self.excuse_stall {
            return Fault::Own("this host stood still".into());
        }
        Fault::Silence(format!("no {missing} within {:?}", self.timeout).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_faults_are_told_from_the_backends() {
        for (errno, own) in [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::ENOBUFS, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::EPERM, true),
            (libc::EACCES, false),
            (libc::ECONNREFUSED, false),
            (libc::ENETUNREACH, false),
            (libc::EHOSTUNREACH, false),
            (libc::EIO, false),
        ] {
            let fault = Fault::of_io(&io::Error::from_raw_os_error(errno));
            assert_eq!(matches!(fault, Fault::Own(_)), own, "{fault:?}");
        }
    }

    #[test]
    fn a_stall_is_excused_once() {
        let at = Instant::now();
        let deadline = |excuse_stall| Deadline {
            at,
            timeout: Duration::from_millis(100),
            excuse_stall,
        };
        let missed = |excuse, ms| deadline(excuse).missed("answer", at + Duration::from_millis(ms));
        assert!(matches!(missed(true, 1), Fault::Silence(text) if text == "no answer within 100ms"));
        assert!(matches!(missed(true, 2_000), Fault::Own(text) if text == "this host stood still"));
        assert!(matches!(missed(false, 2_000), Fault::Silence(_)));
    }
}

#[cfg(test)]
mod server_tests;

#[cfg(test)]
mod exec_tests;
#[cfg(test)]
mod kinds_tests;
