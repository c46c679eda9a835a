//! Kinds of probes by the users' path, against real servers; and what routers say of a backend.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_tests::edge::{Edge, Service, configuration};
use lb_tests::net::{Arms, Family, Host, Process, Scratch, wait_until};
use lb_tests::serve::UdpResponder;

use super::{ALL_UP, Site, turn, wait_for, web};

pub(crate) const TIMES: &str = "interval = \"300ms\"\ntimeout = \"250ms\"\nrise = 1\nfall = 2\n";

/// Services with the kinds of probe that need servers of their own, and those servers.
pub(crate) struct Kinds {
    pub(crate) services: Vec<Service>,
    pub(crate) servers: Servers,
}

/// What is to be started on each backend.
pub(crate) struct Servers {
    scratch: Scratch,
    certificate: PathBuf,
    key: PathBuf,
}

/// `https`, `udp`, `dns` and `icmp`, each for every one of these families of VIP and backend.
pub(crate) fn kinds(families: &[(Family, Family)]) -> Result<Kinds> {
    let scratch = Scratch::new()?;
    let key = rcgen::generate_simple_self_signed(["shop.example".to_owned()])?;
    let certificate = scratch.write("tls.pem", &key.cert.pem())?;
    let key = scratch.write("tls.key", &key.signing_key.serialize_pem())?;
    let kinds = [
        (
            "https",
            443,
            "tcp",
            format!(
                "kind = \"https\"\nserver_name = \"shop.example\"\nca_file = \"{}\"\nexpect_status = 200\nexpect_body = \"fine\"\n",
                certificate.display()
            ),
        ),
        (
            "udp",
            53,
            "udp",
            "kind = \"udp\"\nsend = \"who?\"\nexpect = \"web-\"\n".into(),
        ),
        (
            "dns",
            DNS_PORT,
            "udp",
            "kind = \"dns\"\nquery = \"shop.example\"\n".into(),
        ),
        ("icmp", 80, "tcp", "kind = \"icmp\"\n".into()),
    ];
    let mut services = Vec::new();
    for (family, backend_family) in families {
        for (kind, port, protocol, health) in &kinds {
            let number = 10 + u8::try_from(services.len())?;
            services.push(Service {
                name: format!("{kind}-{number}"),
                port: *port,
                protocol,
                // Configurations live as long as the tests.
                health: Some(Box::leak(format!("{health}{TIMES}").into_boxed_str())),
                ..web(number, "ipip", *family, *backend_family)
            });
        }
    }
    let servers = Servers {
        scratch,
        certificate,
        key,
    };
    Ok(Kinds { services, servers })
}

impl Servers {
    pub(crate) fn start(&self, site: &Site) -> Result<(Vec<Process>, Vec<UdpResponder>)> {
        let mut secure = Vec::new();
        let mut responders = Vec::new();
        for backend in &site.net.backends {
            secure.push(secure_server(
                &backend.host,
                &self.scratch,
                &self.certificate,
                &self.key,
            )?);
            for service in site.services.iter().filter(|service| service.protocol == "udp") {
                let address = SocketAddr::new(service.vip, service.port);
                responders.push(if service.port == DNS_PORT {
                    UdpResponder::with(&backend.host, address, dns_answer)?
                } else {
                    UdpResponder::start(&backend.host, address)?
                });
            }
        }
        Ok((secure, responders))
    }
}

const DNS_PORT: u16 = 5353;

/// A DNS answer (RFC 1035 section 4.1.1): the query as it came, QR and RA set, code NOERROR, without records.
fn dns_answer(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    if let Some(flags) = answer.get_mut(2..4) {
        flags.copy_from_slice(&[0x81, 0x80]);
    }
    answer
}

