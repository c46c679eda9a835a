//! The decapsulator for backends: takes the outer header off tunnelled packets for a VIP of this host.
//!
//! [`decide`] reads and decides; here the packet's start is moved behind the outer header, the Ethernet header is written anew in
//! front of the inner packet, and the host's stack gets what the client had sent. Everything else is passed untouched.
#![no_std]
#![no_main]

use core::mem::size_of;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, xdp_action},
    btf_maps::{HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::decap::{AddressKey, DecapFate, DecapReason, Remark, SourceKey, Unwrap, decide};
use lb_common::local_mac::LocalMac;
use lb_common::parse::Packet;
use network_types::eth::EthHdr;

/// VIPs and this host's addresses: room for more than any host has; without preallocation it costs nothing.
const ADDRESSES: usize = 65_536;

#[btf_map]
static VIPS: HashMap<AddressKey, u8, ADDRESSES, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static LOCALS: HashMap<AddressKey, u8, ADDRESSES, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static SOURCES: LpmTrie<SourceKey, u8, { SourceKey::MAX_PREFIXES }> = LpmTrie::new();
/// Whether tunnels may begin only at `SOURCES`. Read-only and known when the program is loaded: with 0 the verifier removes the look-up.
#[unsafe(no_mangle)]
static SOURCES_LIMITED: u32 = 1;
#[btf_map]
static LOCAL_MACS: HashMap<LocalMac, u8, ADDRESSES, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
static DECAP_REASONS: PerCpuArray<u64, { DecapReason::COUNT }> = PerCpuArray::new();

#[xdp(frags)]
fn decap(ctx: XdpContext) -> u32 {
    let reason = match decide(
        &Frame::of(&ctx),
        |head| {
            let key = LocalMac::of_frame(head, ctx.ingress_ifindex() as u32);
            LOCAL_MACS.get_ptr(key).is_some()
        },
        |address| LOCALS.get_ptr(address).is_some(),
        |address| VIPS.get_ptr(address).is_some(),
        is_edge,
    ) {
        Ok(how) => unwrap(&ctx, &how),
        Err(reason) => reason,
    };
    if let Some(counter) = DECAP_REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own slot; a program is not interrupted by another one that counts here.
        unsafe { *counter += 1 };
    }
    match reason.fate() {
        DecapFate::Unwrapped | DecapFate::Passed => xdp_action::XDP_PASS,
        DecapFate::Dropped => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn is_edge(address: &AddressKey) -> bool {
    // SAFETY: a static. Volatile, or the compiler would take the value that is written above for granted.
    if unsafe { (&raw const SOURCES_LIMITED).read_volatile() } == 0 {
        return true;
    }
    let key = Key::new(SourceKey::BITS, SourceKey::from(address));
    SOURCES.get(&key).is_some()
}

const ETH_LEN: usize = size_of::<EthHdr>();

#[inline(always)]
fn unwrap(ctx: &XdpContext, how: &Unwrap) -> DecapReason {
    let Some(macs) = Frame::of(ctx).bytes::<12>(0).map(Macs::read) else {
        return DecapReason::HeadRefused;
    };
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, how.outer_len as i32) } != 0 {
        return DecapReason::HeadRefused;
    }
    // All pointers into the packet are void now: its bounds are read again.
    let Some(start) = Frame::of(ctx).start_of::<{ ETH_LEN + 20 }>() else {
        return DecapReason::HeadRefused;
    };
    // SAFETY: `start` is that of 34 writable bytes, an Ethernet header and at least an IPv4 header's length. The backend writes
    // whole words, as it reads them.
    unsafe {
        macs.write(start);
        start.add(12).cast::<u16>().write(how.ethertype);
        match how.remark {
            Remark::None => return DecapReason::Unwrapped,
            Remark::V4 {
                start: halfword,
                checksum,
            } => {
                start.add(ETH_LEN).cast::<u16>().write(halfword);
                start.add(ETH_LEN + 10).cast::<u16>().write(checksum);
            }
            Remark::V6 { start: halfword } => start.add(ETH_LEN).cast::<u16>().write(halfword),
        }
    }
    DecapReason::UnwrappedMarked
}

/// Both Ethernet addresses, in registers.
struct Macs(u32, u32, u32);

impl Macs {
    #[inline(always)]
    fn read(bytes: &[u8; 12]) -> Self {
        let words = bytes.as_ptr().cast::<u32>();
        // SAFETY: three words of the 12 bytes; the verifier admits any alignment in packets (see `lb_common::parse`).
        unsafe { Macs(words.read(), words.add(1).read(), words.add(2).read()) }
    }

    /// # Safety
    ///
    /// 12 bytes from `start` on must be writable.
    #[inline(always)]
    unsafe fn write(&self, start: *mut u8) {
        let words = start.cast::<u32>();
        // SAFETY: as the caller promises.
        unsafe {
            words.write(self.0);
            words.add(1).write(self.1);
            words.add(2).write(self.2);
        }
    }
}

/// The frame's directly readable part.
struct Frame<'a> {
    ctx: &'a XdpContext,
    start: usize,
    end: usize,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    fn of(ctx: &'a XdpContext) -> Self {
        Frame {
            ctx,
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// The first byte, if at least `N` bytes follow it.
    #[inline(always)]
    fn start_of<const N: usize>(&self) -> Option<*mut u8> {
        (self.start + N <= self.end).then_some(self.start as *mut u8)
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let at = self.start + offset;
        if at + N > self.end {
            return None;
        }
        // SAFETY: `N` bytes from `at` on lie before the frame's end.
        Some(unsafe { &*(at as *const [u8; N]) })
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        // The whole length only matters if the frame has fragments; then the directly readable part is too short.
        self.end - self.start >= length
            // SAFETY: the context is the program's own. The helper is there since Linux 5.18.
            || unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) } as usize >= length
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
