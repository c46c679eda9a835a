//! `http` and `https`: `GET path` over HTTP/1.1; status and, if wanted, body are the expected ones.
//!
//! The time of the answer is that of the status, or of the body if it is looked at. What follows is read only so that the connection ends
//! well, and no more than a little.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::connect;
use super::tls::{self, Inside};
use super::udp::contains;
use super::{Answer, Deadline, Fault, Job};
use crate::model::Http;

/// Bytes that a response's head may have.
const MOST_HEAD: usize = 16 * 1024;
/// Bytes of a body in which something is looked for.
const MOST_SEARCHED: usize = 64 * 1024;
/// Bytes of a body that are read before the connection is closed over the rest.
const MOST_BODY: usize = 16 * 1024;

pub(super) async fn probe(job: &Job, http: &Http, deadline: Deadline) -> Result<Answer, Fault> {
    let request = request(job.to, &http.path, http.host.as_deref())?;
    let stream = connect(job, deadline).await?;
    match &http.tls {
        None => exchange(http, request, stream, deadline).await,
        Some(tls) => {
            let stream = Box::pin(tls::wrap(
                job,
                tls,
                http.host.as_deref(),
                Inside::Http1,
                stream,
                deadline,
            ))
            .await?;
            Box::pin(exchange(http, request, stream, deadline)).await
        }
    }
}

async fn exchange(
    http: &Http,
    request: Request<Empty<Bytes>>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    deadline: Deadline,
) -> Result<Answer, Fault> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MOST_HEAD);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| fault_of(&error))?;
    let exchange = async {
        let response = deadline.wait("HTTP answer", sender.send_request(request)).await?;
        let response = response.map_err(|error| fault_of(&error))?;
        let answer = judge(http, &response)?;
        if let Some(wanted) = &http.body {
            return deadline.wait("whole body", find(response, wanted)).await?;
        }
        // Its result is of no interest: the verdict has been passed.
        let _ = deadline.wait("end", drain(response)).await;
        Ok(answer)
    };
    // `connection` does the work that `exchange` waits for, and may well end first. Without TLS, closing the socket is all the farewell.
    let connection = async {
        if http.tls.is_some() {
            connection.await
        } else {
            connection.without_shutdown().await.map(drop)
        }
    };
    tokio::pin!(exchange, connection);
    let result = tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => return exchange.await,
    };
    if http.tls.is_some() {
        // TLS says goodbye, else servers log a connection cut short.
        let _ = deadline.wait("end", connection).await;
    }
    result
}

fn request(address: SocketAddr, path: &str, host: Option<&str>) -> Result<Request<Empty<Bytes>>, Fault> {
    let host = host.map_or_else(|| host_of(address), str::to_owned);
    Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "edgelb")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Fault::Own(format!("path {path:?} or host cannot be asked for: {error}").into()))
}

/// The probed address as a `Host`: without the port if that is HTTP's own, IPv6 in brackets (RFC 9110, 7.2).
pub(super) fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) if v4.port() == 80 => v4.ip().to_string(),
        SocketAddr::V6(v6) if v6.port() == 80 => format!("[{}]", v6.ip()),
        other => other.to_string(),
    }
}

fn judge(http: &Http, response: &Response<Incoming>) -> Result<Answer, Fault> {
    let status = response.status().as_u16();
    if http.statuses.contains(status) {
        Ok(Answer::now(format!("status {status}")))
    } else {
        Err(Fault::backend(format!("status {status} (expected {})", http.statuses)))
    }
}

/// Reads the body until what is wanted has come.
async fn find(response: Response<Incoming>, wanted: &str) -> Result<Answer, Fault> {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut read = Vec::new();
    while read.len() < MOST_SEARCHED {
        match body.frame().await {
            Some(Ok(frame)) => read.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(error)) => return Err(fault_of(&error)),
            None => break,
        }
        if contains(&read[..read.len().min(MOST_SEARCHED)], wanted.as_bytes()) {
            return Ok(Answer::now(format!("status {status}, body as expected")));
        }
    }
    Err(Fault::backend(format!(
        "status {status}, but {wanted:?} is not in the body"
    )))
}

async fn drain(response: Response<Incoming>) {
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read >= MOST_BODY {
            return;
        }
    }
}

fn fault_of(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        return Fault::backend(format!("not HTTP: head larger than {MOST_HEAD} bytes"));
    }
    if error.is_parse() {
        return Fault::backend(format!("not HTTP: {error}"));
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Fault::backend("closed without a whole answer");
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(io) => Fault::of_io(io),
        None => Fault::backend(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_header() {
        for (address, expected) in [
            ("10.0.0.11:80", "10.0.0.11"),
            ("10.0.0.11:8080", "10.0.0.11:8080"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("[2001:db8::1]:8080", "[2001:db8::1]:8080"),
        ] {
            assert_eq!(host_of(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn an_impossible_path_is_not_the_backends_fault() {
        let address = "10.0.0.11:80".parse().unwrap();
        assert!(matches!(request(address, "/a b", None), Err(Fault::Own(_))));
        assert!(matches!(request(address, "/", Some("a\nb")), Err(Fault::Own(_))));
        assert!(request(address, "/healthz?deep=1", Some("www.example")).is_ok());
    }
}
