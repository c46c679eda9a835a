//! Errors and warnings as the API and `lbctl` show them.

use std::path::Path;

use super::{ConfigError, Parsed, parse};
use crate::api::report::{CheckReport, Finding};

/// An error or a warning.
pub fn finding(error: &ConfigError) -> Finding {
    let some = |n: usize| u32::try_from(n).ok().filter(|n| *n > 0);
    let path = if error.path.is_empty() {
        String::new()
    } else {
        format!("{}: ", error.path)
    };
    Finding {
        line: some(error.line),
        column: some(error.column),
        message: format!("{path}{}", error.problem),
    }
}

fn unplaced(message: String) -> Finding {
    Finding {
        line: None,
        column: None,
        message,
    }
}

/// What a file's text is worth; `file` is its name for messages.
pub fn check(text: &str, file: &str) -> CheckReport {
    let empty = CheckReport {
        file: file.to_owned(),
        valid: false,
        services: 0,
        backends: 0,
        errors: Vec::new(),
        warnings: Vec::new(),
        disruptions: Vec::new(),
    };
    match parse(text, file) {
        Ok(Parsed { model, warnings }) => CheckReport {
            valid: true,
            services: model.services.len() as u32,
            backends: model.services.iter().map(|service| service.backends.len() as u32).sum(),
            warnings: warnings
                .iter()
                .map(finding)
                .chain(super::exposed(&model, Some(Path::new(file))).into_iter().map(unplaced))
                .collect(),
            ..empty
        },
        Err(errors) => CheckReport {
            errors: errors.iter().map(finding).collect(),
            ..empty
        },
    }
}
