//! `grpc`: asks `grpc.health.v1.Health/Check` over HTTP/2, and expects `SERVING`.
//!
//! The two messages have one field each, so they are written and read here: a request is `service` (field 1, a string), a response
//! `status` (field 1, an enumeration).

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::connect;
use super::http::host_of;
use super::tls::{self, Inside};
use super::{Answer, Deadline, Fault, Job};
use crate::model::Grpc;

/// Bytes that a response may have: it needs seven.
const MOST_BODY: usize = 4 * 1024;

pub(super) async fn probe(job: &Job, grpc: &Grpc, deadline: Deadline) -> Result<Answer, Fault> {
    let stream = connect(job, deadline).await?;
    match &grpc.tls {
        None => exchange(job, grpc, stream, "http", deadline).await,
        Some(tls) => {
            let stream = tls::wrap(job, tls, grpc.host.as_deref(), Inside::Http2, stream, deadline).await?;
            exchange(job, grpc, stream, "https", deadline).await
        }
    }
}

async fn exchange(
    job: &Job,
    grpc: &Grpc,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    scheme: &str,
    deadline: Deadline,
) -> Result<Answer, Fault> {
    let authority = grpc.host.clone().unwrap_or_else(|| host_of(job.to));
    let request = Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "edgelb")
        .body(Full::new(Bytes::from(framed(&grpc.service))))
        .map_err(|error| Fault::Own(format!("host {authority:?} cannot be asked: {error}").into()))?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let handshake = deadline.wait("HTTP/2 handshake", handshake).await?;
    let (mut sender, connection) = handshake.map_err(|error| fault_of(&error))?;
    // It takes the sender with it: with nobody left to ask, the connection says goodbye and ends.
    let exchange = async move {
        let response = deadline.wait("gRPC answer", sender.send_request(request)).await?;
        let answer = deadline.wait("gRPC answer", judge(response.map_err(|error| fault_of(&error))?));
        answer.await?
    };
    let mut exchange = Box::pin(exchange);
    tokio::pin!(connection);
    let result = tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => return exchange.await,
    };
    drop(exchange);
    let _ = deadline.wait("end", connection).await;
    result
}

/// Uncompressed, four bytes of length, the message.
fn framed(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

async fn judge(response: Response<Incoming>) -> Result<Answer, Fault> {
    let status = response.status().as_u16();
    if status != 200 {
        return Err(Fault::backend(format!("HTTP status {status} (gRPC has 200)")));
    }
    let (head, body) = response.into_parts();
    let collected = Limited::new(body, MOST_BODY).collect().await;
    let collected = collected.map_err(|error| Fault::backend(format!("broken answer: {error}")))?;
    // A refusal has its status in the head, without body and trailers.
    let trailers = collected.trailers().unwrap_or(&head.headers);
    let code = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
    let code = code.and_then(|code| code.to_str().ok()).unwrap_or("");
    if code != "0" {
        return Err(Fault::backend(match code {
            "" => "no gRPC status: not a gRPC server".to_owned(),
            "5" => "the service is unknown to it (gRPC status 5)".to_owned(),
            "12" => "it has no health service (gRPC status 12)".to_owned(),
            code => format!("gRPC status {code} (expected 0)"),
        }));
    }
    match serving(&collected.to_bytes()) {
        Some(1) => Ok(Answer::now("SERVING")),
        Some(0) => Err(Fault::backend("UNKNOWN (expected SERVING)")),
        Some(2) => Err(Fault::backend("NOT_SERVING")),
        Some(3) => Err(Fault::backend("SERVICE_UNKNOWN")),
        Some(other) => Err(Fault::backend(format!("health status {other} (expected 1, SERVING)"))),
        None => Err(Fault::backend("not a health answer")),
    }
}

/// The status in a framed response; 0, which is not written, if there is no field.
fn serving(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || message.len() != length as usize {
        return None;
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let key = read_varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = read_varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(read_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn fault_of(error: &hyper::Error) -> Fault {
    use std::error::Error as _;
    if let Some(io) = error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>())
    {
        return Fault::of_io(io);
    }
    Fault::backend(format!("not HTTP/2: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question() {
        assert_eq!(framed(""), [0, 0, 0, 0, 0]);
        assert_eq!(framed("ab"), [0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b']);
        let long = framed(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0A, 0xAC, 2]);
    }

    #[test]
    fn answers() {
        for (frame, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            // Fields that a later version may have.
            (&[0, 0, 0, 0, 7, 0x12, 1, 7, 0x18, 5, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0, 0, 0, 2, 0x12, 9], None),
            (&[0, 0], None),
            (&[0, 0, 0, 0, 1, 0x0F], None),
        ] {
            assert_eq!(serving(frame), expected, "{frame:?}");
        }
    }
}
