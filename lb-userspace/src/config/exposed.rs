//! Secrets that other users of this host can read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::model::{AlertWay, Model, SecretSource};

/// A sentence for each file with secrets that others than its owner can read; `file` is the configuration's own.
pub fn exposed(model: &Model, file: Option<&Path>) -> Vec<String> {
    let mut lines = Vec::new();
    let inline = |way: &AlertWay| matches!(way, AlertWay::Webhook { url: SecretSource::Inline(url), .. } if has_more_than_a_host(url.expose()));
    if let Some(file) = file
        && model.alerts.iter().any(|alert| inline(&alert.way))
        && mode(file) & 0o007 != 0
    {
        lines.push(format!(
            "{0} holds an alert's url, which may hold a token, and every user of this host can read it: chmod 600 {0}, or use url_file",
            file.display()
        ));
    }
    for alert in &model.alerts {
        let secret = match &alert.way {
            AlertWay::Webhook {
                url: SecretSource::File(path),
                ..
            } => Some(path),
            AlertWay::Smtp {
                login: Some((_, path)), ..
            } => Some(path),
            _ => None,
        };
        if let Some(path) = secret.filter(|path| mode(path) & 0o077 != 0) {
            lines.push(format!(
                "alert {:?}: others than its owner can read {1}: chmod 600 {1}",
                alert.name,
                path.display()
            ));
        }
    }
    lines
}

/// A file that cannot be looked at is not there, or its user learns of it elsewhere.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode())
}

fn has_more_than_a_host(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_once(['/', '?']).is_some_and(|(_, path)| !path.is_empty())
}
