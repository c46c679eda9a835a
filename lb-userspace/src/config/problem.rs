//! Everything that can be wrong with a file, and everything that looks unintended.

use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

use crate::run_as::RunAsError;

/// An error: the file is refused. `value` is always the text as typed.
#[derive(Clone, Debug, PartialEq, Error)]
pub(super) enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("longer than {max} bytes")]
    TooLong { max: u64 },
    #[error("byte 0x{byte:02x} is not UTF-8: a configuration is UTF-8 text")]
    NotUtf8 { byte: u8 },
    #[error("not valid TOML: {0}")]
    Syntax(String),
    #[error("and {0} more errors")]
    More(usize),
    #[error("refused, and nothing says why: this is a bug in lbd")]
    Unexplained,

    #[error("unknown key {key}: {hint}")]
    UnknownKey { key: String, hint: String },
    #[error("{key} is missing: {want}")]
    Missing { key: &'static str, want: &'static str },
    #[error("{key} {value} is {found}: {want} is wanted")]
    WrongType {
        key: &'static str,
        value: String,
        found: &'static str,
        want: &'static str,
    },
    #[error("[{key}] is one table: write {header}, as there can be several")]
    OneTable { key: &'static str, header: &'static str },
    #[error("{key} {value} is out of range: {allowed}")]
    OutOfRange {
        key: &'static str,
        value: String,
        allowed: String,
    },
    #[error("{key} {value} is unknown: {hint}")]
    UnknownChoice {
        key: &'static str,
        value: String,
        hint: String,
    },
    #[error("{key} {value} is not built yet: {has}")]
    NotBuilt {
        key: &'static str,
        value: String,
        has: String,
    },
    #[error("{key} and {other} are both there: one of them")]
    Exclusive { key: &'static str, other: &'static str },
    #[error("{key} {value} is not {want}")]
    Malformed {
        key: &'static str,
        value: String,
        want: &'static str,
    },

    #[error("{key} {value} has no unit: write {number}ms, {number}s, {number}m or {number}h, in quotes")]
    NoUnit {
        key: &'static str,
        value: String,
        number: String,
    },
    #[error("{key} {value} is not an IPv4 or IPv6 address{hint}")]
    NotAnAddress {
        key: &'static str,
        value: String,
        hint: &'static str,
    },
    #[error("{key} {value} is an IPv4 address within IPv6: write \"{v4}\"")]
    MappedAddress {
        key: &'static str,
        value: String,
        v4: Ipv4Addr,
    },
    #[error("{key} {value} is {kind}: {want} is wanted")]
    UnusableAddress {
        key: &'static str,
        value: String,
        kind: &'static str,
        want: &'static str,
    },
    #[error("{key} {value} is {kind}: the address of one interface is wanted")]
    UnusableMac {
        key: &'static str,
        value: String,
        kind: &'static str,
    },
    #[error("{key} is empty: {want}")]
    Empty { key: &'static str, want: &'static str },

    #[error("{key} {value} is already used in line {line}: {scope}")]
    Duplicate {
        key: &'static str,
        value: String,
        line: usize,
        scope: &'static str,
    },
    #[error("{vip} {protocol} port {port} is already in line {line}, for service {service}")]
    SharedVip {
        vip: IpAddr,
        protocol: &'static str,
        port: u16,
        service: String,
        line: usize,
    },
    #[error("address {value} is the service's own VIP: packets would come back to this node")]
    OwnVip { value: String },
    #[error("address {value} is of another family than the VIP {vip}: forward \"l2\" changes no address, \"ipip\" can")]
    FamilyOfL2 { value: String, vip: IpAddr },
    #[error("every weight is 0, so no backend would get traffic: one of 1 to 65535 is wanted")]
    NoWeight,
    #[error("{count} backends are more than a service can have: {max}")]
    TooManyBackends { count: usize, max: usize },

    #[error("ring_size {value} is not a prime: the nearest are {nearest}")]
    NotPrime { value: String, nearest: String },
    #[error("ring_size {size} has no room for {backends} backends: {wanted}")]
    RingTooSmall { size: u32, backends: usize, wanted: String },
    #[error(
        "{key} = {room} is too small: the file needs {needed}; the first {fitting} of its {services} services would fit"
    )]
    Full {
        key: &'static str,
        room: u64,
        needed: u64,
        fitting: usize,
        services: usize,
    },

    #[error("timeout {timeout} is longer than the interval, {interval}")]
    TimeoutOverInterval { timeout: String, interval: String },
    #[error("{key} is only for {with}")]
    OnlyWith { key: &'static str, with: &'static str },
    #[error("{key} is missing: {setting} needs it")]
    Needed { key: &'static str, setting: &'static str },
    #[error("max_out {max_out} is shorter than half_life {half_life}: nothing would ever be held out")]
    ShortDamping { max_out: String, half_life: String },
    #[error("every backend is a sorry one: one that serves when all is well is wanted")]
    OnlySorry,
    #[error("fast_interval {fast} is longer than the interval, {interval}")]
    FastOverInterval { fast: String, interval: String },
    #[error("{key} and {key}_hex are the same in two notations: only one of them is wanted")]
    TextAndHex { key: &'static str },
    #[error("via \"vip\" is not for kind exec: the program itself chooses how it asks")]
    ExecByVip,
    #[error("{key} is only for kind {only}, and this kind is {kind}")]
    NotForKind {
        key: &'static str,
        only: &'static str,
        kind: &'static str,
    },
    #[error(transparent)]
    User(RunAsError),
}

/// A warning: the file is accepted.
#[derive(Clone, Debug, PartialEq, Error)]
pub(super) enum Caution {
    #[error(
        "hash_seed is missing, so it is 0, which anyone can guess: who knows the seed can aim a flood at one backend. \
         A random one, to be the same on every node: hash_seed = \"0x{suggestion:016x}\""
    )]
    NoSeed { suggestion: u64 },
    #[error(
        "hash_seed is 0, which anyone can guess: who knows the seed can aim a flood at one backend. \
         A random one, to be the same on every node: hash_seed = \"0x{suggestion:016x}\""
    )]
    ZeroSeed { suggestion: u64 },
    #[error("ring_size {size} is small for {backends} backends, whose shares will be uneven: {enough} is enough")]
    SmallRing { size: u32, backends: usize, enough: u32 },
    #[error("{key} does nothing without [service.health]: without checks the backends are always up")]
    NoChecks { key: &'static str },
    #[error("min_healthy {value} is more than the {backends} backends there are: all tiers will always serve")]
    ManyHealthy { value: u32, backends: usize },
    #[error("{0}; until this host knows it, the program does not run")]
    User(RunAsError),
    #[error("no backends: the service's packets will be dropped")]
    NoBackends,
    #[error(
        "gateway_mac is every next hop's: the packets of all {backends} backends with forward \"l2\" will go to it"
    )]
    GatewayForL2 { backends: usize },
    #[error(
        "flow_inserts {inserts} fills more than half of the flow table ([node.capacity] flows = {flows}) within drain_time \
         ({drain_time} s): a flood could push out live flows. {room} is what fits"
    )]
    ManyInserts {
        inserts: u32,
        drain_time: u64,
        flows: u32,
        room: u32,
    },
}
