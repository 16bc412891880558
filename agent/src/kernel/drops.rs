//! Reasons to drop a packet. In: the running kernel's BTF. Out: their names by number, and the mask of those that are no
//! news to anybody.
//!
//! The enum is renumbered with almost every version, so only names mean anything. Source: include/net/dropreason-core.h.

use faultline_common::tunable::DROP_WORDS;

use super::Btf;
use crate::model::input::DropReason;

/// What every constant of the enum starts with, but two.
const PREFIX: &str = "SKB_DROP_REASON_";

/// Reasons without a loss that anybody could feel: the packet was used, was for somebody else, was a copy, or belonged to a
/// connection or device that had ended. `not_specified` is most of all what is freed with a queue or a socket.
const BENIGN: &[&str] = &[
    "consumed",
    "not_dropped_yet",
    "not_specified",
    "otherhost",
    "queue_purge",
    "socket_filter",
    "subsys_mask",
    "tap_filter",
    "tap_txfilter",
    "tcp_ack_unsent_data",
    "tcp_close",
    "tcp_ofomerge",
    "tcp_old_ack",
    "tcp_old_data",
    "tcp_old_sequence",
    "tcp_reset",
    "tcp_too_old_ack",
    "tcp_zerowindow",
    "unicast_in_l2_multicast",
    "unhandled_proto",
];

/// The reasons that this kernel has; none before 5.17, except where a distribution carried them back.
pub fn reasons(btf: &Btf) -> Vec<DropReason> {
    let constants = btf.enum_constants("skb_drop_reason").into_iter();
    let named = constants.filter_map(|(name, value)| {
        let short = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix("SKB_"))?;
        let number = u32::try_from(value).ok().filter(|_| short != "MAX")?;
        Some(DropReason { number, name: short.to_lowercase() })
    });
    named.collect()
}

/// Bit n: reason n is benign.
pub fn benign(reasons: &[DropReason]) -> [u64; DROP_WORDS] {
    let mut mask = [0; DROP_WORDS];
    for reason in reasons.iter().filter(|reason| BENIGN.contains(&reason.name.as_str())) {
        if let Some(word) = mask.get_mut(reason.number as usize / 64) {
            *word |= 1 << (reason.number % 64);
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Root;

    #[test]
    fn benign_reasons_are_known_by_name() {
        let reason = |number, name: &str| DropReason { number, name: name.into() };
        let mask = benign(&[
            reason(0, "not_dropped_yet"),
            reason(3, "no_socket"),
            reason(70, "tcp_old_data"),
            reason(1 << 16, "consumed"),
        ]);
        assert_eq!((mask[0], mask[1]), (1, 1 << 6));
        assert_eq!(mask[2..], [0; DROP_WORDS - 2], "a subsystem's own number is in nobody's mask");
    }

    #[test]
    fn this_kernels_reasons_have_names() {
        let Ok(btf) = Btf::load(&Root::live()) else { return };
        let reasons = reasons(&btf);
        let has = |name: &str| reasons.iter().any(|reason| reason.name == name);
        assert!(reasons.is_empty() || (has("no_socket") && has("tcp_csum") && !has("max")), "{reasons:?}");
    }
}
