//! Failing over and recovering: what the model says, and what is refused.

use std::time::Duration;

use super::{check, check_warnings};
use crate::model::{Damping, Failback, Failover, Policy, Weights};

/// A service with these lines, which begin with line 9, and backends with those.
fn file(lines: &str, first: &str, second: &str) -> String {
    format!(
        "[node]\ninterfaces = [\"eth0\"]\nhash_seed = 1\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10\"\nprotocol = \"tcp\"\nport = 80\n\
         {lines}\n[service.health]\nkind = \"tcp\"\n[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n{first}\n\
         [[service.backend]]\nname = \"b\"\naddress = \"10.0.0.2\"\n{second}\n"
    )
}

#[track_caller]
fn policy(lines: &str) -> Policy {
    check_warnings(&file(lines, "", ""), &[]).services[0].policy.clone()
}

#[track_caller]
fn wrong(lines: &str, expected: &str) {
    check(&file(lines, "", ""), &[expected]);
}

#[test]
fn every_key_reaches_the_model() {
    let seconds = Duration::from_secs;
    assert_eq!(policy(""), Policy::default());
    let lines = "failover = \"gradual\"\nfailover_time = \"20s\"\nfailback = \"delay\"\nfailback_delay = \"90s\"\nslow_start = \"30s\"\n\
                 min_healthy = 2\npanic_threshold = 0.25\nweights = \"agent\"\nagent_port = 9998\nagent_interval = \"2s\"\n\
                 damping = { changes = 4, half_life = \"2m\", max_out = \"20m\" }";
    let all = Policy {
        failover: Failover::Gradual { over: seconds(20) },
        failback: Failback::Delay { after: seconds(90) },
        slow_start: seconds(30),
        min_healthy: 2,
        panic_threshold: 250,
        damping: Some(Damping {
            changes: 4,
            half_life: seconds(120),
            max_out: seconds(1200),
        }),
        weights: Weights::Agent {
            port: 9998,
            interval: seconds(2),
        },
    };
    assert_eq!(policy(lines), all);
    let manual = policy("failover = \"manual\"\nfailback = \"manual\"\nweights = \"latency\"\nslow_start = \"0s\"");
    assert_eq!((manual.failover, manual.failback), (Failover::Manual, Failback::Manual));
    assert_eq!((manual.weights, manual.slow_start), (Weights::Latency, Duration::ZERO));
}

#[test]
fn defaults_of_keys_that_go_with_others() {
    let seconds = Duration::from_secs;
    assert_eq!(
        policy("failover = \"gradual\"").failover,
        Failover::Gradual { over: seconds(30) }
    );
    assert_eq!(
        policy("failback = \"delay\"").failback,
        Failback::Delay { after: seconds(60) }
    );
    let damping = |half_life, max_out| Damping {
        changes: 3,
        half_life: seconds(half_life),
        max_out: seconds(max_out),
    };
    assert_eq!(policy("damping = {}").damping, Some(damping(60, 600)));
    assert_eq!(
        policy("damping = { half_life = \"1h\" }").damping,
        Some(damping(3600, 3600))
    );
    let model = check_warnings(&file("", "priority = 7", "sorry = true"), &[]);
    let backends = &model.services[0].backends;
    assert_eq!((backends[0].priority, backends[0].sorry), (7, false));
    assert_eq!((backends[1].priority, backends[1].sorry), (0, true));
}

#[test]
fn wrong_values() {
    wrong(
        "failover = \"slow\"",
        "9:12: service \"web\": failover \"slow\" is unknown: allowed: fast, gradual, manual",
    );
    wrong(
        "failover = \"gradual\"\nfailover_time = \"500ms\"",
        "10:17: service \"web\": failover_time \"500ms\" is out of range: 1s to 24h",
    );
    wrong(
        "failback = true",
        "9:12: service \"web\": failback true is a boolean: a word in quotes is wanted",
    );
    wrong(
        "failback = \"delay\"\nfailback_delay = 60",
        "10:18: service \"web\": failback_delay 60 has no unit: write 60ms, 60s, 60m or 60h, in quotes",
    );
    wrong(
        "slow_start = \"10ms\"",
        "9:14: service \"web\": slow_start \"10ms\" is out of range: 0s, or 1s to 24h",
    );
    wrong(
        "min_healthy = 0",
        "9:15: service \"web\": min_healthy 0 is out of range: 1 to 65535",
    );
    wrong(
        "panic_threshold = 50",
        "9:19: service \"web\": panic_threshold 50 is out of range: 0 to 1",
    );
    wrong(
        "weights = \"latncy\"",
        "9:11: service \"web\": weights \"latncy\" is unknown: did you mean \"latency\"? allowed: static, latency, agent",
    );
    wrong(
        "weights = \"agent\"\nagent_port = 0",
        "10:14: service \"web\": agent_port 0 is out of range: 1 to 65535",
    );
    wrong(
        "weights = \"agent\"\nagent_port = 1\nagent_interval = \"1ms\"",
        "11:18: service \"web\": agent_interval \"1ms\" is out of range: 100ms to 1h",
    );
    wrong(
        "damping = { changes = 1 }",
        "9:23: service \"web\": damping: changes 1 is out of range: 2 to 100",
    );
    wrong(
        "damping = { half_life = \"2h\" }",
        "9:25: service \"web\": damping: half_life \"2h\" is out of range: 1s to 1h",
    );
    wrong(
        "damping = { halflife = \"2m\" }",
        "9:13: service \"web\": damping: unknown key halflife: did you mean half_life?",
    );
    wrong(
        "damping = true",
        "9:11: service \"web\": damping true is a boolean: a table is wanted",
    );
    check(
        &file("", "priority = 256", "sorry = \"yes\""),
        &[
            "15:12: service \"web\": backend \"a\": priority 256 is out of range: 0 to 255",
            "19:9: service \"web\": backend \"b\": sorry \"yes\" is a string: true or false is wanted",
        ],
    );
}

#[test]
fn what_does_not_go_together() {
    wrong(
        "failover_time = \"20s\"",
        "9:17: service \"web\": failover_time is only for failover = \"gradual\"",
    );
    wrong(
        "failback = \"manual\"\nfailback_delay = \"20s\"",
        "10:18: service \"web\": failback_delay is only for failback = \"delay\"",
    );
    wrong(
        "agent_port = 1",
        "9:14: service \"web\": agent_port is only for weights = \"agent\"",
    );
    wrong(
        "weights = \"agent\"",
        "9:11: service \"web\": agent_port is missing: weights = \"agent\" needs it",
    );
    wrong(
        "damping = { half_life = \"1m\", max_out = \"30s\" }",
        "9:41: service \"web\": damping: max_out 30s is shorter than half_life 60s: nothing would ever be held out",
    );
    check(
        &file("", "sorry = true", "sorry = true"),
        &["15:9: service \"web\": every backend is a sorry one: one that serves when all is well is wanted"],
    );
}

#[test]
fn what_is_probably_not_meant() {
    check_warnings(
        &file("min_healthy = 2", "", "sorry = true"),
        &[
            "9:15: warning: service \"web\": min_healthy 2 is more than the 1 backends there are: all tiers will always serve",
        ],
    );
    let without =
        file("panic_threshold = 0.5\nfailover = \"manual\"", "", "").replace("[service.health]\nkind = \"tcp\"\n", "");
    let does_nothing = "does nothing without [service.health]: without checks the backends are always up";
    check_warnings(
        &without,
        &[
            &format!("9:19: warning: service \"web\": panic_threshold {does_nothing}"),
            &format!("10:12: warning: service \"web\": failover {does_nothing}"),
        ],
    );
}
