//! The disks, made and written side by side over one bound of connections and memory, each compared with what
//! was backed up before its transfer ends.
//!
//! The server's block hash of the new disk has to be the one in the manifest: so the files, the wire and the
//! storage are proven at once, and a chain that has changed since makes no disk. One that differs is given
//! up, which removes it, as is one whose copy fails; the others go on.

use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::plan::{self, Plan, Planned};
use super::stop::Stop;
use crate::block_hash::{Bytes, Checksum, Method, hash};
use crate::copying;
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::open_disk::{Expected, OpenDisk, Work};
use crate::output::inform;
use crate::process::side_by_side;
use crate::settings::restore::RestoreSettings;
use crate::settings::vm::Member;
use crate::settings::{DiskSettings, Source, Wanted};
use crate::shell;
use crate::supervisor::Supervisor;

/// Upper bound on the disks that are written at the same time.
const MAX_AT_ONCE: usize = 8;

/// How many disks are written at the same time, of so many: each has a connection at least, and together they
/// have no more memory than there is to divide.
pub(super) fn at_once(settings: &RestoreSettings, disks: usize) -> usize {
    let most = settings.disk.connections.min(MAX_AT_ONCE).min(disks).max(1);
    let budgets = &settings.disk.budgets;
    let fits = |count: &usize| {
        let needed = budgets.share(*count).sum().saturating_mul(*count as u64);
        needed <= budgets.sum()
    };
    (1..=most).rev().find(fits).unwrap_or(1)
}

/// A disk that is whole.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    /// Its id now.
    pub(super) id: String,
    /// The server has computed its block hash; else it was read back.
    pub(super) by_server: bool,
}

/// All disks of a restore share these.
struct Shared<'a> {
    settings: &'a RestoreSettings,
    plan: &'a Plan,
    stop: &'a Stop,
    supervisor: &'a Supervisor,
    open: Mutex<Vec<Weak<OpenDisk>>>,
}

/// Makes the disks; the results are in their order. An error is why a disk is not whole.
pub(super) fn make(
    settings: &RestoreSettings,
    plan: &Plan,
    stop: &Stop,
    supervisor: &Supervisor,
) -> Vec<Result<Whole, Failure>> {
    let shared = Shared {
        settings,
        plan,
        stop,
        supervisor,
        open: Mutex::default(),
    };
    let count = at_once(settings, plan.disks.len());
    side_by_side("disk", &plan.disks, count, |thread, _, disk| {
        let one = || make_one(&shared, disk, (thread, count));
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(one));
        made.unwrap_or_else(|_| {
            Err(Failure::text(
                Exit::Other,
                "internal error in the restore of a disk; report it with the log of --log-level debug",
            ))
        })
    })
}

fn stopped() -> Failure {
    Failure::text(Exit::Other, "stopped by a signal")
}

fn make_one(shared: &Shared<'_>, disk: &Planned, share: (usize, usize)) -> Result<Whole, Failure> {
    if shared.stop.has_begun() {
        return Err(stopped());
    }
    // A file that can't be read makes no disk.
    let source = plan::open(&disk.file, &disk.kept)?;
    let settings = shared.settings_of(disk, share);
    let open = OpenDisk::open(&settings, &shared.settings.dir, &shared.stop.interrupt);
    let open = Arc::new(open?);
    shared.watch(&open);
    open.expect(vec![disk.kept.size]);
    open.set_used();
    let id = open.status().disk_id.unwrap_or_default();
    let copied = copying::pour(&open, source, &shared.stop.of_copy());
    let proven = copied.and_then(|()| verify(shared, disk, &open));
    let proven = proven.map_err(|failure| shared.or_stopped(failure));
    let work = if proven.is_ok() { Work::Done } else { Work::Failed };
    let ended = open.end_alone(work, (settings.retry_time, settings.timeout));
    let by_server = match (proven, ended.is_empty()) {
        (Ok(by_server), true) => by_server,
        (proven, ended_well) => {
            let kept = (ended_well && shared.settings.keep_on_failure)
                .then(|| Failure::text(Exit::Other, kept_in_part(&id)));
            return Err(all_of(
                proven.err().into_iter().chain(ended).chain(kept).collect(),
            ));
        }
    };
    inform(plain(&format!(
        "disk {} ({}) is whole, as {id}",
        disk.kept.id, disk.kept.name
    )));
    Ok(Whole { id, by_server })
}

fn kept_in_part(id: &str) -> String {
    format!("disk {id} is kept, with the part that was written (--keep-on-failure)")
}

/// Puts what has failed into one failure, with the worst of the exit codes.
fn all_of(failures: Vec<Failure>) -> Failure {
    let exit = failures.iter().map(|failure| failure.exit).max();
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    Failure::text(exit.unwrap_or(Exit::Other), texts.join("; "))
}

