//! A service manager of one's own. In: unit files. Out: a real systemd that runs them, and its address.
//!
//! It is `systemd --user`: the same code for units, jobs and D-Bus as the manager of a machine, without the parts
//! that would boot one. It needs no bus: the client speaks to its private socket.
//!
//! **The jail.** A manager believes that all it sees is its own, and moves *every* process of the cgroup it starts
//! in. So it is started in a new v2 cgroup, in a cgroup namespace whose root that is, and in a mount namespace
//! where `/sys/fs/cgroup` shows only this namespace (the v1 hierarchies are covered). All of that happens between
//! fork and exec: if one step fails, there is no manager. What it runs is in the machine's tree below
//! [`PrivateSystemd::cgroup`], so agent and prober see its units as they would see any.
//!
//! Rejected: a pid namespace (its pids would not be the agent's); `systemd --system` (would want to be PID 1).
#![expect(unsafe_code, reason = "pre_exec: the jail is built between fork and exec")]

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::UnixDatagram,
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use faultline::{
    clock::monotonic_ns,
    heal::systemd::{Bus, Systemd},
    kernel::{Root, cgroup::CgroupLayout},
};
use nix::{
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, mkdir},
};

use crate::agent::PATIENCE;

/// Start of the names of what a manager leaves if its test is killed; the process id comes next.
const PREFIX: &str = "faultline-systemd-";

/// Where distributions put it.
const PROGRAMS: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// Where programs are, for the manager and its units.
const SEARCH: &str = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The message bus: whoever may open its socket may do everything.
const BUS: &str = "<busconfig><type>session</type><listen>systemd:</listen><auth>EXTERNAL</auth><policy context=\"default\">\
<allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>\n";

/// What is there from the start, FOLDER being the manager's. It connects to its bus when both of the bus's units run.
const UNITS: [(&str, &str); 3] = [
    ("basic.target", "[Unit]\nWants=dbus.service\nAfter=dbus.service\n"),
    ("dbus.socket", "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=FOLDER/bus\n"),
    (
        "dbus.service",
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\nAfter=dbus.socket\n[Service]\nType=notify\n\
        ExecStart=dbus-daemon --nofork --config-file=FOLDER/bus.conf\n",
    ),
];

/// A running manager; it and all its units are killed, and its cgroup and folder removed, when it is dropped.
#[derive(Debug)]
pub struct PrivateSystemd {
    child: Child,
    folder: PathBuf,
    cgroup: PathBuf,
}

impl PrivateSystemd {
    /// Starts one and waits until it says that it is ready.
    ///
    /// # Errors
    /// There is no systemd or no v2 hierarchy, this is not root, or the manager did not get ready.
    pub fn start() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let program = PROGRAMS.into_iter().find(|path| Path::new(path).exists()).context("no systemd is installed")?;
        let v2 = CgroupLayout::gather(&Root::live())?.v2.context("no cgroup v2 hierarchy is mounted")?;
        remove_abandoned(&v2);
        // By its name a slice: services lie in slices only.
        let name = format!("{PREFIX}{}-{}.slice", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (folder, cgroup) = (std::env::temp_dir().join(&name), v2.join(&name));
        let made = make_places(&folder, &cgroup).and_then(|()| spawn(program, &folder, &cgroup));
        let (child, ready) = made.inspect_err(|_| {
            let _ = end_all(&cgroup);
            remove_tree(&cgroup);
            let _ = fs::remove_dir_all(&folder);
        })?;
        let mut manager = Self { child, folder, cgroup };
        manager.wait_until_ready(&ready)?;
        Ok(manager)
    }

    /// Writes a unit file. A unit that was loaded before keeps what it had: give each its own name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn unit(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join("units").join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes a service whose `ExecStart=` is a shell script.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn service(&self, name: &str, settings: &str, script: &str) -> Result<()> {
        let path = self.folder.join(format!("{name}.sh"));
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
        self.unit(name, &format!("[Service]\nExecStart=/bin/sh {}\n{settings}\n", path.display()))
    }

    /// Where its client finds it.
    pub fn bus(&self) -> Bus {
        Bus::Address(format!("unix:path={}", self.socket().display()))
    }

    /// The socket of its message bus.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("bus")
    }

    /// A folder that goes with it, for what scripts write.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its cgroup in the machine's v2 tree; units are below it.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Directory of a unit's cgroup, from the path that the manager calls it by.
    pub fn cgroup_of(&self, control_group: &str) -> PathBuf {
        self.cgroup.join(control_group.trim_start_matches('/'))
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Ends it as a crash would, with everything it runs; its folder stays until the drop.
    ///
    /// # Errors
    /// Something of it would not die.
    pub fn crash(&mut self) -> Result<()> {
        end_all(&self.cgroup)?;
        self.child.wait().map(drop).context("cannot wait for the manager")
    }

    fn wait_until_ready(&mut self, socket: &UnixDatagram) -> Result<()> {
        let deadline = monotonic_ns() + PATIENCE.as_nanos() as u64;
        let mut message = [0; 4096];
        while monotonic_ns() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("systemd ended with {status} instead of getting ready: {}", self.log());
            }
            let Ok(count) = socket.recv(&mut message) else { continue };
            if message[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return self.wait_until_named(deadline);
            }
        }
        bail!("systemd was not ready within {} s: {}", PATIENCE.as_secs(), self.log())
    }
}

