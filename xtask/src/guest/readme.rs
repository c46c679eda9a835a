//! The commands of README's installation, as somebody pastes them.

use anyhow::{Result, bail};

/// Which host a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// The one that the balancer runs on.
    Edge,
    /// Each of those behind it.
    Backend,
}

/// One command, with its heredoc if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pasted {
    pub(super) host: Host,
    pub(super) text: String,
}

impl Pasted {
    /// Its first line.
    pub(super) fn head(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    /// How many programs its first line runs, one after the other.
    pub(super) fn programs(&self) -> usize {
        let separators = ["&& ", "|| ", "; "].map(|separator| self.head().matches(separator).count());
        1 + separators.iter().sum::<usize>()
    }
}

/// The commands of all blocks marked `sh` below the first heading that speaks of an installation or a deployment and has such blocks. A
/// comment `# On the edge …` or `# On every backend …` says which host those after it are for; those before are for the edge.
pub(super) fn commands(readme: &str) -> Result<Vec<Pasted>> {
    let (mut host, mut found) = (Host::Edge, Vec::new());
    for block in blocks(readme) {
        let mut lines = block.into_iter();
        while let Some(line) = lines.next() {
            if let Some(comment) = line.trim_start().strip_prefix("# On ") {
                host = match comment.contains("backend") {
                    true => Host::Backend,
                    false => Host::Edge,
                };
            }
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let text = whole(line, &mut lines)?;
            found.push(Pasted { host, text });
        }
    }
    if found.is_empty() {
        bail!("README has no block marked sh below a heading with \"install\" or \"deployment\"");
    }
    Ok(found)
}

/// A command that begins with this line, with the lines that belong to it.
fn whole<'a>(line: &str, lines: &mut impl Iterator<Item = &'a str>) -> Result<String> {
    let mut text = line.to_owned();
    while text.ends_with('\\') {
        let Some(next) = lines.next() else {
            bail!("README: nothing follows {text:?}");
        };
        text = format!("{text}\n{next}");
    }
    let Some(end) = heredoc(&text).map(str::to_owned) else {
        return Ok(text);
    };
    for next in lines {
        text = format!("{text}\n{next}");
        if next == end {
            return Ok(text);
        }
    }
    bail!("README: no {end} ends {line:?}")
}

/// The lines of the section's blocks.
fn blocks(readme: &str) -> Vec<Vec<&str>> {
    let (mut blocks, mut open, mut fenced, mut here) = (Vec::new(), None::<Vec<&str>>, false, false);
    for line in readme.lines() {
        if let Some(mark) = line.strip_prefix("```") {
            blocks.extend(open.take());
            fenced = !fenced;
            if fenced && here && mark.trim() == "sh" {
                open = Some(Vec::new());
            }
        } else if let Some(block) = &mut open {
            block.push(line);
        } else if !fenced && line.starts_with("## ") {
            if !blocks.is_empty() {
                break;
            }
            let heading = line.to_lowercase();
            here = heading.contains("install") || heading.contains("deployment");
        }
    }
    blocks
}

/// The line that ends the heredoc which a command begins, such as `EOF` of `cat > x <<'EOF'`.
fn heredoc(command: &str) -> Option<&str> {
    let (_, rest) = command.split_once("<<")?;
    let word = rest.trim_start_matches(['-', ' ']).split_whitespace().next()?;
    Some(word.trim_matches(['\'', '"']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "\
# x
```sh
not this
```
## Two commands
```sh
nor this
```
## Installing it
```text
$ nor this
```
```sh
# On the edge host. Linux 6.1 or newer.
install -m 755 a \\
    b /usr/local/sbin/

cat > /etc/x <<'EOF'
# On every backend, but within a file
key = 1
EOF
a && b; c
# On every backend
d
```
### Below it
```sh
e   # with a comment
```
## Later
```sh
f
```
";

    #[test]
    fn the_commands_of_the_installation_are_found() {
        let pasted = |host, text: &str| Pasted {
            host,
            text: text.into(),
        };
        let found = commands(README).unwrap();
        assert_eq!(
            found,
            [
                pasted(Host::Edge, "install -m 755 a \\\n    b /usr/local/sbin/"),
                pasted(
                    Host::Edge,
                    "cat > /etc/x <<'EOF'\n# On every backend, but within a file\nkey = 1\nEOF"
                ),
                pasted(Host::Edge, "a && b; c"),
                pasted(Host::Backend, "d"),
                pasted(Host::Backend, "e   # with a comment"),
            ]
        );
        assert_eq!(found.iter().map(Pasted::programs).collect::<Vec<_>>(), [1, 1, 3, 1, 1]);
    }

    #[test]
    fn what_cannot_be_pasted_is_said() {
        for (readme, message) in [
            ("## Install\n", "no block"),
            ("## Other\n```sh\na\n```\n", "no block"),
            ("## Install\n```sh\ncat <<EOF\na\n```\n", "no EOF ends"),
            ("## Install\n```sh\na \\\n```\n", "nothing follows"),
        ] {
            let error = commands(readme).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn the_projects_readme_has_both_hosts() {
        let readme = std::fs::read_to_string(xtask::root().join("README.md")).unwrap();
        let commands = commands(&readme).unwrap();
        for host in [Host::Edge, Host::Backend] {
            assert!(commands.iter().any(|command| command.host == host), "{host:?}");
        }
    }
}
