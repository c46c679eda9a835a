//! Plans that take long, beside other requests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_userspace::api::call::Call;
use lb_userspace::api::client::ClientError;
use lb_userspace::api::error::ErrorKind;
use lb_userspace::api::server::Timeouts;
use tokio::task::JoinSet;

use crate::socket::{Daemon, TIMEOUTS, answer};

/// Plans that the server asks for at a time.
const AT_A_TIME: usize = 4;

#[tokio::test]
async fn plans_under_way_hold_up_no_other_answer() {
    let planning = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&planning);
    let timeouts = Timeouts {
        change: Duration::from_secs(5),
        request: Duration::from_secs(20),
        ..TIMEOUTS
    };
    let daemon = Daemon::start_with(timeouts, move |call| {
        match call {
            Call::Plan { .. } => kept.lock().expect("whole").push(call),
            call => answer(call),
        }
        true
    });
    let mut plans = JoinSet::new();
    for _ in 0..=AT_A_TIME {
        let client = daemon.client().with_timeout(Duration::from_secs(20));
        plans.spawn(async move { client.plan("right".to_owned(), None).await });
    }
    let asked = || planning.lock().expect("whole").len();
    while asked() < AT_A_TIME {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let client = daemon.client();
    client.services().await.expect("answered beside the plans");
    client.stats().await.expect("answered beside the plans");
    assert_eq!(asked(), AT_A_TIME, "the last one waits its turn");
    let first: Vec<Call> = planning.lock().expect("whole").drain(..).collect();
    first.into_iter().for_each(answer);
    for _ in 0..AT_A_TIME {
        plans
            .join_next()
            .await
            .expect("a plan")
            .expect("no panic")
            .expect("planned");
    }
    while asked() < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // That one gets no answer.
    let error = plans.join_next().await.expect("a plan").expect("no panic");
    match error.expect_err("no answer") {
        ClientError::Api(error) => assert_eq!(error.kind, ErrorKind::Timeout, "{}", error.message),
        error => panic!("{error}"),
    }
}
