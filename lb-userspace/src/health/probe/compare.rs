//! A probe by the users' path beside a connection to the backend's own address: where the one fails and the other does not, something that
//! only users need is missing.

use std::net::SocketAddr;

use super::connect::connect;
use super::{Answer, Deadline, Fault, Job, ask};
use crate::health::Via;

/// How the sentence about a connection that was not made begins.
pub(in crate::health) const NO_CONNECTION: &str = "no connection within";

pub(super) async fn probe(job: &Job, own: SocketAddr, deadline: Deadline) -> Result<Answer, Fault> {
    let direct = Job {
        to: own,
        via: Via::Direct,
        ..job.clone()
    };
    let (asked, direct) = (ask(job, deadline), connect(&direct, deadline));
    tokio::pin!(asked, direct);
    let mut other = None;
    let result = loop {
        tokio::select! {
            biased;
            connected = &mut direct, if other.is_none() => other = Some(connected.map(drop)),
            result = &mut asked => break result,
        }
    };
    match result {
        Err(Fault::Silence(text)) if text.starts_with(NO_CONNECTION) => {
            let text = format!("{text}; {}", words(&job.via, other));
            Err(Fault::Silence(text.into()))
        }
        other => other,
    }
}

fn words(via: &Via, other: Option<Result<(), Fault>>) -> String {
    match (other, via) {
        (Some(Ok(())), Via::Vip(path)) if path.tunnel => {
            "its own address answers: VIP or decapsulator missing, or filtered".to_owned()
        }
        (Some(Ok(())), _) => "its own address answers: VIP missing, or filtered".to_owned(),
        (Some(Err(Fault::Backend(why))), _) => format!("its own address: {why}"),
        _ => "its own address is silent, too".to_owned(),
    }
}
