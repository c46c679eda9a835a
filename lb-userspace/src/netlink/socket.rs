//! Talking to the kernel: one socket for questions, one that hears of changes.
//!
//! Two, because a burst of changes may overflow the second one's buffer, and must not take an answer with it. Beside the second is a
//! third for the changes whose messages `netlink-packet-route` does not read, and that need not be read: see [`UNREAD`].

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::neighbour::{self, Key};
use super::route::{self, Route};
use super::{NetlinkError, Unreachable};

/// How long the kernel may take. It answers while the question is being sent: longer means an unreadable answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What next hops depend on.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Groups whose messages say no more than that any route may lead elsewhere now:
///
/// - next-hop objects: routes that use one change, or go with it, without a message of their own (with
///   `net.ipv4.nexthop_compat_mode` off; and IPv4's go so with it on, too);
/// - settings of interfaces: `ignore_routes_with_linkdown` decides which next hops count.
const UNREAD: [MulticastGroup; 3] = [
    MulticastGroup::Nexthop,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// The socket for questions. It belongs to the network namespace of the thread that opened it.
pub(super) struct Requests {
    handle: Handle,
    _driver: Driver,
}

/// The socket that hears of changes, likewise.
pub(super) struct Changes {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    unread: TokioSocket,
    buffer: Vec<u8>,
    _driver: Driver,
}

/// What the second socket heard.
pub(super) enum Change {
    /// A message.
    Message(RouteNetlinkMessage),
    /// Any route may have changed.
    Routes,
    /// Messages were lost: ask for everything again.
    Lost,
    /// The socket is broken.
    Closed,
}

impl Requests {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        Ok(Self {
            handle,
            _driver: Driver(tokio::spawn(connection)),
        })
    }

    pub(super) async fn link(&self, name: &str) -> Result<LinkMessage, NetlinkError> {
        let answers = self.handle.link().get().match_name(name.to_owned()).execute();
        let missing = |error| match error {
            NetlinkError::Refused { ref source, .. }
                if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ERANGE)) =>
            {
                NetlinkError::NoInterface { name: name.to_owned() }
            }
            error => error,
        };
        let found = collect("show a link", answers).await.map_err(missing)?;
        found
            .into_iter()
            .next()
            .ok_or(NetlinkError::NoAnswer { request: "show a link" })
    }

    pub(super) async fn addresses(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        collect("list the addresses", self.handle.address().get().execute()).await
    }

    /// Every link, as the messages that a change of it would send.
    pub(super) async fn links(&self) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let links = collect("list the links", self.handle.link().get().execute()).await?;
        Ok(links.into_iter().map(RouteNetlinkMessage::NewLink).collect())
    }

    /// Every link, address and neighbour, as the messages that a change of it would send.
    pub(super) async fn snapshot(&self) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut messages = self.links().await?;
        let addresses = self.addresses().await?;
        messages.extend(addresses.into_iter().map(RouteNetlinkMessage::NewAddress));
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self.handle.neighbours().get().set_address_family(family);
            let neighbours = collect("list the neighbours", request.execute()).await?;
            messages.extend(neighbours.into_iter().map(RouteNetlinkMessage::NewNeighbour));
        }
        Ok(messages)
    }

    /// Which way a packet to `address` would go, from `source` if that is given.
    pub(super) async fn route(
        &self,
        address: IpAddr,
        source: Option<IpAddr>,
    ) -> Result<Result<Route, Unreachable>, NetlinkError> {
        if let Some(refused) = route::refused(address) {
            return Ok(Err(refused));
        }
        match collect(
            "look up a route",
            self.handle.route().get(route::request(address, source)).execute(),
        )
        .await
        {
            Ok(messages) => match messages.first() {
                Some(message) => Ok(Route::from_message(address, message)),
                None => Err(NetlinkError::NoAnswer {
                    request: "look up a route",
                }),
            },
            Err(NetlinkError::Refused { source, .. }) => {
                Ok(Err(route::from_errno(address, source.raw_os_error().unwrap_or(0))))
            }
            Err(error) => Err(error),
        }
    }

    /// The table's entry that decides which way such a packet would go, if it is still there.
    pub(super) async fn entry(
        &self,
        address: IpAddr,
        source: Option<IpAddr>,
    ) -> Result<Option<RouteMessage>, NetlinkError> {
        let request = self.handle.route().get(route::entry_request(address, source));
        match collect("look up a route's entry", request.execute()).await {
            Ok(entries) => Ok(entries.into_iter().next()),
            // It has just gone, which is announced.
            Err(NetlinkError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel ask for a neighbour; `known`: it has an entry already.
    ///
    /// Without one, an entry that appears meanwhile is left alone: it may be an operator's.
    pub(super) async fn use_neighbour(&self, key: Key, known: bool) -> Result<(), NetlinkError> {
        let mut message: NetlinkMessage<_> = RouteNetlinkMessage::NewNeighbour(neighbour::use_request(key)).into();
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | if known { 0 } else { NLM_F_CREATE | NLM_F_EXCL };
        let request = "look for a neighbour";
        let mut answers = self
            .handle
            .clone()
            .request(message)
            .map_err(|_| NetlinkError::NoAnswer { request })?;
        // An acknowledgement is not passed on: the stream just ends.
        match timeout(PATIENCE, answers.next()).await {
            Ok(None) => Ok(()),
            Ok(Some(NetlinkMessage {
                payload: NetlinkPayload::Error(error),
                ..
            })) => match error.to_io() {
                // It appeared, or was forgotten, meanwhile: the change that says so is on its way.
                error if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOENT)) => Ok(()),
                source => Err(NetlinkError::Refused { request, source }),
            },
            Ok(Some(_)) | Err(_) => Err(NetlinkError::NoAnswer { request }),
        }
    }
}

