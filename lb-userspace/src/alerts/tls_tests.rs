//! Receivers behind TLS: webhooks over HTTPS, mail servers with STARTTLS and without, logins, authorities that are not the right ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::tests::{Told, event};
use super::*;
use crate::api::events::Severity;
use crate::model::{SecretSource, SmtpTls};

const PATIENCE: Duration = Duration::from_secs(20);
/// `\0edge\0secret`, in base64.
const LOGIN: &str = "AUTH PLAIN AGVkZ2UAc2VjcmV0";

/// A server's side, and the files of two authorities: the one that vouches for it, and another.
struct Trust {
    _folder: tempfile::TempDir,
    server: Arc<ServerConfig>,
    right: PathBuf,
    wrong: PathBuf,
    password: PathBuf,
}

impl Trust {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("signed");
            (certificate.pem(), Issuer::new(params, key))
        };
        let (right, issuer) = authority("one");
        let (wrong, _) = authority("another");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("a certificate");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        Self {
            server: Arc::new(server),
            right: file("right.pem", &right),
            wrong: file("wrong.pem", &wrong),
            password: file("password", "secret\n"),
            _folder: folder,
        }
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn to(way: AlertWay) -> Alert {
    Alert {
        name: "ops".into(),
        way,
        least: Severity::Warning,
        kinds: Vec::new(),
        timeout: Duration::from_secs(5),
    }
}

/// Waits until the receivers' problems say this.
fn problem(alerts: &Alerts, words: &str) {
    let begun = Instant::now();
    while !alerts.problems().iter().any(|problem| problem.contains(words)) {
        assert!(begun.elapsed() < PATIENCE, "{words:?}: {:?}", alerts.problems());
        thread::sleep(Duration::from_millis(20));
    }
}

fn line(stream: &mut impl Read) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while text.last() != Some(&b'\n') {
        stream.read_exact(&mut byte).ok()?;
        text.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&text).trim_end().to_owned())
}

/// An HTTPS server that takes every POST, and passes on the numbers of the events.
fn hook(listener: TcpListener, tls: Arc<ServerConfig>) -> Receiver<u64> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).expect("a server"), stream);
            let mut length = 0;
            // A client that refuses the certificate says nothing.
            while let Some(line) = line(&mut stream).filter(|line| !line.is_empty()) {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                    length = value.parse().expect("a number");
                }
            }
            let mut body = vec![0; length];
            if length == 0 || stream.read_exact(&mut body).is_err() {
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 204 x\r\nconnection: close\r\n\r\n");
            stream.conn.send_close_notify();
            let _ = stream.flush();
            let told: Told = serde_json::from_slice(&body).expect("a message");
            if told.ids().into_iter().any(|id| sender.send(id).is_err()) {
                return;
            }
        }
    });
    receiver
}

#[test]
fn a_webhook_over_https_believes_the_authority_that_it_is_told() {
    let trust = Trust::new();
    let (listener, address) = listen();
    let events = hook(listener, Arc::clone(&trust.server));
    let way = |ca_file: Option<&PathBuf>| {
        to(AlertWay::Webhook {
            url: SecretSource::Inline(format!("https://{address}/").into()),
            ca_file: ca_file.cloned(),
        })
    };
    let mut alerts = Alerts::start().expect("a thread");
    alerts.set(&[way(Some(&trust.wrong))]);
    alerts.send(&event(1));
    problem(&alerts, "UnknownIssuer");
    assert!(events.try_recv().is_err(), "it got through");
    alerts.set(&[way(Some(&trust.password))]);
    alerts.send(&event(2));
    problem(&alerts, "password cannot be used: it holds no certificate");
    alerts.set(&[way(Some(&trust.right))]);
    alerts.send(&event(3));
    // What waited meanwhile was not lost.
    assert_eq!([1, 2, 3].map(|_| events.recv_timeout(PATIENCE)), [Ok(1), Ok(2), Ok(3)]);
    // The file is read for every attempt: the right one in the wrong one's place.
    alerts.set(&[way(Some(&trust.wrong))]);
    alerts.send(&event(4));
    problem(&alerts, "UnknownIssuer");
    std::fs::copy(&trust.right, &trust.wrong).expect("copied");
    assert_eq!(events.recv_timeout(PATIENCE), Ok(4));
}

/// How the mail server speaks.
#[derive(Clone, Copy, PartialEq)]
enum Speaks {
    /// TLS from the start.
    Wrapped,
    /// TLS after STARTTLS.
    StartTls,
    /// Never TLS.
    Plain,
}

