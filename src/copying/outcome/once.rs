//! `--once`: a copy that an earlier run has done is not made again, and what it has made is not overwritten.
//!
//! ```text
//! the last lines    the two sides now                                 what happens
//! done              image of a download unchanged                     nothing: it is done
//! done              image of an upload unchanged, disk there and ok   nothing: it is done
//! done              image of an upload changed, disk there            refused: one of them is not to be lost
//! done              disk gone                                         copied, as if nothing had been done
//! -                 image of a download is there                      compared with the disk, not replaced
//! -                 disk of --disk-id is there                        copied into that disk
//! -                 neither                                           copied
//! ```
//!
//! A run that was killed behind its last byte has left no line, but what it has made. So a file that is there
//! without a line is never called done before it was compared; and a disk that is there is never made a
//! second time: its id was chosen for this copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Outcome, Proven, stamp};
use crate::block_hash::{Method, Watch};
use crate::copying::CopyError;
use crate::engine::{Disk, Engine, Interrupt};
use crate::failure::{Exit, Failure};
use crate::images::Source as ImageSource;
use crate::logging::plain;
use crate::open_disk::{Expected, OpenDisk};
use crate::output::inform;
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
        let line = self.earlier.iter().rev().find(|line| line.is_done(verify));
        let now = stamp(&self.copy.image).unzip();
        let unchanged = line.is_some_and(|line| (line.image_size, line.image_modified) == now);
        let done = match (settings.disk.task, &mut settings.disk.source) {
            (Task::Upload, Source::Engine(source)) => {
                let id = line.and_then(|line| line.disk_id.as_deref());
                self.is_uploaded(source, id, unchanged)?
            }
            _ => unchanged && now.0.is_some(),
        };
        if let Some(line) = line.filter(|_| done) {
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

    /// Looks in the engine for the disk `done` that an earlier run has written.
    fn is_uploaded(
        &self,
        source: &mut EngineSource,
        done: Option<&str>,
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
            source.wanted = Wanted::Existing(disk.id.clone());
        }
        let is_it = done.is_some_and(|id| id.eq_ignore_ascii_case(&disk.id));
        match is_it {
            true => self.stands(&disk, unchanged),
            false => Ok(false),
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
        let hash = compared.map_err(|failure| match stop.load(Ordering::Relaxed) {
            true => CopyError::Stopped,
            false => unlike(&self.path, failure),
        })?;
        self.image.check_unchanged().map_err(|e| unlike(&self.path, e))?;
        inform(hash.told(&name));
        let _ = self.proven.set(hash.checksum);
        Ok(())
    }

    pub(in crate::copying) fn stop(&self) {
        self.watch.stop();
    }
}
