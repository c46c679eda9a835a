//! What is looked at in the guest: scripts, one after the other, each of which finds the guest installed and leaves it so.

use std::time::Duration;

/// How long one may take: half a minute where nothing else runs, but an emulated processor has what others leave it.
pub(super) const LIMIT: Duration = Duration::from_secs(600);

/// One thing to look at. A new one is a file in `steps` and a row in [`STEPS`].
pub(super) struct Step {
    /// Its name, and its file's.
    pub(super) name: &'static str,
    pub(super) shows: &'static str,
    pub(super) script: &'static str,
}

impl Step {
    /// The command that runs it.
    pub(super) fn command(&self) -> String {
        format!("bash /root/steps/{}.sh", self.name)
    }
}

/// Makes the guest's network; no step.
pub(super) const PREPARE: Step = Step {
    name: "prepare",
    shows: "the network around the edge host",
    script: include_str!("prepare.sh"),
};

/// What the steps have in common.
pub(super) const LIBRARY: &str = include_str!("steps/lib.sh");

/// Installs what README's commands did not, and has checks bear slow processors; no step.
pub(super) const INSTALLED: Step = Step {
    name: "installed",
    shows: "an installation by the guest's own commands",
    script: include_str!("steps/installed.sh"),
};

/// In this order.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "balanced",
        shows: "requests reach all three backends",
        script: include_str!("steps/balanced.sh"),
    },
    Step {
        name: "status",
        shows: "`systemctl enable --now lbd && lbctl status`, pasted at once, has a status",
        script: include_str!("steps/status.sh"),
    },
    Step {
        name: "killed",
        shows: "`kill -9`: traffic goes on, systemd starts the daemon again",
        script: include_str!("steps/killed.sh"),
    },
    Step {
        name: "wrong-file",
        shows: "a wrong file and no last good one: exit status 78, no restart",
        script: include_str!("steps/wrong-file.sh"),
    },
    Step {
        name: "reload",
        shows: "`systemctl reload lbd` reports what became of it, the daemon serves on",
        script: include_str!("steps/reload.sh"),
    },
    Step {
        name: "watchdog",
        shows: "a daemon that stands still is killed by the watchdog and started again",
        script: include_str!("steps/watchdog.sh"),
    },
    Step {
        name: "verify",
        shows: "systemd has no complaint about the units",
        script: include_str!("steps/verify.sh"),
    },
    Step {
        name: "vlan",
        shows: "a card that strips VLAN tags: tagged frames are not balanced",
        script: include_str!("steps/vlan.sh"),
    },
    Step {
        name: "denied",
        shows: "no system call was denied",
        script: include_str!("steps/denied.sh"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_step() {
        let page = std::fs::read_to_string(xtask::root().join("docs/guest.md")).unwrap();
        let rows: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")).collect();
        // README's commands are the first.
        assert_eq!(rows.len(), 1 + STEPS.len());
        for (step, row) in STEPS.iter().zip(&rows[1..]) {
            let begins = format!("{}` | {}", step.name, step.shows);
            assert!(row.starts_with(&begins), "{row}\nis not\n{begins}");
        }
    }
}