impl Changes {
    /// Hears of what next hops depend on.
    pub(super) fn of_next_hops() -> Result<Self, NetlinkError> {
        Self::open(&GROUPS, &UNREAD)
    }

    /// Hears of interfaces alone.
    pub(super) fn of_links() -> Result<Self, NetlinkError> {
        Self::open(&[MulticastGroup::Link], &[])
    }

    fn open(groups: &[MulticastGroup], unread_groups: &[MulticastGroup]) -> Result<Self, NetlinkError> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(groups).map_err(NetlinkError::Open)?;
        Ok(Self {
            messages: messages.map(|(message, _)| message).boxed(),
            unread: unread(unread_groups).map_err(NetlinkError::Open)?,
            buffer: Vec::new(),
            _driver: Driver(tokio::spawn(connection)),
        })
    }

    /// The next change. May be cancelled without losing one.
    pub(super) async fn next(&mut self) -> Change {
        loop {
            self.buffer.clear();
            tokio::select! {
                message = self.messages.next() => match message.map(|message| message.payload) {
                    Some(NetlinkPayload::InnerMessage(message)) => return Change::Message(message),
                    Some(NetlinkPayload::Overrun(_)) => return Change::Lost,
                    Some(_) => {}
                    None => return Change::Closed,
                },
                received = self.unread.recv_from(&mut self.buffer) => return match received {
                    Ok(_) => Change::Routes,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Change::Lost,
                    Err(_) => Change::Closed,
                },
            }
        }
    }
}

fn unread(groups: &[MulticastGroup]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        // By its number: a mask at `bind` has room for 31 groups. A kernel without next-hop objects (before 5.3) has no such group, and
        // nothing to say of them.
        match socket.socket_ref().add_membership(*group as u32) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            done => done?,
        }
    }
    Ok(socket)
}

/// The task that moves a connection's messages, which ends with its owner.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn collect<T>(
    request: &'static str,
    answers: impl futures_util::Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetlinkError> {
    let answers = timeout(PATIENCE, answers.collect::<Vec<_>>()).await;
    let answers = answers.map_err(|_| NetlinkError::NoAnswer { request })?;
    answers
        .into_iter()
        .map(|answer| answer.map_err(|error| failure(request, error)))
        .collect()
}

fn failure(request: &'static str, error: rtnetlink::Error) -> NetlinkError {
    match error {
        rtnetlink::Error::NetlinkError(message) => NetlinkError::Refused {
            request,
            source: message.to_io(),
        },
        rtnetlink::Error::RequestFailed => NetlinkError::Refused {
            request,
            source: io::Error::from(io::ErrorKind::NotConnected),
        },
        _ => NetlinkError::NoAnswer { request },
    }
}
