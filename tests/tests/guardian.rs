//! The guardian of a real agent on this machine, as root: what agents that were killed amid an action leave behind, which is
//! nothing. `FAULTLINE_KILLS=200` for a campaign; the same in a VM: `faultline-case guardian 200`.

use faultline_tests::{case::guardian::campaign, lock, patient::Ward};

#[test]
fn a_killed_agent_leaves_nothing_frozen_or_limited() {
    if !lock::is_root("a_killed_agent_leaves_nothing_frozen_or_limited") {
        return;
    }
    let _machine = lock::machine().unwrap();
    let kills = std::env::var("FAULTLINE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    // A controller may be out of reach, as in a container.
    let limits = Ward::with_limits("guardian-try").map(drop).inspect_err(|error| eprintln!("freezes only: {error:#}"));
    let tally = campaign(kills, limits.is_ok()).unwrap();
    eprintln!("{tally}");
    assert!(kills < 20 || tally.frozen > 0, "the kills missed what they were aimed at");
    assert!(kills < 20 || limits.is_err() || tally.limited > 0, "the kills missed what they were aimed at");
}
