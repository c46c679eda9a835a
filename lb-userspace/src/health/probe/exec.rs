//! `exec`: a program decides: exit code 0 is a pass, anything else a failure.
//!
//! Never through a shell. It gets nothing on its input, and in its environment `PATH` and what the probe is about. Its output is read to its
//! end, but only the beginning is kept, whose first line is shown. When its time is over, its whole process group is killed.

use std::collections::HashMap;
use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::{Answer, Deadline, Fault, Job};
use crate::group::Group;
use crate::model::Exec;
use crate::oom_score;
use crate::run_as::RunAs;

/// Programs of one service at once; more wait their turn. One whose programs hang holds no other up.
const MOST_OF_A_SERVICE: usize = 32;
/// Programs at once in all.
const MOST_AT_ONCE: usize = 256;
/// Bytes of output that are kept.
const MOST_OUTPUT: usize = 4 * 1024;
/// Characters of its first line that are shown.
const MOST_SHOWN: usize = 120;

static TURNS: Semaphore = Semaphore::const_new(MOST_AT_ONCE);
static TURNS_OF: LazyLock<Mutex<HashMap<Arc<str>, Arc<Semaphore>>>> = LazyLock::new(Mutex::default);

/// The turns of a service's programs.
fn turns_of(service: &Arc<str>) -> Arc<Semaphore> {
    let mut all = TURNS_OF.lock().unwrap_or_else(PoisonError::into_inner);
    // Those that nobody runs in, nor waits for, are made again when they are wanted.
    all.retain(|_, turns| Arc::strong_count(turns) > 1);
    let turns = all.entry(Arc::clone(service));
    Arc::clone(turns.or_insert_with(|| Arc::new(Semaphore::new(MOST_OF_A_SERVICE))))
}

pub(super) async fn probe(job: &Job, exec: &Exec, deadline: Deadline) -> Result<Answer, Fault> {
    let busy = |most: usize, whose: &str| Fault::Own(format!("{most} programs{whose} run already").into());
    let turns = job.subject.as_ref().map(|subject| turns_of(&subject.service));
    let _turn_of = match &turns {
        Some(turns) => {
            let turn = deadline.wait("turn", turns.acquire()).await.ok().and_then(Result::ok);
            Some(turn.ok_or_else(|| busy(MOST_OF_A_SERVICE, " of this service"))?)
        }
        None => None,
    };
    let turn = deadline.wait("turn", TURNS.acquire()).await.ok().and_then(Result::ok);
    let _turn = turn.ok_or_else(|| busy(MOST_AT_ONCE, ""))?;
    // It has its whole time, however long it waited.
    let deadline = Deadline {
        at: Instant::now() + deadline.timeout,
        ..deadline
    };
    let run_as = match &exec.run_as {
        Some(user) => {
            let found = deadline.wait("user", user.run_as()).await;
            let found = found.map_err(|_| cannot_start(exec, &"its user could not be looked up in time"))?;
            Some(found.map_err(|error| cannot_start(exec, &error))?)
        }
        None => None,
    };
    let mut child = start(job, exec, run_as.as_ref())?;
    let _group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let run = async {
        let (out, errors) = tokio::join!(read(stdout), read(stderr));
        (if out.is_empty() { errors } else { out }, child.wait().await)
    };
    let (output, status) = deadline.wait("end of the program", run).await?;
    let status = status.map_err(|error| Fault::Own(format!("the program's end is not known: {error}").into()))?;
    judge(status, &first_line(&output))
}

fn start(job: &Job, exec: &Exec, run_as: Option<&RunAs>) -> Result<Child, Fault> {
    let mut command = Command::new(&exec.program);
    command
        .args(&exec.args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("EDGELB_ADDRESS", job.to.ip().to_string())
        .env("EDGELB_PORT", job.to.port().to_string())
        .env("EDGELB_TIMEOUT_MS", job.timeout.as_millis().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(subject) = &job.subject {
        command
            .env("EDGELB_SERVICE", &*subject.service)
            .env("EDGELB_BACKEND", &*subject.backend);
    }
    oom_score::reset(command.as_std_mut());
    if let Some(user) = run_as {
        user.apply(command.as_std_mut());
    }
    // SAFETY: between fork and exec the closure makes one system call; it allocates nothing and takes no lock.
    unsafe {
        // With the daemon its programs end, however it ends. After the user: the kernel forgets this when the user changes.
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command.spawn().map_err(|error| cannot_start(exec, &error))
}

fn cannot_start(exec: &Exec, error: &dyn fmt::Display) -> Fault {
    let program = exec.program.display();
    Fault::Own(format!("{program} cannot be started: {error}").to_lowercase().into())
}

/// The beginning of what comes; the rest is read and dropped, so that the program need not wait.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut buffer = [0; 4_096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = MOST_OUTPUT - kept.len();
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    kept
}

fn first_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    let shown: String = line
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(MOST_SHOWN)
        .collect();
    if shown.is_empty() { shown } else { format!(": {shown}") }
}

fn judge(status: ExitStatus, said: &str) -> Result<Answer, Fault> {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Answer::now(format!("exit code 0{said}"))),
        (Some(code), _) => Err(Fault::backend(format!("exit code {code}{said}"))),
        (None, Some(signal)) => Err(Fault::backend(format!("ended by signal {signal}{said}"))),
        (None, None) => Err(Fault::backend(format!("ended without an exit code{said}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{LastProbe, Outcome, run};
    use super::*;
    use crate::health::{TargetId, Via};
    use crate::model::Check;

    fn job(service: &str, script: &str, timeout: Duration) -> Job {
        Job {
            to: ([127, 0, 0, 1], 80).into(),
            via: Via::Direct,
            check: Check::Exec(Exec {
                program: "/bin/sh".into(),
                args: vec!["-c".into(), script.into()],
                run_as: None,
            }),
            timeout,
            subject: Some(TargetId::new(service, "web-1")),
            own: None,
            excuse_stall: false,
            padding: None,
        }
    }

    #[track_caller]
    fn expect(probe: &LastProbe, outcome: Outcome) {
        assert_eq!(probe.outcome, outcome, "{}", probe.text);
    }

    #[tokio::test]
    async fn a_program_that_waited_has_its_whole_time() {
        let turns = turns_of(&"busy".into());
        let all = turns.acquire_many(MOST_OF_A_SERVICE as u32).await.expect("open");
        let probe = tokio::spawn(run(job("busy", "sleep 1", Duration::from_secs(3))));
        tokio::time::sleep(Duration::from_millis(2_400)).await;
        drop(all);
        expect(&probe.await.expect("no panic"), Outcome::Passed);
    }

    #[tokio::test]
    async fn a_service_whose_programs_hang_holds_no_other_up_and_nobody_is_blamed_for_it() {
        let turns = turns_of(&"hangs".into());
        let _all = turns.acquire_many(MOST_OF_A_SERVICE as u32).await.expect("open");
        let probe = run(job("hangs", "exit 0", Duration::from_millis(200))).await;
        expect(&probe, Outcome::Skipped);
        assert!(
            probe.text.contains("32 programs of this service run already"),
            "{}",
            probe.text
        );
        expect(
            &run(job("well", "exit 0", Duration::from_secs(20))).await,
            Outcome::Passed,
        );
    }
}