/// They reach every backend through the tunnel, and miss a VIP that is not there.
#[test]
fn other_kinds_take_the_users_path_too() -> Result<()> {
    let _turn = turn();
    let Kinds { services, servers } = kinds(&[
        (Family::V4, Family::V4),
        (Family::V6, Family::V6),
        (Family::V4, Family::V6),
    ])?;
    let site = Site::new(Arms::Two, services)?;
    let _servers = servers.start(&site)?;
    let edge = site.edge()?;
    for service in &site.services {
        wait_for(&edge, &service.name, ALL_UP)?;
    }
    site.stop_keeper(1)?;
    for service in &site.services {
        let length = if service.vip.is_ipv4() { 32 } else { 128 };
        site.net.backends[1]
            .host
            .ip(&format!("addr del {}/{length} dev lo", service.vip))?;
        let (took, words) = wait_for(&edge, &service.name, ["up", "down", "up"])?;
        println!(
            "{}: VIP missing on the backend: out after {took:?}, {words}",
            service.name
        );
    }
    Ok(())
}

/// nginx with TLS on port 443 of all addresses.
fn secure_server(
    host: &Host,
    scratch: &Scratch,
    certificate: &std::path::Path,
    private: &std::path::Path,
) -> Result<Process> {
    let text = format!(
        "daemon off;\nmaster_process off;\npid /run/tls.pid;\nevents {{ }}\nhttp {{\naccess_log off;\nclient_body_temp_path /run/b;\n\
         proxy_temp_path /run/p;\nfastcgi_temp_path /run/f;\nuwsgi_temp_path /run/u;\nscgi_temp_path /run/s;\nserver {{\n\
         listen 443 ssl;\nlisten [::]:443 ssl;\nssl_certificate {};\nssl_certificate_key {};\n\
         location / {{ return 200 \"all is fine\\n\"; }}\n}}\n}}\n",
        certificate.display(),
        private.display()
    );
    let configuration = scratch.write(&format!("tls-{}.conf", host.name()), &text)?;
    let mut command = host.command("nginx");
    command.args(["-e", "stderr", "-p", "/run", "-c"]).arg(configuration);
    let mut process = host.spawn(command, &scratch.path().join(format!("tls-{}.log", host.name())))?;
    wait_until("nginx to listen on 443", Duration::from_secs(10), || {
        process.check()?;
        host.enter(|| std::net::TcpStream::connect("127.0.0.1:443").is_ok())
    })
    .with_context(|| process.log())?;
    Ok(process)
}

/// A router on the way loses its route to a backend and says so to the first packet of a user: the backend is probed at once, not when
/// its interval has passed.
#[test]
fn a_routers_word_is_followed_at_once() -> Result<()> {
    let _turn = turn();
    let service = Service {
        health: Some(
            "kind = \"http\"\ninterval = \"30s\"\nfast_interval = \"100ms\"\ntimeout = \"100ms\"\nrise = 1\nfall = 3\njitter = 0.0\n",
        ),
        ..web(10, "ipip", Family::V4, Family::V4)
    };
    let site = Site::new(Arms::Two, vec![service])?;
    let (name, vip) = (site.services[0].name.clone(), site.services[0].vip);
    // web-2 is behind the router, by another address.
    let (fabric, backend) = (&site.net.fabric, &site.net.backends[1]);
    backend.host.ip("addr add 10.9.0.2/32 dev lo")?;
    fabric.ip("route add 10.9.0.2/32 via 10.0.0.12")?;
    let text = configuration(&site.net, &site.services).replace("address = \"10.0.0.12\"", "address = \"10.9.0.2\"");
    let edge = Edge::start(&site.net, &site.programs, &site.scratch, &text)?;
    wait_for(&edge, &name, ALL_UP)?;
    // The routers of the kernel limit what they say.
    fabric.sysctl("net/ipv4/icmp_ratelimit", "0")?;
    fabric.ip("route replace unreachable 10.9.0.2/32")?;
    let begin = Instant::now();
    let target = SocketAddr::new(vip, 80);
    let down = || -> Result<bool> {
        let _ = site
            .net
            .client
            .enter(|| std::net::TcpStream::connect_timeout(&target, Duration::from_millis(20)))?;
        Ok(super::verdicts(&edge, &name)?["web-2"].0 == "down")
    };
    wait_until("web-2 to be out", Duration::from_secs(20), down).with_context(|| edge.log())?;
    let took = begin.elapsed();
    println!("route lost, interval 30 s: out after {took:?}");
    ensure!(took < Duration::from_secs(10), "{took:?} is the interval's doing");
    Ok(())
}
