//! Probes that are programs.

use std::path::PathBuf;

use super::kinds_tests::{AMPLE, ask, expect};
use super::*;
use crate::model::Exec;
use crate::oom_score::OtherScore;
use crate::run_as::NamedUser;

fn script(text: &str) -> Check {
    Check::Exec(Exec {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), text.into()],
        run_as: None,
    })
}

#[tokio::test]
async fn exec_judges_by_the_exit_code() {
    let to = "192.0.2.9:8080".parse().unwrap();
    let about = "echo $EDGELB_SERVICE $EDGELB_BACKEND $EDGELB_ADDRESS $EDGELB_PORT; env | wc -l";
    expect(
        ask(to, script(about), AMPLE).await,
        Outcome::Passed,
        "exit code 0: web web-1 192.0.2.9 8080",
    );
    expect(
        ask(to, script("echo no good >&2; exit 7"), AMPLE).await,
        Outcome::Failed,
        "exit code 7: no good",
    );
    expect(ask(to, script("kill -9 $$"), AMPLE).await, Outcome::Failed, "signal 9");
    // More than is kept, and the program need not wait for it to be read.
    expect(
        ask(to, script("yes line | head -c 1000000"), AMPLE).await,
        Outcome::Passed,
        "exit code 0: line",
    );
    let missing = Check::Exec(Exec {
        program: "/nowhere/probe".into(),
        args: Vec::new(),
        run_as: None,
    });
    expect(ask(to, missing, AMPLE).await, Outcome::Skipped, "cannot be started");
    let unknown = Check::Exec(Exec {
        program: "/bin/true".into(),
        args: Vec::new(),
        run_as: Some(NamedUser::look_up("no-such-user")),
    });
    let said = "/bin/true cannot be started: user \"no-such-user\" is unknown";
    expect(ask(to, unknown, AMPLE).await, Outcome::Skipped, said);
}

#[tokio::test]
async fn exec_runs_as_its_user_and_is_killed_all_the_same() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: only root runs programs as others");
        return;
    }
    let as_nobody = |text: &str| {
        let Check::Exec(exec) = script(text) else {
            unreachable!()
        };
        Check::Exec(Exec {
            run_as: Some(NamedUser::look_up("nobody")),
            ..exec
        })
    };
    let to = "192.0.2.9:8080".parse().unwrap();
    let about = "echo $(id -un) $(grep CapEff /proc/self/status | cut -f2) $HOME $EDGELB_PORT";
    expect(
        ask(to, as_nobody(about), AMPLE).await,
        Outcome::Passed,
        "exit code 0: nobody 0000000000000000 /nonexistent 8080",
    );
    expect(
        ask(to, as_nobody("sleep 300"), Duration::from_millis(800)).await,
        Outcome::Failed,
        "no end of the program within 800ms",
    );
}

#[tokio::test]
async fn exec_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("child");
    let text = format!("sleep 300 & echo $! > {}; sleep 300", file.display());
    let to = "192.0.2.9:80".parse().unwrap();
    expect(
        ask(to, script(&text), Duration::from_millis(800)).await,
        Outcome::Failed,
        "no end of the program within 800ms",
    );
    let child = std::fs::read_to_string(&file).unwrap();
    let status = PathBuf::from(format!("/proc/{}/stat", child.trim()));
    let gone = || std::fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "));
    let end = Instant::now() + AMPLE;
    while !gone() {
        assert!(Instant::now() < end, "the child lives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn exec_is_killed_before_the_daemon_when_memory_runs_out() {
    let _score = OtherScore::set();
    let check = script("echo score $(cat /proc/self/oom_score_adj)");
    let to = "192.0.2.9:8080".parse().unwrap();
    expect(ask(to, check, AMPLE).await, Outcome::Passed, "exit code 0: score 0");
}
