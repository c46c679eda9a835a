//! This host's interfaces, followed: what there is, and what the kernel has removed since it was last said.
//!
//! A removed interface takes with it what the kernel keeps by it: programs, places in maps, filters. One that comes after it may have the
//! same index and the same name, so that the table alone does not show the change: [`LinkChanges::gone`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::socket::{Change, Changes, Requests};
use super::{Link, NetlinkError};

/// Messages that come within this time are one change: the kernel sends several for one command.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Between two changes that are said, so that a host that makes interfaces all the time costs little.
const REST: Duration = Duration::from_millis(50);
/// The pause before trying again when the kernel cannot be asked.
const RETRY: Duration = Duration::from_secs(1);

/// The interfaces by index.
pub type LinkTable = BTreeMap<u32, Link>;

/// The interfaces after a change.
#[derive(Clone, Debug)]
pub struct LinkChanges {
    /// All of them.
    pub links: Arc<LinkTable>,
    /// Indices of those that were removed, or moved to another network namespace, since the last change; one may be there again.
    pub gone: BTreeSet<u32>,
    /// Why the interfaces may be others by now: they could not be read. It is tried again.
    pub unread: Option<String>,
}

/// Follows the interfaces of this thread's network namespace until `tell` says no; the first that it is told is what there is. Must be called
/// within a tokio runtime.
///
/// # Errors
/// No socket could be opened.
pub fn follow(tell: impl Fn(LinkChanges) -> bool + Send + 'static) -> Result<(), NetlinkError> {
    let (requests, changes) = open()?;
    tokio::spawn(run(requests, changes, tell));
    Ok(())
}

fn open() -> Result<(Requests, Changes), NetlinkError> {
    // Listening comes first: no change is missed between the list and the messages.
    let changes = Changes::of_links()?;
    Ok((Requests::open()?, changes))
}

async fn run(mut requests: Requests, mut changes: Changes, tell: impl Fn(LinkChanges) -> bool) {
    let mut known = Known::default();
    let mut last = Instant::now();
    read_anew(&requests, &mut known).await;
    loop {
        let due = known.since.map(|since| (since + DEBOUNCE).max(last + REST));
        let again = known.unread.as_ref().map(|(_, tried)| *tried + RETRY);
        let change = tokio::select! {
            change = changes.next() => change,
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => Change::Lost,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                last = Instant::now();
                if !tell(known.take()) {
                    return;
                }
                continue;
            }
        };
        match change {
            Change::Message(message) => known.apply(&message),
            Change::Routes => {}
            Change::Lost => {
                debug!("link messages were lost: reading all interfaces anew");
                read_anew(&requests, &mut known).await;
            }
            Change::Closed => {
                // Pausing first: a socket that fails at once must not keep the core busy.
                sleep(RETRY).await;
                match open() {
                    Ok(opened) => {
                        (requests, changes) = opened;
                        read_anew(&requests, &mut known).await;
                    }
                    Err(error) => known.fail(format!("interfaces are not followed at present: {error}")),
                }
            }
        }
    }
}

async fn read_anew(requests: &Requests, known: &mut Known) {
    match requests.links().await {
        Ok(links) => known.replace(&links),
        Err(error) => known.fail(format!("the interfaces cannot be listed: {error}")),
    }
}

/// What is known and was not said yet.
#[derive(Default)]
struct Known {
    links: LinkTable,
    gone: BTreeSet<u32>,
    /// When the first change was that was not said.
    since: Option<Instant>,
    /// Why they could not be read, and when that was tried.
    unread: Option<(String, Instant)>,
}

impl Known {
    /// They could not be read. What is known stays.
    fn fail(&mut self, why: String) {
        if self.unread.as_ref().is_none_or(|(before, _)| *before != why) {
            warn!("{why}");
            self.since.get_or_insert_with(Instant::now);
        }
        self.unread = Some((why, Instant::now()));
    }

