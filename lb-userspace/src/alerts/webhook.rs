//! An alert as a POST: JSON over HTTP or HTTPS, a connection for each.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use http::Uri;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Failure;
use super::queue::Message;
use crate::model::Secret;
use crate::trust;

/// Sends one message; done when the receiver says 2xx.
pub(super) async fn post(url: &Secret, ca_file: Option<&Path>, message: &Message) -> Result<(), Failure> {
    // The configuration was checked: these do not fail.
    let uri: Uri = url
        .expose()
        .parse()
        .map_err(|error| Failure::Never(format!("its url: {error}")))?;
    let host = uri
        .host()
        .ok_or_else(|| Failure::Never("its url has no host".to_owned()))?;
    let is_https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let name = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((name, port)).await;
    let stream = stream.map_err(|error| Failure::Later(format!("{host} port {port}: {error}")))?;
    if !is_https {
        return exchange(stream, &uri, message).await;
    }
    let server = ServerName::try_from(name.to_owned()).map_err(|error| Failure::Never(format!("{name}: {error}")))?;
    let tls = TlsConnector::from(tls(ca_file)?).connect(server, stream).await;
    exchange(
        tls.map_err(|error| Failure::Later(format!("{host}: {error}")))?,
        &uri,
        message,
    )
    .await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    uri: &Uri,
    message: &Message,
) -> Result<(), Failure> {
    let later = |error: hyper::Error| Failure::Later(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(later)?;
    let driver = Abort(tokio::spawn(connection).abort_handle());
    let body = serde_json::to_vec(&message.body()).map_err(|error| Failure::Never(error.to_string()))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::post(path)
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("edgelb/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::Never(error.to_string()))?;
    // Some close the connection instead of saying that the body is too long.
    let untaken = |error: hyper::Error| Failure::Untaken(error.to_string());
    let status = sender.send_request(request).await.map_err(untaken)?.status();
    drop(driver);
    let text = format!("status {status}");
    match status.as_u16() {
        200..300 => Ok(()),
        // Asked to come again.
        408 | 425 | 429 => Err(Failure::Later(text)),
        // Not the request's fault, most of the time.
        500.. => Err(Failure::Untaken(text)),
        _ => Err(Failure::Never(text)),
    }
}

/// Ends a connection's task with the attempt that it was made for.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The system's authorities are read once, a file of others for each attempt: it may have been changed.
fn tls(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, Failure> {
    static SYSTEM: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let made = match ca_file {
        None => SYSTEM.get_or_init(|| make(trust::roots(None)?)).clone(),
        file => trust::roots(file).and_then(make),
    };
    made.map_err(Failure::Later)
}

fn make(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
