//! Whole files that are wrong: structure, several errors at once, and how all of it is printed.

use super::{BASE, ConfigError, Errors, check, load, parse, parse_bytes};

const NODE: &str = "[node]\ninterfaces = [\"eth0\"]\nhash_seed = 1\n";

/// A node, and after it `text`, which begins in line 4.
#[track_caller]
fn check_after_node(text: &str, expected: &[&str]) {
    check(&format!("{NODE}{text}"), expected);
}

#[test]
fn tables_that_are_missing_or_something_else() {
    check(
        "",
        &["1:1: [node] is missing: a table with at least interfaces = [\"eth0\"]"],
    );
    check(
        "[node]\n",
        &["1:1: [node]: interfaces is missing: a list of at least one, such as [\"eth0\"]"],
    );
    check("node = 1\n", &["1:8: node 1 is an integer: a table is wanted"]);
    check_after_node(
        "[[service]]\n",
        &[
            r#"4:1: service number 1: name is missing: a string, unique among the services"#,
            r#"4:1: service number 1: vip is missing: the address that clients use"#,
            r#"4:1: service number 1: protocol is missing: "tcp" or "udp""#,
            r#"4:1: service number 1: port is missing: 1 to 65535"#,
        ],
    );
    check_after_node(
        "[[service]]\n[[service.backend]]\n",
        &[
            r#"4:1: service number 1: name is missing: a string, unique among the services"#,
            r#"4:1: service number 1: vip is missing: the address that clients use"#,
            r#"4:1: service number 1: protocol is missing: "tcp" or "udp""#,
            r#"4:1: service number 1: port is missing: 1 to 65535"#,
            r#"5:1: service number 1: backend number 1: name is missing: a string, unique in the service"#,
            r#"5:1: service number 1: backend number 1: address is missing: where its packets go"#,
        ],
    );
    check_after_node(
        "[service]\nname = \"a b\"\n",
        &[
            r#"4:1: [service] is one table: write [[service]], as there can be several"#,
            r#"4:1: service number 1: vip is missing: the address that clients use"#,
            r#"4:1: service number 1: protocol is missing: "tcp" or "udp""#,
            r#"4:1: service number 1: port is missing: 1 to 65535"#,
            r#"5:8: service number 1: name "a b" is not a name: 1 to 64 of A-Z a-z 0-9 . _ -, of which - is not the first"#,
        ],
    );
    check(
        &format!("service = [1, \"a\"]\n{NODE}"),
        &[
            r#"1:12: service 1 is an integer: a table is wanted"#,
            r#"1:15: service "a" is a string: a table is wanted"#,
        ],
    );
    check(
        &format!("service = \"web\"\n{NODE}"),
        &[r#"1:11: service "web" is a string: a table is wanted"#],
    );
    check(
        &BASE.replace(
            "[[service.backend]]\nname = \"dns-1\"",
            "[service.backend]\nname = \"dns-1\"",
        ),
        &[r#"52:1: service "dns": [service.backend] is one table: write [[service.backend]], as there can be several"#],
    );
    check(
        &BASE.replace("[service.health]", "[[service.health]]"),
        &[r#"24:1: service "web": health [[service.health]] is a list: a table is wanted"#],
    );
    check(
        &BASE.replace("[node.capacity]", "[node.capacities]"),
        &[
            r#"9:7: [node]: unknown key capacities: allowed: interfaces, xdp_mode, offloads, hash_seed, gateway_mac, tunnel_source_v4, tunnel_source_v6, capacity"#,
        ],
    );
    check(
        &BASE.replace("[service.health]", "[service.helth]"),
        &[r#"24:10: service "web": unknown key helth: did you mean health?"#],
    );
    check(
        &BASE.replace("[node.capacity]", "[capacity]"),
        &[r#"9:2: unknown key capacity: it belongs in [node]"#],
    );
    check(
        &BASE.replace("[service.health]", "[health]"),
        &[r#"24:2: unknown key health: it belongs in [[service]]"#],
    );
    check_after_node(
        "[[services]]\nname = 1\n",
        &[r#"4:3: unknown key services: did you mean service?"#],
    );
    check_after_node(
        "[logging]\nlevel = \"info\"\n",
        &[r#"4:2: unknown key logging: allowed: node, service, alert"#],
    );
    check(
        &BASE.replace("[[service]]\nname = \"web\"", "[[service]]\ntitle = \"web\""),
        &[
            r#"14:1: service number 1: name is missing: a string, unique among the services"#,
            r#"15:1: service number 1: unknown key title: allowed: name, vip, protocol, port, forward, hash, tracking, drain_time, flow_inserts, ring_size, failover, failover_time, failback, failback_delay, slow_start, min_healthy, panic_threshold, weights, agent_port, agent_interval, damping, health, backend"#,
        ],
    );
}

#[test]
fn what_does_not_go_together() {
    let second = "\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10\"\nprotocol = \"tcp\"\nport = 80\n";
    check(
        &format!("{BASE}{second}"),
        &[
            r#"57:8: service "web": name "web" is already used in line 15: each service has its own"#,
            r#"58:7: service "web": 192.0.2.10 tcp port 80 is already in line 16, for service "web""#,
        ],
    );
    check(
        &BASE.replace("kind = \"http\"", "kind = \"tcp\""),
        &[
            r#"26:8: service "web": health: path is only for kind http and https, and this kind is tcp"#,
            r#"27:8: service "web": health: host is only for kind http, https and grpc, and this kind is tcp"#,
        ],
    );
    check(
        &BASE
            .replace("weight = 100\n", "weight = 0\n")
            .replace("forward = \"l2\"", "weight = 0"),
        &[r#"39:10: service "web": every weight is 0, so no backend would get traffic: one of 1 to 65535 is wanted"#],
    );
    check(
        &BASE
            .replace("forward = \"l2\"\n", "")
            .replace("192.0.2.10", "2001:db8::10")
            .replace("\"ipip\"", "\"l2\""),
        &[
            r#"38:11: service "web": backend "web-1": address "10.0.0.11" is of another family than the VIP 2001:db8::10: forward "l2" changes no address, "ipip" can"#,
            r#"43:11: service "web": backend "web-2": address "10.0.0.12" is of another family than the VIP 2001:db8::10: forward "l2" changes no address, "ipip" can"#,
        ],
    );
    check(
        &BASE
            .replace("65537", "16777213")
            .replace("\"auto\"\n\n", "16777214\n\n"),
        &[
            r#"12:14: [node.capacity]: ring_slots = 16777214 is too small: the file needs 16842750; the first 1 of its 2 services would fit"#,
        ],
    );
    // Nothing was typed: the place is the first service that does not fit.
    check(
        &too_many_slots(),
        &[
            r#"388:1: service "s65": ring_slots = 1073741824 is too small: the file needs 1090518845; the first 64 of its 65 services would fit"#,
        ],
    );
}

/// 65 rings of 16,777,213 slots: more than `MAX_RING_SLOTS`.
fn too_many_slots() -> String {
    let service = |i| {
        format!(
            "[[service]]\nname = \"s{i}\"\nvip = \"192.0.2.1\"\nprotocol = \"tcp\"\nport = {i}\nring_size = 16777213\n"
        )
    };
    std::iter::once(NODE.to_owned()).chain((1..=65).map(service)).collect()
}

#[test]
fn a_refused_value_is_not_judged_again() {
    // Otherwise: no interval to compare with, a default interval, a ring of the default size.
    check(
        &BASE
            .replace("interval = \"200ms\"", "interval = 5")
            .replace("timeout = \"100ms\"", "timeout = \"10s\""),
        &[r#"29:12: service "web": health: interval 5 has no unit: write 5ms, 5s, 5m or 5h, in quotes"#],
    );
    check(
        &BASE
            .replace("interval = \"200ms\"", "intervall = \"20s\"")
            .replace("timeout = \"100ms\"", "timeout = \"10s\""),
        &[r#"29:1: service "web": health: unknown key intervall: did you mean interval?"#],
    );
    check(
        &BASE
            .replace("ring_slots = \"auto\"", "ring_slots = 65600")
            .replace("= 65537", "= 5.5"),
        &[r#"22:13: service "web": ring_size 5.5 is a float: an integer is wanted"#],
    );
}

#[test]
fn ten_errors_in_one_file_are_all_reported_in_its_order() {
    let text = r#"[node]
interfaces = ["eth0", "eth0"]
hash_seed = "seed"

[[service]]
name = "web"
vip = "192.0.2.256"
protocol = "http"
port = "80"
ring_size = 65536
colour = "red"

[service.health]
kind = "tcp"
interval = 1

[[service.backend]]
name = "web-1"
address = "127.0.0.1"
weight = 70000
"#;
    check(
        text,
        &[
            r#"2:23: [node]: interface "eth0" is already used in line 2: each is named once"#,
            r#"3:13: [node]: hash_seed "seed" is not a seed: 0x and 1 to 16 hexadecimal digits, or a decimal number below 2^64"#,
            r#"7:7: service "web": vip "192.0.2.256" is not an IPv4 or IPv6 address"#,
            r#"8:12: service "web": protocol "http" is unknown: allowed: tcp, udp"#,
            r#"9:8: service "web": port "80" is a string: a number without quotes is wanted"#,
            r#"10:13: service "web": ring_size 65536 is not a prime: the nearest are 65521 and 65537"#,
            r#"11:1: service "web": unknown key colour: allowed: name, vip, protocol, port, forward, hash, tracking, drain_time, flow_inserts, ring_size, failover, failover_time, failback, failback_delay, slow_start, min_healthy, panic_threshold, weights, agent_port, agent_interval, damping, health, backend"#,
            r#"15:12: service "web": health: interval 1 has no unit: write 1ms, 1s, 1m or 1h, in quotes"#,
            r#"19:11: service "web": backend "web-1": address "127.0.0.1" is a loopback address: a unicast address that others can reach is wanted"#,
            r#"20:10: service "web": backend "web-1": weight 70000 is out of range: 0 to 65535"#,
        ],
    );
}

#[test]
fn not_text() {
    let errors = parse_bytes(b"[node]\ninterfaces = [\"\xc3\xa9t\xe9\"]\n", "f").unwrap_err();
    assert_eq!(
        one(&errors).to_string(),
        "f:2:18: byte 0xe9 is not UTF-8: a configuration is UTF-8 text\n  2 | interfaces = [\"ét\u{FFFD}\"]\n    |                  ^"
    );
    let errors = parse_bytes(b"\xff", "f").unwrap_err();
    assert_eq!(
        one(&errors).headline().to_string(),
        "f:1:1: byte 0xff is not UTF-8: a configuration is UTF-8 text"
    );
}

#[test]
fn not_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.toml");
    let errors = load(&path).unwrap_err();
    assert_eq!(
        one(&errors).to_string(),
        format!(
            "{}: cannot be read: No such file or directory (os error 2)",
            path.display()
        )
    );
    assert!(
        one(&load(dir.path()).unwrap_err())
            .problem
            .starts_with("cannot be read: Is a directory")
    );
    std::fs::write(&path, BASE).unwrap();
    assert_eq!(load(&path).unwrap().model, parse(BASE, "f").unwrap().model);
}

#[test]
fn the_value_is_underlined() {
    let shown = |good: &str, bad: &str| parse(&BASE.replace(good, bad), "edge.toml").unwrap_err().to_string();
    assert_eq!(
        shown("weight = 100", "\tweight = '\u{e9}' # much"),
        "edge.toml:39:11: service \"web\": backend \"web-1\": weight '\u{e9}' is a string: an integer is wanted\n  \
         39 | \tweight = '\u{e9}' # much\n     | \t         ^^^"
    );
    // What could steer a terminal is not printed.
    assert_eq!(
        shown("weight = 100", "weight = 1 # \u{1b}[2J"),
        "edge.toml:39:14: not valid TOML: invalid comment character, expected printable characters\n  \
         39 | weight = 1 # \u{FFFD}[2J\n     |              ^"
    );
    // A very long line is quoted as far as it is of use.
    let problem = "edge.toml:18:308: service \"web\": port 0 is out of range: 1 to 65535";
    assert_eq!(shown("port = 80\n", &format!("{}port = 0\n", " ".repeat(300))), problem);
    let long = shown("forward = \"ipip\"", &format!("forward = \"{}\"", "x".repeat(300)));
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "edge.toml:19:11: service \"web\": forward \"{}… is unknown: allowed: l2, ipip",
            "x".repeat(59)
        )
    );
    assert_eq!(lines[1], format!("  19 | forward = \"{}", "x".repeat(189)));
    assert_eq!(lines[2], format!("     | {}{}", " ".repeat(10), "^".repeat(190)));
}

#[test]
fn errors_are_json_and_back() {
    let errors = parse(&BASE.replace("weight = 100", "weight = 70000"), "edge.toml").unwrap_err();
    let json = serde_json::to_value(&errors).unwrap();
    let expected = serde_json::json!([{
        "file": "edge.toml",
        "line": 39,
        "column": 10,
        "width": 5,
        "path": "service \"web\": backend \"web-1\"",
        "problem": "weight 70000 is out of range: 0 to 65535",
        "source": "weight = 70000",
        "warning": false,
    }]);
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<Errors>(json).unwrap(), errors);
}

#[track_caller]
fn one(errors: &Errors) -> &ConfigError {
    let [error] = errors.as_slice() else {
        panic!("one error, not {errors}")
    };
    error
}
