//! `--once`: a copy that an earlier run has done is not made again, and what it has made is not overwritten.
//!
//! ```text
//! the last lines    the two sides now                                 what happens
//! done              image of a download unchanged                     nothing: it is done
//! done              image of an upload unchanged, disk there and ok   nothing: it is done
//! done              image of an upload changed, disk there            refused: one of them is not to be lost
//! done, another     disk there, written from another image            refused, likewise
//! done, failed      disk there, a later run has failed                copied, as if nothing had been done
//! done, failed      the same, of --disk-id, and a VM has it           refused: it may be another run's
//! done              disk gone                                         copied, as if nothing had been done
//! - or failed       image of a download is there                      compared with the disk, not replaced
//! - or failed       disk of --disk-id is there, and a VM has it       refused, likewise
//! - or failed       disk of --disk-id is there                        copied into that disk
//! - or failed       neither                                           copied
//! ```
//!
//! A run that was killed behind its last byte has left no line, but what it has made. So a file that is there
//! without a line is never called done before it was compared; and a disk that is there is never made a
//! second time: its id was chosen for this copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::line::Line;
use super::{Outcome, Proven, stamp};
use crate::block_hash::{Method, Watch};
use crate::copying::CopyError;
use crate::engine::{Disk, Engine, Interrupt};
use crate::failure::{Exit, Failure};
use crate::images::{FileStamp, Source as ImageSource};
use crate::logging::plain;
use crate::open_disk::{Expected, OpenDisk};
use crate::output::inform;
use crate::process::rights;
use crate::settings::copy::{CopySettings, Image};
use crate::settings::{EngineSource, Source, Task, Wanted};

impl Outcome {
    /// True where nothing is to be copied. The settings name the disk that an earlier run has made where
    /// they named a new one.
    pub(in crate::copying) fn spares_the_copy(&self, settings: &mut CopySettings) -> Result<bool, Failure> {
        if !is_once(settings) {
            return Ok(false);
        }
        let verify = settings.verify;
        let mut own = self.earlier.own.iter().rev();
        let line = own.find(|(_, line)| line.is_done(verify));
        let now = match settings.disk.task {
            Task::Upload => settings.stamps.clone(),
            _ => {
                let image = self.copy.image.clone();
                // It may be in a folder that only root may look into.
                rights::with(move || stamp(&image)).map(|stamp| vec![stamp])
            }
        };
        let now = now.unwrap_or_default();
        let unchanged = line.is_some_and(|(_, line)| line.has_stamps(&now));
        let done = match (settings.disk.task, &mut settings.disk.source) {
            (Task::Upload, Source::Engine(source)) => self.is_uploaded(source, line, unchanged)?,
            _ => unchanged,
        };
        if let Some((_, line)) = line.filter(|_| done) {
            inform(plain(&format!(
                "nothing is copied: {} of {} is done, and still there ({})",
                self.copy.task,
                self.copy.image.display(),
                match &line.checksum {
                    Some(checksum) => format!("verified, {checksum}"),
                    None => "not verified".to_owned(),
                }
            )));
        }
        Ok(done)
    }

    /// Looks in the engine for the disk that an earlier run has written, as the line `done` says.
    fn is_uploaded(
        &self,
        source: &mut EngineSource,
        done: Option<&(u64, Line)>,
        unchanged: bool,
    ) -> Result<bool, Failure> {
        let engine = Engine::login(&source.account, &Interrupt::default())?;
        let found = match &source.wanted {
            Wanted::New(new) => engine.disk(new.id.as_deref().unwrap_or_default()),
            Wanted::Existing(name) => engine.find_disk(name).map(Some),
            Wanted::Snapshot(_) | Wanted::OfBackup { .. } => Ok(None),
        };
        engine.logout();
        let Some(disk) = found? else {
            return Ok(false);
        };
        if let Wanted::New(new) = &source.wanted {
            if new.name != disk.name {
                return Err(refused(&format!(
                    "--disk-id {} is the id of the disk {}, and --create names {}: it is not what an earlier \
                     run has made",
                    disk.id, disk.name, new.name
                )));
            }
        }
        let is_it = |line: &Line| {
            let id = line.disk_id.as_deref();
            id.is_some_and(|id| id.eq_ignore_ascii_case(&disk.id))
        };
        let done = done.filter(|(_, line)| is_it(line)).map(|(number, _)| *number);
        let is_chosen = matches!(source.wanted, Wanted::New(_));
        self.check_others(&disk, done, is_chosen)?;
        let mut later = self.earlier.own.iter().filter(|(number, _)| Some(*number) > done);
        // Nobody knows of any byte what such a run has left there.
        let unknown = done.is_none() || later.any(|(_, line)| line.written().is_some() && is_it(line));
        let stands = !unknown && self.stands(&disk, unchanged)?;
        if is_chosen && disk.attached && !stands {
            // A run that has failed removes its disk as a rule, and the line of the one that has made this
            // disk may be in another file.
            return Err(refused(&format!(
                "disk {} ({}) is attached to a VM, so it is not what a run that was killed or has failed has \
                 left: leave --once out, and name it with --disk, to write it over the disk",
                disk.id, disk.name
            )));
        }
        if is_chosen {
            source.wanted = Wanted::Existing(disk.id.clone());
        }
        Ok(stands)
    }

