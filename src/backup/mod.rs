//! `rhv-mount backup`: every disk of a VM at one point in time, as qcow2 files in a directory.
//!
//! ```text
//! disks chosen -> backup begun in the engine -> disks copied, several at once -> manifest -> backup ended
//!
//! plan      which disks take part
//! base      what they can be incremental to
//! candidates  which files they could go over
//! life      the backup in the engine, with the note from which `recover` ends it
//! disks     the disks of a backup, side by side, over one bound of connections and memory
//! shared    what they share
//! file      one disk's file: copied, verified, given its name
//! naming    the names of the files
//! manifest  what tells that the files are a backup
//! points    what a directory has: `--list`
//! check     whether its files still hold what their manifests say: `--check`
//! tidy      what goes after a backup that went well
//! outdated  which checkpoints of ours no disk needs any more
//! prune     which files `--keep` removes
//! stop      how a signal stops all of it
//! ```
//!
//! A file counts once a manifest names it, and a manifest is written last, at once and as a whole: after the
//! bytes of its disks were compared with the server's block hash, and are on the storage of this machine. One
//! disk that fails takes no other one with it. The transfers end before the backup does, which the engine
//! insists on, and the backup ends in any case; where this process is killed, its notes have both. Only this
//! user may read what is written: a guest's disks and its configuration are secret.
//!
//! The main thread waits for signals, and for the thread "backup", which does all of it with others that it
//! starts. None of these threads has capabilities: files are opened and made by the one that has them.

mod base;
mod candidates;
mod check;
mod disks;
mod file;
mod life;
mod manifest;
mod naming;
mod outdated;
mod plan;
mod points;
mod prune;
mod shared;
mod stop;
mod tidy;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use self::base::Base;
pub(crate) use self::check::check;
use self::life::{Begun, Life, Split};
use self::manifest::{Manifest, Named};
use self::naming::Names;
use self::plan::Plan;
pub(crate) use self::points::list;
use self::shared::Shared;
use self::stop::Stop;
use self::tidy::tidy;
use crate::amounts;
use crate::engine::{Engine, Error as EngineError, VmDisk};
use crate::failure::{Exit, Failure};
use crate::images::write_whole;
use crate::logging::{announce, plain};
use crate::open_disk::needs;
use crate::output::{inform, report, tell};
use crate::process::rights;
use crate::settings::backup::BackupSettings;
use crate::supervisor::{Stage, Supervisor, Told, Words, attend};

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
    attend(&Told::of_backup(&settings), &WORDS, || stop.begin(), work)
}

const WORDS: Words = Words {
    thread: "backup",
    stopped: STOPPED,
    given_up: GIVEN_UP,
    panicked: PANICKED,
};

const STOPPED: &str = "the backup is stopped: disks that are whole are kept, and it is ended in the \
                       engine; the next signal leaves that to `rhv-mount recover`";

const GIVEN_UP: &str = "gave up on a second signal, before the backup had ended in the engine: see \
                        `rhv-mount status`, and end it with `rhv-mount recover`";

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
    let plan = Plan::of(engine, settings)?;
    plan.tell();
    if settings.dry_run {
        plan.tell_amounts();
        return Ok(Vec::new());
    }
    make_directory(&settings.dir)?;
    plan.tell_left_snapshots(engine);
    let mut base = plan.base.clone();
    let mut failures = Vec::new();
    let again = loop {
        let begun = SystemTime::now();
        match Life::begin(engine, settings, &plan.vm, &plan.disks, base.as_ref(), begun)? {
            Begun::Life(life) => {
                let round = (&plan, plan.disks.as_slice(), base.as_ref(), begun);
                break one_round(*life, round, settings, stop, supervisor, &mut failures);
            }
            Begun::FullNeeded(why) if base.take().is_some() => tell(plain(&format!(
                "{}: every disk is copied as a whole: {why}",
                plan.shown()
            ))),
            Begun::FullNeeded(why) => return Err(Failure::text(Exit::Transfer, why)),
        }
    };
    if !again.is_empty() && !stop.has_begun() {
        // The backup decides which parts are dirty, so these disks need another one.
        let begun = SystemTime::now();
        match Life::begin(engine, settings, &plan.vm, &again, None, begun) {
            Ok(Begun::Life(life)) => {
                let round = (&plan, again.as_slice(), None, begun);
                one_round(*life, round, settings, stop, supervisor, &mut failures);
            }
            Ok(Begun::FullNeeded(why)) => failures.push(Failure::text(Exit::Transfer, why)),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() && !stop.has_begun() {
        tidy(engine, settings, &plan);
    }
    Ok(failures)
}

/// The plan, the disks of one backup, what they are incremental to, and when it was begun.
type Round<'a> = (&'a Plan, &'a [VmDisk], Option<&'a Base>, SystemTime);

