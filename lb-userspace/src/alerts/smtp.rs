//! An alert as a mail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use super::Failure;
use super::queue::Message as Alert;
use crate::model::SmtpTls;

/// A mail server, and who writes to whom.
pub(super) struct Mail<'a> {
    pub(super) server: &'a str,
    pub(super) port: u16,
    pub(super) tls: SmtpTls,
    pub(super) from: &'a str,
    pub(super) to: &'a [String],
    pub(super) login: Option<&'a (String, PathBuf)>,
    pub(super) ca_file: Option<&'a Path>,
    pub(super) timeout: Duration,
}

impl Mail<'_> {
    /// Sends one message; done when the server has taken it.
    pub(super) async fn send(&self, alert: &Alert) -> Result<(), Failure> {
        let message = self.message(alert)?;
        let transport = self.transport()?;
        match transport.send(message).await {
            Ok(_) => Ok(()),
            // 5yz: it will say so again.
            Err(error) if error.is_permanent() => Err(Failure::Never(error.to_string())),
            Err(error) if error.is_transient() => Err(Failure::Untaken(error.to_string())),
            Err(error) => Err(Failure::Later(error.to_string())),
        }
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, Failure> {
        let tls = match self.tls {
            SmtpTls::None => Tls::None,
            SmtpTls::StartTls => Tls::Required(self.parameters()?),
            SmtpTls::Wrapped => Tls::Wrapper(self.parameters()?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(self.server)
            .port(self.port)
            .tls(tls)
            .timeout(Some(self.timeout));
        if let Some((user, file)) = self.login {
            // Read for each mail: a password that was changed counts at once.
            let text = std::fs::read_to_string(file);
            let text = text.map_err(|error| Failure::Later(format!("{}: {error}", file.display())))?;
            let password = text.lines().next().unwrap_or("").to_owned();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(builder.build())
    }

    fn parameters(&self) -> Result<TlsParameters, Failure> {
        let mut builder = TlsParameters::builder(self.server.to_owned());
        if let Some(file) = self.ca_file {
            let unusable = |why: &dyn std::fmt::Display| {
                Failure::Later(format!("ca_file {} cannot be used: {why}", file.display()))
            };
            // Read for each mail: one that was changed counts at once.
            let pem = std::fs::read(file).map_err(|error| unusable(&error))?;
            let certificates = Certificate::from_pem(&pem).map_err(|error| unusable(&error))?;
            builder = builder
                .certificate_store(CertificateStore::None)
                .add_root_certificate(certificates);
        }
        builder
            .build()
            .map_err(|error| Failure::Later(format!("{}: {error}", self.server)))
    }

    fn message(&self, alert: &Alert) -> Result<Message, Failure> {
        // The configuration was checked: these do not fail.
        let mailbox = |text: &str| {
            text.parse::<Mailbox>()
                .map_err(|error| Failure::Never(format!("{text}: {error}")))
        };
        let host =
            nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned());
        let first = alert.first();
        let subject = format!("[{host}] {}: {} {}", first.severity.name(), alert.subject(), first.kind);
        let json = serde_json::to_string_pretty(&alert.body()).map_err(|error| Failure::Never(error.to_string()))?;
        let mut body = format!("{}\n\n", alert.summary());
        if alert.count > 1 {
            alert
                .listed()
                .iter()
                .for_each(|event| body.push_str(&format!("{}\n", event.sentence())));
            body.push('\n');
        }
        body.push_str(&json);
        body.push('\n');
        let mut message = Message::builder().from(mailbox(self.from)?).subject(subject);
        for to in self.to {
            message = message.to(mailbox(to)?);
        }
        let message = message.header(ContentType::TEXT_PLAIN).body(body);
        message.map_err(|error| Failure::Never(error.to_string()))
    }
}
