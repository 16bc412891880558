//! Packets: a `struct sk_buff` in; the addresses, the protocol and the ports of its IP header out. Reads with checked
//! reads only: the packet may be of any shape. Source: include/linux/skbuff.h, RFC 791, RFC 8200.

use crate::{
    maps::offset,
    read::{Ptr, probe_start},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Fragment offset of IPv4: only the first fragment has ports.
const OFFSET: u16 = 0x1fff;

/// What the header says; ports in host order, 0 where there are none.
#[derive(Default)]
pub struct Ends {
    pub saddr: [u8; 16],
    pub daddr: [u8; 16],
    pub family: u16,
    pub protocol: u16,
    pub sport: u16,
    pub dport: u16,
}

/// Reads the header; whether it is one of IP.
#[inline(always)]
pub fn ends(skb: Ptr, ends: &mut Ends) -> bool {
    let head: u64 = skb.read(offset!(skb_head)).unwrap_or(0);
    let at: u16 = skb.read(offset!(skb_network_header)).unwrap_or(0);
    // 0 and all ones: it was never set.
    if head == 0 || at == 0 || at == u16::MAX {
        return false;
    }
    let start = head + at as u64;
    let mut first = [0u8; 16];
    if !probe_start::<10>(start, &mut first) {
        return false;
    }
    let (protocol, behind) = match first[0] >> 4 {
        4 if probe_start::<4>(start + 12, &mut ends.saddr) && probe_start::<4>(start + 16, &mut ends.daddr) => {
            ends.family = AF_INET;
            let later = u16::from_be_bytes([first[6], first[7]]) & OFFSET != 0;
            (if later { 0 } else { first[9] }, (first[0] as u64 & 15) * 4)
        }
        6 if probe_start::<16>(start + 8, &mut ends.saddr) && probe_start::<16>(start + 24, &mut ends.daddr) => {
            ends.family = AF_INET6;
            // Extension headers are not walked: such a packet has no ports here.
            (first[6], 40)
        }
        _ => return false,
    };
    ends.protocol = if ends.family == AF_INET { first[9] } else { first[6] } as u16;
    if protocol == TCP || protocol == UDP {
        let mut ports = [0u8; 16];
        if probe_start::<4>(start + behind, &mut ports) {
            ends.sport = u16::from_be_bytes([ports[0], ports[1]]);
            ends.dport = u16::from_be_bytes([ports[2], ports[3]]);
        }
    }
    true
}
