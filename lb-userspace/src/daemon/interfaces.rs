//! The interfaces that are configured keep their program: what is seen of them, and what is done about it.

use std::collections::BTreeSet;

use nix::net::if_::{if_indextoname, if_nametoindex};
use tracing::{error, info, warn};

use super::attached::{Condition, Held, Loss, News, Seen, condition};
use super::configure::unix_ms;
use super::trouble::Topic;
use super::{Daemon, offloads};
use crate::api::events::{Cause, EventKind};
use crate::journal::Note;
use crate::netlink::LinkChanges;

impl Daemon {
    /// Interfaces have come, gone or changed.
    pub(super) async fn on_links(&mut self, changes: LinkChanges) {
        self.forget_gone(&changes.gone);
        let devices = offloads::devices(&self.links, &self.world.model.node.interfaces);
        self.links = changes.links;
        let unread = changes.unread;
        let unread = unread
            .map(|why| format!("{why}: frames for new Ethernet addresses of this host may be passed, not balanced"));
        self.troubles.set(Topic::Links, unread);
        self.check_interfaces().await;
        self.write_own_addresses();
        if devices != offloads::devices(&self.links, &self.world.model.node.interfaces) {
            self.offloads.look_soon();
        }
    }

    fn write_own_addresses(&mut self) {
        let links = self.links.clone();
        let written = self.kernel.set_own_addresses(links.values().map(|link| &link.own));
        let line = written.err().map(|error| {
            format!(
                "cannot write this host's own Ethernet addresses: frames for new ones are passed, not balanced: {error}"
            )
        });
        if let Some(line) = line.as_ref().filter(|_| !self.troubles.has(Topic::OwnAddresses)) {
            warn!("{line}");
        }
        self.troubles.set(Topic::OwnAddresses, line);
    }

    /// Looks after what no message tells of; called every second.
    pub(super) async fn tick_interfaces(&mut self) {
        let lost = self.kernel.lost_redirects();
        if !lost.is_empty() {
            warn!(interfaces = ?lost, "the kernel lets no packets leave by these interfaces any more: they are let again");
            self.forget_gone(&lost);
        }
        self.check_interfaces().await;
        if self.troubles.has(Topic::OwnAddresses) {
            self.write_own_addresses();
        }
    }

    /// The kernel has forgotten what it kept by these indices: it is written anew where such an interface is again.
    fn forget_gone(&mut self, gone: &BTreeSet<u32>) {
        if gone.is_empty() {
            return;
        }
        self.kernel.forget_redirects(|ifindex| gone.contains(&ifindex));
        for ifindex in gone {
            self.stale.extend(self.world.behind(*ifindex));
        }
        if self.paths.forget_interfaces(gone) {
            self.follow_paths();
        }
    }

    /// Puts the program back on every configured interface that has lost it, and tells of it.
    pub(super) async fn check_interfaces(&mut self) {
        let node = &self.world.model.node;
        let (configured, mode) = (node.interfaces.clone(), node.xdp_mode);
        self.attached.retain(&configured);
        for name in &configured {
            match condition(&self.seen(name), self.kernel.program_id()) {
                Condition::Attached => {
                    self.pin_again(name);
                    self.interface_has(name, None);
                }
                Condition::Renamed(other) => self.interface_has(name, Some(other)),
                Condition::Detached(loss) => {
                    if loss == Loss::Missing || !self.attached.is_lost(name) {
                        self.interface_lost(name, loss.to_string());
                    }
                    if matches!(loss, Loss::Missing | Loss::Remade) {
                        self.kernel.let_go(name);
                    }
                    if loss == Loss::Missing {
                        continue;
                    }
                    match self.kernel.attach_again(name, mode, &configured).await {
                        Ok(()) => self.interface_has(name, None),
                        Err(error) => self.interface_lost(name, error.to_string()),
                    }
                }
            }
        }
        self.take_indices();
    }

    /// What is seen of a configured interface.
    fn seen(&self, name: &str) -> Seen {
        let held = self.kernel.attachment(name).map(|attachment| Held {
            ifindex: attachment.ifindex,
            // Of one that is gone the name may also be empty.
            name_now: if_indextoname(attachment.ifindex)
                .ok()
                .map(|name| name.to_string_lossy().into_owned())
                .filter(|name| !name.is_empty()),
            link: attachment.state().ok(),
        });
        Seen {
            by_name: if_nametoindex(name).ok(),
            held,
        }
    }

    fn pin_again(&mut self, name: &str) {
        let Some(attachment) = self.kernel.attachment(name) else {
            return;
        };
        match attachment.pin_again() {
            Ok(false) => {}
            Ok(true) => {
                warn!(
                    interface = name,
                    "the pin of the program's link was removed: it is pinned again"
                );
                let note = Note::new(EventKind::XdpPinRestored, Cause::Daemon);
                self.tell(note.because(format!(
                    "interface {name}: somebody removed the pin of the program's link"
                )));
            }
            Err(error) => {
                error!(interface = name, %error, "the program's link is not pinned: it ends with this process")
            }
        }
    }

    fn interface_lost(&mut self, name: &str, message: String) {
        match self.attached.lost(name, message.clone(), unix_ms()) {
            Some(News::Lost) => {
                error!(
                    interface = name,
                    why = message,
                    "the program is not on this interface: none of its packets is balanced"
                );
                let note = Note::new(EventKind::XdpDetached, Cause::Network);
                self.tell(note.because(format!("interface {name}: {message}")));
            }
            Some(_) => warn!(
                interface = name,
                why = message,
                "the program is still not on this interface"
            ),
            None => {}
        }
    }

    fn interface_has(&mut self, name: &str, other: Option<String>) {
        match self.attached.has(name, other.clone()) {
            Some(News::Back) => {
                info!(interface = name, "the program is on this interface again");
                let note = Note::new(EventKind::XdpAttached, Cause::Daemon);
                self.tell(note.because(format!("interface {name}")));
                // One that was made again has its driver's own settings.
                self.check_offloads();
            }
            Some(News::Renamed) => {
                let other = other.unwrap_or_default();
                warn!(
                    interface = name,
                    other, "this interface has another name now: it is still balanced"
                );
            }
            _ => {}
        }
    }

    /// Rows hold the indices of interfaces, and so does the probes' path.
    fn take_indices(&mut self) {
        let indices = self.kernel.indices();
        if indices == self.world.interfaces {
            return;
        }
        self.world.interfaces = indices;
        let services = self.world.model.services.iter();
        self.stale.extend(services.map(|service| service.name.clone()));
        self.follow_paths();
    }

    fn follow_paths(&mut self) {
        if self.paths.follow(&self.world) {
            self.set_targets();
        }
    }

    /// Says of a configuration that was accepted which interfaces it does not reach.
    pub(super) fn remind_of_detached(&mut self, cause: Cause) {
        for detached in self.attached.detached() {
            let (name, message) = (&detached.interface, &detached.message);
            error!(
                interface = name,
                why = message,
                "the configuration is kept, but the program is not on this interface"
            );
            let note = Note::new(EventKind::XdpDetached, cause);
            self.tell(note.because(format!("interface {name}: still: {message}")));
        }
    }
}
