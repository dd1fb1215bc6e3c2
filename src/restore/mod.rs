//! `rhv-mount restore`: the disks of a VM, and the VM, made anew from what `backup` has written.
//!
//! ```text
//! point chosen -> files checked -> planned with the engine -> disks made, several at once -> VM made
//!
//! local     what needs no engine: the point, its disks, their files, the configuration
//! point     the point in time that the user means
//! plan      what is made, decided with the engine before anything is
//! disks     the disks, side by side, each compared with what was backed up
//! vm        the VM, and its attachments, looked at and mended
//! told      the outcome
//! stop      how a signal stops all of it
//! ```
//!
//! A VM or a disk that exists is never touched, and nothing is made before all that can be refused is known.
//! A disk counts as whole when its transfer has ended well, after its block hash was found to be that of the
//! manifest. One that is not is removed again, with its transfer; those that are whole stay, as their bytes
//! took long to move. The VM is made last, and only where all of its disks are whole. What a killed process
//! leaves are transfers, whose notes `recover` has.
//!
//! The main thread waits for signals, and for the thread "restore", which does all of it with others that it
//! starts. None of these threads has capabilities: files are opened by the one that has them.

mod disks;
mod local;
mod plan;
mod point;
mod stop;
mod told;
mod vm;

use std::sync::Arc;
use std::time::Instant;

use self::disks::Whole;
use self::local::Local;
use self::plan::{Plan, Planned};
use self::stop::Stop;
use self::vm::Made;
use crate::backup::Reader;
use crate::engine::Engine;
use crate::failure::{Exit, Failure};
use crate::logging::plain;
use crate::open_disk::needs;
use crate::process::rights;
use crate::settings::restore::RestoreSettings;
use crate::supervisor::{Stage, Supervisor, Told, Words, attend};

/// Restores; returns the exit code. Errors before anything is made are returned, the others are told.
pub(crate) fn restore(settings: RestoreSettings) -> Result<u8, Failure> {
    needs::check(&settings.disk, disks::at_once(&settings, usize::MAX))?;
    rights::cut_down()?;
    let settings = Arc::new(settings);
    let stop = Arc::new(Stop::default());
    let (ours, stopped) = (settings.clone(), stop.clone());
    let work = move |supervisor: &Arc<Supervisor>| run(&ours, &stopped, supervisor);
    let words = words(&stop, settings.keep_on_failure);
    attend(&Told::of_restore(&settings), &words, || stop.begin(), work)
}

fn words(stop: &Arc<Stop>, keep_on_failure: bool) -> Words {
    let (stopped, given_up) = (stop.clone(), stop.clone());
    Words {
        thread: "restore",
        stopped: Box::new(move || match (stopped.making(), keep_on_failure) {
            (Some((vm, _)), _) => format!(
                "VM {vm} is being made, which is waited for; the next signal gives up on that, and the VM \
                 may lack disks then"
            ),
            (None, true) => STOPPED_AND_KEPT.to_owned(),
            (None, false) => STOPPED.to_owned(),
        }),
        given_up: Box::new(move || match given_up.making() {
            Some((vm, disks)) => format!(
                "gave up on a second signal, while VM {vm} was being made: look in the engine whether it is \
                 there, and has its disks; whole, and kept, are {disks}"
            ),
            None => GIVEN_UP.to_owned(),
        }),
        panicked: PANICKED,
    }
}

const STOPPED: &str = "the restore is stopped: disks that are whole stay, and the others are removed \
                       again; the next signal leaves that to `rhv-mount recover`";

const STOPPED_AND_KEPT: &str = "the restore is stopped: disks that are whole stay, and the others with what \
                                was written (--keep-on-failure); the next signal leaves their end to \
                                `rhv-mount recover`";

const GIVEN_UP: &str = "gave up on a second signal, before all disks had ended in the engine: see \
                        `rhv-mount status`, and end them with `rhv-mount recover`";

