//! Probes against real servers on loopback.

use std::net::Ipv6Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::model::Http;

/// For servers that answer: nothing waits for its end.
const AMPLE: Duration = Duration::from_secs(20);
/// For servers that do not.
const SHORT: Duration = Duration::from_millis(60);

fn http() -> Check {
    Check::Http(Http::get("/healthz?deep=1"))
}

async fn ask(address: SocketAddr, check: Check, timeout: Duration) -> (Outcome, String) {
    let result = run(Job {
        to: address,
        via: Via::Direct,
        check,
        timeout,
        subject: None,
        own: None,
        excuse_stall: false,
        padding: None,
    });
    let result = result.await;
    (result.outcome, result.text.to_string())
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
    String::from_utf8(request).unwrap()
}

/// Asks a server that reads the request, sends `answer` and closes.
async fn ask_server_that_says(answer: Vec<u8>) -> (Outcome, String) {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        // The probe may well close before all is sent.
        let _ = stream.write_all(&answer).await;
    });
    let result = ask(address, http(), AMPLE).await;
    server.await.unwrap();
    result
}

#[tokio::test]
async fn answers_are_judged_by_their_status() {
    use Outcome::{Failed, Passed};
    let head = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").into_bytes();
    let long_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(40_000)).into_bytes();
    let long_body = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'z'; 5_000_000]].concat();
    for (answer, outcome, text) in [
        (head("200 OK"), Passed, "status 200"),
        (head("204 No Content"), Passed, "status 204"),
        (head("302 Found"), Passed, "status 302"),
        (head("399 Odd"), Passed, "status 399"),
        (head("400 Bad Request"), Failed, "status 400 (expected 200 to 399)"),
        (head("404 Not Found"), Failed, "status 404 (expected 200 to 399)"),
        (head("500 Broken"), Failed, "status 500 (expected 200 to 399)"),
        (
            head("101 Switching Protocols"),
            Failed,
            "status 101 (expected 200 to 399)",
        ),
        (b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), Passed, "status 200"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".to_vec(),
            Passed,
            "status 200",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort".to_vec(),
            Passed,
            "status 200",
        ),
        (long_body, Passed, "status 200"),
        (long_head, Failed, "not HTTP: head larger than 16384 bytes"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec(), Failed, "not HTTP: "),
        (vec![0xff; 64], Failed, "not HTTP: "),
        (
            b"HTTP/1.1 200 OK\r\nX-Half: ".to_vec(),
            Failed,
            "closed without a whole answer",
        ),
        (b"HTTP/1.1 2".to_vec(), Failed, "closed without a whole answer"),
        (Vec::new(), Failed, "closed without a whole answer"),
    ] {
        let said = String::from_utf8_lossy(&answer[..answer.len().min(40)]).into_owned();
        let (got, reason) = ask_server_that_says(answer).await;
        assert_eq!(got, outcome, "{said:?}: {reason}");
        let as_expected = if text.ends_with(' ') {
            reason.starts_with(text)
        } else {
            reason == text
        };
        assert!(as_expected, "{said:?}: {reason:?}, expected {text:?}");
        assert!(reason.len() < 80, "{reason:?} is too long");
    }
}

