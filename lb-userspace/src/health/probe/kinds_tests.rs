//! Each kind of probe against real servers on loopback.

use std::path::PathBuf;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, RCODE, ResourceRecord};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::model::{Dns, Grpc, Http, Protocol, Statuses, Tls, Udp};

pub(super) const AMPLE: Duration = Duration::from_secs(20);

pub(super) async fn ask(to: SocketAddr, check: Check, timeout: Duration) -> (Outcome, String) {
    let job = Job {
        to,
        via: Via::Direct,
        check,
        timeout,
        subject: Some(TargetId::new("web", "web-1")),
        own: None,
        excuse_stall: false,
        padding: None,
    };
    let result = run(job).await;
    (result.outcome, result.text.to_string())
}

#[track_caller]
pub(super) fn expect(got: (Outcome, String), outcome: Outcome, words: &str) {
    assert_eq!(got.0, outcome, "{}", got.1);
    assert!(got.1.contains(words), "{:?} lacks {words:?}", got.1);
}

/// A server inside TLS that answers each connection's request with `answer`; the certificate is for `localhost`.
async fn tls_server(answer: &'static str, key: &CertifiedKey<KeyPair>) -> SocketAddr {
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut request = [0; 4_096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

fn tls(ca_file: Option<PathBuf>, verify: bool) -> Tls {
    Tls {
        server_name: Some("localhost".into()),
        ca_file,
        verify,
    }
}

fn https(tls: Tls) -> Check {
    Check::Http(Http {
        tls: Some(tls),
        ..Http::get("/")
    })
}

#[tokio::test]
async fn https_verifies_unless_told_otherwise() {
    let key = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, key.cert.pem()).unwrap();
    let to = tls_server("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfine", &key).await;
    expect(
        ask(to, https(tls(Some(ca.clone()), true)), AMPLE).await,
        Outcome::Passed,
        "status 200",
    );
    expect(
        ask(to, https(tls(None, false)), AMPLE).await,
        Outcome::Passed,
        "status 200",
    );
    let other_name = Tls {
        server_name: Some("other.example".into()),
        ..tls(Some(ca.clone()), true)
    };
    expect(
        ask(to, https(other_name), AMPLE).await,
        Outcome::Failed,
        "certificate refused",
    );
    // Another authority: the file is read again, because it has changed.
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&ca, other.cert.pem()).unwrap();
    expect(
        ask(to, https(tls(Some(ca.clone()), true)), AMPLE).await,
        Outcome::Failed,
        "certificate refused",
    );
    // What is wrong here is not the backend's fault.
    std::fs::write(&ca, "no certificate").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    expect(
        ask(to, https(tls(Some(folder.path().join("none")), true)), AMPLE).await,
        Outcome::Skipped,
        "ca_file",
    );
}

#[tokio::test]
async fn plain_text_is_not_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = stream.read(&mut [0; 1_024]).await;
        }
    });
    expect(
        ask(to, https(tls(None, false)), AMPLE).await,
        Outcome::Failed,
        "not TLS",
    );
}

#[tokio::test]
async fn statuses_and_bodies() {
    let key = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let to = tls_server("HTTP/1.1 301 Gone\r\nConnection: close\r\n\r\nall is well here", &key).await;
    let check = |statuses: &[(u16, u16)], body: Option<&str>| {
        Check::Http(Http {
            statuses: Statuses(statuses.to_vec()),
            body: body.map(str::to_owned),
            tls: Some(tls(None, false)),
            ..Http::get("/")
        })
    };
    for (statuses, body, outcome, words) in [
        (&[(200, 299), (301, 301)][..], None, Outcome::Passed, "status 301"),
        (
            &[(200, 299), (302, 302)],
            None,
            Outcome::Failed,
            "status 301 (expected 200 to 299 or 302)",
        ),
        (&[(301, 301)], Some("is well"), Outcome::Passed, "body as expected"),
        (
            &[(301, 301)],
            Some("is ill"),
            Outcome::Failed,
            "\"is ill\" is not in the body",
        ),
        (&[(200, 200)], Some("is well"), Outcome::Failed, "status 301"),
    ] {
        expect(ask(to, check(statuses, body), AMPLE).await, outcome, words);
    }
}

