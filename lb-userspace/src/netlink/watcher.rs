//! The loop that keeps the answers of a set of addresses right.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use lb_common::encap::Mac;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::address::Addresses;
use super::neighbour::Key;
use super::route::Route;
use super::socket::{Change, Changes, Requests};
use super::table::Table;
use super::{Answer, NetlinkError, Unreachable};

/// Changes that come within this time are taken together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A turn without any change: for neighbours that have to be asked for again.
const TICK: Duration = Duration::from_millis(250);
/// After work follows a rest so many times as long, so that endless changes of routes take a fifth of one core,
const REST: u32 = 4;
/// but never so long that a change is followed late.
const LONGEST_REST: Duration = Duration::from_millis(300);
/// Routes looked up in one turn.
const ROUTES_PER_TURN: usize = 512;
/// Neighbours asked for in one turn: each may be a broadcast.
const QUESTIONS_PER_TURN: usize = 128;
/// Links, addresses and neighbours are read anew this often, in case an announcement was not understood.
const SNAPSHOT: Duration = Duration::from_secs(60);
/// The pause before trying again when the kernel cannot be asked.
const RETRY: Duration = Duration::from_secs(1);

/// Finds the next hops of a set of addresses and follows their changes, in a task of its own that ends when this is
/// dropped.
///
/// It belongs to the network namespace of the thread that started it, and needs `CAP_NET_ADMIN` to make the kernel look
/// for neighbours. It takes nothing back at its end because it leaves nothing: see [`super`].
#[derive(Debug)]
pub struct Watcher {
    commands: mpsc::UnboundedSender<Command>,
    addresses: watch::Receiver<Option<Addresses>>,
}

#[derive(Debug)]
enum Command {
    Watch(BTreeMap<IpAddr, Option<IpAddr>>),
    Answers {
        until: Instant,
        reply: oneshot::Sender<BTreeMap<IpAddr, Answer>>,
    },
}

impl Watcher {
    /// Starts a watcher of nothing yet. Must be called within a tokio runtime.
    ///
    /// With `gateway_mac`, only routes and links are followed: every neighbour has that address, and none is asked for.
    ///
    /// Answers that changed are sent to `events`; while that is full, changes of one address add up to its latest
    /// answer. An unreachable answer says what the kernel says: whether to go on with the last next hop is the
    /// receiver's choice.
    ///
    /// # Errors
    /// No socket could be opened.
    pub fn start(events: mpsc::Sender<Vec<(IpAddr, Answer)>>, gateway_mac: Option<Mac>) -> Result<Self, NetlinkError> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (own, addresses) = watch::channel(None);
        let now = Instant::now();
        let task = Task {
            requests: Requests::open()?,
            changes: Changes::of_next_hops()?,
            commands: receiver,
            events,
            own,
            table: Table::new(gateway_mac),
            waiting: Vec::new(),
            turn_at: now,
            rest_until: now,
            worked: Duration::ZERO,
            snapshot_at: now,
        };
        tokio::spawn(task.run());
        Ok(Self { commands, addresses })
    }

    /// This host's own addresses, without those of interfaces that are down: as they are when an answer is given, and when they change.
    /// Nothing until the first answer.
    pub fn addresses(&self) -> watch::Receiver<Option<Addresses>> {
        self.addresses.clone()
    }

    /// Replaces the set of addresses, each with the source of the packets to it if that is known beforehand: rules may go by it. New ones are resolved at once, and each is reported at least once: after a second
    /// without an answer from its neighbour, as unreachable. Those that stay are reported when they change.
    pub fn watch(&self, addresses: BTreeMap<IpAddr, Option<IpAddr>>) {
        if self.commands.send(Command::Watch(addresses)).is_err() {
            warn!("next hops are not followed any more: the watcher has ended");
        }
    }

    /// Waits until every address has an answer, or for `timeout`, and gives all answers. They are sent as events too.
    ///
    /// # Errors
    /// [`NetlinkError::Ended`].
    pub async fn resolve_all(&self, timeout: Duration) -> Result<BTreeMap<IpAddr, Answer>, NetlinkError> {
        let (reply, answers) = oneshot::channel();
        let until = Instant::now() + timeout;
        self.commands
            .send(Command::Answers { until, reply })
            .map_err(|_| NetlinkError::Ended)?;
        answers.await.map_err(|_| NetlinkError::Ended)
    }
}

