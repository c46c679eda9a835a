//! The prober's network namespace and the wire to it.

use std::fs::File;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteScope;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use socket2::{Domain, Protocol, Socket, Type};

use super::PathError;
use super::program::Programs;

/// The wire's end in this host's namespace.
pub const HOST_END: &str = "lb-probe";
/// The other end, in the prober's.
pub(super) const PROBER_END: &str = "prober";
/// By which the interface is known as ours.
const ALIAS: &str = "edgelb: health probes by the users' path (lbd removes it)";
/// IPv6's least (RFC 8200), so that any tunnel has room for a probe. Servers are told of it as the largest segment.
const MTU: u32 = 1_280;
/// Sockets that are made at a time.
const STOCK: usize = 16;

/// The prober's network namespace; sockets made in it stay its own.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Descriptors>);

#[derive(Debug)]
struct Descriptors {
    own: OwnedFd,
    /// This host's.
    home: OwnedFd,
    /// TCP sockets, IPv4's and IPv6's, that nobody has asked for yet.
    stock: [Mutex<Vec<Socket>>; 2],
}

/// The wire; it goes when dropped.
pub(super) struct Wire {
    pub(super) namespace: Namespace,
    ifindex: u32,
    prober_ifindex: u32,
}

impl Namespace {
    /// Does something in the namespace, on the calling thread: a socket made there belongs there.
    ///
    /// # Errors
    /// If the thread cannot enter it: it takes CAP_SYS_ADMIN.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        setns(self.0.own.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let home = Home(&self.0);
        let done = work();
        drop(home);
        Ok(done)
    }

    /// A TCP socket of the namespace that does not block, or why there is none. To enter it takes longer than to make a socket, so some
    /// are made in advance.
    ///
    /// # Errors
    /// As [`Self::within`].
    pub fn tcp_socket(&self, domain: Domain) -> io::Result<io::Result<Socket>> {
        let stock = &self.0.stock[usize::from(domain == Domain::IPV6)];
        let mut stock = stock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = stock.pop() {
            return Ok(Ok(socket));
        }
        self.within(|| {
            let make = || Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP));
            let first = make()?;
            stock.extend((1..STOCK).map_while(|_| make().ok()));
            Ok(first)
        })
    }
}

/// Brings the thread back, also if the work panics.
struct Home<'a>(&'a Descriptors);

impl Drop for Home<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0.home.as_fd(), CloneFlags::CLONE_NEWNET) {
            // A thread that stayed would ask the wrong kernel tables for everything it does later.
            tracing::error!(%error, "a thread cannot leave the probes' network namespace");
            std::process::abort();
        }
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Namespace {}

impl Hash for Namespace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Wire {
    /// Makes namespace and wire, and puts the label program on the prober's end.
    pub(super) fn lay(programs: &mut Programs) -> Result<Self, PathError> {
        let laid = on_a_thread(|| {
            let home = own_namespace()?;
            block_on(remove_left_over())??;
            unshare(CloneFlags::CLONE_NEWNET).map_err(step("make a network namespace"))?;
            let namespace = Namespace(Arc::new(Descriptors {
                own: own_namespace()?,
                home,
                stock: Default::default(),
            }));
            let prober_ifindex = block_on(furnish(&namespace))??;
            leave_no_checksum_open()?;
            programs.attach_label()?;
            Ok((namespace, prober_ifindex))
        });
        let (namespace, prober_ifindex) = laid?;
        let ifindex = on_a_thread(|| block_on(connect_host_end())?)?;
        Ok(Self {
            namespace,
            ifindex,
            prober_ifindex,
        })
    }

    pub(super) fn is_whole(&self) -> bool {
        nix::net::if_::if_nametoindex(HOST_END) == Ok(self.ifindex)
    }

    pub(super) fn add_addresses(&self, addresses: &[IpAddr]) -> Result<(), PathError> {
        let enter = step("enter the probes' network namespace");
        on_a_thread(|| {
            setns(self.namespace.0.own.as_fd(), CloneFlags::CLONE_NEWNET).map_err(enter)?;
            block_on(async {
                let netlink = Netlink::open()?;
                for address in addresses {
                    let length = if address.is_ipv4() { 32 } else { 128 };
                    let request = netlink.handle.address().add(self.prober_ifindex, *address, length);
                    let done = request.replace().execute().await;
                    done.map_err(refused("give the probes' interface an address"))?;
                }
                Ok(())
            })?
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Sockets of probes under way keep the namespace; the wire is to go now.
        if let Err(error) = clear() {
            tracing::warn!(%error, "the probes' interface is left behind");
        }
    }
}

/// Removes the wire that a daemon left.
pub(super) fn clear() -> Result<(), PathError> {
    on_a_thread(|| block_on(remove_left_over())?)
}

async fn remove_left_over() -> Result<(), PathError> {
    let netlink = Netlink::open()?;
    let Some(link) = netlink.link(HOST_END).await? else {
        return Ok(());
    };
    let ours = link
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::IfAlias(alias) if alias == ALIAS));
    if !ours {
        return Err(PathError::NameTaken { name: HOST_END });
    }
    match netlink.handle.link().del(link.header.index).execute().await {
        Err(error) if errno(&error) != Some(libc::ENODEV) => {
            Err(refused("remove the earlier probes' interface")(error))
        }
        _ => Ok(()),
    }
}