/// A health service that knows the server as a whole (serving), `ill` (not serving) and nothing else.
async fn grpc_server() -> SocketAddr {
    type Body = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, std::io::Error>>>>;
    async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let asked = request.into_body().collect().await?.to_bytes();
        let (message, code): (&[u8], _) = match asked.get(7..) {
            None => (&[0, 0, 0, 0, 2, 8, 1], "0"),
            Some(b"ill") => (&[0, 0, 0, 0, 2, 8, 2], "0"),
            Some(_) => (&[], "5"),
        };
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        let frames = vec![
            Ok(Frame::data(Bytes::copy_from_slice(message))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Ok(Response::builder()
            .header("content-type", "application/grpc")
            .body(body)
            .unwrap())
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    address
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    let to = grpc_server().await;
    let check = |service: &str| {
        Check::Grpc(Grpc {
            service: service.into(),
            host: None,
            tls: None,
        })
    };
    expect(ask(to, check(""), AMPLE).await, Outcome::Passed, "SERVING");
    expect(ask(to, check("ill"), AMPLE).await, Outcome::Failed, "NOT_SERVING");
    expect(ask(to, check("nobody"), AMPLE).await, Outcome::Failed, "unknown to it");
    // A web server that speaks HTTP/1 only.
    let key = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let plain = tls_server("HTTP/1.1 200 OK\r\n\r\n", &key).await;
    let inside = Check::Grpc(Grpc {
        service: String::new(),
        host: None,
        tls: Some(tls(None, false)),
    });
    let (outcome, words) = ask(plain, inside, Duration::from_secs(2)).await;
    assert_eq!(outcome, Outcome::Failed, "{words}");
}

/// Answers `good.example` with 192.0.2.7 and everything else with NXDOMAIN.
fn dns_answer(query: &[u8]) -> Vec<u8> {
    let query = Packet::parse(query).unwrap();
    let question = query.questions[0].clone();
    let mut reply = Packet::new_reply(query.id());
    if question.qname.to_string() == "good.example" {
        let data = RData::A(A {
            address: u32::from_be_bytes([192, 0, 2, 7]),
        });
        reply
            .answers
            .push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 60, data));
    } else {
        *reply.rcode_mut() = RCODE::NameError;
    }
    reply.questions.push(question);
    reply.build_bytes_vec_compressed().unwrap()
}

#[tokio::test]
async fn dns_over_udp_and_tcp() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    let listener = TcpListener::bind(to).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            // Noise first: it is not taken for the answer.
            let _ = socket.send_to(b"noise", client).await;
            let _ = socket.send_to(&dns_answer(&buffer[..length]), client).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut query = vec![0; length.into()];
            stream.read_exact(&mut query).await.unwrap();
            let answer = dns_answer(&query);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    for over in [Protocol::Udp, Protocol::Tcp] {
        let check = |name: &str, rcode, answer: Option<&str>| {
            Check::Dns(Dns {
                name: name.into(),
                record: 1,
                rcode,
                answer: answer.map(str::to_owned),
                over,
            })
        };
        for (check, outcome, words) in [
            (check("good.example", 0, None), Outcome::Passed, "noerror"),
            (
                check("good.example", 0, Some("192.0.2.7")),
                Outcome::Passed,
                "192.0.2.7",
            ),
            (
                check("good.example", 0, Some("192.0.2.8")),
                Outcome::Failed,
                "192.0.2.7 (expected 192.0.2.8)",
            ),
            (
                check("bad.example", 0, None),
                Outcome::Failed,
                "nxdomain (expected noerror)",
            ),
            (check("bad.example", 3, None), Outcome::Passed, "nxdomain"),
        ] {
            expect(ask(to, check, AMPLE).await, outcome, words);
        }
    }
}

#[tokio::test]
async fn udp_sends_and_expects() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            if &buffer[..length] != b"quiet" {
                let _ = socket.send_to(&[b"re: ", &buffer[..length]].concat(), client).await;
            }
        }
    });
    let check = |send: &[u8], expect: Option<&[u8]>| {
        Check::Udp(Udp {
            send: send.to_vec(),
            expect: expect.map(<[u8]>::to_vec),
        })
    };
    expect(
        ask(to, check(b"hi", None), AMPLE).await,
        Outcome::Passed,
        "answer of 6 bytes",
    );
    expect(
        ask(to, check(b"\0\xFF", Some(b"\0\xFF")), AMPLE).await,
        Outcome::Passed,
        "answer",
    );
    expect(
        ask(to, check(b"hi", Some(b"ho")), AMPLE).await,
        Outcome::Failed,
        "without what is expected",
    );
    let short = Duration::from_millis(60);
    expect(
        ask(to, check(b"quiet", None), short).await,
        Outcome::Failed,
        "no answer within 60ms",
    );
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    expect(
        ask(closed, check(b"hi", None), AMPLE).await,
        Outcome::Failed,
        "connection refused",
    );
}

#[tokio::test]
async fn icmp_of_both_families() {
    for address in ["127.0.0.1:1", "[::1]:1"] {
        expect(
            ask(address.parse().unwrap(), Check::Icmp, AMPLE).await,
            Outcome::Passed,
            "echo reply",
        );
    }
}
