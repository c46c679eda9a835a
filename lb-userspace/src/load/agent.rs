//! Asks backends how loaded they are: a TCP connection, one line, as HAProxy's agent checks do.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use crate::aside::Aside;
use crate::daemon::world::Agent;
use crate::health::TargetId;

/// The longest line that is read, in bytes.
const LONGEST: u64 = 1024;
/// An answer takes no longer than this.
const TIMEOUT: Duration = Duration::from_secs(2);

/// So many questions in a row without an answer are a silence.
const SILENCE: u32 = 3;

/// What a backend says of itself. What it does not speak of stays as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Percent of its weight, 0 ..= 100.
    pub percent: Option<u8>,
    /// A word on whether it serves.
    pub word: Option<Agent>,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// An answer.
    Says(Report),
    /// None, three times in a row; told of once.
    Silent {
        /// Who was asked.
        address: SocketAddr,
        /// What came instead.
        why: String,
    },
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose answer it is.
    pub id: TargetId,
    /// Where the agent listens.
    pub address: SocketAddr,
    /// How often it is asked.
    pub interval: Duration,
}

/// Reads a line: words between spaces and commas, a remark behind `#`. `None`: nothing in it is understood.
pub fn parse(line: &str) -> Option<Report> {
    let line = line.split('#').next().unwrap_or("");
    let mut report = Report::default();
    for word in line.split([' ', '\t', ',', '\r', '\n']).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "up" | "ready" => report.word = Some(Agent::Ready),
            "drain" => report.word = Some(Agent::Drain),
            "maint" => report.word = Some(Agent::Maintenance),
            "down" | "fail" | "failed" | "stopped" => report.word = Some(Agent::Down),
            other => {
                let number = other.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
                if let Some(percent) = number {
                    report.percent = Some(percent.min(100) as u8);
                }
            }
        }
    }
    (report != Report::default()).then_some(report)
}

/// Who gets the answers.
type Tell = Arc<dyn Fn(TargetId, Word) + Send + Sync>;

/// The thread that asks, until it is dropped.
pub struct Agents {
    thread: Aside,
    tasks: HashMap<TargetId, (Target, AbortHandle)>,
    tell: Tell,
}

impl Agents {
    /// Starts with nobody to ask. `tell` gets every answer that is understood, and silences, on the thread of the agents.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(tell: impl Fn(TargetId, Word) + Send + Sync + 'static) -> io::Result<Self> {
        Ok(Self {
            thread: Aside::start("agents")?,
            tasks: HashMap::new(),
            tell: Arc::new(tell),
        })
    }

    /// Replaces those who are asked.
    pub fn set(&mut self, targets: Vec<Target>) {
        let mut left = std::mem::take(&mut self.tasks);
        for target in targets {
            let task = match left.remove(&target.id) {
                Some((before, task)) if before == target => task,
                other => {
                    if let Some((_, task)) = other {
                        task.abort();
                    }
                    let tell = Arc::clone(&self.tell);
                    let runtime = self.thread.runtime();
                    runtime.spawn(ask_again_and_again(target.clone(), tell)).abort_handle()
                }
            };
            self.tasks.insert(target.id.clone(), (target, task));
        }
        left.values().for_each(|(_, task)| task.abort());
    }
}

async fn ask_again_and_again(target: Target, tell: Tell) {
    let Target { id, address, interval } = target;
    // Not all at once.
    tokio::time::sleep(interval.min(TIMEOUT).mul_f64(fastrand::f64())).await;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut missed = 0_u32;
    loop {
        ticks.tick().await;
        let answer = tokio::time::timeout(TIMEOUT, ask(address)).await;
        let why = match answer {
            Ok(Ok(line)) => match parse(&line) {
                Some(answer) => {
                    missed = 0;
                    debug!(service = %id.service, backend = %id.backend, ?answer, "agent");
                    tell(id.clone(), Word::Says(answer));
                    continue;
                }
                None => format!("{:?} is not understood", line.chars().take(60).collect::<String>()),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {TIMEOUT:?}"),
        };
        // Its last word stays: whether it serves is for its checks to say.
        missed = missed.saturating_add(1);
        if missed == 1 {
            warn!(service = %id.service, backend = %id.backend, %address, "the agent does not answer: {why}");
        }
        if missed == SILENCE {
            tell(id.clone(), Word::Silent { address, why });
        }
    }
}

async fn ask(address: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line).await?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_haproxys_agents_write_them() {
        let report = |percent, word| Some(Report { percent, word });
        for (line, expected) in [
            ("75%\n", report(Some(75), None)),
            ("up 50%\r\n", report(Some(50), Some(Agent::Ready))),
            ("ready,100%", report(Some(100), Some(Agent::Ready))),
            ("drain\n", report(None, Some(Agent::Drain))),
            ("MAINT", report(None, Some(Agent::Maintenance))),
            ("down # disk full, 3%", report(None, Some(Agent::Down))),
            ("stopped", report(None, Some(Agent::Down))),
            ("fail\tmaxconn:30", report(None, Some(Agent::Down))),
            ("250%", report(Some(100), None)),
            ("0%", report(Some(0), None)),
            ("", None),
            ("hello", None),
            ("-5%", None),
            ("99999999999%", None),
        ] {
            assert_eq!(parse(line), expected, "{line:?}");
        }
    }
}