/// The prober's namespace: a wire out of it, and everything goes that way. Returns the index of the wire's end in it.
async fn furnish(namespace: &Namespace) -> Result<u32, PathError> {
    let netlink = Netlink::open()?;
    let pair = LinkVeth::new(PROBER_END, HOST_END).build();
    let made = netlink.handle.link().add(pair).execute().await;
    made.map_err(refused("make a pair of virtual interfaces"))?;
    let end = async |name| netlink.link(name).await?.ok_or_else(|| vanished(name));
    let (prober, host) = (end(PROBER_END).await?, end(HOST_END).await?);
    let index = prober.header.index;
    // No neighbours to ask for: there is one way.
    let settings = [
        (LinkUnspec::new_with_index(host.header.index).alias(ALIAS), None),
        (
            LinkUnspec::new_with_index(host.header.index),
            Some(In6AddrGenMode::None),
        ),
        (LinkUnspec::new_with_index(index), Some(In6AddrGenMode::None)),
        (LinkUnspec::new_with_index(index).mtu(MTU).arp(false).up(), None),
        (LinkUnspec::new_with_name("lo").up(), None),
        (
            LinkUnspec::new_with_index(host.header.index).setns_by_fd(namespace.0.home.as_raw_fd()),
            None,
        ),
    ];
    for (link, addresses) in settings {
        let quiet = addresses.map(|mode| vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])]);
        let optional = quiet.is_some();
        let link = match quiet {
            Some(quiet) => link.append_extra_attribute(LinkAttribute::AfSpecUnspec(quiet)),
            None => link,
        };
        match netlink.handle.link().set(link.build()).execute().await {
            // A host without IPv6 has no IPv6 to keep quiet.
            Err(_) if optional => {}
            done => done.map_err(refused("set up the probes' interface"))?,
        }
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(index)
        .scope(RouteScope::Link);
    let added = netlink.handle.route().add(v4.build()).execute().await;
    added.map_err(refused("make the probes' route"))?;
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index);
    match netlink.handle.route().add(v6.build()).execute().await {
        Err(error)
            if !matches!(
                errno(&error),
                Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EACCES)
            ) =>
        {
            Err(refused("make the probes' IPv6 route")(error))
        }
        // Without IPv6, IPv4 probes go nevertheless.
        _ => Ok(index),
    }
}

/// Sets up the end that came to this host; returns its index.
async fn connect_host_end() -> Result<u32, PathError> {
    let netlink = Netlink::open()?;
    let link = netlink.link(HOST_END).await?.ok_or_else(|| vanished(HOST_END))?;
    let index = link.header.index;
    let up = LinkUnspec::new_with_index(index).mtu(MTU).arp(false).up().build();
    let done = netlink.handle.link().set(up).execute().await;
    done.map_err(refused("set up the probes' interface"))?;
    Ok(index)
}

/// Has checksums computed before packets leave the prober: behind an outer header a card may not know where they belong.
fn leave_no_checksum_open() -> Result<(), PathError> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let failed = step("have checksums computed in the probes' namespace");
    let mut value = Value {
        command: ETHTOOL_STXCSUM,
        data: 0,
    };
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
    // SAFETY: zeros are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(PROBER_END.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: `request` names an interface and points to a live `ethtool_value`, which this command reads.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if answer == 0 {
        Ok(())
    } else {
        Err(failed(io::Error::last_os_error()))
    }
}

/// A socket for questions to the kernel, of the calling thread's namespace.
struct Netlink {
    handle: Handle,
}

impl Netlink {
    fn open() -> Result<Self, PathError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(step("open a netlink socket"))?;
        // Ends with the runtime, which ends with the thread's work.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    async fn link(&self, name: &'static str) -> Result<Option<LinkMessage>, PathError> {
        use futures_util::StreamExt as _;
        let mut found = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        match found.next().await {
            None => Ok(None),
            Some(Ok(link)) => Ok(Some(link)),
            Some(Err(error)) if matches!(errno(&error), Some(libc::ENODEV | libc::EINVAL)) => Ok(None),
            Some(Err(error)) => Err(refused("look for the probes' interface")(error)),
        }
    }
}

fn own_namespace() -> Result<OwnedFd, PathError> {
    let file = File::open("/proc/thread-self/ns/net").map_err(step("open /proc/thread-self/ns/net"))?;
    Ok(file.into())
}

/// Namespaces belong to threads: what is done in another one is done on a thread that then ends.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, PathError> + Send) -> Result<T, PathError> {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, PathError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(step("talk to the kernel"))?.block_on(work))
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> PathError + Copy {
    move |source| PathError::Step {
        step,
        source: source.into(),
    }
}

fn refused(step: &'static str) -> impl Fn(rtnetlink::Error) -> PathError {
    move |error| PathError::Step {
        step,
        source: match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        },
    }
}

fn vanished(name: &str) -> PathError {
    PathError::Step {
        step: "find the probes' interface",
        source: io::Error::new(io::ErrorKind::NotFound, format!("{name} has gone")),
    }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().raw_os_error(),
        _ => None,
    }
}
