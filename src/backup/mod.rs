//! `rhv-mount backup`: every disk of a VM at one point in time, as qcow2 files in a directory.
//!
//! ```text
//! disks chosen -> backup begun in the engine -> disks copied, several at once -> manifest -> backup ended
//!
//! book        who is at work for a VM in the directory, and what a run has begun there
//! plan        which disks take part
//! base        what they can be incremental to
//! candidates  which files that manifests name they could go over
//! adopt       which files of the SDK's example they could go over
//! rounds      the backups in the engine of one run, with their manifests
//! life        the backup in the engine, with the note from which `recover` ends it
//! disks       the disks of a backup, side by side, over one bound of connections and memory
//! shared      what they share
//! file        one disk's file: copied, verified, given its name
//! naming      the names of the files
//! manifest    what tells that the files are a backup
//! points      what a directory has: `--list`
//! kept        what a directory has, for a restore
//! chains      whether the files of a disk are there, each over the one that its manifest names
//! check       whether its files still hold what their manifests say: `--check`
//! readers     who reads the files of a directory, of which none goes meanwhile
//! orphans     the files that no manifest names
//! tidy        what goes after a backup, and checkpoints before the next one
//! outdated    which checkpoints of ours no disk needs any more
//! retention   whether `--keep` may remove anything now, and the removal
//! prune       which files it removes
//! stop        how a signal stops all of it
//! ```
//!
//! A file counts once a manifest names it, and a manifest is written last, at once and as a whole: after the
//! bytes of its disks were compared with the server's block hash, and are on the storage of this machine. One
//! disk that fails takes no other one with it. The transfers end before the backup does, which the engine
//! insists on, and the backup ends in any case; where this process is killed, its notes have both. One VM has
//! one run at a time in a directory, and several VMs have theirs beside each other: no file of one lies over
//! a file of another one. Only this user may read what is written: a guest's disks and its configuration are
//! secret.
//!
//! The main thread waits for signals, and for the thread "backup", which does all of it with others that it
//! starts. None of these threads has capabilities: files are opened and made by the one that has them.

mod adopt;
mod base;
mod book;
mod candidates;
mod chains;
mod check;
mod disks;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod kept;
mod life;
mod manifest;
mod naming;
mod orphans;
mod outdated;
mod plan;
mod points;
mod prune;
mod readers;
mod retention;
mod rounds;
mod shared;
mod stop;
mod tidy;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use self::book::Book;
pub(crate) use self::book::book_of;
pub(crate) use self::chains::check as check_chain;
pub(crate) use self::check::check;
#[cfg(test)]
pub(crate) use self::kept::tests::two as two_points;
pub(crate) use self::kept::{Absent, KeptDisk, Point, configuration, now, points};
pub(crate) use self::life::{Begun, Life, Split, Terms};
pub(crate) use self::orphans::held_in;
use self::plan::Plan;
pub(crate) use self::points::list;
pub(crate) use self::readers::Reader;
use self::rounds::{Made, Rounds};
pub(crate) use self::stop::Stop;
use self::tidy::{catch_up, sweep, tidy};
use crate::engine::Engine;
use crate::failure::{Exit, Failure};
use crate::logging::{announce, plain};
use crate::open_disk::needs;
use crate::output::tell;
use crate::process::rights;
use crate::settings::backup::BackupSettings;
use crate::shell;
use crate::supervisor::{Supervisor, Told, Words, attend};

/// The mode of a directory that is its maker's alone.
const PRIVATE: u32 = 0o700;

/// Makes one backup; returns the exit code. Errors before the first byte are returned, the others are told.
pub(crate) fn back_up(settings: BackupSettings) -> Result<u8, Failure> {
    needs::check(&settings.disk, disks::at_once(&settings, usize::MAX))?;
    rights::cut_down()?;
    let settings = Arc::new(settings);
    let stop = Arc::new(Stop::default());
    let (ours, stopped) = (settings.clone(), stop.clone());
    let work = move |supervisor: &Arc<Supervisor>| run(&ours, &stopped, supervisor);
    attend(&Told::of_backup(&settings), &words(&stop), || stop.begin(), work)
}

