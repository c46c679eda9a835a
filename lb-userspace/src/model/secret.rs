//! What must not be shown: in no answer of the API, no event, no log, no error.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A text that only its use may see: `Debug` prints three dots, and there is no `Display` and no `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for its use alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In the configuration itself.
    Inline(Secret),
    /// The first line of a file, read whenever it is used: one that was changed counts at once.
    File(PathBuf),
}

impl SecretSource {
    /// The secret.
    ///
    /// # Errors
    /// If its file cannot be read; names the file and not what is in it.
    pub fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => {
                let text = std::fs::read(path)
                    .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into()));
                let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
                Ok(Secret(text.lines().next().unwrap_or("").trim().to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_shown_and_a_file_is_read_each_time() {
        let inline = SecretSource::Inline("https://t/token".to_owned().into());
        assert_eq!(format!("{inline:?}"), "Inline(…)");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("url");
        let source = SecretSource::File(path.clone());
        assert!(source.read().expect_err("there is none").contains("url: "));
        for text in ["one", "two"] {
            std::fs::write(&path, format!("{text}\nmore\n")).expect("written");
            assert_eq!(source.read().expect("read").expose(), text);
        }
        std::fs::write(&path, b"\xff").expect("written");
        assert!(source.read().is_err());
    }
}
