//! Server and client over a real socket, with canned answers behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lb_userspace::api::MAX_REQUEST;
use lb_userspace::api::call::Call;
use lb_userspace::api::client::{Client, ClientError};
use lb_userspace::api::error::{ApiError, ErrorKind};
use lb_userspace::api::events::{EventQuery, Events};
use lb_userspace::api::report::{BackendAction, Confirmed};
use lb_userspace::api::server::{Timeouts, serve};
use lb_userspace::api::socket::bind;
use lb_userspace::policy::Confirm;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::samples;

pub(crate) const TIMEOUTS: Timeouts = Timeouts {
    read: Duration::from_millis(200),
    change: Duration::from_millis(200),
    request: Duration::from_millis(500),
    head: Duration::from_secs(1),
    stall: Duration::from_secs(1),
    room: Duration::from_secs(1),
};

/// A server with a loop behind it, for as long as a test lasts.
pub(crate) struct Daemon {
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Daemon {
    /// Answers from the samples, as a loop with the services `web` and `dns` would.
    pub(crate) fn with_samples() -> Self {
        Self::start(|call| {
            answer(call);
            true
        })
    }

    /// `answer` is given every call, until it returns false.
    fn start(answer: impl FnMut(Call) -> bool + Send + 'static) -> Self {
        Self::start_with(TIMEOUTS, answer)
    }

    pub(crate) fn start_with(timeouts: Timeouts, mut answer: impl FnMut(Call) -> bool + Send + 'static) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let bound = bind(&directory.path().join("lbd.sock")).expect("a free path");
        let (sender, mut calls) = mpsc::channel(16);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(bound, sender, timeouts, async {
            let _ = stopped.await;
        }));
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                if !answer(call) {
                    break;
                }
            }
        });
        Self {
            directory,
            stop: Some(stop),
            server,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("lbd.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// Sends bytes and reads all that comes back.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.expect("the server listens");
        stream.write_all(request).await.expect("it reads");
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer));
        read.await.expect("it answers in time").expect("it answers");
        answer
    }
}

pub(crate) fn answer(call: Call) {
    match call {
        Call::Status(answer) => answer.send(Ok(samples::status())),
        Call::Services(answer) => answer.send(Ok(samples::services())),
        Call::Service { name, answer } if name == "web" => answer.send(Ok(samples::service())),
        Call::Service { name, answer } => answer.send(Err(ApiError::unknown_service(&name, ["web", "dns"]))),
        Call::Stats(answer) => answer.send(Ok(samples::stats())),
        Call::Reload(answer) => answer.send(Ok(samples::apply())),
        Call::Lookup {
            service,
            source,
            answer,
        } => {
            let mut lookup = samples::lookup();
            (lookup.service, lookup.source) = (service, source);
            answer.send(Ok(lookup));
        }
        Call::Events { query, answer } => {
            let mut events = samples::events();
            // Says back what it was asked.
            events[0].why = serde_json::to_string(&query).expect("plain data");
            answer.send(Ok(Events(events.into_iter().map(Arc::new).collect())));
        }
        Call::Plan { toml, answer, .. } if toml.contains("wrong") => {
            answer.send(Err(ApiError::invalid_config("edge.toml", samples::check().errors)));
        }
        Call::Plan { answer, .. } => answer.send(Ok(samples::plan())),
        Call::Apply { toml, file, answer } => {
            let mut report = samples::apply();
            // Says back what it was given.
            report.plan.warnings[0].message = format!("{} bytes of {file:?}", toml.len());
            answer.send(Ok(report));
        }
        Call::Confirm {
            service,
            backend,
            what,
            answer,
        } => answer.send(Ok(Confirmed {
            service,
            backends: backend.into_iter().collect(),
            warnings: vec![format!("{what:?}")],
        })),
        Call::Backend {
            service,
            backend,
            action,
            answer,
        } if backend == "web-4" => {
            let mut changed = samples::backend_changed();
            changed.service = service;
            changed.warnings = vec![format!("{action:?}")];
            answer.send(Ok(changed));
        }
        Call::Backend {
            service,
            backend,
            answer,
            ..
        } => {
            answer.send(Err(ApiError::unknown_backend(&service, &backend, ["web-1", "web-4"])));
        }
    }
}

