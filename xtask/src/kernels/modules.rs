//! Which modules a guest loads, and in which order: a module comes after those that it depends on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// What the tests use. A kernel may have one built in; none may lack it.
const WANTED: &[&str] = &[
    "veth",
    "bridge",
    "bonding",
    "dummy",
    "tun",
    "macvlan",
    "ipip",
    "sit",
    "ip6_tunnel",
    "ip_gre",
    "ip6_gre",
    "fou",
    "fou6",
    // Probes before Linux 6.6, where tc has no links: filters of a clsact qdisc.
    "sch_ingress",
    "cls_bpf",
];

/// A module as the kernel takes it.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// The wanted modules and all that they depend on, in order.
pub(super) fn in_order(directory: &Path) -> Result<Vec<Module>> {
    let files = files(directory)?;
    let builtin = fs::read_to_string(directory.join("modules.builtin")).context("modules.builtin")?;
    let builtin: BTreeSet<String> = builtin.lines().filter_map(|line| name(Path::new(line))).collect();
    let mut order = Order {
        read: |name: &str| match files.get(name) {
            Some(file) => Ok(Some(content(file)?)),
            None if builtin.contains(name) => Ok(None),
            None => bail!("the kernel in {} has no module {name}", directory.display()),
        },
        done: BTreeSet::new(),
        modules: Vec::new(),
    };
    for wanted in WANTED {
        order.add(wanted)?;
    }
    Ok(order.modules)
}

struct Order<F> {
    read: F,
    done: BTreeSet<String>,
    modules: Vec<Module>,
}

impl<F: Fn(&str) -> Result<Option<Vec<u8>>>> Order<F> {
    fn add(&mut self, name: &str) -> Result<()> {
        if !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(content) = (self.read)(name)? else {
            return Ok(());
        };
        for dependency in dependencies(&content) {
            self.add(&dependency)?;
        }
        self.modules.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }
}

/// The modules that a module names in its `.modinfo` section: `depends=tunnel4,ip_tunnel`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next();
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    // Files are named with dashes or underscores as their author liked; the kernel knows underscores only.
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// All modules below a directory by name.
fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Some(name) = name(&path) {
                found.insert(name, path);
            }
        }
    }
    Ok(found)
}

/// `ip_tunnel` of `kernel/net/ipv4/ip_tunnel.ko.xz`.
fn name(file: &Path) -> Option<String> {
    let (name, _) = file.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn content(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(file).with_context(|| format!("reading {}", file.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("{}: unknown compression", file.display()),
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(file)
        .output()
        .with_context(|| format!("`{program}` cannot be started"))?;
    if !output.status.success() {
        bail!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_depends_on() {
        let mut order = Order {
            read: |name: &str| {
                let depends = match name {
                    "sit" => "tunnel4,ip-tunnel",
                    "ip_tunnel" | "tunnel4" => "",
                    "ipip" => "ip_tunnel,tunnel4,udp_tunnel",
                    "udp_tunnel" => return Ok(None),
                    other => bail!("no {other}"),
                };
                Ok(Some(format!("\0license=GPL\0depends={depends}\0name=x\0").into_bytes()))
            },
            done: BTreeSet::new(),
            modules: Vec::new(),
        };
        for name in ["sit", "ipip", "sit"] {
            order.add(name).unwrap();
        }
        assert!(order.add("missing").is_err());
        let names: Vec<_> = order.modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["tunnel4", "ip_tunnel", "sit", "ipip"]);
    }

    #[test]
    fn names_are_the_kernels() {
        for (file, expected) in [
            ("kernel/net/ipv4/ip_tunnel.ko", Some("ip_tunnel")),
            ("kernel/net/802/garp-x.ko.xz", Some("garp_x")),
            ("modules.order", None),
        ] {
            assert_eq!(name(Path::new(file)).as_deref(), expected, "{file}");
        }
    }
}
