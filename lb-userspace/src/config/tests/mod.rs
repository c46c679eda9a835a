//! Files that are right, files that are not, and files that nobody wrote.

mod alert;
mod any_input;
mod bad_files;
mod bad_values;
mod documentation;
mod good;
mod kinds;
mod large;
mod not_toml;
mod policy;

use super::*;

/// A file with every table, in which the cases of `bad_values` change one thing.
const BASE: &str = r#"[node]
interfaces = ["eth0", "eth1"]
xdp_mode = "auto"
hash_seed = "0x5eed"
gateway_mac = "02:00:00:00:00:01"
tunnel_source_v4 = "10.0.0.5"
tunnel_source_v6 = "2001:db8::5"

[node.capacity]
services = 10
backends = 100
ring_slots = "auto"

[[service]]
name = "web"
vip = "192.0.2.10"
protocol = "tcp"
port = 80
forward = "ipip"
hash = "5-tuple"
tracking = "adaptive"
ring_size = 65537

[service.health]
kind = "http"
path = "/healthz"
host = "web.example"
port = 8080
interval = "200ms"
timeout = "100ms"
rise = 2
fall = 3
jitter = 0.1
via = "direct"

[[service.backend]]
name = "web-1"
address = "10.0.0.11"
weight = 100

[[service.backend]]
name = "web-2"
address = "10.0.0.12"
forward = "l2"

[[service]]
name = "dns"
vip = "2001:db8::53"
protocol = "udp"
port = 53

[[service.backend]]
name = "dns-1"
address = "2001:db8::11"
"#;

/// Reads `text`, and expects exactly these errors, without the file's name.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let errors = parse(text, "f").expect_err("has errors");
    let found: Vec<String> = errors.iter().map(|error| error.headline().to_string()).collect();
    let expected: Vec<String> = expected.iter().map(|line| format!("f:{line}")).collect();
    assert_eq!(found, expected, "\nfound:\n{}\n", found.join("\n"));
}

/// Reads `text`, and expects a model and exactly these warnings, without the file's name.
#[track_caller]
fn check_warnings(text: &str, expected: &[&str]) -> Model {
    let parsed = parse(text, "f").unwrap_or_else(|errors| panic!("{errors}"));
    let found: Vec<String> = parsed
        .warnings
        .iter()
        .map(|warning| warning.headline().to_string())
        .collect();
    let expected: Vec<String> = expected.iter().map(|line| format!("f:{line}")).collect();
    assert_eq!(found, expected);
    parsed.model
}
