//! TLS around a probe's connection.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Deadline, Fault, Job};
use crate::model::Tls;
use crate::trust;

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Inside {
    Http1,
    Http2,
}

/// Shakes hands; every time from the beginning, so that a certificate that has expired is seen.
pub(super) async fn wrap(
    job: &Job,
    tls: &Tls,
    host: Option<&str>,
    inside: Inside,
    stream: TcpStream,
    deadline: Deadline,
) -> Result<TlsStream<TcpStream>, Fault> {
    let name = server_name(job, tls, host)?;
    let connector = TlsConnector::from(config(tls, inside)?);
    let done = deadline.wait("TLS handshake", connector.connect(name, stream)).await?;
    done.map_err(|error| fault_of(&error))
}

fn server_name(job: &Job, tls: &Tls, host: Option<&str>) -> Result<ServerName<'static>, Fault> {
    let Some(name) = tls.server_name.as_deref().or(host.map(without_port)) else {
        return Ok(ServerName::from(job.to.ip()));
    };
    ServerName::try_from(name.to_owned())
        .map_err(|_| Fault::Own(format!("server_name {name:?} is neither a host name nor an address").into()))
}

/// `www.example:8443` → `www.example`, `[2001:db8::1]:8443` → `2001:db8::1`.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

fn fault_of(error: &io::Error) -> Fault {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => Fault::backend("not TLS"),
        Some(rustls::Error::InvalidCertificate(error)) => Fault::backend(format!("certificate refused: {error}")),
        Some(error) => Fault::backend(format!("TLS: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => Fault::backend("closed within the TLS handshake"),
        None => Fault::of_io(error),
    }
}

type Key = (Tls, Inside, Option<SystemTime>);

/// Settings are made once for all probes that share them, and anew when the file of certificates changes.
fn config(tls: &Tls, inside: Inside) -> Result<Arc<ClientConfig>, Fault> {
    static KNOWN: LazyLock<Mutex<HashMap<Key, Arc<ClientConfig>>>> = LazyLock::new(Mutex::default);
    let changed = tls
        .ca_file
        .as_ref()
        .and_then(|file| std::fs::metadata(file).and_then(|about| about.modified()).ok());
    let key = (tls.clone(), inside, changed);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(config) = known.get(&key) {
        return Ok(Arc::clone(config));
    }
    let config = Arc::new(make(tls, inside)?);
    // Of the same settings only the latest file counts.
    known.retain(|(other, what, _), _| (other, *what) != (tls, inside));
    known.insert(key, Arc::clone(&config));
    Ok(config)
}

fn make(tls: &Tls, inside: Inside) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(ring::default_provider());
    let own = |error: rustls::Error| Fault::Own(format!("TLS cannot be set up: {error}").into());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(own)?;
    let mut config = if tls.verify {
        builder.with_root_certificates(trust::roots(tls.ca_file.as_deref()).map_err(|why| Fault::Own(why.into()))?)
    } else {
        let anyone = Arc::new(Anyone(provider));
        builder.dangerous().with_custom_certificate_verifier(anyone)
    }
    .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = match inside {
        Inside::Http1 => vec![b"http/1.1".to_vec()],
        Inside::Http2 => vec![b"h2".to_vec()],
    };
    Ok(config)
}

/// `verify = false`: any certificate will do, but the server must hold its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_host() {
        for (host, name) in [
            ("www.example", "www.example"),
            ("www.example:8443", "www.example"),
            ("192.0.2.1:443", "192.0.2.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