    /// Refuses a disk that another copy has written since the line number `done`; where there is none, one
    /// whose id was `chosen` for this copy and that holds another image.
    fn check_others(&self, disk: &Disk, done: Option<u64>, chosen: bool) -> Result<(), Failure> {
        let other = self.earlier.others.get(&disk.id.to_ascii_lowercase());
        let Some((number, image, is_done)) = other else {
            return Ok(());
        };
        let (in_the_way, since) = match done {
            Some(done) => (*number > done, " since"),
            None => (chosen && *is_done, ""),
        };
        match in_the_way {
            false => Ok(()),
            true => Err(refused(&format!(
                "disk {} ({}) has been written{since} from {image}, and not from {}: leave --once out, \
                 and name it with --disk, to write it over the disk",
                disk.id,
                disk.name,
                self.copy.image.display()
            ))),
        }
    }

    /// Judges a disk that was written, and verified if that is asked for.
    fn stands(&self, disk: &Disk, unchanged: bool) -> Result<bool, Failure> {
        let image = self.copy.image.display();
        match disk.status.as_str() {
            "ok" if unchanged => Ok(true),
            "ok" => Err(refused(&format!(
                "{image} was uploaded into disk {} ({}), and has changed since: leave --once out to write \
                 it over the disk",
                disk.id, disk.name
            ))),
            "locked" => Err(Failure::text(
                Exit::Transfer,
                plain(&format!(
                    "{image} was uploaded into disk {} ({}), which is locked: try again when whatever has it \
                     is over",
                    disk.id, disk.name
                )),
            )),
            _ => Ok(false),
        }
    }
}

fn refused(text: &str) -> Failure {
    Failure::text(Exit::Usage, plain(text))
}

fn is_once(settings: &CopySettings) -> bool {
    settings.outcome.as_ref().is_some_and(|outcome| outcome.once)
}

/// Opens the image of a download that is there already, to be compared with the disk.
pub(in crate::copying) fn open_what_is_there(
    settings: &CopySettings,
) -> Result<Option<ImageSource>, CopyError> {
    match &settings.image {
        Image::File {
            path,
            format,
            force: false,
            ..
        } if is_once(settings) && stamp(path).is_some() => {
            // As it was written: what is in it must not choose.
            let format = format.map_or_else(|| crate::images::Format::of_name(path), Into::into);
            let backing = crate::images::Backing::of(false);
            let source = ImageSource::open_with(path, Some(format), backing);
            Ok(Some(source.map_err(|e| unlike(path, e))?))
        }
        _ => Ok(None),
    }
}

fn unlike(path: &std::path::Path, why: impl std::fmt::Display) -> CopyError {
    CopyError::Unlike {
        path: path.to_owned(),
        why: plain(&why.to_string()),
    }
}

/// The comparison of an image that is there with its disk.
pub(in crate::copying) struct Comparison {
    pub(in crate::copying) image: ImageSource,
    pub(in crate::copying) path: std::path::PathBuf,
    pub(in crate::copying) proven: Proven,
    watch: Arc<Watch>,
}

impl Comparison {
    pub(in crate::copying) fn new(image: ImageSource, path: std::path::PathBuf) -> Comparison {
        Comparison {
            image,
            path,
            proven: Proven::default(),
            watch: Arc::default(),
        }
    }

    /// Compares all of it, until `stop` is set.
    pub(in crate::copying) fn run(&self, disk: &Arc<OpenDisk>, stop: &AtomicBool) -> Result<(), CopyError> {
        let (here, there) = (self.image.size(), disk.disk().capacity());
        if here != there {
            let why = format!("it has {here} bytes, and the disk {there}");
            return Err(unlike(&self.path, why));
        }
        let name = self.path.display().to_string();
        let expected = Expected::Bytes(&self.image, &name);
        let compared = disk.verify(expected, Method::default(), &self.watch);
        // Nobody knows whether they are the same when the disk could not be read.
        let hash = compared.map_err(|failure| match (stop.load(Ordering::Relaxed), failure.exit) {
            (true, _) => CopyError::Stopped,
            (false, Exit::DataLoss) => unlike(&self.path, failure),
            (false, _) => CopyError::Other(failure),
        })?;
        self.image.check_unchanged().map_err(|e| unlike(&self.path, e))?;
        inform(hash.told(&name));
        let _ = self.proven.set(hash.checksum);
        Ok(())
    }

    pub(in crate::copying) fn stop(&self) {
        self.watch.stop();
    }

    /// How the image was when it was opened.
    pub(in crate::copying) fn stamps(&self) -> Option<Vec<FileStamp>> {
        self.image.stamps().map(<[_]>::to_vec)
    }
}