impl PrivateSystemd {
    /// It takes its name on the bus beside getting ready; a client is the one to tell.
    fn wait_until_named(&self, deadline: u64) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        runtime.block_on(async {
            while let Err(error) = Systemd::connect(&self.bus()).await {
                ensure!(monotonic_ns() < deadline, "{error}: {}", self.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        })
    }
}

impl Drop for PrivateSystemd {
    fn drop(&mut self) {
        let _ = end_all(&self.cgroup);
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove_tree(&self.cgroup);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The folder for sockets and unit files, and the cgroup.
fn make_places(folder: &Path, cgroup: &Path) -> Result<()> {
    let mut private = fs::DirBuilder::new();
    private.mode(0o700).recursive(true);
    for part in ["run", "units", "none"] {
        private.create(folder.join(part)).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(folder.join("bus.conf"), BUS)?;
    for (name, text) in UNITS {
        fs::write(folder.join("units").join(name), text.replace("FOLDER", &folder.display().to_string()))?;
    }
    fs::create_dir(cgroup).with_context(|| format!("cannot make the cgroup {}", cgroup.display()))
}

/// The manager in its jail, and the socket on which it will say that it is ready.
fn spawn(program: &str, folder: &Path, cgroup: &Path) -> Result<(Child, UnixDatagram)> {
    let ready = UnixDatagram::bind(folder.join("ready")).context("cannot make the readiness socket")?;
    ready.set_read_timeout(Some(Duration::from_millis(50)))?;
    let log = File::options().create(true).append(true).mode(0o600).open(folder.join("log"))?;
    let procs = cgroup.join("cgroup.procs");
    let procs = File::options().write(true).open(&procs).with_context(|| format!("cannot open {}", procs.display()))?;
    let mut command = Command::new(program);
    command.args(["--user", "--unit=basic.target"]).env_clear().env("PATH", SEARCH).env("HOME", folder);
    command.env("XDG_RUNTIME_DIR", folder.join("run")).env("NOTIFY_SOCKET", folder.join("ready"));
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", folder.join("bus").display()));
    // Without a colon at its end: no unit of the machine is known, and none of its generators is run.
    command.env("SYSTEMD_UNIT_PATH", folder.join("units"));
    command.env("SYSTEMD_GENERATOR_PATH", folder.join("none"));
    command.env("SYSTEMD_ENVIRONMENT_GENERATOR_PATH", folder.join("none"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: the closure makes system calls with arguments that were prepared, and takes no lock.
    unsafe { command.pre_exec(move || jail(&procs)) };
    Ok((command.spawn().with_context(|| format!("cannot start {program} in its jail (it needs root)"))?, ready))
}

/// Between fork and exec. The order matters: the namespace's root is the cgroup one is in when it is made.
fn jail(procs: &File) -> io::Result<()> {
    nix::unistd::write(procs, b"0")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)?;
    let (none, flags) = (None::<&str>, MsFlags::empty());
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    // The kernel refuses a file system on top of itself, which is what a machine with v2 alone has there.
    mount(Some("tmpfs"), "/sys/fs/cgroup", Some("tmpfs"), flags, Some("mode=755"))?;
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, none)?;
    // A user manager asks whether the machine was booted by systemd, by this folder.
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, Some("mode=755"))?;
    for folder in ["/run/systemd", "/run/systemd/system"] {
        mkdir(folder, nix::sys::stat::Mode::from_bits_truncate(0o755))?;
    }
    Ok(())
}

/// Kills everything in a cgroup and below, and waits until nothing is left.
fn end_all(cgroup: &Path) -> Result<()> {
    let events = File::open(cgroup.join("cgroup.events")).context("the manager's cgroup is gone")?;
    let deadline = monotonic_ns() + PATIENCE.as_nanos() as u64;
    while is_populated(cgroup) {
        ensure!(monotonic_ns() < deadline, "processes in {} will not die", cgroup.display());
        // Before 5.14 there is no cgroup.kill, and one signal at a time misses what is born meanwhile: again.
        if fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
            for pid in processes(cgroup) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], PollTimeout::from(20_u8))?;
    }
    Ok(())
}

fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
}

/// Everything in a cgroup and below.
fn processes(cgroup: &Path) -> Vec<Pid> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let own = own.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).map(Pid::from_raw);
    own.chain(children(cgroup).iter().flat_map(|child| processes(child))).collect()
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// A cgroup is removed from its leaves up.
fn remove_tree(cgroup: &Path) {
    children(cgroup).iter().for_each(|child| remove_tree(child));
    let _ = fs::remove_dir(cgroup);
}

/// What tests left that were killed: known by the process id in the name.
fn remove_abandoned(v2: &Path) {
    let owner = |path: &Path| -> Option<u32> {
        path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
    };
    let alive = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    for place in children(v2) {
        if owner(&place).is_some_and(|pid| !alive(pid)) && end_all(&place).is_ok() {
            remove_tree(&place);
        }
    }
    for folder in children(&std::env::temp_dir()) {
        if owner(&folder).is_some_and(|pid| !alive(pid)) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