#[tokio::test]
async fn every_request_reaches_the_loop_and_comes_back() {
    let daemon = Daemon::with_samples();
    let client = daemon.client();
    assert_eq!(client.status().await.expect("answered"), samples::status());
    assert_eq!(client.services().await.expect("answered"), samples::services());
    assert_eq!(client.service("web").await.expect("answered"), samples::service());
    assert_eq!(client.stats().await.expect("answered"), samples::stats());
    assert_eq!(
        client.plan("x".to_owned(), None).await.expect("answered"),
        samples::plan()
    );

    let source = "[2001:db8::7]:40000".parse().expect("an address");
    let lookup = client.lookup("a b/c?d&e=ü", source).await.expect("answered");
    assert_eq!((lookup.service.as_str(), lookup.source), ("a b/c?d&e=ü", source));

    let query = EventQuery {
        after: Some(7),
        since_unix_ms: Some(8),
        service: Some("a b&c".to_owned()),
        limit: Some(9),
    };
    let events = client.events(&query).await.expect("answered");
    assert_eq!(events[0].why, serde_json::to_string(&query).expect("plain data"));

    let report = client
        .apply("12345".to_owned(), Some("/etc/a b&c.toml"))
        .await
        .expect("answered");
    assert_eq!(report.plan.warnings[0].message, "5 bytes of Some(\"/etc/a b&c.toml\")");

    for action in [
        BackendAction::Drain { timeout_ms: None },
        BackendAction::Drain { timeout_ms: Some(7) },
        BackendAction::Enable,
        BackendAction::Disable,
        BackendAction::Reset,
        BackendAction::Weight {
            weight: 50,
            over_ms: None,
        },
        BackendAction::Weight {
            weight: 50,
            over_ms: Some(60_000),
        },
    ] {
        let changed = client.backend("web", "web-4", action).await.expect("answered");
        assert_eq!(changed.warnings, [format!("{action:?}")]);
    }
    for (what, backend) in [(Confirm::Failover, None), (Confirm::Failback, Some("a b"))] {
        let done = client.confirm("we b", backend, what).await.expect("answered");
        assert_eq!(
            (done.service.as_str(), done.backends.first().map(String::as_str)),
            ("we b", backend)
        );
        assert_eq!(done.warnings, [format!("{what:?}")]);
    }
}

#[tokio::test]
async fn the_loops_errors_come_back_whole() {
    let daemon = Daemon::with_samples();
    let client = daemon.client();
    let error = |result: Result<(), ClientError>| match result {
        Err(ClientError::Api(error)) => error,
        other => panic!("not an error of the daemon: {other:?}"),
    };
    let unknown = error(client.service("wbe").await.map(drop));
    assert_eq!(
        (unknown.kind, unknown.suggestions.as_slice()),
        (ErrorKind::NotFound, ["web".to_owned()].as_slice())
    );
    let unknown = error(
        client
            .backend("web", "web-3", BackendAction::Drain { timeout_ms: None })
            .await
            .map(drop),
    );
    assert_eq!(unknown.suggestions, ["web-1", "web-4"]);
    let invalid = error(client.plan("wrong".to_owned(), None).await.map(drop));
    assert_eq!(
        (invalid.kind, invalid.details),
        (ErrorKind::InvalidConfig, samples::check().errors)
    );
}

