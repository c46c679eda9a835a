//! Every failure of the API, as the daemon says it and as a client reads it.

use serde::{Deserialize, Serialize};

use super::report::Finding;

/// What a request fails with: an HTTP status and this as JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure it is, for programs.
    pub kind: ErrorKind,
    /// What failed and what would be right, for people.
    #[serde(rename = "error")]
    pub message: String,
    /// The errors in a configuration file; empty for any other failure.
    #[serde(default)]
    pub details: Vec<Finding>,
    /// Known names that are like an unknown one, the likeliest first.
    #[serde(default)]
    pub suggestions: Vec<String>,
    /// The configuration file that `details` are about, as its sender named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is not one of the API's.
    InvalidRequest,
    /// The configuration has errors; `details` lists them. Nothing was changed.
    InvalidConfig,
    /// There is no such service, backend or path.
    NotFound,
    /// Understood, but it cannot be done: a table is full, an interface is missing. Nothing was changed.
    Refused,
    /// The body is longer than [`super::MAX_REQUEST`].
    TooLarge,
    /// The daemon did not answer in time. What was asked may still be done.
    Timeout,
    /// The daemon is stopping, or has no room for this now.
    Unavailable,
    /// The daemon failed.
    Internal,
}

/// At most so many names are suggested.
const SUGGESTIONS: usize = 3;

impl ErrorKind {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::InvalidRequest => "invalid_request",
            ErrorKind::InvalidConfig => "invalid_config",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Refused => "refused",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Internal => "internal",
        }
    }

    /// Its HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            ErrorKind::InvalidRequest => 400,
            ErrorKind::NotFound => 404,
            ErrorKind::Refused => 409,
            ErrorKind::TooLarge => 413,
            ErrorKind::InvalidConfig => 422,
            ErrorKind::Internal => 500,
            ErrorKind::Unavailable => 503,
            ErrorKind::Timeout => 504,
        }
    }
}

impl ApiError {
    /// A failure that needs no more than a sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            details: Vec::new(),
            suggestions: Vec::new(),
            file: None,
        }
    }

    /// A configuration with errors; `file` as its sender named it.
    pub fn invalid_config(file: &str, details: Vec<Finding>) -> Self {
        let count = details.len();
        let plural = if count == 1 { "error" } else { "errors" };
        Self {
            details,
            file: Some(file.to_owned()),
            ..Self::new(
                ErrorKind::InvalidConfig,
                format!("{file} has {count} {plural}; nothing was changed"),
            )
        }
    }

    /// There is no service `name` among `known`.
    pub fn unknown_service<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            suggestions: near(name, known),
            ..Self::new(ErrorKind::NotFound, format!("no service is named {name:?}"))
        }
    }

    /// There is no backend `name` among `known`, the backends of `service`.
    pub fn unknown_backend<'a>(service: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            suggestions: near(name, known),
            ..Self::new(
                ErrorKind::NotFound,
                format!("no backend of service {service:?} is named {name:?}"),
            )
        }
    }
}

/// The names among `known` that `name` may have been meant to be, the likeliest first.
fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let name = name.to_lowercase();
    let mut candidates: Vec<(f64, &str)> = known
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let contained = !name.is_empty() && (lower.contains(&name) || name.contains(&lower));
            let likeness = strsim::normalized_damerau_levenshtein(&name, &lower);
            (contained || likeness >= 0.6).then_some((likeness, candidate))
        })
        .collect();
    candidates.sort_by(|(a, first), (b, second)| b.total_cmp(a).then(first.cmp(second)));
    candidates.truncate(SUGGESTIONS);
    candidates
        .into_iter()
        .map(|(_, candidate)| candidate.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, known: &[&str], expected: &[&str]) {
        let error = ApiError::unknown_service(name, known.iter().copied());
        assert_eq!(error.suggestions, expected, "{name}");
    }

    #[test]
    fn near_names_are_suggested_the_likeliest_first() {
        check("wbe", &["web", "dns", "api"], &["web"]);
        check("WEB", &["web", "dns"], &["web"]);
        check("web", &["dns", "web-shop", "web-2"], &["web-2", "web-shop"]);
        check(
            "web-11",
            &["web-1", "web-2", "web-3", "web-10", "db"],
            &["web-1", "web-10", "web-2"],
        );
        check("mail", &["web", "dns"], &[]);
        check("", &["web"], &[]);
        check("web", &[], &[]);
    }

    #[test]
    fn kinds_have_one_name() {
        use ErrorKind::*;
        for kind in [
            InvalidRequest,
            InvalidConfig,
            NotFound,
            Refused,
            TooLarge,
            Timeout,
            Unavailable,
            Internal,
        ] {
            let json = serde_json::to_value(kind).expect("an enumeration without data is a string");
            assert_eq!(json, kind.name());
        }
    }

    #[test]
    fn an_error_survives_its_way_through_json() {
        let finding = Finding {
            line: Some(3),
            column: Some(7),
            message: "vip \"x\": not an IP address".to_owned(),
        };
        let error = ApiError::invalid_config("edge.toml", vec![finding]);
        assert_eq!(error.to_string(), "edge.toml has 1 error; nothing was changed");
        let json = serde_json::to_string(&error).expect("plain data");
        assert_eq!(serde_json::from_str::<ApiError>(&json).expect("what we wrote"), error);
    }
}
