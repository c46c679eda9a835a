//! `udp`: a datagram is answered by one that holds what is expected.

use super::connect::datagram;
use super::{Answer, Deadline, Fault, Job};
use crate::model::Udp;

pub(super) async fn probe(job: &Job, udp: &Udp, deadline: Deadline) -> Result<Answer, Fault> {
    let socket = datagram(job)?;
    let sent = socket.send(&udp.send).await;
    sent.map_err(|error| Fault::of_io(&error))?;
    let mut answer = vec![0; 65_535];
    let length = deadline.wait("answer", socket.recv(&mut answer)).await?;
    let length = length.map_err(|error| Fault::of_io(&error))?;
    let answer = &answer[..length];
    match &udp.expect {
        Some(expected) if !contains(answer, expected) => Err(Fault::backend(format!(
            "an answer of {length} bytes without what is expected"
        ))),
        _ => Ok(Answer::now(format!("answer of {length} bytes"))),
    }
}

/// Whether `needle` stands anywhere in `hay`.
pub(super) fn contains(hay: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || hay.windows(needle.len()).any(|window| window == needle)
}
