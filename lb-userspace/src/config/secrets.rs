//! What errors must not show of a file: they go to logs, events and receivers of alerts.
//!
//! The rule looks at the text of a line and not at what the parser made of it, for a line may be wrong in any way.

/// What stands in place of a value.
pub(super) const HIDDEN: &str = "(not shown, it may hold a secret)";

/// Parts of keys whose values may be secrets: also of keys that do not exist, and those of a file's name, as the secret itself may have been
/// put there by mistake.
const WORDS: [&str; 6] = ["url", "password", "passwd", "token", "secret", "credential"];

/// Whether a key's value may be a secret.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    WORDS.iter().any(|word| key.contains(word))
}

/// A line of a file for an error or an excerpt: without what may be a secret. That is whatever follows the `=` of a secret's key, or the scheme
/// of an address.
pub fn without_secrets(line: &str) -> String {
    match secret_from(line) {
        Some(at) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// Where in a line the part begins that may be a secret.
pub(super) fn secret_from(line: &str) -> Option<usize> {
    let scheme = line.find("://").map(|at| at + "://".len());
    let mut from = 0;
    let key = line.match_indices('=').find_map(|(at, _)| {
        let before = line.get(from..at).unwrap_or_default();
        from = at + 1;
        // The key stands last before the sign; what is before it belongs to another value.
        let key = before.rsplit([',', '{']).next().unwrap_or_default();
        is_secret(key).then_some(at + 1)
    });
    scheme.into_iter().chain(key).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_cut_off() {
        let cases = [
            ("url = \"https://a/TOKEN\"", "url =…"),
            ("url=https://a/TOKEN", "url=…"),
            ("url_file = \"TOKEN\"", "url_file =…"),
            ("password_file = \"TOKEN\"", "password_file =…"),
            ("  \"Password\" = \"TOKEN\"", "  \"Password\" =…"),
            ("api_token='TOKEN'", "api_token=…"),
            ("a = { b = 1, secret = \"TOKEN\" }", "a = { b = 1, secret =…"),
            ("to = \"https://a/TOKEN\"", "to = \"https://…"),
            ("name = \"url\"", "name = \"url\""),
            ("weight = 7 # the url", "weight = 7 # the url"),
            ("", ""),
        ];
        for (line, expected) in cases {
            assert_eq!(without_secrets(line), expected, "{line}");
        }
    }
}