/// Copies the disks of one backup, and ends it. Returns the disks that need another backup as a whole.
fn one_round(
    mut life: Life,
    round: Round<'_>,
    settings: &Arc<BackupSettings>,
    stop: &Arc<Stop>,
    supervisor: &Arc<Supervisor>,
    failures: &mut Vec<Failure>,
) -> Vec<VmDisk> {
    let mut again = Vec::new();
    let made = copy_all(
        &mut life,
        round,
        settings,
        stop,
        supervisor,
        (failures, &mut again),
    );
    supervisor.enter(Stage::Finalizing);
    failures.extend(made.err());
    failures.extend(life.end(stop, !again.is_empty()));
    again
}

/// Copies the disks, and writes the manifest of those that are whole.
fn copy_all(
    life: &mut Life,
    (plan, disks, base, begun): Round<'_>,
    settings: &Arc<BackupSettings>,
    stop: &Arc<Stop>,
    supervisor: &Arc<Supervisor>,
    (failures, again): (&mut Vec<Failure>, &mut Vec<VmDisk>),
) -> Result<(), Failure> {
    let names = Names::of(begun, life.checkpoint());
    let mut failed: Vec<Named> = Vec::new();
    let Split { there, missing } = life.split(disks)?;
    for disk in missing {
        let why = "the engine has left it out of the backup";
        failures.push(of_disk(disk, Exit::Transfer, why));
        failed.push(Named::of(disk, why));
    }
    // The snapshot that has it goes with the backup.
    let configuration = life.configuration();
    supervisor.enter(Stage::Copying);
    let shared = Shared::new(settings, stop, supervisor, life, &names, base);
    let mut whole = Vec::new();
    for ((disk, _), backed) in there.iter().zip(disks::copy(&shared, &there)) {
        match backed.entry {
            Ok(entry) => {
                inform(plain(&format!(
                    "disk {} ({}): {} in {}, {} of {}, verified",
                    disk.id,
                    disk.name,
                    entry.mode.name(),
                    entry.file,
                    amounts::size(entry.file_size),
                    amounts::size(entry.size)
                )));
                whole.push(entry);
            }
            Err(failure) if backed.again => {
                tell(plain(&format!(
                    "disk {} ({}): its changes can't be read, and a full backup is made of it: {failure}",
                    disk.id, disk.name
                )));
                failed.push(Named::of(disk, &failure.to_string()));
                again.push((*disk).clone());
            }
            Err(failure) => {
                failed.push(Named::of(disk, &failure.to_string()));
                failures.push(of_disk(disk, failure.exit, &failure.to_string()));
            }
        }
        failures.extend(backed.ended);
    }
    if whole.is_empty() && !again.is_empty() {
        return Ok(());
    }
    if whole.is_empty() {
        return Err(Failure::text(
            Exit::Transfer,
            format!(
                "no disk of {} is backed up, and no manifest is written",
                plan.shown()
            ),
        ));
    }
    // Its file is written once a manifest can name it.
    let configuration = match save_configuration(configuration, life, &settings.dir, &names) {
        Ok(name) => Some(name),
        Err(failure) => {
            failures.push(failure);
            None
        }
    };
    let vm = Named {
        id: plan.vm.id.clone(),
        name: plan.vm.name.clone(),
        why: String::new(),
    };
    let kind = life.kind(&plan.status);
    let manifest = Manifest {
        checkpoint: life.checkpoint().map(str::to_owned),
        from_checkpoint: life.from().map(str::to_owned),
        configuration,
        disks: whole,
        left_out: plan.left_out.clone(),
        failed,
        ..Manifest::begin(life.manifest_name(), vm, life.id(), kind, life.time())
    };
    manifest.write(&settings.dir)?;
    report(plain(&format!(
        "{}: backed up {} of {} as {}",
        plan.shown(),
        match manifest.disks.len() {
            1 => "1 disk".to_owned(),
            n => format!("{n} disks"),
        },
        disks.len(),
        settings.dir.join(manifest.file_name()).display()
    )));
    Ok(())
}

fn of_disk(disk: &VmDisk, exit: Exit, why: &str) -> Failure {
    Failure::text(
        exit,
        plain(&format!(
            "disk {} ({}) is not backed up: {why}",
            disk.id, disk.name
        )),
    )
}

/// Saves the configuration of the VM at the moment of the backup; returns the name of its file.
fn save_configuration(
    told: Result<Option<String>, EngineError>,
    life: &Life,
    dir: &Path,
    names: &Names,
) -> Result<String, Failure> {
    let fail = |why: String| {
        let text = format!("the configuration of the VM is not saved: {why}");
        Failure::text(Exit::Transfer, plain(&text))
    };
    let text = told.map_err(|e| fail(e.to_string()))?;
    let text = text.ok_or_else(|| fail("the engine gives none".to_owned()))?;
    let name = names.configuration(&life.vm().id);
    let path = dir.join(&name);
    rights::with(move || write_whole(&path, text.as_bytes())).map_err(|e| fail(e.to_string()))?;
    Ok(name)
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