struct Task {
    requests: Requests,
    changes: Changes,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Vec<(IpAddr, Answer)>>,
    own: watch::Sender<Option<Addresses>>,
    table: Table,
    waiting: Vec<(Instant, oneshot::Sender<BTreeMap<IpAddr, Answer>>)>,
    /// When the next turn begins.
    turn_at: Instant,
    /// No turn begins before this.
    rest_until: Instant,
    /// How long the turns since the last rest took.
    worked: Duration,
    /// When links, addresses and neighbours are read anew.
    snapshot_at: Instant,
}

impl Task {
    async fn run(mut self) {
        loop {
            tokio::select! {
                change = self.changes.next() => self.change(change).await,
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                () = sleep_until(self.turn_at) => {
                    if self.turn().await.is_break() {
                        return;
                    }
                }
            }
        }
    }

    async fn change(&mut self, change: Change) {
        match change {
            Change::Message(message) => {
                if self.table.apply(&message) {
                    self.turn_within(DEBOUNCE);
                }
            }
            Change::Routes => {
                if self.table.doubt() {
                    self.turn_within(DEBOUNCE);
                }
            }
            Change::Lost => {
                debug!("changes came faster than they could be read: reading everything anew");
                self.read_anew();
            }
            Change::Closed => {
                match Requests::open().and_then(|requests| Ok((requests, Changes::of_next_hops()?))) {
                    Ok((requests, changes)) => {
                        warn!("the netlink socket failed and was opened anew");
                        (self.requests, self.changes) = (requests, changes);
                    }
                    Err(error) => warn!("next hops are not followed at present: {error}"),
                }
                // Pausing here, also after success: a socket that fails at once must not keep the core busy.
                tokio::time::sleep(RETRY).await;
                self.read_anew();
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Watch(addresses) => self.table.want(addresses, Instant::now().into_std()),
            Command::Answers { until, reply } => self.waiting.push((until, reply)),
        }
        self.turn_within(Duration::ZERO);
    }

    /// Finds out what is unknown, and says what is new. Breaks when nobody listens any more.
    async fn turn(&mut self) -> ControlFlow<()> {
        let begun = Instant::now();
        if begun >= self.snapshot_at
            && let Err(error) = self.snapshot().await
        {
            warn!("next hops are not followed at present: {error}");
            self.reply();
            self.snapshot_at = begun + RETRY;
            self.rest_until = self.snapshot_at;
            self.turn_at = self.snapshot_at;
            return ControlFlow::Continue(());
        }
        self.table.sweep(begun.into_std());
        if let Some(addresses) = self.table.take_addresses() {
            self.own.send_if_modified(|own| {
                let before = own.replace(addresses);
                before != *own
            });
        }
        self.look_up_routes().await;
        let questions = self.ask_neighbours().await;
        let full = self.report()?;
        self.reply();

        let now = Instant::now();
        self.worked += now - begun;
        let (in_turn, unrouted) = self.table.has_unrouted();
        if in_turn {
            // No rest: it was only interrupted to take in changes.
            self.turn_at = now.max(self.rest_until);
            return ControlFlow::Continue(());
        }
        let rest = (self.worked * REST).min(LONGEST_REST);
        self.worked = Duration::ZERO;
        self.rest_until = self.rest_until.max(now + rest);
        self.turn_at = now + TICK;
        if full || unrouted || questions == QUESTIONS_PER_TURN {
            self.turn_within(DEBOUNCE);
        }
        if let Some(first) = self.waiting.iter().map(|(until, _)| *until).min() {
            self.turn_at = self.turn_at.min(first);
        }
        self.turn_at = self.turn_at.max(self.rest_until);
        ControlFlow::Continue(())
    }

    async fn snapshot(&mut self) -> Result<(), NetlinkError> {
        self.table.replace(&self.requests.snapshot().await?);
        self.snapshot_at = Instant::now() + SNAPSHOT;
        Ok(())
    }

    async fn look_up_routes(&mut self) {
        let mut addresses = self.table.take_unrouted(ROUTES_PER_TURN).into_iter();
        while let Some((address, source)) = addresses.next() {
            match self.route(address, source).await {
                Ok(route) => self.table.routed(address, route, Instant::now().into_std()),
                Err(error) => {
                    warn!("the way to {address} is not known at present: {error}");
                    self.table.not_routed(address);
                    addresses
                        .by_ref()
                        .for_each(|(address, _)| self.table.not_routed(address));
                    self.rest_until = Instant::now() + RETRY;
                }
            }
        }
    }

    async fn route(
        &mut self,
        address: IpAddr,
        source: Option<IpAddr>,
    ) -> Result<Result<Route, Unreachable>, NetlinkError> {
        let mut answer = self.requests.route(address, source).await?;
        // An IPv4 answer says all there is to know.
        if let Ok(route) = &mut answer
            && address.is_ipv6()
            && let Some(entry) = self.requests.entry(address, source).await?
        {
            route.complete(&entry);
        }
        Ok(answer)
    }

    /// True if there was no room for the changes, so that they wait.
    fn report(&mut self) -> ControlFlow<(), bool> {
        match self.events.try_reserve() {
            Ok(room) => {
                let changes = self.table.take_changes(Instant::now().into_std());
                for (address, answer) in &changes {
                    match answer {
                        Ok(next_hop) => debug!(%address, ?next_hop, "next hop"),
                        Err(error) => debug!(%address, %error, "no next hop"),
                    }
                }
                if !changes.is_empty() {
                    room.send(changes);
                }
                ControlFlow::Continue(false)
            }
            Err(TrySendError::Full(())) => {
                self.table.decide(Instant::now().into_std());
                ControlFlow::Continue(true)
            }
            Err(TrySendError::Closed(())) => ControlFlow::Break(()),
        }
    }

    /// How many were asked for.
    async fn ask_neighbours(&mut self) -> usize {
        let due = self.table.take_due(QUESTIONS_PER_TURN, Instant::now().into_std());
        let count = due.len();
        for (key, known) in due {
            if let Some(errno) = ask(&self.requests, key, known).await {
                self.table.refused(key, errno);
            }
        }
        count
    }

    fn reply(&mut self) {
        let now = Instant::now();
        let complete = self.table.is_complete();
        for (until, reply) in std::mem::take(&mut self.waiting) {
            if complete || now >= until {
                // Whoever asked may have gone.
                let _ = reply.send(self.table.answers());
            } else {
                self.waiting.push((until, reply));
            }
        }
    }

    fn read_anew(&mut self) {
        self.snapshot_at = Instant::now();
        self.table.doubt();
        self.turn_within(DEBOUNCE);
    }

    fn turn_within(&mut self, time: Duration) {
        self.turn_at = self.turn_at.min((Instant::now() + time).max(self.rest_until));
    }
}

/// The error number with which the kernel refused, if it did.
async fn ask(requests: &Requests, key: Key, known: bool) -> Option<i32> {
    match requests.use_neighbour(key, known).await {
        Ok(()) => None,
        Err(NetlinkError::Refused { source, .. }) => source.raw_os_error(),
        Err(error) => {
            warn!("{} is not asked for at present: {error}", key.address);
            None
        }
    }
}
