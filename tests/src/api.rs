//! The daemon's API without `lbctl`: HTTP on its unix socket, thousands of requests a second.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The API of one daemon.
#[derive(Clone, Debug)]
pub struct Api {
    socket: PathBuf,
}

impl Api {
    /// That of the process, which may live in other namespaces.
    pub fn of(pid: u32) -> Self {
        Self {
            socket: format!("/proc/{pid}/root/run/lbd/lbd.sock").into(),
        }
    }

    /// What a path answers; an error unless the status is 200.
    pub fn get(&self, path: &str) -> Result<Value> {
        match self.ask("GET", path, "")? {
            (200, value) => Ok(value),
            (status, value) => bail!("{path}: status {status}: {value}"),
        }
    }

    /// Sends a body; returns the status and the answer.
    pub fn post(&self, path: &str, body: &str) -> Result<(u16, Value)> {
        self.ask("POST", path, body)
    }

    /// The backends that flows of these clients have, one for each; nothing where the program finds none.
    pub fn owners<C: ToString>(
        &self,
        service: &str,
        clients: impl IntoIterator<Item = C>,
    ) -> Result<Vec<Option<String>>> {
        let owner = |client: C| {
            let client = client
                .to_string()
                .replace(':', "%3A")
                .replace('[', "%5B")
                .replace(']', "%5D");
            let answer = self.get(&format!("/v1/services/{service}/lookup?source={client}"))?;
            Ok(answer["backend"].as_str().map(str::to_owned))
        };
        clients.into_iter().map(owner).collect()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        let mut stream = UnixStream::connect(&self.socket).with_context(|| self.socket.display().to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: lbd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("{path}: half an answer: {answer}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("{path}: {head}"))?;
        let value = serde_json::from_str(body).with_context(|| format!("{path}: {answer}"))?;
        Ok((status, value))
    }
}
