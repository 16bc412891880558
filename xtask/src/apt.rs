//! Debian packages without touching the system: a private apt state in the cache, fed from the machine's own apt configuration.
//!
//! In: suite names and package names. Out: `.deb` files whose signatures and hashes apt has verified. Mirrors, proxies and keys come from the
//! machine's configuration at run time; only sources, lists, status and cache folders are replaced, so neither root nor the system's lists are
//! needed or changed. The dpkg status is empty on purpose: dependencies then resolve to the whole closure, whatever this machine has installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::{cache, process, ui};

/// Debian's archive keyring, which carries the keys of older and newer releases too.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Package lists older than this are fetched again: packages rotate with security updates, and a stale list names files that are gone.
const FRESH: Duration = Duration::from_secs(3600);

/// The Debian mirrors of this machine, as its own apt configuration names them.
pub struct Mirrors {
    /// Release code name of this machine, such as `bookworm`.
    pub codename: String,
    main: String,
    security: String,
}

impl Mirrors {
    /// Asks apt which archives it is configured for.
    ///
    /// # Errors
    /// There is no apt-get, or no Debian archive is configured.
    pub fn of_this_machine() -> Result<Self> {
        if process::find("apt-get").is_none() {
            bail!("this machine has no apt-get");
        }
        let codename = codename()?;
        let uris = process::output(Command::new("apt-get").args(["update", "--print-uris"]))?;
        let archives: Vec<(&str, &str)> = uris.lines().filter_map(parse_uri).collect();
        let find = |suite: &str| archives.iter().find(|(_, name)| *name == suite).map(|(site, _)| (*site).to_owned());
        let main = find(&codename)
            .or_else(|| archives.iter().find(|(site, _)| site.ends_with("/debian")).map(|(site, _)| (*site).to_owned()))
            .context(
                "apt on this machine has no Debian archive configured (looked at `apt-get update --print-uris`)",
            )?;
        let security = find(&format!("{codename}-security")).unwrap_or_else(|| format!("{main}-security"));
        Ok(Self { codename, main, security })
    }

    /// The source line of a suite such as `bookworm` or `trixie-security`.
    fn line(&self, suite: &str) -> String {
        let site = if suite.ends_with("-security") { &self.security } else { &self.main };
        let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        format!("deb {signed}{site} {suite} main\n")
    }
}

/// `VERSION_CODENAME` of this machine.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release has no VERSION_CODENAME")
}

/// `'SITE/dists/SUITE/InRelease' ...` to `(SITE, SUITE)`.
fn parse_uri(line: &str) -> Option<(&str, &str)> {
    let uri = line.strip_prefix('\'')?.split('\'').next()?;
    let (site, suite) = uri.strip_suffix("/InRelease")?.split_once("/dists/")?;
    Some((site, suite))
}

/// A private apt state for a fixed set of suites; no other process uses the same state meanwhile.
pub struct Apt {
    folder: PathBuf,
    _lock: cache::Lock,
}

impl Apt {
    /// The state for this machine's own release and its security updates.
    ///
    /// # Errors
    /// As [`Apt::open`].
    pub fn of_this_release(mirrors: &Mirrors) -> Result<Self> {
        Self::open(mirrors, &[&mirrors.codename, &format!("{}-security", mirrors.codename)])
    }

    /// Opens (or makes) the state for `suites`, and fetches package lists unless fresh ones are there.
    ///
    /// # Errors
    /// The lists cannot be fetched or verified.
    pub fn open(mirrors: &Mirrors, suites: &[&str]) -> Result<Self> {
        let name = format!("apt/{}", suites.join("+"));
        let (lock, folder) = (cache::lock(&name)?, cache::folder()?.join(&name));
        for part in ["lists/partial", "archives/partial", "state"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot make {}", folder.join(part).display()))?;
        }
        fs::write(folder.join("status"), "")?;
        let sources: String = suites.iter().map(|suite| mirrors.line(suite)).collect();
        let apt = Self { folder, _lock: lock };
        let stamp = apt.folder.join("sources.list");
        let fresh = fs::read_to_string(&stamp).is_ok_and(|old| old == sources) && age(&stamp) < FRESH;
        if !fresh {
            apt.update(&stamp, &sources)?;
        }
        Ok(apt)
    }

