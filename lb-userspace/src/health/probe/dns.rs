//! `dns`: a query whose response code, and if wanted one of whose answers, is the expected one.
//!
//! Over UDP or TCP, as the service is. A truncated answer over UDP counts by its response code; what it holds is looked through.

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connect::{connect, datagram};
use super::{Answer, Deadline, Fault, Job};
use crate::model::{Dns, Protocol};

pub(super) async fn probe(job: &Job, dns: &Dns, deadline: Deadline) -> Result<Answer, Fault> {
    let id = fastrand::u16(..);
    let query = query(dns, id)?;
    let mut answer = vec![0; 65_535];
    match dns.over {
        Protocol::Udp => {
            let socket = datagram(job)?;
            let sent = socket.send(&query).await;
            sent.map_err(|error| Fault::of_io(&error))?;
            loop {
                let length = deadline.wait("DNS answer", socket.recv(&mut answer)).await?;
                let length = length.map_err(|error| Fault::of_io(&error))?;
                // Another one's answer, or noise: ours may still come.
                if answer[..length].get(..2) == Some(&id.to_be_bytes()) {
                    return judge(dns, &answer[..length]);
                }
            }
        }
        Protocol::Tcp => {
            let mut stream = connect(job, deadline).await?;
            let exchange = async {
                let mut message = (query.len() as u16).to_be_bytes().to_vec();
                message.extend_from_slice(&query);
                stream.write_all(&message).await?;
                let length = usize::from(stream.read_u16().await?);
                stream.read_exact(&mut answer[..length]).await?;
                Ok::<usize, std::io::Error>(length)
            };
            let length = deadline.wait("DNS answer", exchange).await?;
            let length = length.map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => Fault::backend("closed without a whole answer"),
                _ => Fault::of_io(&error),
            })?;
            if answer[..length].get(..2) != Some(&id.to_be_bytes()) {
                return Err(Fault::backend("an answer to another question"));
            }
            judge(dns, &answer[..length])
        }
    }
}

fn query(dns: &Dns, id: u16) -> Result<Vec<u8>, Fault> {
    let own =
        |error: simple_dns::SimpleDnsError| Fault::Own(format!("{:?} cannot be asked for: {error}", dns.name).into());
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(&dns.name).map_err(own)?;
    let kind = QTYPE::TYPE(TYPE::from(dns.record));
    packet
        .questions
        .push(Question::new(name, kind, CLASS::IN.into(), false));
    packet.build_bytes_vec().map_err(own)
}

fn judge(dns: &Dns, answer: &[u8]) -> Result<Answer, Fault> {
    // The code stands in the head, also of answers with records that cannot be read.
    let Some((flags, code)) = answer.get(2).zip(answer.get(3)) else {
        return Err(Fault::backend("not DNS"));
    };
    if flags & 0x80 == 0 {
        return Err(Fault::backend("not a DNS answer"));
    }
    let code = code & 0x0F;
    if code != dns.rcode {
        return Err(Fault::backend(format!(
            "{} (expected {})",
            name_of(code),
            name_of(dns.rcode)
        )));
    }
    let Some(wanted) = &dns.answer else {
        return Ok(Answer::now(name_of(code)));
    };
    let packet = Packet::parse(answer).map_err(|error| Fault::backend(format!("not DNS: {error}")))?;
    let texts: Vec<String> = packet.answers.iter().filter_map(|record| text(&record.rdata)).collect();
    let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    if texts.iter().any(|text| plain(text) == plain(wanted)) {
        return Ok(Answer::now(format!("answer {wanted}")));
    }
    let shown = texts.first().map_or("no answer", String::as_str);
    Err(Fault::backend(format!("{shown} (expected {wanted})")))
}

fn text(data: &RData<'_>) -> Option<String> {
    Some(match data {
        RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
        RData::AAAA(a) => std::net::Ipv6Addr::from(a.address).to_string(),
        RData::CNAME(name) => name.0.to_string(),
        RData::NS(name) => name.0.to_string(),
        RData::PTR(name) => name.0.to_string(),
        RData::MX(mx) => mx.exchange.to_string(),
        RData::TXT(txt) => String::try_from(txt.clone()).ok()?,
        RData::SOA(soa) => soa.mname.to_string(),
        RData::SRV(srv) => srv.target.to_string(),
        _ => return None,
    })
}

/// As in the configuration, if it has a name there.
fn name_of(code: u8) -> String {
    let known = RCODES.iter().find(|(_, number)| *number == code);
    known.map_or_else(|| format!("response code {code}"), |(name, _)| (*name).to_owned())
}

/// Response codes by their names (RFC 1035).
pub(crate) const RCODES: [(&str, u8); 6] = [
    ("noerror", 0),
    ("formerr", 1),
    ("servfail", 2),
    ("nxdomain", 3),
    ("notimp", 4),
    ("refused", 5),
];

/// Record types by their names (RFC 1035, 3596, 2782).
pub(crate) const RECORDS: [(&str, u16); 9] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
];