impl Shared<'_> {
    fn settings_of(&self, disk: &Planned, (n, count): (usize, usize)) -> DiskSettings {
        let member = Member {
            vm: plain(&self.plan.vm_name),
            disk: plain(&disk.kept.name),
        };
        let wanted = Wanted::New(disk.new.clone());
        let mut settings = self.settings.disk.of_disk(member, wanted, n, count);
        if let Source::Engine(source) = &mut settings.source {
            source.keep_on_failure = self.settings.keep_on_failure;
        }
        settings
    }

    /// Has the figures of `disk` told.
    fn watch(&self, disk: &Arc<OpenDisk>) {
        let mut open = self.open.lock();
        open.retain(|one| one.strong_count() > 0);
        open.push(Arc::downgrade(disk));
        let there: Vec<Arc<OpenDisk>> = open.iter().filter_map(Weak::upgrade).collect();
        self.supervisor.watch(there.iter());
    }

    /// The failure, or the signal that has caused it.
    fn or_stopped(&self, failure: Failure) -> Failure {
        match self.stop.has_begun() && failure.exit != Exit::DataLoss {
            true => stopped(),
            false => failure,
        }
    }
}

/// Compares the disk on its storage with what was backed up; returns whether the server has computed the
/// hash.
fn verify(shared: &Shared<'_>, disk: &Planned, open: &Arc<OpenDisk>) -> Result<bool, Failure> {
    let expected = &disk.kept.checksum;
    let method = method_of(expected).map_err(|why| {
        let text = format!("the manifest has no checksum to compare with: {why}");
        Failure::text(Exit::DataLoss, text)
    })?;
    let watch = &shared.stop.watch;
    if open.disk().capacity() == disk.kept.size {
        let there = open.block_hash(method, watch)?;
        return match is_same(&there.checksum, expected) {
            true => Ok(there.by_server),
            false => Err(differs(shared, disk, &there.checksum, method)),
        };
    }
    // The storage has rounded the size up: what is behind the end has to be zeros.
    let source = plan::open(&disk.file, &disk.kept)?;
    let (here, _) = hash(&source as &dyn Bytes, method, watch)?;
    if !is_same(&here, expected) {
        return Err(differs(shared, disk, &here, method));
    }
    let name = disk.file.display().to_string();
    Ok(open
        .verify(Expected::Bytes(&source, &name), method, watch)?
        .by_server)
}

fn method_of(checksum: &Checksum) -> Result<Method, String> {
    Ok(Method {
        algorithm: checksum.algorithm.parse()?,
        block_size: Method::check_block_size(checksum.block_size)?,
    })
}

/// True where the disk holds what was backed up.
fn is_same(there: &Checksum, expected: &Checksum) -> bool {
    there == expected
}

/// Says whether the files have changed, or the disk does not hold what was written.
fn differs(shared: &Shared<'_>, disk: &Planned, there: &Checksum, method: Method) -> Failure {
    let expected = &disk.kept.checksum;
    let here = plan::open(&disk.file, &disk.kept)
        .and_then(|source| Ok(hash(&source as &dyn Bytes, method, &shared.stop.watch)?.0));
    if shared.stop.has_begun() {
        return stopped();
    }
    let why = match here {
        Ok(here) if is_same(&here, expected) => {
            "its files are as they were, so bytes have changed on the wire or on the storage: restore it \
             again"
                .to_owned()
        }
        Ok(_) => format!(
            "a file of it has changed since: `rhv-mount backup --check {}` says which; take another --point, \
             or restore the file from a copy",
            shell::word(dir_of(&disk.file))
        ),
        Err(failure) => format!("its files can't be read again: {failure}"),
    };
    Failure::text(
        Exit::DataLoss,
        format!(
            "the new disk does not hold what was backed up ({} {} instead of {}): {why}",
            there.algorithm, there.checksum, expected.checksum
        ),
    )
}

fn dir_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_checksum_by_the_same_method_is_what_was_backed_up() {
        let expected = Checksum::of(Method::default(), &[5; 32]);
        assert!(is_same(&expected.clone(), &expected));
        let mut other = expected.clone();
        other.checksum = "05".to_owned();
        assert!(!is_same(&other, &expected));
        assert_eq!(method_of(&expected).map_err(drop), Ok(Method::default()));
        let mut unknown = expected.clone();
        unknown.algorithm = "crc32".into();
        assert!(method_of(&unknown).is_err());
        unknown.algorithm = "sha1".into();
        unknown.block_size = 1;
        assert!(method_of(&unknown).is_err() && !is_same(&unknown, &expected));
    }
}
