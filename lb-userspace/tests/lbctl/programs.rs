//! The program itself: exit codes, and what goes to which stream.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::samples;
use crate::socket::Daemon;

fn lbctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbctl"));
    command.args(arguments).env_remove("LBCTL_SOCKET").stdin(Stdio::null());
    command
}

fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    assert!(out.contains(stdout), "{stdout:?} is not in {out:?}");
    assert!(err.contains(stderr), "{stderr:?} is not in {err:?}");
}

/// Runs against a daemon with canned answers.
async fn asked(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = lbctl(arguments);
    command.env("LBCTL_SOCKET", daemon.socket());
    tokio::task::spawn_blocking(move || command.output().expect("it runs"))
        .await
        .expect("no panic")
}

#[test]
fn wrong_usage_is_2() {
    for (arguments, expected) in [
        (&[][..], "Usage"),
        (&["fly"], "unrecognized subcommand"),
        (&["apply"], "<FILE>"),
        (&["service"], "Usage"),
        (&["-o", "xml", "status"], "[possible values: table, json]"),
        (
            &["backend", "weight", "web", "web-1", "65536"],
            "65536 is not in 0..=65535",
        ),
        (
            &["lookup", "--service", "web", "--src", "1.2.3.4"],
            "invalid value '1.2.3.4' for '--src",
        ),
        (&["stats", "--watch=0"], "0 is not in 1..=3600"),
        (
            &["simulate", "--config", "a", "--in", "b", "--down", "web"],
            "expected SERVICE/BACKEND",
        ),
    ] {
        check(&lbctl(arguments).output().expect("it runs"), 2, "", expected);
    }
}

#[test]
fn help_version_and_completions_need_no_daemon() {
    check(
        &lbctl(&["--help"]).output().expect("it runs"),
        0,
        "Exit status: 0 done, 1 failed, 2 wrong usage.",
        "",
    );
    check(&lbctl(&["--version"]).output().expect("it runs"), 0, "lbctl ", "");
    for shell in ["bash", "zsh", "fish"] {
        check(
            &lbctl(&["completions", shell]).output().expect("it runs"),
            0,
            "lookup",
            "",
        );
    }
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let output = lbctl(&["--socket", "/nonexistent/lbd.sock", "status"])
        .output()
        .expect("it runs");
    check(
        &output,
        1,
        "",
        "error: no daemon answers on /nonexistent/lbd.sock: is lbd running? (lbd run --config FILE)",
    );
    assert!(output.stdout.is_empty());

    let output = lbctl(&["--socket", "/nonexistent/lbd.sock", "-o", "json", "status"])
        .output()
        .expect("it runs");
    check(&output, 1, "", "\"kind\": \"no_daemon\"");
    assert!(serde_json::from_slice::<serde_json::Value>(&output.stderr).is_ok());
}

#[test]
fn not_permitted_says_so() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can make a socket that the test itself may not open, and then become somebody else.
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let path = directory.path().join("lbd.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a free path");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    // Copied, since the build directory may not be open to others; by another process, since a program that another thread's
    // child still holds open for writing cannot be run.
    let program = directory.path().join("lbctl");
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_lbctl"))
        .arg(&program)
        .status();
    assert!(copied.expect("cp runs").success());
    let output = Command::new(program)
        .args(["status", "--socket"])
        .arg(&path)
        .uid(65_534)
        .gid(65_534)
        .output();
    check(
        &output.expect("it runs"),
        1,
        "",
        &format!("not permitted to open {}: run as root", path.display()),
    );
}

#[tokio::test]
async fn verbs_that_succeed_are_0() {
    let daemon = Daemon::with_samples();
    for (arguments, expected) in [
        (&["service", "list"][..], "web-v6"),
        (&["service", "show", "web"], "ring of 65,537 slots"),
        (&["backend", "drain", "web", "web-4"], "warning: Drain"),
        (&["backend", "enable", "web", "web-4"], "warning: Enable"),
        (&["backend", "disable", "web", "web-4"], "warning: Disable"),
        (
            &["backend", "weight", "web", "web-4", "50"],
            "warning: Weight { weight: 50, over_ms: None }",
        ),
        (&["backend", "reset", "web", "web-4"], "warning: Reset"),
        (&["stats"], "not_a_vip"),
        (
            &["lookup", "--service", "web", "--src", "198.51.100.7:40000"],
            "backend web-1 (10.0.0.11)",
        ),
    ] {
        check(&asked(&daemon, arguments).await, 0, expected, "");
    }
}