fn words(stop: &Arc<Stop>) -> Words {
    let (stopped, given_up) = (stop.clone(), stop.clone());
    let told = |stop: &Stop, before: &str, after: &str| match stop.is_over() {
        false => before.to_owned(),
        true => after.to_owned(),
    };
    Words {
        thread: "backup",
        stopped: Box::new(move || told(&stopped, STOPPED, STOPPED_AFTER)),
        given_up: Box::new(move || told(&given_up, GIVEN_UP, GIVEN_UP_AFTER)),
        panicked: PANICKED,
    }
}

const STOPPED: &str = "the backup is stopped: disks that are whole are kept, and it is ended in the \
                       engine; the next signal leaves that to `rhv-mount recover`";

const GIVEN_UP: &str = "gave up on a second signal, before the backup had ended in the engine: see \
                        `rhv-mount status`, and end it with `rhv-mount recover`";

const STOPPED_AFTER: &str = "the backup is over; what makes room for the next ones is stopped, and the next \
                             signal does not wait for that";

const GIVEN_UP_AFTER: &str = "gave up on a second signal, after the backup was over: what has failed of it \
                              is not told, and `rhv-mount backup --check DIR` looks at its files";

const PANICKED: &str = "internal error in a backup: end what is left of it with `rhv-mount recover`, and \
                        report it with the log of --log-level debug (--log-file PATH)";

fn run(
    settings: &Arc<BackupSettings>,
    stop: &Arc<Stop>,
    supervisor: &Arc<Supervisor>,
) -> Result<Vec<Failure>, Failure> {
    let engine = Engine::login(&settings.disk.source.account, &stop.interrupt)?;
    let done = with_engine(&engine, settings, stop, supervisor);
    engine.uninterrupted().logout();
    done
}

fn with_engine(
    engine: &Engine,
    settings: &Arc<BackupSettings>,
    stop: &Arc<Stop>,
    supervisor: &Arc<Supervisor>,
) -> Result<Vec<Failure>, Failure> {
    let mut plan = Plan::of(engine, settings)?;
    if settings.dry_run {
        plan.look_for_base(engine, settings)?;
        plan.tell();
        plan.tell_amounts();
        return Ok(Vec::new());
    }
    make_directory(&settings.dir)?;
    let book = Book::open(&settings.dir, &plan.vm)?;
    // A killed run may have left files, which are no base, and nobody makes anything there from now on.
    sweep(&settings.dir, &book);
    plan.look_for_base(engine, settings)?;
    plan.tell();
    plan.tell_left_snapshots(engine);
    catch_up(engine, settings, stop, &plan, &book);
    let rounds = Rounds {
        engine,
        settings,
        stop,
        supervisor,
        plan: &plan,
        book: &book,
    };
    let mut made = Made::default();
    let done = rounds.make(&mut made);
    if done.is_ok() && made.failures.is_empty() {
        stop.set_over();
    }
    sweep(&settings.dir, &book);
    done?;
    if !stop.has_begun() {
        if made.differs && settings.keep.is_some() {
            tell(plain(&format!(
                "--keep removes nothing this time: a file of an earlier backup may have changed, and \
                 `rhv-mount backup --check {}` says which",
                shell::word(&settings.dir)
            )));
        }
        tidy(
            engine,
            settings,
            stop,
            &plan,
            &book,
            made.manifests > 0 && !made.differs,
        );
    }
    Ok(made.failures)
}

/// Makes the directory where it is not there, for this user alone, whatever the umask says.
fn make_directory(dir: &Path) -> Result<(), Failure> {
    let path = dir.to_owned();
    let made = rights::with(move || match DirBuilder::new().mode(PRIVATE).create(&path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Ok(()) => {
            // The umask can only have taken from it, so a file system without modes does no harm.
            let _ = fs::set_permissions(&path, Permissions::from_mode(PRIVATE));
            announce(&format!("{} is made", path.display()));
            Ok(())
        }
        Err(e) => Err(e),
    });
    made.map_err(|e| {
        Failure::text(
            Exit::Usage,
            format!(
                "cannot make the directory {}: {e}; no backup was begun",
                dir.display()
            ),
        )
    })
}