const PANICKED: &str = "internal error in a restore: end what is left of it with `rhv-mount recover`, and \
                        report it with the log of --log-level debug (--log-file PATH)";

fn run(settings: &RestoreSettings, stop: &Stop, supervisor: &Supervisor) -> Result<Vec<Failure>, Failure> {
    let began = Instant::now();
    // Each file is opened when its turn comes.
    let _reader = Reader::of(&settings.dir)?;
    let local = Local::read(settings)?;
    let engine = Engine::login(&settings.disk.source.account, &stop.interrupt)?;
    let done = Plan::of(&engine, settings, local).map(|plan| {
        if settings.dry_run {
            plan.tell_all();
            return Vec::new();
        }
        supervisor.enter(Stage::Copying);
        let disks = disks::make(settings, &plan, stop, supervisor);
        supervisor.enter(Stage::Finalizing);
        let (vm, mut failures) = finish(&engine.uninterrupted(), &plan, &disks, stop);
        let seconds = began.elapsed().as_secs();
        let told = told::tell(settings.form, &plan, &disks, vm.as_ref(), seconds);
        failures.extend(told.err());
        failures
    });
    engine.uninterrupted().logout();
    done
}

/// Makes the VM where all of its disks are whole. Returns it, and all that has failed.
fn finish(
    engine: &Engine,
    plan: &Plan,
    disks: &[Result<Whole, Failure>],
    stop: &Stop,
) -> (Option<Made>, Vec<Failure>) {
    let pairs = plan.disks.iter().zip(disks);
    let mut failures: Vec<Failure> = pairs
        .filter_map(|(disk, made)| made.as_ref().err().map(|failure| of_disk(disk, failure)))
        .collect();
    let whole: Vec<Whole> = disks
        .iter()
        .filter_map(|made| made.as_ref().ok().cloned())
        .collect();
    let kept = kept_shown(plan, disks);
    let Some(vm) = &plan.vm else {
        return (None, failures);
    };
    if let Some(worst) = failures.iter().map(|failure| failure.exit).max() {
        let text = match whole.is_empty() {
            true => format!("VM {} is not made", vm.name),
            false => format!(
                "VM {} is not made; whole, and kept, are {kept}: restore the others with --include and \
                 --disks-only, and attach all to a VM, or remove these in the engine and restore all again",
                vm.name
            ),
        };
        failures.push(Failure::text(worst, plain(&text)));
        return (None, failures);
    }
    let made = match stop.has_begun() {
        true => Err(Failure::text(Exit::Other, "stopped by a signal")),
        false => {
            stop.set_making(&plain(&vm.name), &plain(&kept));
            vm::make(engine, plan, vm, &whole)
        }
    };
    match made {
        Ok(mut made) => {
            failures.append(&mut made.failures);
            (Some(made), failures)
        }
        Err(failure) => {
            let text = format!(
                "VM {} is not made: {failure}; whole, and kept, are {kept}: make a VM in the engine and \
                 attach them, or remove them there and restore again",
                vm.name
            );
            failures.push(Failure::text(failure.exit, plain(&text)));
            (None, failures)
        }
    }
}

fn of_disk(disk: &Planned, failure: &Failure) -> Failure {
    let text = format!(
        "disk {} ({}) is not restored: {failure}",
        disk.kept.id, disk.kept.name
    );
    Failure::text(failure.exit, plain(&text))
}

/// The disks that are whole, for people.
fn kept_shown(plan: &Plan, disks: &[Result<Whole, Failure>]) -> String {
    let pairs = plan.disks.iter().zip(disks);
    let whole = pairs.filter_map(|(disk, made)| Some((disk, made.as_ref().ok()?)));
    let whole: Vec<String> = whole
        .map(|(disk, whole)| format!("disk {} ({})", whole.id, disk.kept.name))
        .collect();
    whole.join(", ")
}