/// A mail server that wants a login. It passes on what it was told, without and within TLS, of each connection that ended.
fn mail_server(listener: TcpListener, tls: Arc<ServerConfig>, speaks: Speaks) -> Receiver<(String, String)> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (mut plain, mut secret) = (String::new(), String::new());
            let upgrade = match speaks {
                Speaks::Wrapped => true,
                _ => {
                    let _ = stream.write_all(b"220 mail\r\n");
                    talk(&mut stream, &mut plain, speaks == Speaks::StartTls)
                }
            };
            if upgrade {
                let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).expect("a server"), stream);
                if speaks == Speaks::Wrapped {
                    let _ = stream.write_all(b"220 mail\r\n");
                }
                talk(&mut stream, &mut secret, false);
            }
            if sender.send((plain, secret)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// As far as RFC 5321 and RFC 4954 are needed; true after STARTTLS.
fn talk(stream: &mut (impl Read + Write), said: &mut String, offers: bool) -> bool {
    let (mut inside, mut known) = (false, false);
    while let Some(line) = line(stream) {
        said.push_str(&line);
        said.push('\n');
        let answer = match line.as_str() {
            "." if inside => "250 taken",
            _ if inside => continue,
            "STARTTLS" if offers => "220 go on",
            "QUIT" => "221 bye",
            "DATA" => "354 go on",
            line if line.starts_with("EHLO") && offers => "250-mail\r\n250 STARTTLS",
            line if line.starts_with("EHLO") => "250-mail\r\n250 AUTH PLAIN LOGIN",
            LOGIN => "235 welcome",
            line if line.starts_with("AUTH") => "535 who are you",
            line if line.starts_with("MAIL") && !known => "530 log in first",
            _ => "250 fine",
        };
        known = known || line == LOGIN;
        inside = line == "DATA";
        let _ = stream.write_all(format!("{answer}\r\n").as_bytes());
        let _ = stream.flush();
        match answer {
            "220 go on" => return true,
            "221 bye" => return false,
            _ => {}
        }
    }
    false
}

#[test]
fn mails_are_encrypted_and_logged_in() {
    let trust = Trust::new();
    for (speaks, tls) in [
        (Speaks::StartTls, SmtpTls::StartTls),
        (Speaks::Wrapped, SmtpTls::Wrapped),
    ] {
        let (listener, address) = listen();
        let mails = mail_server(listener, Arc::clone(&trust.server), speaks);
        let way = |ca_file: &PathBuf| {
            to(AlertWay::Smtp {
                server: "127.0.0.1".into(),
                port: address.port(),
                tls,
                from: "edge@example.com".into(),
                to: vec!["ops@example.com".into()],
                login: Some(("edge".into(), trust.password.clone())),
                ca_file: Some(ca_file.clone()),
            })
        };
        let mut alerts = Alerts::start().expect("a thread");
        alerts.set(&[way(&trust.wrong)]);
        alerts.send(&event(1));
        problem(&alerts, "UnknownIssuer");
        alerts.set(&[way(&trust.right)]);
        alerts.send(&event(2));
        let (plain, secret) = loop {
            let (plain, secret) = mails.recv_timeout(PATIENCE).expect("a mail");
            assert!(!plain.contains("AUTH") && !plain.contains("MAIL"), "in clear: {plain}");
            if !secret.is_empty() {
                break (plain, secret);
            }
        };
        assert_eq!(plain.contains("STARTTLS"), speaks == Speaks::StartTls, "{plain}");
        for part in [LOGIN, "RCPT TO:<ops@example.com>", "its checks fail"] {
            assert!(secret.contains(part), "{part} is not in\n{secret}");
        }
        let begun = Instant::now();
        while !alerts.problems().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{:?}", alerts.problems());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_mail_server_without_starttls_hears_no_password() {
    let trust = Trust::new();
    let (listener, address) = listen();
    let mails = mail_server(listener, Arc::clone(&trust.server), Speaks::Plain);
    let mut alerts = Alerts::start().expect("a thread");
    alerts.set(&[to(AlertWay::Smtp {
        server: "127.0.0.1".into(),
        port: address.port(),
        tls: SmtpTls::StartTls,
        from: "edge@example.com".into(),
        to: vec!["ops@example.com".into()],
        login: Some(("edge".into(), trust.password.clone())),
        ca_file: Some(trust.right.clone()),
    })]);
    alerts.send(&event(1));
    problem(&alerts, "STARTTLS");
    let (plain, _) = mails.recv_timeout(PATIENCE).expect("a connection");
    assert!(!plain.contains("AUTH") && !plain.contains("MAIL"), "{plain}");
}