#[tokio::test]
async fn an_interface_without_the_program_makes_status_1() {
    let daemon = Daemon::with_samples();
    check(&asked(&daemon, &["status"]).await, 1, "edge-1  lbd 0.1.0", "");
}

#[tokio::test]
async fn json_is_the_answer_and_nothing_else() {
    let daemon = Daemon::with_samples();
    let output = asked(&daemon, &["-o", "json", "stats"]).await;
    check(&output, 0, "", "");
    let stats: lb_userspace::api::types::Stats = serde_json::from_slice(&output.stdout).expect("an object");
    assert_eq!(stats, samples::stats());
    let output = asked(&daemon, &["service", "show", "web", "--output", "json"]).await;
    let service: lb_userspace::api::types::ServiceDetail = serde_json::from_slice(&output.stdout).expect("an object");
    assert_eq!(service, samples::service());
}

#[tokio::test]
async fn unknown_names_are_1_and_near_ones_are_offered() {
    let daemon = Daemon::with_samples();
    let output = asked(&daemon, &["service", "show", "wbe"]).await;
    check(
        &output,
        1,
        "",
        "error: no service is named \"wbe\"\ndid you mean web?\n",
    );
    let output = asked(&daemon, &["backend", "drain", "web", "web-2"]).await;
    check(&output, 1, "", "did you mean web-1 or web-4?");
    let output = asked(&daemon, &["-o", "json", "service", "show", "wbe"]).await;
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("an object");
    assert_eq!(
        (&error["kind"], &error["suggestions"][0]),
        (&"not_found".into(), &"web".into())
    );
}

#[tokio::test]
async fn files_are_sent_with_their_full_name() {
    let daemon = Daemon::with_samples();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("edge.toml");
    std::fs::write(&file, "[node]\n").expect("writable");
    let name = |path: &Path| path.canonicalize().expect("it exists").display().to_string();

    let output = asked(&daemon, &["apply", &file.display().to_string()]).await;
    // It counts, but an interface lacks the program.
    check(
        &output,
        1,
        "configuration 8 is in force, after 12 ms",
        &format!("7 bytes of Some({:?})", name(&file)),
    );
    let output = asked(&daemon, &["plan", "-"]).await;
    check(
        &output,
        0,
        "~ backend web/web-3\n    weight: 50 → 100\n",
        "timeout and interval are equal",
    );
}

#[tokio::test]
async fn errors_in_a_file_are_shown_at_their_place() {
    let daemon = Daemon::with_samples();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("edge.toml");
    std::fs::write(&file, "# wrong\n\n\n\n\n\nvip       = \"192.0.2.300\"\n").expect("writable");
    let file = file.display().to_string();
    let output = asked(&daemon, &["plan", &file]).await;
    let expected = format!(
        "{file}:7:13: error: vip \"192.0.2.300\": not an IPv4 or IPv6 address\n    7 | vip       = \"192.0.2.300\"\n      |             ^\n"
    );
    check(&output, 1, "", &expected);
    let output = asked(&daemon, &["-o", "json", "plan", &file]).await;
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("an object");
    assert_eq!(
        (&error["kind"], &error["details"][0]["line"]),
        (&"invalid_config".into(), &7.into())
    );
}

#[test]
fn files_that_cannot_be_read_are_1() {
    let output = lbctl(&["check", "/nonexistent/edge.toml"]).output().expect("it runs");
    check(
        &output,
        1,
        "",
        "error: cannot read /nonexistent/edge.toml: No such file or directory",
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("edge.toml");
    std::fs::write(&file, b"ab\xff").expect("writable");
    let output = lbctl(&["apply", &file.display().to_string()])
        .output()
        .expect("it runs");
    check(&output, 1, "", "is not a text file: byte 2 is not UTF-8");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let daemon = Daemon::with_samples();
    let mut command = lbctl(&["stats"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command
        .env("LBCTL_SOCKET", daemon.socket())
        .stdout(writer)
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"))
        .await
        .expect("no panic");
    check(&output, 0, "", "");
    assert!(output.stderr.is_empty());
}
