//! `[service.health]` by kind: what is understood, and what a kind needs.

use super::{check, check_warnings};
use crate::model::{Check, Dns, Exec, Grpc, Http, Protocol, Statuses, Tls, Udp, Via};
use crate::run_as::NamedUser;

fn file(protocol: &str, health: &str) -> String {
    format!(
        "[node]\ninterfaces = [\"eth0\"]\nhash_seed = 1\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10\"\nprotocol = \"{protocol}\"\n\
         port = 53\n[[service.backend]]\nname = \"b\"\naddress = \"10.0.0.11\"\n[service.health]\n{health}\n"
    )
}

#[test]
fn every_kind() {
    let tls = Tls {
        server_name: Some("shop.example".into()),
        ca_file: Some("/etc/ca.pem".into()),
        verify: false,
    };
    let tls_keys = "server_name = \"shop.example\"\nca_file = \"/etc/ca.pem\"\nverify = false";
    for (health, expected) in [
        ("kind = \"tcp\"".to_owned(), Check::Tcp),
        ("kind = \"icmp\"".to_owned(), Check::Icmp),
        (
            format!(
                "kind = \"https\"\npath = \"/x\"\nexpect_status = \"200-299, 301\"\nexpect_body = \"ok\"\n{tls_keys}"
            ),
            Check::Http(Http {
                statuses: Statuses(vec![(200, 299), (301, 301)]),
                body: Some("ok".into()),
                tls: Some(tls.clone()),
                ..Http::get("/x")
            }),
        ),
        (
            "kind = \"http\"\nexpect_status = 204".to_owned(),
            Check::Http(Http {
                statuses: Statuses(vec![(204, 204)]),
                ..Http::get("/")
            }),
        ),
        (
            format!("kind = \"grpc\"\ngrpc_service = \"shop\"\ntls = true\n{tls_keys}"),
            Check::Grpc(Grpc {
                service: "shop".into(),
                host: None,
                tls: Some(tls),
            }),
        ),
        (
            "kind = \"dns\"\nquery = \"www.example\"\nrecord = \"AAAA\"\nexpect_rcode = \"nxdomain\"".to_owned(),
            Check::Dns(Dns {
                name: "www.example".into(),
                record: 28,
                rcode: 3,
                answer: None,
                over: Protocol::Udp,
            }),
        ),
        (
            "kind = \"udp\"\nsend = \"hi\"\nexpect_hex = \"0a fF\"".to_owned(),
            Check::Udp(Udp {
                send: b"hi".to_vec(),
                expect: Some(vec![0x0A, 0xFF]),
            }),
        ),
        (
            "kind = \"exec\"\nprogram = \"/bin/true\"\nargs = [\"-v\", \"a b\"]".to_owned(),
            Check::Exec(Exec {
                program: "/bin/true".into(),
                args: vec!["-v".into(), "a b".into()],
                run_as: None,
            }),
        ),
        (
            "kind = \"exec\"\nprogram = \"/bin/true\"\nuser = \"nobody\"".to_owned(),
            Check::Exec(Exec {
                program: "/bin/true".into(),
                args: Vec::new(),
                run_as: Some(NamedUser::look_up("nobody")),
            }),
        ),
    ] {
        let model = check_warnings(&file("udp", &health), &[]);
        let found = model.services[0].health.as_ref().expect("checks");
        assert_eq!(found.check, expected);
        let exec = matches!(expected, Check::Exec(_));
        assert_eq!(found.via, if exec { Via::Direct } else { Via::Vip });
    }
}

#[test]
fn what_a_kind_needs() {
    for (health, errors) in [
        (
            "kind = \"dns\"",
            &[r#"12:1: service "web": health: query is missing: the name that is asked for, such as "www.example""#][..],
        ),
        (
            "kind = \"udp\"",
            &[r#"12:1: service "web": health: send is missing: what is sent; or send_hex"#],
        ),
        (
            "kind = \"exec\"\nvia = \"vip\"",
            &[
                r#"12:1: service "web": health: program is missing: the absolute path of a program"#,
                r#"14:7: service "web": health: via "vip" is not for kind exec: the program itself chooses how it asks"#,
            ],
        ),
        (
            "kind = \"udp\"\nsend = \"a\"\nsend_hex = \"00\"",
            &[
                r#"15:12: service "web": health: send and send_hex are the same in two notations: only one of them is wanted"#,
            ],
        ),
        (
            "kind = \"dns\"\nquery = \"a..b\"",
            &[r#"14:9: service "web": health: query "a..b" is not a domain name, such as "www.example""#],
        ),
        (
            "kind = \"exec\"\nprogram = \"/bin/true\"\nuser = \"no-such-user\"",
            &[
                r#"15:8: service "web": health: user "no-such-user" is unknown: a user of this host is wanted, as `getent passwd` lists them"#,
            ],
        ),
        (
            "kind = \"exec\"\nprogram = \"/bin/true\"\nuser = 65534",
            &[r#"15:8: service "web": health: user 65534 is an integer: the name of a user of this host is wanted"#],
        ),
        (
            "kind = \"tcp\"\nuser = \"nobody\"",
            &[r#"14:8: service "web": health: user is only for kind exec, and this kind is tcp"#],
        ),
        (
            "kind = \"exec\"\nprogram = \"true\"\nargs = \"x\"",
            &[
                r#"14:11: service "web": health: program "true" is not an absolute path"#,
                r#"15:8: service "web": health: args "x" is a string: a list of at most 64 texts, such as ["-v", "web"], is wanted"#,
            ],
        ),
    ] {
        check(&file("udp", health), errors);
    }
}
