//! The API's client: one request, one answer, and errors that say what to do.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::HOST;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::error::ApiError;
use super::events::{Event, EventQuery};
use super::report::{ApplyReport, BackendAction, BackendChanged, Confirmation, Confirmed, PlanReport};
use super::types::{Lookup, ServiceDetail, ServiceSummary, Stats, Status};
use crate::policy::Confirm;

/// The longest answer taken, in bytes: the counters of some million backends fit.
const MAX_ANSWER: usize = 256 << 20;

/// A daemon, by its socket. Every request opens a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket, or nobody behind it.
    #[error("no daemon answers on {}: is lbd running? (lbd run --config FILE); another socket: --socket or LBCTL_SOCKET", .0.display())]
    NoDaemon(PathBuf),
    /// The socket is root's.
    #[error("not permitted to open {}: run as root, or with sudo", .0.display())]
    NotPermitted(PathBuf),
    /// The socket cannot be opened for another reason.
    #[error("cannot open {}: {source}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection ended before the answer did.
    #[error("the daemon on {} closed the connection before it had answered: see its log; what was asked may or may not be done", .0.display())]
    Lost(PathBuf),
    /// Nothing came in time.
    #[error("the daemon on {} has not answered for {} s: see its log; what was asked may still be done", .path.display(), .seconds)]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// What came is not an answer of the API.
    #[error("{} does not speak as lbd {} does: {problem}; is it another program, or another version?", .path.display(), env!("CARGO_PKG_VERSION"))]
    NotUnderstood {
        /// The socket.
        path: PathBuf,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The daemon says no.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Client {
    /// The daemon that listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: Duration::from_secs(95),
        }
    }

    /// Waits this long for a whole answer; 95 s unless told, a little longer than the daemon itself would.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the daemon is and does.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// All services, sorted by name.
    pub async fn services(&self) -> Result<Vec<ServiceSummary>, ClientError> {
        self.get("/v1/services").await
    }

    /// One service.
    pub async fn service(&self, name: &str) -> Result<ServiceDetail, ClientError> {
        self.get(&format!("/v1/services/{}", encoded(name))).await
    }

    /// The counters.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.get("/v1/stats").await
    }

    /// Where the flow from `source` to the service goes.
    pub async fn lookup(&self, service: &str, source: SocketAddr) -> Result<Lookup, ClientError> {
        let source = encoded(&source.to_string());
        self.get(&format!("/v1/services/{}/lookup?source={source}", encoded(service)))
            .await
    }

    /// What has happened.
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, ClientError> {
        let parts = [
            query.after.map(|after| format!("after={after}")),
            query.since_unix_ms.map(|since| format!("since_unix_ms={since}")),
            query
                .service
                .as_ref()
                .map(|service| format!("service={}", encoded(service))),
            query.limit.map(|limit| format!("limit={limit}")),
        ];
        let query: Vec<String> = parts.into_iter().flatten().collect();
        self.get(&format!("/v1/events?{}", query.join("&"))).await
    }

    /// What a configuration would change; `file` is its name for messages.
    pub async fn plan(&self, toml: String, file: Option<&str>) -> Result<PlanReport, ClientError> {
        self.post(&with_file("/v1/plan", file), toml.into()).await
    }

    /// Makes a configuration the one in force, wholly or not at all.
    pub async fn apply(&self, toml: String, file: Option<&str>) -> Result<ApplyReport, ClientError> {
        self.post(&with_file("/v1/apply", file), toml.into()).await
    }

    /// Has the daemon read its own file again, and make it the one in force, wholly or not at all.
    pub async fn reload(&self) -> Result<ApplyReport, ClientError> {
        self.post("/v1/reload", Bytes::new()).await
    }

    /// Tells the daemon what is wanted of a backend.
    pub async fn backend(
        &self,
        service: &str,
        backend: &str,
        action: BackendAction,
    ) -> Result<BackendChanged, ClientError> {
        let body = serde_json::to_vec(&action).map_err(|error| self.not_understood(error.to_string()))?;
        let path = format!("/v1/services/{}/backends/{}", encoded(service), encoded(backend));
        self.post(&path, body.into()).await
    }

    /// Confirms a failover or failback, of one backend or of all that wait.
    pub async fn confirm(&self, service: &str, backend: Option<&str>, what: Confirm) -> Result<Confirmed, ClientError> {
        let confirmation = Confirmation {
            backend: backend.map(str::to_owned),
        };
        let body = serde_json::to_vec(&confirmation).map_err(|error| self.not_understood(error.to_string()))?;
        let what = match what {
            Confirm::Failover => "failover",
            Confirm::Failback => "failback",
        };
        self.post(&format!("/v1/services/{}/{what}", encoded(service)), body.into())
            .await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, ClientError> {
        self.request(Method::POST, path, body).await
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        match tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout {
                path: self.socket.clone(),
                seconds: self.timeout.as_secs(),
            }),
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.not_connected(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        // Drives the connection; how it ended, the answer's reader learns as well.
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "lbd")
            .body(Full::new(body))
            .map_err(|error| self.not_understood(error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        driver.abort();
        let body = body.map_err(|error| self.unreadable(&*error))?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.not_understood(error.to_string()));
        }
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(error.into()),
            Err(_) => Err(self.not_understood(format!("status {status}"))),
        }
    }

    fn not_connected(&self, source: io::Error) -> ClientError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon(path),
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted(path),
            _ => ClientError::Connect { path, source },
        }
    }

    fn broken(&self, error: &hyper::Error) -> ClientError {
        if error.is_parse() {
            return self.not_understood(error.to_string());
        }
        ClientError::Lost(self.socket.clone())
    }

    fn unreadable(&self, error: &(dyn std::error::Error + Send + Sync + 'static)) -> ClientError {
        if error.is::<LengthLimitError>() {
            return self.not_understood(format!("an answer of more than {} MiB", MAX_ANSWER >> 20));
        }
        match error.downcast_ref::<hyper::Error>() {
            Some(error) => self.broken(error),
            None => ClientError::Lost(self.socket.clone()),
        }
    }

    fn not_understood(&self, problem: String) -> ClientError {
        ClientError::NotUnderstood {
            path: self.socket.clone(),
            problem,
        }
    }
}

fn with_file(path: &str, file: Option<&str>) -> String {
    match file {
        Some(file) => format!("{path}?file={}", encoded(file)),
        None => path.to_owned(),
    }
}

/// Percent-encoding of a path segment or query value: all but RFC 3986's unreserved characters.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_characters_go_unencoded() {
        assert_eq!(encoded("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(encoded("a/b?c=d&e f+%"), "a%2Fb%3Fc%3Dd%26e%20f%2B%25");
        assert_eq!(encoded("[::1]:80"), "%5B%3A%3A1%5D%3A80");
        assert_eq!(encoded("ü"), "%C3%BC");
    }
}
