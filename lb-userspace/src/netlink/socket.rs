//! Talking to the kernel: one socket for questions, one that hears of changes.
//!
//! Two, because a burst of changes may overflow the second one's buffer, and must not take an answer with it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::neighbour::{self, Key};
use super::route::{self, Route};
use super::{NetlinkError, Unreachable};

/// How long the kernel may take. It answers while the question is being sent: longer means an unreadable answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the ways to backends depend on.
pub(super) const WAYS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// The socket for questions. It belongs to the network namespace of the thread that opened it.
pub(super) struct Requests {
    handle: Handle,
    _driver: Driver,
}

/// The socket that hears of changes, likewise.
pub(super) struct Changes {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    _driver: Driver,
}

/// What the second socket heard.
pub(super) enum Change {
    /// A message.
    Message(RouteNetlinkMessage),
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

    /// Every link and every neighbour, as the messages that a change of it would send.
    pub(super) async fn snapshot(&self) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut messages = self.links().await?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self.handle.neighbours().get().set_address_family(family);
            let neighbours = collect("list the neighbours", request.execute()).await?;
            messages.extend(neighbours.into_iter().map(RouteNetlinkMessage::NewNeighbour));
        }
        Ok(messages)
    }

    /// Which way a packet to `address` would go.
    pub(super) async fn route(&self, address: IpAddr) -> Result<Result<Route, Unreachable>, NetlinkError> {
        if let Some(refused) = route::refused(address) {
            return Ok(Err(refused));
        }
        match collect(
            "look up a route",
            self.handle.route().get(route::request(address)).execute(),
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
    pub(super) fn open(groups: &[MulticastGroup]) -> Result<Self, NetlinkError> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(groups).map_err(NetlinkError::Open)?;
        Ok(Self {
            messages: messages.map(|(message, _)| message).boxed(),
            _driver: Driver(tokio::spawn(connection)),
        })
    }

    /// The next change. May be cancelled without losing one.
    pub(super) async fn next(&mut self) -> Change {
        loop {
            match self.messages.next().await.map(|message| message.payload) {
                Some(NetlinkPayload::InnerMessage(message)) => return Change::Message(message),
                Some(NetlinkPayload::Overrun(_)) => return Change::Lost,
                Some(_) => {}
                None => return Change::Closed,
            }
        }
    }
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