    fn apply(&mut self, message: &RouteNetlinkMessage) {
        let changed = match message {
            RouteNetlinkMessage::NewLink(message) => match Link::from_message(message) {
                Some(link) => {
                    let before = self.links.insert(link.ifindex, link.clone());
                    before.as_ref() != Some(&link)
                }
                None => false,
            },
            // A bridge says of a port that it is one no more in the same way.
            RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
                self.links.remove(&message.header.index);
                self.gone.insert(message.header.index)
            }
            _ => false,
        };
        if changed {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Takes a list of all, after messages may have been lost: any interface may have been removed and made again.
    fn replace(&mut self, links: &[RouteNetlinkMessage]) {
        self.unread = None;
        self.gone.extend(std::mem::take(&mut self.links).into_keys());
        links.iter().for_each(|message| self.apply(message));
        self.since.get_or_insert_with(Instant::now);
    }

    fn take(&mut self) -> LinkChanges {
        self.since = None;
        LinkChanges {
            links: Arc::new(self.links.clone()),
            gone: std::mem::take(&mut self.gone),
            unread: self.unread.as_ref().map(|(why, _)| why.clone()),
        }
    }
}

/// An interface of that index and name, for a table.
#[cfg(test)]
pub(crate) fn link(ifindex: u32, name: &str, attributes: &[netlink_packet_route::link::LinkAttribute]) -> (u32, Link) {
    let mut message = netlink_packet_route::link::LinkMessage::default();
    message.header.index = ifindex;
    message.attributes = attributes.to_vec();
    message
        .attributes
        .push(netlink_packet_route::link::LinkAttribute::IfName(name.into()));
    (ifindex, Link::from_message(&message).expect("a name"))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    fn message(ifindex: u32, name: &str, family: AddressFamily) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.interface_family = family;
        message.attributes = vec![LinkAttribute::IfName(name.into())];
        message
    }

    fn new(ifindex: u32, name: &str) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewLink(message(ifindex, name, AddressFamily::Unspec))
    }

    fn del(ifindex: u32, family: AddressFamily) -> RouteNetlinkMessage {
        RouteNetlinkMessage::DelLink(message(ifindex, "gone", family))
    }

    #[test]
    fn one_that_was_made_again_under_its_index_shows() {
        let mut known = Known::default();
        known.apply(&new(3, "eth0"));
        assert_eq!(known.take().gone, [].into());
        // The same again is no news.
        known.apply(&new(3, "eth0"));
        assert!(known.since.is_none());
        known.apply(&del(3, AddressFamily::Unspec));
        known.apply(&new(3, "eth0"));
        let changes = known.take();
        assert_eq!(changes.gone, [3].into());
        assert_eq!(changes.links[&3].name, "eth0");
        assert_eq!(known.take().gone, [].into());
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let mut known = Known::default();
        known.apply(&new(3, "eth0"));
        known.take();
        known.apply(&del(3, AddressFamily::Bridge));
        assert!(known.since.is_none());
        assert!(known.take().gone.is_empty());
    }

    #[test]
    fn after_lost_messages_each_may_have_been_made_again() {
        let mut known = Known::default();
        known.apply(&new(3, "eth0"));
        known.apply(&new(4, "eth1"));
        known.take();
        known.replace(&[new(3, "eth0"), new(5, "eth2")]);
        let changes = known.take();
        assert_eq!(changes.gone, [3, 4].into());
        assert!(changes.links.keys().eq(&[3, 5]));
    }

    #[test]
    fn interfaces_that_cannot_be_read_are_said_once_and_stay_known() {
        let mut known = Known::default();
        known.apply(&new(3, "eth0"));
        known.take();
        known.fail("no memory".into());
        assert!(known.since.is_some(), "it is told at once");
        let changes = known.take();
        assert_eq!(changes.unread.as_deref(), Some("no memory"));
        assert!(changes.links.contains_key(&3) && changes.gone.is_empty());
        known.fail("no memory".into());
        assert!(
            known.since.is_none() && known.unread.is_some(),
            "the same again is no news"
        );
        known.replace(&[new(3, "eth0")]);
        assert!(known.since.is_some());
        assert_eq!(known.take().unread, None);
    }
}
