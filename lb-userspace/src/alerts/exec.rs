//! An alert as a program that is run.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Failure;
use crate::api::events::Event;
use crate::group::Group;
use crate::systemd;

/// Runs it with the event as one line of JSON on its standard input; done when it exits with 0. Dropped before it has ended, it is killed
/// with all that it has started.
pub(super) async fn run(command: &[String], event: &Event) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else {
        return Err(Failure::Never("no program".to_owned()));
    };
    let mut line = serde_json::to_vec(event).map_err(|error| Failure::Never(error.to_string()))?;
    line.push(b'\n');
    let child = Command::new(program)
        .args(arguments)
        .env_remove(systemd::NOTIFY_SOCKET)
        .env_remove(systemd::WATCHDOG_USEC)
        .env_remove(systemd::WATCHDOG_PID)
        .env("EDGELB_KIND", event.kind.name())
        .env("EDGELB_SEVERITY", event.severity.name())
        .env("EDGELB_SUBJECT", event.subject())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| Failure::Later(format!("{program}: {error}")))?;
    let group = Group::of(&child);
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read is none the worse for it.
        let _ = stdin.write_all(&line).await;
    }
    let status = child.wait().await;
    group.spare();
    let status = status.map_err(|error| Failure::Later(format!("{program}: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Later(format!("{program}: {status}")))
    }
}
