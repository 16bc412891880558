//! Exit codes: what a wait status means. Runs in the kernel (filter) and in the detectors (judgement).
//!
//! Source: wait(2) and kernel/exit.c: signal = code & 0x7f, core flag = code & 0x80, status = code >> 8.

/// `SIGNAL_GROUP_EXIT` of include/linux/sched/signal.h (v5.10 to v7.0): the group's code is `group_exit_code`.
pub const SIGNAL_GROUP_EXIT: u32 = 4;

/// The fatal signal, or 0.
pub const fn signal(code: u32) -> u32 {
    code & 0x7f
}

/// Whether a core was dumped.
pub const fn core(code: u32) -> bool {
    code & 0x80 != 0
}

/// The argument of exit(2), 0..=255.
pub const fn status(code: u32) -> u32 {
    (code >> 8) & 0xff
}

/// Whether the exit is worth a record: any fatal signal or a non-zero status.
pub const fn is_abnormal(code: u32) -> bool {
    signal(code) != 0 || status(code) != 0
}

/// The code of a whole thread group: the group's if a group exit was under way, else the leader's.
pub const fn group_code(signal_flags: u32, group_exit_code: u32, leader_code: u32) -> u32 {
    if signal_flags & SIGNAL_GROUP_EXIT != 0 { group_exit_code } else { leader_code }
}

/// Signals whose default action dumps core (signal(7)): the process broke, nobody asked it to stop.
pub const fn dumps_core(signal: u32) -> bool {
    // QUIT, ILL, TRAP, ABRT, BUS, FPE, SEGV, XCPU, XFSZ, SYS
    matches!(signal, 3 | 4 | 5 | 6 | 7 | 8 | 11 | 24 | 25 | 31)
}

/// Signals by which a stop is asked for: HUP, INT, PIPE, TERM.
pub const fn asks_to_stop(signal: u32) -> bool {
    matches!(signal, 1 | 2 | 13 | 15)
}

/// A stop that was asked for: one of those signals, or the shell's 128 + n status for it.
pub const fn was_asked_to_stop(code: u32) -> bool {
    match signal(code) {
        0 => status(code) > 128 && asks_to_stop(status(code) - 128),
        fatal => asks_to_stop(fatal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_as_wait_does() {
        assert_eq!((signal(0x8b), core(0x8b), status(0x8b)), (11, true, 0));
        assert_eq!((signal(0x0300), core(0x0300), status(0x0300)), (0, false, 3));
        assert!(!is_abnormal(0));
        assert!(is_abnormal(9) && is_abnormal(0x100));
    }

    #[test]
    fn the_group_code_wins_only_in_a_group_exit() {
        assert_eq!(group_code(SIGNAL_GROUP_EXIT, 9, 0), 9);
        assert_eq!(group_code(0, 9, 0x100), 0x100);
    }

    #[test]
    fn stops_are_recognised_in_both_forms() {
        assert!(was_asked_to_stop(15) && was_asked_to_stop(143 << 8) && was_asked_to_stop(13));
        assert!(!was_asked_to_stop(9) && !was_asked_to_stop(137 << 8) && !was_asked_to_stop(1 << 8));
    }
}