#[tokio::test]
async fn the_request() {
    let (listener, address) = listen().await;
    let host = "www.example";
    for (check, expected_host) in [
        (http(), address.to_string()),
        (
            Check::Http(Http {
                host: Some(host.into()),
                ..Http::get("/healthz?deep=1")
            }),
            host.to_owned(),
        ),
    ] {
        let probe = tokio::spawn(ask(address, check, AMPLE));
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await.to_lowercase();
        assert!(request.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{request}");
        for line in [
            format!("host: {expected_host}"),
            "connection: close".into(),
            "user-agent: edgelb".into(),
        ] {
            assert!(request.contains(&format!("\r\n{line}\r\n")), "{line:?} in {request}");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        drop(stream);
        assert_eq!(probe.await.unwrap().0, Outcome::Passed);
    }
}

#[tokio::test]
async fn refused() {
    let (listener, address) = listen().await;
    drop(listener);
    for check in [Check::Tcp, http()] {
        assert_eq!(
            ask(address, check, AMPLE).await,
            (Outcome::Failed, "connection refused".into())
        );
    }
}

#[tokio::test]
async fn both_families() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(
        ask(address, Check::Tcp, AMPLE).await,
        (Outcome::Passed, "connected".into())
    );
}

/// A full backlog drops every SYN, which is what a host that has gone silent looks like.
#[tokio::test]
async fn silent_host() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        held.push(stream.unwrap());
        assert!(held.len() < 10, "the backlog never fills");
    }
    for check in [Check::Tcp, http()] {
        let expected = (Outcome::Failed, "no connection within 60ms".to_owned());
        assert_eq!(ask(address, check, SHORT).await, expected);
    }
    let (answers, closed) = (listen().await, listen().await.1);
    for (own, words) in [
        (answers.1, "its own address answers: VIP missing, or filtered"),
        (closed, "its own address: connection refused"),
        (address, "its own address is silent, too"),
    ] {
        let result = run(Job {
            to: address,
            via: Via::Direct,
            check: Check::Tcp,
            timeout: SHORT,
            subject: None,
            own: Some(own),
            excuse_stall: false,
            padding: None,
        });
        assert_eq!(&*result.await.text, format!("no connection within 60ms; {words}"));
    }
}

#[tokio::test]
async fn silent_and_slow_servers() {
    // Nobody accepts: the kernel does, and nothing ever answers.
    let (_listener, address) = listen().await;
    let expected = (Outcome::Failed, "no HTTP answer within 60ms".to_owned());
    assert_eq!(ask(address, http(), SHORT).await, expected);
    assert_eq!(
        ask(address, Check::Tcp, AMPLE).await.0,
        Outcome::Passed,
        "it is for http to find"
    );

    // A byte now and then does not count as an answer.
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for byte in b"HTTP/1.1 200 OK\r\n\r\n".iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(SHORT / 4).await;
        }
    });
    assert_eq!(ask(address, http(), SHORT).await, expected);
    // That it ends shows that the probe's connection is gone.
    server.await.unwrap();
}

/// A body that never ends delays the result to the timeout at most, and does not change it.
#[tokio::test]
async fn endless_body() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1")
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let timeout = Duration::from_millis(500);
    let result = run(Job {
        to: address,
        via: Via::Direct,
        check: http(),
        timeout,
        subject: None,
        own: None,
        excuse_stall: false,
        padding: None,
    });
    let result = result.await;
    assert_eq!((result.outcome, &*result.text), (Outcome::Passed, "status 200"));
    assert!(result.took < timeout, "the status counts: {:?}", result.took);
    server.await.unwrap();
}

/// Sockets of this network namespace in TIME-WAIT towards or from `port`.
fn time_waits(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let waits = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[3] == "06" && (fields[1].ends_with(&port) || fields[2].ends_with(&port))
    };
    table.lines().skip(1).filter(waits).count()
}

/// The server reads an orderly end, and neither side is left with a TIME-WAIT.
#[tokio::test]
async fn connections_close_cleanly() {
    let (listener, address) = listen().await;
    for round in 0..20 {
        let probe = tokio::spawn(ask(address, Check::Tcp, AMPLE));
        let (mut stream, _) = listener.accept().await.unwrap();
        if round % 2 == 0 {
            // A server that comes late, when all is over.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut bytes = Vec::new();
        assert_eq!(
            stream.read_to_end(&mut bytes).await.unwrap(),
            0,
            "end of file, not a reset"
        );
        assert_eq!(probe.await.unwrap().0, Outcome::Passed);
    }
    assert_eq!(time_waits(address.port()), 0, "after tcp probes");

    // A server that keeps the connection open although it was asked not to: the probe closes first.
    for _ in 0..20 {
        let probe = tokio::spawn(ask(address, http(), AMPLE));
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        let mut rest = Vec::new();
        assert_eq!(
            stream.read_to_end(&mut rest).await.unwrap(),
            0,
            "end of file, not a reset"
        );
        assert_eq!(probe.await.unwrap().0, Outcome::Passed);
    }
    assert_eq!(time_waits(address.port()), 0, "after http probes");
}
