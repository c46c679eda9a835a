//! An alert as a program that is run.

use std::fmt;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Failure;
use super::queue::Message;
use crate::group::Group;
use crate::oom_score;
use crate::run_as::NamedUser;
use crate::systemd;

/// Runs it with the message as one line of JSON on its standard input; done when it exits with 0. Dropped before it has ended, it is killed
/// with all that it has started.
pub(super) async fn run(command: &[String], run_as: Option<&NamedUser>, message: &Message) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else {
        return Err(Failure::Never("no program".to_owned()));
    };
    let mut line = serde_json::to_vec(&message.body()).map_err(|error| Failure::Never(error.to_string()))?;
    line.push(b'\n');
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_remove(systemd::NOTIFY_SOCKET)
        .env_remove(systemd::WATCHDOG_USEC)
        .env_remove(systemd::WATCHDOG_PID)
        .env("EDGELB_KIND", message.first().kind.name())
        .env("EDGELB_SEVERITY", message.first().severity.name())
        .env("EDGELB_SUBJECT", message.first().subject())
        .env("EDGELB_COUNT", message.count.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    oom_score::reset(command.as_std_mut());
    if let Some(user) = run_as {
        let found = user.run_as().await;
        let found = found.map_err(|error| Failure::Later(cannot_start(program, run_as, &error)))?;
        found.apply(command.as_std_mut());
    }
    let mut child = command
        .spawn()
        .map_err(|error| Failure::Later(cannot_start(program, run_as, &error)))?;
    let group = Group::of(&child);
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(&line).await;
        }
    };
    // A program that does not read is none the worse for it: more than a pipe holds is not waited for.
    let status = {
        let end = child.wait();
        let (mut feed, mut end) = (std::pin::pin!(feed), std::pin::pin!(end));
        tokio::select! {
            status = &mut end => status,
            () = &mut feed => end.await,
        }
    };
    group.spare();
    let status = status.map_err(|error| Failure::Later(format!("{program}: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Untaken(format!("{program}: {status}")))
    }
}

fn cannot_start(program: &str, run_as: Option<&NamedUser>, error: &dyn fmt::Display) -> String {
    match run_as {
        None => format!("{program}: {error}"),
        Some(run_as) => format!("{program} as user {:?}: {error}", run_as.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::Queue;
    use super::super::tests::event;
    use super::*;
    use crate::oom_score::OtherScore;

    #[tokio::test]
    async fn it_is_killed_before_the_daemon_when_memory_runs_out() {
        let _score = OtherScore::set();
        let mut queue = Queue::default();
        queue.push(&event(1));
        let message = queue.pop().expect("it waits");
        let command = ["/bin/sh", "-c", "test $(cat /proc/self/oom_score_adj) = 0"].map(str::to_owned);
        run(&command, None, &message).await.expect("the default score");
    }
}
