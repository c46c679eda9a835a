//! Files that are not valid TOML.

use super::{BASE, check};

/// Text without its quotes, and other slips in one value: each is one error, and hides none behind it.
const UNQUOTED: &[(&str, &str, &str)] = &[
    (
        "[\"eth0\", \"eth1\"]",
        "[eth0, \"eth1\"]",
        "2:15: not valid TOML: eth0 is neither a number nor text in quotes",
    ),
    (
        "\"0x5eed\"",
        "0x5eedzz",
        "4:13: not valid TOML: 0x5eedzz is neither a number nor text in quotes",
    ),
    (
        "\"02:00:00:00:00:01\"",
        "02:00:00:00:00:01 # c",
        "5:15: not valid TOML: 02:00:00:00:00:01 is neither a number nor text in quotes",
    ),
    (
        "\"192.0.2.10\"",
        "192.0.2.10",
        "16:7: not valid TOML: 192.0.2.10 is neither a number nor text in quotes",
    ),
    (
        "\"192.0.2.10\"",
        "\"192.0.2.10",
        "16:18: not valid TOML: invalid basic string, expected `\"`",
    ),
    (
        "\"tcp\"",
        "tcp",
        "17:12: not valid TOML: tcp is neither a number nor text in quotes",
    ),
    (
        "= 80\n",
        "= 80 81\n",
        "18:8: not valid TOML: 80 81 is neither a number nor text in quotes",
    ),
    ("= 80\n", "=\n", "18:7: not valid TOML: a value is missing"),
    (
        "= 80\n",
        "= 080\n",
        "18:8: not valid TOML: unexpected leading zero, expected nothing",
    ),
    (
        "\"ipip\"",
        "ipip",
        "19:11: not valid TOML: ipip is neither a number nor text in quotes",
    ),
    (
        "\"5-tuple\"",
        "5-tuple",
        "20:8: not valid TOML: 5-tuple is neither a number nor text in quotes",
    ),
    (
        "\"200ms\"",
        "200ms",
        "29:12: not valid TOML: 200ms is neither a number nor text in quotes",
    ),
    (
        "\"2001:db8::53\"",
        "2001:db8::53",
        "48:7: not valid TOML: 2001:db8::53 is neither a number nor text in quotes",
    ),
];

#[test]
fn not_toml() {
    check("[node\n", &[r#"1:6: not valid TOML: unclosed table, expected `]`"#]);
    check(
        "[node]\ninterfaces = [\"eth0\"\n",
        &[r#"2:21: not valid TOML: unclosed array, expected `]`"#],
    );
    check(
        "\0\n",
        &[
            r#"1:1: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`"#,
            r#"1:2: not valid TOML: key with no value, expected `=`"#,
        ],
    );
    // All errors that leave the rest as it was meant, and those of the values around them.
    check(
        &BASE
            .replace("\"tcp\"", "tcp")
            .replace("= 80\n", "= 80\nport = 81\n")
            .replace("rise = 2", "rise = 0"),
        &[
            r#"17:12: not valid TOML: tcp is neither a number nor text in quotes"#,
            r#"19:1: not valid TOML: the key port is there already"#,
            r#"32:8: service "web": health: rise 0 is out of range: 1 to 100"#,
        ],
    );
    for (good, bad, error) in UNQUOTED {
        check(&BASE.replace(good, bad), &[error]);
    }
    // After a broken header keys are in the wrong table: only what stands before it is judged, and nothing is missing.
    check(
        &BASE
            .replace("fall = 3", "fall = 0")
            .replace(
                "[[service.backend]]\nname = \"web-1\"",
                "[[service.backend]\nname = \"web-1\"",
            )
            .replace("\"tcp\"", "\"tpc\""),
        &[
            r#"17:12: service "web": protocol "tpc" is unknown: did you mean "tcp"? allowed: tcp, udp"#,
            r#"32:8: service "web": health: fall 0 is out of range: 1 to 100"#,
            r#"36:19: not valid TOML: unclosed array table, expected `]`"#,
        ],
    );
    check(
        &BASE.replace("[[service]]\nname = \"dns\"", "[service]\nname = \"dns\""),
        &[r#"46:2: not valid TOML: the table service is there already: write [[service]], as there can be several"#],
    );
    check(
        &format!("[a{}]\n{}", ".a".repeat(1000), "[node]\n"),
        &[r#"1:1: not valid TOML: recursion limit"#],
    );
    check(
        &format!("a{} = 1\n", ".a".repeat(100_000)),
        &[r#"1:1: not valid TOML: recursion limit"#],
    );
    check(
        &format!("a = {}1{}\n", "[".repeat(200), "]".repeat(200)),
        &[r#"1:85: not valid TOML: cannot recurse further; max recursion depth met"#],
    );
}
