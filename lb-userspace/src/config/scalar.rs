//! Single values: from what stands behind a key to what it means, or what is wrong with it.

use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use super::problem::Problem;
use super::secrets::{HIDDEN, is_secret};
use super::suggest::nearest;

/// A value behind a key.
pub(super) struct Value<'r, 'v> {
    pub(super) key: &'static str,
    pub(super) toml: &'r DeValue<'r>,
    /// The text as typed, for errors.
    pub(super) typed: &'v dyn Fn() -> String,
}

/// Words that are part of the design, but not of this version, and what this version has.
pub(super) struct NotBuilt {
    pub(super) words: &'static [&'static str],
    pub(super) has: &'static str,
}

/// No such words.
pub(super) const ALL_BUILT: NotBuilt = NotBuilt { words: &[], has: "" };

impl<'r> Value<'r, '_> {
    pub(super) fn wrong_type(&self, want: &'static str) -> Problem {
        let found = match self.toml {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        Problem::WrongType {
            key: self.key,
            value: self.shown(),
            found,
            want,
        }
    }

    pub(super) fn malformed(&self, want: &'static str) -> Problem {
        Problem::Malformed {
            key: self.key,
            value: self.shown(),
            want,
        }
    }

    fn out_of_range(&self, allowed: impl Into<String>) -> Problem {
        Problem::OutOfRange {
            key: self.key,
            value: self.shown(),
            allowed: allowed.into(),
        }
    }

    /// The text as typed, for errors; not that of a secret.
    fn shown(&self) -> String {
        if is_secret(self.key) {
            HIDDEN.to_owned()
        } else {
            (self.typed)()
        }
    }

    pub(super) fn string(&self, want: &'static str) -> Result<&'r str, Problem> {
        match self.toml {
            DeValue::String(string) => Ok(string.as_ref()),
            _ => Err(self.wrong_type(want)),
        }
    }

    pub(super) fn integer(&self, min: u32, max: u32) -> Result<u32, Problem> {
        let DeValue::Integer(integer) = self.toml else {
            return Err(self.wrong_type("an integer"));
        };
        u64_of(integer)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| self.out_of_range(format!("{min} to {max}")))
    }

    pub(super) fn boolean(&self) -> Result<bool, Problem> {
        match self.toml {
            DeValue::Boolean(word) => Ok(*word),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// A number without limits on its notation: 0, 0.1, 1e-1.
    pub(super) fn fraction(&self, max: f64) -> Result<f64, Problem> {
        let number = match self.toml {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => u64_of(integer).map(|number| number as f64),
            _ => return Err(self.wrong_type("a number")),
        };
        // Adding zero makes a negative zero positive.
        number
            .filter(|number| (0.0..=max).contains(number))
            .map(|number| number + 0.0)
            .ok_or_else(|| self.out_of_range(format!("0 to {max}")))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&'static str, T)], later: &NotBuilt) -> Result<T, Problem> {
        let typed = self.string("a word in quotes")?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == typed) {
            return Ok(*meaning);
        }
        let (key, value) = (self.key, (self.typed)());
        if later.words.contains(&typed) {
            return Err(Problem::NotBuilt {
                key,
                value,
                has: later.has.to_owned(),
            });
        }
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let near = nearest(typed, allowed.iter().copied());
        let near = near
            .map(|near| format!("did you mean \"{near}\"? "))
            .unwrap_or_default();
        Err(Problem::UnknownChoice {
            key,
            value,
            hint: format!("{near}allowed: {}", allowed.join(", ")),
        })
    }

    /// A text of 1 to `most` bytes; `want` says so.
    pub(super) fn text(&self, want: &'static str, most: usize) -> Result<&'r str, Problem> {
        let text = self.string(want)?;
        if (1..=most).contains(&text.len()) {
            Ok(text)
        } else {
            Err(self.malformed(want))
        }
    }

    /// A number and its unit, such as "200ms" or "1.5s".
    pub(super) fn duration(&self, min: Duration, allowed: &'static str, max: Duration) -> Result<Duration, Problem> {
        let bare = |number: String| Problem::NoUnit {
            key: self.key,
            value: (self.typed)(),
            number,
        };
        let text = match self.toml {
            DeValue::String(string) => string.as_ref(),
            DeValue::Integer(_) | DeValue::Float(_) => return Err(bare((self.typed)())),
            _ => return Err(self.wrong_type("a duration, such as \"200ms\" or \"1.5s\",")),
        };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if is_number {
            return Err(bare((self.typed)().replace(['"', '\''], "")));
        }
        let duration = duration(text)
            .ok_or_else(|| self.malformed("a duration: a number and ms, s, m or h, such as \"200ms\" or \"1.5s\""))?;
        duration
            .filter(|duration| (min..=max).contains(duration))
            .ok_or_else(|| self.out_of_range(allowed))
    }

    /// A name of a service or a backend.
    pub(super) fn name(&self) -> Result<&'r str, Problem> {
        let name = self.string("a string")?;
        if is_name(name) {
            Ok(name)
        } else {
            Err(self.malformed("a name: 1 to 64 of A-Z a-z 0-9 . _ -, of which - is not the first"))
        }
    }

    /// The name of an interface, as the kernel allows them.
    pub(super) fn interface(&self) -> Result<&'r str, Problem> {
        let name = self.string("a string")?;
        let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(refused) {
            return Err(self.malformed("an interface's name: 1 to 15 bytes without space, slash and colon"));
        }
        Ok(name)
    }

    pub(super) fn seed(&self) -> Result<u64, Problem> {
        const WANT: &str = "a seed: 0x and 1 to 16 hexadecimal digits, or a decimal number below 2^64";
        match self.toml {
            DeValue::Integer(integer) => u64_of(integer).ok_or_else(|| self.malformed(WANT)),
            DeValue::String(string) => {
                let (digits, radix) = match string.strip_prefix("0x") {
                    Some(digits) => (digits, 16),
                    None => (string.as_ref(), 10),
                };
                let number = u64::from_str_radix(digits, radix).ok();
                number
                    .filter(|_| !digits.starts_with('+'))
                    .ok_or_else(|| self.malformed(WANT))
            }
            _ => Err(self.wrong_type("a number or a string")),
        }
    }

    /// A service's port.
    pub(super) fn service_port(&self) -> Result<u16, Problem> {
        if let DeValue::String(text) = self.toml {
            let is_port = |text: &str| text.parse::<u16>().is_ok();
            if text == "*"
                || text
                    .split_once('-')
                    .is_some_and(|(low, high)| is_port(low) && is_port(high))
            {
                let has = "this version has services of one port".to_owned();
                return Err(Problem::NotBuilt {
                    key: self.key,
                    value: (self.typed)(),
                    has,
                });
            }
        }
        self.port()
    }

    pub(super) fn port(&self) -> Result<u16, Problem> {
        if matches!(self.toml, DeValue::String(_)) {
            return Err(self.wrong_type("a number without quotes"));
        }
        self.integer(1, u16::MAX.into()).map(|port| port as u16)
    }

    /// Path and query of an HTTP request.
    pub(super) fn http_path(&self) -> Result<&'r str, Problem> {
        let path = self.string("a string")?;
        let is_plain = path.len() <= 1024 && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if path.starts_with('/') && is_plain {
            Ok(path)
        } else {
            Err(self.malformed("a path: a slash, then at most 1023 visible ASCII characters without #"))
        }
    }

    /// The value of a `Host` header.
    pub(super) fn http_host(&self) -> Result<&'r str, Problem> {
        let host = self.string("a string")?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if (1..=255).contains(&host.len()) && host.bytes().all(allowed) {
            Ok(host)
        } else {
            Err(self.malformed("a host: 1 to 255 of letters, digits and . - _ : [ ]"))
        }
    }
}

/// Whether `text` can be a service's or a backend's name: it stands in shell words, metrics and `SERVICE/BACKEND`.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-')
}

fn u64_of(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Nothing if it is not a duration at all; `Some(None)` if it is longer than can be held.
pub(super) fn duration(text: &str) -> Option<Option<Duration>> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let nanoseconds: u64 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, part) = match number.split_once('.') {
        Some((whole, part)) if !part.is_empty() => (whole, part),
        Some(_) => return None,
        None => (number, "0"),
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) {
        return None;
    }
    // Digits beyond the ninth are less than a unit's billionth.
    let billionths = part
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let part = u128::from(billionths) * u128::from(nanoseconds) / 1_000_000_000;
    let total = whole
        .parse::<u64>()
        .ok()
        .and_then(|whole| whole.checked_mul(nanoseconds))
        .and_then(|whole| whole.checked_add(u64::try_from(part).ok()?));
    Some(total.map(Duration::from_nanos))
}
