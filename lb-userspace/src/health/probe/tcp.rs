//! `tcp`: opens a connection and closes it.

use super::connect::connect;
use super::{Answer, Deadline, Fault, Job};

pub(super) async fn probe(job: &Job, deadline: Deadline) -> Result<Answer, Fault> {
    let stream = connect(job, deadline).await?;
    let answer = Answer::now("connected");
    drop(stream);
    Ok(answer)
}
