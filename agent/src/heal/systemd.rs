//! The service manager, over D-Bus. In: a unit's name. Out: the result of the job that the manager made of it,
//! or the unit's health; an error that says which brake of systemd it was.
//!
//! Not `systemctl`: it tells of a failed job by its exit status alone, and waits without an end. The signal for a
//! job's end is subscribed to *before* the job is asked for, so that a job that is over at once is not missed.
//!
//! The connection is made when it is first needed and again when it turns out to be stale, which is found out
//! by a call that changes nothing: the job itself is asked for once and never again, as nobody knows whether
//! the first one was heard.
//!
//! Not the manager's private socket `/run/systemd/private`, which would need no bus: it names itself in a way that
//! zbus refuses ("Invalid unique name"), and is not an interface that systemd promises to keep.
//!
//! Interface: org.freedesktop.systemd1(5), the same from 5.10's systemd 247 to today's.

mod error;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, num::NonZeroUsize, pin::Pin, time::Duration};

use futures_core::Stream;
use tokio::sync::Mutex;
use zbus::{
    Connection, MatchRule, Message, MessageStream, ObjectPath, OwnedObjectPath, OwnedVariant, connection::Builder,
    message,
};

pub use error::SystemdError;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const ROOT: &str = "/org/freedesktop/systemd1";
const NAME: &str = "org.freedesktop.systemd1";

/// Ends of one unit's jobs that may wait for us; more than one at a time are already somebody else's.
const QUEUED: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// How long one call that does not wait for a job may take. A manager that is busy reloading answers after seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the manager is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The system bus, as `DBUS_SYSTEM_BUS_ADDRESS` or D-Bus's default names it.
    System,
    /// A message bus by its D-Bus address.
    Address(String),
}

impl std::fmt::Display for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("the system bus"),
            Self::Address(address) => f.write_str(address),
        }
    }
}

/// The health of a unit at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitHealth {
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active_state: String,
    /// Finer and by type: `running`, `exited`, `auto-restart`, `dead`, ...
    pub sub_state: String,
    /// Its main process; 0 where there is none.
    pub main_pid: u32,
    /// Path in the hierarchy of the manager, starting with `/`; empty where nothing runs.
    pub cgroup: String,
    /// Automatic restarts since it was last started by hand.
    pub n_restarts: u32,
    /// Of the last run: `success`, `exit-code`, `signal`, `oom-kill`, `start-limit-hit`, ...; empty if no service.
    pub result: String,
}

impl UnitHealth {
    /// Active with a main process: yes; active without one (a oneshot): cannot be told; else no.
    pub fn is_running(&self) -> Option<bool> {
        match self.active_state.as_str() {
            "active" | "reloading" if self.main_pid != 0 => Some(true),
            "active" | "reloading" => None,
            _ => Some(false),
        }
    }

    /// Nothing of it runs, and nothing is about to.
    pub fn is_stopped(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed")
    }

    /// Whether systemd may count earlier starts against the next one.
    fn needs_reset(&self) -> bool {
        self.active_state == "failed" || self.n_restarts > 0
    }
}

/// What came of a restart that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// The unit had failed or had been restarted by itself, so its start limit was reset first.
    pub reset_failed: bool,
}

/// A unit whose file systemd has loaded, on a connection that just answered.
struct Loaded<'a> {
    connection: Connection,
    name: &'a str,
    path: OwnedObjectPath,
}

/// A way to one manager.
#[derive(Debug)]
pub struct Systemd {
    bus: Bus,
    /// Held while connecting, so that concurrent actions make one connection.
    connection: Mutex<Option<Connection>>,
}

impl Systemd {
    /// A way that is not tried before it is needed: an agent starts without a service manager, too.
    pub fn new(bus: Bus) -> Self {
        Self { bus, connection: Mutex::new(None) }
    }