#[tokio::test]
async fn wrong_requests_are_named() {
    let daemon = Daemon::with_samples();
    let check = async |request: &str, body: &str, status: &str, expected: &str| {
        let length = body.len();
        let request =
            format!("{request} HTTP/1.1\r\nhost: lbd\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        let answer = daemon.raw(request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        assert!(head.contains("application/json"), "{request}: {head}");
        let error: ApiError = serde_json::from_str(body).expect("an error of the API");
        assert!(error.message.contains(expected), "{request}: {error}");
    };
    check("GET /v2/status", "", "404", "there is no /v2/status").await;
    check("DELETE /v1/status", "", "405", "/v1/status does not answer to DELETE").await;
    check("GET /v1/services/%ff", "", "400", "UTF-8").await;
    check("GET /v1/services/web/lookup", "", "400", "source").await;
    check(
        "GET /v1/services/web/lookup?source=1.2.3.4",
        "",
        "400",
        "source \"1.2.3.4\" is not an address with a port",
    )
    .await;
    check("POST /v1/services/web/backends/web-1", "", "400", "the body must be").await;
    check(
        "POST /v1/services/web/backends/web-1",
        r#"{"action":"weight"}"#,
        "400",
        "missing field `weight`",
    )
    .await;
    check(
        "POST /v1/services/web/backends/web-1",
        r#"{"action":"weight","weight":-1}"#,
        "400",
        "invalid value",
    )
    .await;
    check(
        "POST /v1/services/web/backends/web-1",
        r#"{"action":"weight","weight":1,"by":1}"#,
        "400",
        "unknown field `by`",
    )
    .await;
}

#[tokio::test]
async fn a_configuration_that_is_not_text_or_too_long() {
    let daemon = Daemon::with_samples();
    let head = "POST /v1/apply HTTP/1.1\r\nhost: lbd\r\nconnection: close\r\ncontent-length: 3\r\n\r\n";
    let answer = daemon.raw(&[head.as_bytes(), b"a\xff\xff"].concat()).await;
    assert!(answer.contains("byte 1 is not part of a character"), "{answer}");

    let report = daemon
        .client()
        .apply("#".repeat(MAX_REQUEST), None)
        .await
        .expect("the longest that is taken");
    assert!(
        report.plan.warnings[0]
            .message
            .starts_with(&format!("{MAX_REQUEST} bytes"))
    );
    match daemon.client().apply("#".repeat(MAX_REQUEST + 1), None).await {
        Err(ClientError::Api(error)) => assert_eq!(error.kind, ErrorKind::TooLarge),
        other => panic!("it was taken: {other:?}"),
    }
}

#[tokio::test]
async fn a_loop_that_is_stuck_or_gone() {
    let mut held = Vec::new();
    let stuck = Daemon::start(move |call| {
        held.push(call);
        true
    });
    let kind = |result: Result<_, ClientError>| match result {
        Err(ClientError::Api(error)) => error.kind,
        other => panic!("not an error of the daemon: {other:?}"),
    };
    assert_eq!(kind(stuck.client().status().await.map(drop)), ErrorKind::Timeout);

    let drops_the_answer = Daemon::start(|_call| true);
    assert_eq!(
        kind(drops_the_answer.client().status().await.map(drop)),
        ErrorKind::Unavailable
    );

    let gone = Daemon::start(|_call| false);
    assert_eq!(kind(gone.client().status().await.map(drop)), ErrorKind::Unavailable);
    assert_eq!(kind(gone.client().status().await.map(drop)), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_client_that_stops_in_its_body_is_not_waited_for() {
    let daemon = Daemon::with_samples();
    let answer = daemon
        .raw(b"POST /v1/apply HTTP/1.1\r\nhost: lbd\r\ncontent-length: 100\r\n\r\nhalf")
        .await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

#[tokio::test]
async fn a_server_that_is_stopped_removes_its_socket_and_does_not_wait_for_ever() {
    let mut daemon = Daemon::with_samples();
    // Idle, and in the middle of a request.
    let _idle = UnixStream::connect(daemon.socket()).await.expect("the server listens");
    let mut half = UnixStream::connect(daemon.socket()).await.expect("the server listens");
    half.write_all(b"POST /v1/apply HTTP/1.1\r\nhost: lbd\r\ncontent-length: 100\r\n\r\nhalf")
        .await
        .expect("it reads");
    drop(daemon.stop.take());
    let ended = tokio::time::timeout(Duration::from_secs(5), &mut daemon.server).await;
    ended.expect("within its grace").expect("no panic").expect("no error");
    assert!(!daemon.socket().exists());
    assert!(matches!(daemon.client().status().await, Err(ClientError::NoDaemon(_))));
}

/// Reads a request's beginning, answers with `answer` and closes.
async fn impostor(answer: &'static [u8]) -> (TempDir, Client) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lbd.sock");
    let listener = UnixListener::bind(&path).expect("a free path");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        }
    });
    (directory, Client::new(path))
}

#[tokio::test]
async fn answers_that_are_none() {
    let check = async |answer: &'static [u8], expected: &str| {
        let (_directory, client) = impostor(answer).await;
        let error = client.status().await.expect_err("not an answer").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(b"", "closed the connection before it had answered").await;
    check(
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"node\":",
        "closed the connection before it had answered",
    )
    .await;
    check(b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak as lbd").await;
    check(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "missing field `node`",
    )
    .await;
    check(
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\xff\xfe\xfd",
        "does not speak as lbd",
    )
    .await;
    check(b"HTTP/1.1 502 Bad\r\ncontent-length: 4\r\n\r\noops", "status 502").await;
}

#[tokio::test]
async fn silence_is_not_listened_to_for_ever() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lbd.sock");
    let _listener = UnixListener::bind(&path).expect("a free path");
    let client = Client::new(&path).with_timeout(Duration::from_millis(50));
    let error = client.status().await.expect_err("nobody answers");
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_socket_left_behind_is_no_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lbd.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
    let error = Client::new(&path).status().await.expect_err("nobody listens");
    assert!(matches!(error, ClientError::NoDaemon(_)), "{error}");
}
