//! The fire drill's own fault: an XDP program that drops a share of TCP segments on an interface that the
//! drill made in its own network namespace. Never attached anywhere else.

use aya_ebpf::{Global, bindings::xdp_action, helpers::bpf_get_prandom_u32, macros::xdp, programs::XdpContext};

const ETH_HEADER: usize = 14;
const ETH_P_IP: u16 = 0x0800;
const IP_PROTOCOL: usize = ETH_HEADER + 9;
const IPPROTO_TCP: u8 = 6;

/// Dropped TCP packets per thousand.
#[unsafe(no_mangle)]
pub static DRILL_DROP_PERMILLE: Global<u32> = Global::new(0);

#[xdp]
pub fn drill_drop(ctx: XdpContext) -> u32 {
    // SAFETY: a helper without arguments.
    let draw = unsafe { bpf_get_prandom_u32() } % 1000;
    if is_tcp(&ctx) && draw < DRILL_DROP_PERMILLE.load() {
        return xdp_action::XDP_DROP;
    }
    xdp_action::XDP_PASS
}

#[inline(always)]
fn is_tcp(ctx: &XdpContext) -> bool {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + IP_PROTOCOL + 1 > end {
        return false;
    }
    // SAFETY: the bound above covers both reads; the verifier checks it.
    unsafe {
        let ether_type = u16::from_be(*((start + 12) as *const u16));
        ether_type == ETH_P_IP && *((start + IP_PROTOCOL) as *const u8) == IPPROTO_TCP
    }
}
