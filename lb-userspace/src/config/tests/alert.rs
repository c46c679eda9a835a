//! Receivers of alerts: what the model says, and what is refused.

use std::time::Duration;

use super::{check, check_warnings};
use crate::api::events::{EventKind, Severity};
use crate::model::{Alert, AlertWay, SecretSource, SmtpTls};
use crate::run_as::NamedUser;

/// A file with these lines, which begin with line 4.
fn file(lines: &str) -> String {
    format!("[node]\ninterfaces = [\"eth0\"]\nhash_seed = 1\n{lines}\n")
}

const HOOK: &str = "[[alert]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"https://hooks.example.com/x?y=1\"\n";

#[test]
fn every_key_reaches_the_model() {
    let lines = "[[alert]]\nname = \"mail\"\nkind = \"smtp\"\nserver = \"mail.example.com\"\nport = 2525\ntls = \"none\"\n\
                 from = \"Edge <edge@example.com>\"\nto = [\"ops@example.com\", \"b@example.com\"]\nuser = \"edge\"\n\
                 password_file = \"/etc/lbd/mail\"\nseverity = \"critical\"\nevents = [\"panic_on\", \"service_lost\"]\ntimeout = \"3s\"\n\
                 [[alert]]\nname = \"run\"\nkind = \"exec\"\ncommand = [\"/bin/true\", \"-x\"]\nuser = \"nobody\"\n";
    let model = check_warnings(&file(&format!("{HOOK}ca_file = \"/etc/ca.pem\"\n{lines}")), &[]);
    let hook = Alert {
        name: "hook".into(),
        way: AlertWay::Webhook {
            url: SecretSource::Inline("https://hooks.example.com/x?y=1".to_owned().into()),
            ca_file: Some("/etc/ca.pem".into()),
        },
        least: Severity::Warning,
        kinds: Vec::new(),
        timeout: Duration::from_secs(10),
    };
    let mail = Alert {
        name: "mail".into(),
        way: AlertWay::Smtp {
            server: "mail.example.com".into(),
            port: 2525,
            tls: SmtpTls::None,
            from: "Edge <edge@example.com>".into(),
            to: vec!["ops@example.com".into(), "b@example.com".into()],
            login: Some(("edge".into(), "/etc/lbd/mail".into())),
            ca_file: None,
        },
        least: Severity::Critical,
        kinds: vec![EventKind::PanicOn, EventKind::ServiceLost],
        timeout: Duration::from_secs(3),
    };
    let run = Alert {
        name: "run".into(),
        way: AlertWay::Exec {
            command: vec!["/bin/true".into(), "-x".into()],
            run_as: Some(NamedUser::look_up("nobody")),
        },
        ..hook.clone()
    };
    assert_eq!(model.alerts, [hook, mail, run]);
}

#[test]
fn what_is_wrong_is_named() {
    let wrong = |lines: &str, expected: &[&str]| check(&file(lines), expected);
    wrong(
        "[[alert]]\nkind = \"sms\"",
        &[
            "4:1: alert number 1: name is missing: a string, unique among the alerts",
            "5:8: alert number 1: kind \"sms\" is unknown: allowed: webhook, smtp, exec",
        ],
    );
    wrong(
        &format!("{HOOK}{HOOK}"),
        &["9:8: alert \"hook\": name \"hook\" is already used in line 5: each alert has its own"],
    );
    wrong(
        &HOOK.replace("https://hooks.example.com/x?y=1", "hooks.example.com"),
        &[
            "7:7: alert \"hook\": url (not shown, it may hold a secret) is not an address that begins with http:// or https:// and has a host, and no user",
        ],
    );
    wrong(
        &format!("{HOOK}events = [\"panic\"]\nto = [\"x\"]"),
        &[
            "8:10: alert \"hook\": events \"panic\" is unknown: docs/api.md lists them",
            "9:1: alert \"hook\": to is only for kind = \"smtp\"",
        ],
    );
    wrong(
        &format!("{HOOK}severity = \"loud\"\ntimeout = \"1ms\""),
        &[
            "8:12: alert \"hook\": severity \"loud\" is unknown: allowed: info, warning, critical",
            "9:11: alert \"hook\": timeout \"1ms\" is out of range: 100ms to 5m",
        ],
    );
    wrong(
        "[[alert]]\nname = \"m\"\nkind = \"smtp\"\nserver = \"a b\"\nfrom = \"edge\"\nto = []\nuser = \"x\"",
        &[
            "7:10: alert \"m\": server \"a b\" is not a server's name or address",
            "8:8: alert \"m\": from \"edge\" is not a mail address, such as \"edge@example.com\"",
            "9:6: alert \"m\": to [] is not a list of mail addresses, such as [\"ops@example.com\"]",
            "10:8: alert \"m\": password_file is missing: user needs it",
        ],
    );
    wrong(
        &format!("{}ca_file = \"/etc/ca.pem\"", HOOK.replace("https", "http")),
        &["8:11: alert \"hook\": ca_file is only for an https:// url, or tls = \"starttls\" or \"tls\""],
    );
    wrong(
        &format!("{HOOK}ca_file = \"ca.pem\""),
        &["8:11: alert \"hook\": ca_file \"ca.pem\" is not an absolute path"],
    );
    wrong(
        "[[alert]]\nname = \"r\"\nkind = \"exec\"\ncommand = [\"true\"]",
        &["7:11: alert \"r\": command [\"true\"] is not a list: the program's full path, and its arguments"],
    );
    wrong(
        "[[alert]]\nname = \"r\"\nkind = \"exec\"\ncommand = [\"/bin/true\"]\nuser = \"no-such-user\"\npassword_file = \"/x\"",
        &[
            "8:8: alert \"r\": user \"no-such-user\" is unknown: a user of this host is wanted, as `getent passwd` lists them",
            "9:1: alert \"r\": password_file is only for kind = \"smtp\"",
        ],
    );
    wrong(
        &format!("{HOOK}user = \"nobody\""),
        &["8:1: alert \"hook\": user is only for kind = \"smtp\" or \"exec\""],
    );
}

#[test]
fn secrets_in_wrong_places_are_not_shown() {
    let alerts = |lines: &str| {
        format!(
            "{}[[alert]]\nname = \"r\"\nkind = \"webhook\"\n{lines}\n",
            "[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n"
        )
    };
    for line in [
        "password_file = \"T0ken\"",
        "url_file = \"T0ken\"",
        "url_file = 4711 # T0ken",
        "url = https://ntfy.sh/T0ken",
        "url = T0ken",
        "password = \"T0ken\"",
        "url = \"T0ken",
        "x = https://ntfy.sh/T0ken",
        "\"url\" = [\"T0ken\"]",
    ] {
        for text in [
            alerts(line).into_bytes(),
            [alerts(line).as_bytes(), b"\xff"].concat(),
            [line.as_bytes(), b"\xff"].concat(),
        ] {
            let errors = crate::config::parse_bytes(&text, "f").expect_err(line);
            assert!(!errors.to_string().contains("T0ken"), "{errors}");
        }
    }
}