    /// Fetches the lists; the stamp is renamed into place last, so that an interrupted update counts as none.
    fn update(&self, stamp: &Path, sources: &str) -> Result<()> {
        let _ = fs::remove_file(stamp);
        let temporary = self.folder.join("sources.new.list");
        fs::write(&temporary, sources)?;
        ui::step("fetch package lists", || {
            let mut command = self.command("apt-get", &temporary)?;
            process::output(command.args(["update", "--error-on=any"])).map(drop)
        })
        .context("the package lists could not be fetched: check network, proxy and `apt-get update`")?;
        fs::rename(&temporary, stamp)?;
        Ok(())
    }

    /// Everything in which this state differs from the machine's, as an apt configuration that is read after the machine's own.
    fn configuration(&self, sources: &Path) -> String {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let settings = [
            ("Dir::Etc::SourceList", sources.display().to_string()),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::Etc::Preferences", "/dev/null".into()),
            ("Dir::Etc::PreferencesParts", "/dev/null".into()),
            ("Dir::State", at("state")),
            ("Dir::State::Lists", at("lists")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", self.folder.display().to_string()),
            ("Dir::Cache::archives", at("archives")),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Retries", "3".into()),
            // Root would otherwise hand downloads to a user who may not enter the cache folder.
            ("APT::Sandbox::User", "root".into()),
        ];
        // The machine's hooks would clean or notify the system.
        let hooks =
            ["Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"].map(|hook| format!("#clear APT::Update::{hook};\n"));
        let settings = settings.map(|(name, value)| format!("{name} \"{value}\";\n"));
        hooks.concat() + &settings.concat()
    }

    fn command(&self, program: &str, sources: &Path) -> Result<Command> {
        let file = self.folder.join("apt.conf");
        fs::write(&file, self.configuration(sources)).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(file).env("LC_ALL", "C");
        Ok(command)
    }

    fn tool(&self, program: &str) -> Result<Command> {
        self.command(program, &self.folder.join("sources.list"))
    }

    /// The candidate's control record, or nothing where the suites do not carry the package.
    ///
    /// # Errors
    /// apt-cache itself fails for another reason than a missing package.
    pub fn show(&self, package: &str) -> Result<Option<Record>> {
        let done = process::capture(self.tool("apt-cache")?.args(["show", "--no-all-versions", package]))?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        Ok((done.status.success() && !text.trim().is_empty()).then_some(Record(text)))
    }

    /// Downloads exactly these packages into `folder` and returns the files.
    ///
    /// # Errors
    /// A package is not in the suites, or a download or its verification fails.
    pub fn download(&self, packages: &[String], folder: &Path) -> Result<Vec<PathBuf>> {
        process::output(self.tool("apt-get")?.arg("download").args(packages).current_dir(folder))?;
        debs(folder)
    }

    /// Downloads these packages with everything they depend on.
    ///
    /// # Errors
    /// The dependencies cannot be met from the suites, or a download fails.
    pub fn download_closure(&self, packages: &[&str], folder: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(folder.join("partial"))?;
        let archives = format!("Dir::Cache::archives={}", folder.display());
        let mut command = self.tool("apt-get")?;
        command.args(["-o", &archives, "install", "--download-only", "--yes", "--no-install-recommends"]);
        process::output(command.args(packages))?;
        debs(folder)
    }
}

/// One package's control record.
pub struct Record(String);

impl Record {
    /// The value of a one-line field, or nothing.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Names in `Depends`, first alternatives only, without versions.
    pub fn depends(&self) -> Vec<&str> {
        let names = self.field("Depends").unwrap_or_default().split(',');
        names.filter_map(|item| item.split_whitespace().next()).collect()
    }
}

/// Unpacks a package's files below `root`; runs none of its scripts.
///
/// # Errors
/// The archive is damaged or the disk is full.
pub fn unpack(deb: &Path, root: &Path) -> Result<()> {
    process::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root)).map(drop)
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    files.sort();
    Ok(files)
}

fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|data| data.modified()).ok();
    modified.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_lines_give_site_and_suite() {
        let line = "'http://mirror.example/debian/dists/bookworm/InRelease' mirror_InRelease 0 ";
        assert_eq!(parse_uri(line), Some(("http://mirror.example/debian", "bookworm")));
        assert_eq!(parse_uri("'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' x 0"), None);
    }

    #[test]
    fn dependencies_come_without_versions_and_alternatives() {
        let record = Record("Package: a\nDepends: libb (>= 2), libc | libd, libe:any (= 1)\n".into());
        assert_eq!(record.depends(), ["libb", "libc", "libe:any"]);
    }
}