    /// A way that has been tried.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(bus: &Bus) -> Result<Self, SystemdError> {
        let systemd = Self::new(bus.clone());
        let _ = systemd.connection(false).await?;
        Ok(systemd)
    }

    /// Restarts a unit, or starts one that does not run, and waits for the end of the job.
    ///
    /// # Errors
    /// See [`SystemdError`]; after `timeout` the job goes on without us.
    pub async fn restart(&self, unit: &str, timeout: Duration) -> Result<Restarted, SystemdError> {
        self.limited("RestartUnit", unit, timeout, self.reset_and_restart(unit)).await
    }

    /// Stops a unit and waits for the end of the job.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub async fn stop(&self, unit: &str, timeout: Duration) -> Result<(), SystemdError> {
        let stop = async { self.job(&self.load(unit).await?, "StopUnit").await };
        self.limited("StopUnit", unit, timeout, stop).await
    }

    /// Looks at a unit.
    ///
    /// # Errors
    /// No manager, no such unit, or no answer within ten seconds.
    pub async fn health(&self, unit: &str) -> Result<UnitHealth, SystemdError> {
        let look = async { self.health_of(&self.load(unit).await?).await };
        self.limited("GetUnit", unit, PATIENCE, look).await
    }

    /// Looks at a unit that must be there. Loads it where it is not: a unit that does not run may be unloaded.
    ///
    /// # Errors
    /// As [`Self::health`].
    pub async fn knows(&self, unit: &str) -> Result<(), SystemdError> {
        self.limited("LoadUnit", unit, PATIENCE, async { self.load(unit).await.map(drop) }).await
    }

    async fn limited<T>(
        &self,
        call: &'static str,
        unit: &str,
        timeout: Duration,
        work: impl Future<Output = Result<T, SystemdError>>,
    ) -> Result<T, SystemdError> {
        let late = |_| SystemdError::TimedOut { call, unit: unit.to_owned(), after: timeout };
        tokio::time::timeout(timeout, work).await.map_err(late)?
    }

    async fn reset_and_restart(&self, unit: &str) -> Result<Restarted, SystemdError> {
        let loaded = self.load(unit).await?;
        let reset_failed = self.health_of(&loaded).await?.needs_reset();
        if reset_failed {
            // A unit that hit its start limit refuses every start until its failures are forgotten.
            self.manager(&loaded, "ResetFailedUnit", &(unit,)).await?;
            tracing::info!(unit, "its failures were reset before the restart: they would count against it");
        }
        self.job(&loaded, "RestartUnit").await?;
        Ok(Restarted { reset_failed })
    }

    /// Asks for a job and waits for its end.
    async fn job(&self, unit: &Loaded<'_>, call: &'static str) -> Result<(), SystemdError> {
        let failed = |error: &zbus::Error| SystemdError::of_call(&self.bus.to_string(), call, unit.name, error);
        let mut ends = job_ends(&unit.connection, unit.name).await.map_err(|error| failed(&error))?;
        // Again, each time: a manager that was started anew behind the same bus does not know us.
        subscribe(&unit.connection).await.map_err(|error| failed(&error))?;
        let answer = self.manager(unit, call, &(unit.name, "replace")).await?;
        let job: OwnedObjectPath = answer.body().deserialize().map_err(|error| failed(&error))?;
        let lost = || SystemdError::Lost { bus: self.bus.to_string(), call, unit: unit.name.to_owned() };
        let result = loop {
            let message = next(&mut ends).await.ok_or_else(lost)?.map_err(|_| lost())?;
            let body = message.body();
            let (_, path, _, result): (u32, ObjectPath<'_>, &str, &str) =
                body.deserialize().map_err(|error| failed(&error))?;
            if path.as_str() == job.as_str() {
                break result.to_owned();
            }
        };
        if result == "done" {
            return Ok(());
        }
        Err(SystemdError::Job { call, unit: unit.name.to_owned(), result })
    }

    /// A call of the manager.
    async fn manager<B>(&self, unit: &Loaded<'_>, call: &'static str, body: &B) -> Result<Message, SystemdError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        ask(&unit.connection, ROOT, MANAGER, call, body)
            .await
            .map_err(|error| SystemdError::of_call(&self.bus.to_string(), call, unit.name, &error))
    }

    /// Loads a unit: the call that changes nothing, and so may find out that the connection is stale.
    async fn load<'a>(&self, name: &'a str) -> Result<Loaded<'a>, SystemdError> {
        let mut connection = self.connection(false).await?;
        let mut answer = ask(&connection, ROOT, MANAGER, "LoadUnit", &(name,)).await;
        if answer.as_ref().is_err_and(error::is_broken) {
            connection = self.connection(true).await?;
            answer = ask(&connection, ROOT, MANAGER, "LoadUnit", &(name,)).await;
        }
        let failed = |error: &zbus::Error| SystemdError::of_call(&self.bus.to_string(), "LoadUnit", name, error);
        let path = answer.and_then(|answer| answer.body().deserialize()).map_err(|error| failed(&error))?;
        let unit = Loaded { connection, name, path };
        // LoadUnit makes up a unit for every name that could be one.
        match self.text(&unit, UNIT, "LoadState").await?.as_str() {
            "not-found" => Err(SystemdError::UnitUnknown { unit: name.to_owned(), why: "no unit file".to_owned() }),
            "masked" => Err(SystemdError::NotPermitted {
                call: "LoadUnit",
                unit: name.to_owned(),
                why: "it is masked".to_owned(),
            }),
            "bad-setting" | "error" => Err(SystemdError::UnitUnknown {
                unit: name.to_owned(),
                why: "its unit file cannot be read or is wrong; see `systemd-analyze verify`".to_owned(),
            }),
            _ => Ok(unit),
        }
    }

    async fn health_of(&self, unit: &Loaded<'_>) -> Result<UnitHealth, SystemdError> {
        let mut health = UnitHealth {
            active_state: self.text(unit, UNIT, "ActiveState").await?,
            sub_state: self.text(unit, UNIT, "SubState").await?,
            main_pid: 0,
            cgroup: String::new(),
            n_restarts: 0,
            result: String::new(),
        };
        // The other types have neither a main process nor restarts.
        if unit.name.ends_with(".service") {
            health.main_pid = self.number(unit, "MainPID").await?;
            health.n_restarts = self.number(unit, "NRestarts").await?;
            health.cgroup = self.text(unit, SERVICE, "ControlGroup").await?;
            health.result = self.text(unit, SERVICE, "Result").await?;
        }
        Ok(health)
    }

    async fn text(&self, unit: &Loaded<'_>, interface: &str, name: &'static str) -> Result<String, SystemdError> {
        self.property(unit, interface, name, |value| String::try_from(value).ok()).await
    }

    async fn number(&self, unit: &Loaded<'_>, name: &'static str) -> Result<u32, SystemdError> {
        self.property(unit, SERVICE, name, |value| u32::try_from(value).ok()).await
    }

    async fn property<T>(
        &self,
        unit: &Loaded<'_>,
        interface: &str,
        name: &'static str,
        read: impl FnOnce(OwnedVariant) -> Option<T>,
    ) -> Result<T, SystemdError> {
        let answer = ask(&unit.connection, unit.path.as_str(), PROPERTIES, "Get", &(interface, name)).await;
        let value = answer.and_then(|answer| answer.body().deserialize::<OwnedVariant>());
        value
            .and_then(|value| read(value).ok_or(zbus::Error::IncorrectType))
            .map_err(|error| SystemdError::of_call(&self.bus.to_string(), name, unit.name, &error))
    }

    /// The connection; a new one where there is none, it is closed, or `anew` says that it is stale.
    async fn connection(&self, anew: bool) -> Result<Connection, SystemdError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !anew && !connection.is_closed()) {
            return Ok(connection.clone());
        }
        *slot = None;
        let connection = open(&self.bus).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }
}

