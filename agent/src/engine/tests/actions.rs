//! What the engine makes of its own actions: inputs and the answers of the hands in, outcomes out.

use super::*;
use crate::model::action::{Done, Outcome, Verified};

/// An engine that kills a unit in a loop, three deaths of which it has just seen.
fn killing(config: &str) -> (Bench, impl Fn(u32, u64, u64) -> Input) {
    let mut bench = Bench::with(&Config::parse(config, "f.toml").expect("a valid policy"));
    bench.step(Input::Fact(Fact::Own(["/init.scope".to_owned()].into()))).step(web_service());
    let main = |code, at_ns, lifetime_ns| {
        let mut main = exit("web", code, at_ns, lifetime_ns);
        main.header.cgroup_id = 7;
        died(main)
    };
    for n in 1..=3 {
        bench.step(main(STATUS_1, n * SECOND, MS));
    }
    (bench, main)
}

const KILL: &str = "mode = \"act\"\n[scope]\nunits = [\"web.service\"]\n[[plan]]\non = \"crash_loop\"\n\
    steps = [{ verb = \"kill\", verify_for = \"1s\" }]\n";

/// What became of the only action.
fn outcome(bench: &Bench) -> Option<Outcome> {
    bench.outputs.iter().rev().find_map(|o| if let Output::Action(a) = o { a.outcome } else { None })
}

#[test]
fn what_a_kill_ends_is_no_news_about_what_is_ill() {
    let acted = Done { id: 1, reason: None, started_ns: 3 * SECOND + 2 * MS, finished_ns: 3 * SECOND + 3 * MS };
    let seen = Verified { id: 1, healthy: Some(true), now_ns: 5 * SECOND };
    // All were started after the last death, so each would count for the loop.
    for (died_after, lived, expected) in [
        // Told before the answer of the hands, and after it.
        (MS, MS / 2, Outcome::Recovered),
        (4 * MS, 3 * MS, Outcome::Recovered),
        // Started after the kill: whoever ended this one, it was not the agent.
        (500 * MS, 10 * MS, Outcome::Failed),
    ] {
        let (mut bench, main) = killing(KILL);
        assert!(bench.outputs.iter().any(|o| matches!(o, Output::Act(_))), "it is asked for");
        let death = main(SIGKILL, 3 * SECOND + died_after, lived);
        let done = Input::Fact(Fact::Done(acted));
        if died_after < 3 * MS {
            bench.step(death).step(done)
        } else {
            bench.step(done).step(death)
        };
        bench.step(Input::Fact(Fact::Verified(seen)));
        assert_eq!(outcome(&bench), Some(expected), "death {died_after} ns after the loop was seen");
    }
    let (mut bench, main) = killing(KILL);
    bench.step(Input::Fact(Fact::Done(acted))).step(main(SIGSEGV, 3 * SECOND + 4 * MS, 3 * MS));
    assert_eq!(outcome(&bench), Some(Outcome::Failed), "a crash is a crash, whatever the agent does meanwhile");
}
