//! The executor with a real service manager and a real journal. In: a manager. Out: the first thing that is not as
//! it should be.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use faultline::{
    clock::monotonic_ns,
    heal::{
        Protection,
        executor::{Executor, Guard, HandReport, Order, Orders, Parts, Standing, orders},
        journal::RecoveryJournal,
    },
    kernel::{Root, cgroup::CgroupLayout},
    model::{
        action::{Done, Limit, Reason, Request, Verb, Verified},
        entity::{Entity, unit_key},
        input::{CgroupName, TREE_PROCESS},
    },
};
use tokio::sync::mpsc;

use super::systemd::run;
use crate::{agent::PATIENCE, private_systemd::PrivateSystemd};

/// An executor in a task, and our ends of its channels.
struct Bench {
    orders: Orders,
    names: mpsc::Sender<Arc<[CgroupName]>>,
    reports: mpsc::Receiver<HandReport>,
}

impl Bench {
    async fn start(manager: &PrivateSystemd) -> Result<Self> {
        let (orders, orders_in) = orders(8);
        let (names, names_in) = mpsc::channel(8);
        let (reports_out, reports) = mpsc::channel(8);
        let standing = Arc::new(Standing::default());
        ensure!(standing.opened(1), "the first fault finds room");
        let (journal, _) = RecoveryJournal::open(&manager.folder().join("recovery.journal"))?;
        let executor = Executor::new(Parts {
            orders: orders_in,
            names: names_in,
            reports: reports_out,
            standing,
            guard: Guard::new(Vec::new(), Protection::of_agent(None)),
            layout: CgroupLayout::gather(&Root::live())?,
            bus: manager.bus(),
            journal,
        });
        tokio::spawn(executor.run());
        Ok(Self { orders, names, reports })
    }

    async fn order(&mut self, id: u64, verb: Verb, unit: &str, verify: Duration) -> Result<Done> {
        let name = CgroupName { trees: TREE_PROCESS, id, path: format!("/app.slice/{unit}") };
        self.names.send(Arc::from([name])).await?;
        let request = Request {
            id,
            fault: 1,
            verb,
            target: Entity::Unit(unit_key(unit)),
            limit: Limit::default(),
            evidence_ns: monotonic_ns(),
            evidence_max_age_ns: PATIENCE.as_nanos() as u64,
            timeout_ns: PATIENCE.as_nanos() as u64,
            verify_ns: verify.as_nanos() as u64,
        };
        ensure!(self.orders.send(Order::Act(request)), "the queue of orders is full");
        match self.report().await? {
            HandReport::Done(done) if done.id == id => Ok(done),
            other => bail!("{other:?}"),
        }
    }

    async fn verdict(&mut self) -> Result<Verified> {
        match self.report().await? {
            HandReport::Verified(seen) => Ok(seen),
            other => bail!("{other:?}"),
        }
    }

    async fn report(&mut self) -> Result<HandReport> {
        tokio::time::timeout(2 * PATIENCE, self.reports.recv()).await?.context("the executor ended")
    }
}

/// A unit that runs after its restart is healthy; one that crashes again is not, and that is known before the end.
///
/// # Errors
/// It is otherwise.
pub fn heals_and_sees(manager: &mut PrivateSystemd) -> Result<()> {
    manager.service("good.service", "", "exec sleep 1000\n")?;
    manager.service("bad.service", "", "sleep 0.2\nexit 1\n")?;
    manager.service("stubborn.service", "Type=oneshot", "exit 1\n")?;
    run(async {
        let mut bench = Bench::start(manager).await?;
        let done = bench.order(1, Verb::RestartUnit, "good.service", Duration::from_millis(300)).await?;
        ensure!(done.reason.is_none() && done.started_ns != 0 && done.finished_ns >= done.started_ns, "{done:?}");
        let seen = bench.verdict().await?;
        ensure!(seen.healthy == Some(true) && seen.now_ns >= done.finished_ns + 300_000_000, "{seen:?}");

        let done = bench.order(2, Verb::RestartUnit, "bad.service", PATIENCE).await?;
        ensure!(done.reason.is_none(), "its start is good: {done:?}");
        let seen = bench.verdict().await?;
        ensure!(seen.healthy == Some(false), "{seen:?}");
        ensure!(seen.now_ns < done.finished_ns + PATIENCE.as_nanos() as u64 / 2, "known long before the end");

        let done = bench.order(3, Verb::RestartUnit, "stubborn.service", PATIENCE).await?;
        ensure!(done.reason == Some(Reason::JobFailed) && done.started_ns != 0, "tried and failed: {done:?}");
        let done = bench.order(4, Verb::RestartUnit, "nobody.service", PATIENCE).await?;
        ensure!(done.reason == Some(Reason::UnitUnknown) && done.started_ns == 0, "refused: {done:?}");

        let done = bench.order(5, Verb::StopUnit, "good.service", Duration::ZERO).await?;
        ensure!(done.reason.is_none(), "{done:?}");
        ensure!(bench.verdict().await?.healthy == Some(true), "stopped is what was wanted");
        written(manager)
    })
}

/// A manager that dies in the middle: the executor answers, and lives.
///
/// # Errors
/// It does not.
pub fn survives_the_manager(manager: &mut PrivateSystemd) -> Result<()> {
    manager.service("good.service", "", "exec sleep 1000\n")?;
    run(async {
        let mut bench = Bench::start(manager).await?;
        let done = bench.order(1, Verb::RestartUnit, "good.service", Duration::from_millis(500)).await?;
        ensure!(done.reason.is_none(), "{done:?}");
        manager.crash()?;
        ensure!(bench.verdict().await?.healthy.is_none(), "nobody can tell any more");
        for id in 2..4 {
            let done = bench.order(id, Verb::StopUnit, "good.service", Duration::ZERO).await?;
            ensure!(done.reason == Some(Reason::NoServiceManager) && done.started_ns == 0, "{done:?}");
        }
        Ok(())
    })
}

/// The journal has the intent and the end of what was tried, and nothing of what was refused.
fn written(manager: &PrivateSystemd) -> Result<()> {
    let path = manager.folder().join("recovery.journal");
    let scan = RecoveryJournal::scan(&path)?;
    ensure!(scan.corrupt.is_none() && scan.torn == 0, "{scan:?}");
    ensure!(scan.records.len() == 8, "four were tried, each has two records: {:?}", scan.records);
    Ok(())
}