/// Connects; a bus without a manager on it is as good as none.
async fn open(bus: &Bus) -> Result<Connection, SystemdError> {
    let failed = |error: zbus::Error| SystemdError::NoManager { bus: bus.to_string(), why: error::words(&error).1 };
    let builder = match bus {
        Bus::System => Builder::system(),
        Bus::Address(address) => Builder::address(address.as_str()),
    };
    let connect = async {
        let connection = builder.method_timeout(PATIENCE).build().await?;
        subscribe(&connection).await?;
        Ok(connection)
    };
    let late = |_| SystemdError::NoManager { bus: bus.to_string(), why: "no answer within ten seconds".to_owned() };
    tokio::time::timeout(PATIENCE, connect).await.map_err(late)?.map_err(failed)
}

/// One call of the manager.
async fn ask<B>(
    connection: &Connection,
    path: &str,
    interface: &str,
    method: &'static str,
    body: &B,
) -> zbus::Result<Message>
where
    B: serde::Serialize + zbus::DynamicType,
{
    connection.call_method(Some(NAME), path, Some(interface), method, body).await
}

/// Asks for signals: the manager sends them only while somebody wants them.
async fn subscribe(connection: &Connection) -> zbus::Result<()> {
    match ask(connection, ROOT, MANAGER, "Subscribe", &()).await {
        Err(error) if error::words(&error).0 != "org.freedesktop.systemd1.AlreadySubscribed" => Err(error),
        _ => Ok(()),
    }
}

/// Ends of this unit's jobs, and of no other's: the queue cannot be filled by what happens elsewhere.
async fn job_ends(connection: &Connection, unit: &str) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender(NAME)
        .interface(MANAGER)
        .member("JobRemoved")
        .path(ROOT)
        .arg(2, unit)
        .build()?;
    MessageStream::for_match_rule(rule, connection, Some(QUEUED)).await
}

async fn next(stream: &mut MessageStream) -> Option<zbus::Result<Message>> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}
