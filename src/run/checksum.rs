//! `rhv-mount checksum`: the block hash that imageio computes, of a local image or of a disk.
//!
//! An image is hashed here, by a few threads. A disk is opened read-only and without a mount, in a process
//! whose arguments hold no secret (`process::handover`); its server computes the hash, or else the disk is
//! read. The main thread shows how the work goes and hears signals: the first one stops the work and ends the
//! transfer in order, the next ones give up on that.

mod disk;
mod show;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded, select, unbounded};
use serde::Serialize;

use self::show::Show;
use super::{choose_output, start_log};
use crate::block_hash::{Bytes, Checksum, Watch, hash};
use crate::failure::{Exit, Failure};
use crate::images::{Backing, Format, Source};
use crate::logging::plain;
use crate::output::{plain_json, print};
use crate::process::handover::{self, Role};
use crate::process::spawn;
use crate::settings::Run;
use crate::settings::checksum::ChecksumSettings;
use crate::settings::cli::{ChecksumArgs, Output};
use crate::signals;

/// How often it is looked how far the work has got.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The result for programs.
#[derive(Debug, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    checksum: &'a Checksum,
    /// Bytes of the image or disk.
    size: u64,
    /// The path of the image, or the disk as the user has named it.
    of: &'a str,
    /// `server`, or `client` where the bytes were read here.
    computed_by: &'static str,
}

/// Prints the checksum of an image, or becomes the process that does so for a disk.
pub(super) fn checksum(args: ChecksumArgs) -> Result<u8, Failure> {
    choose_output(args.run.output.progress, args.run.output.quiet);
    if args.run.output.stats.is_some() || args.run.output.metrics_file.is_some() {
        return Err(Failure::text(
            Exit::Usage,
            "checksum keeps no figures: leave --stats and --metrics-file out",
        ));
    }
    match args.image.clone() {
        Some(image) => of_image(&args, &image),
        None => {
            let run = Run::Checksum(Box::new(ChecksumSettings::gather(args)?));
            Err(handover::become_clean(Role::Foreground, &run))
        }
    }
}

/// Prints the checksum of a disk, in that process.
pub(super) fn go_on(settings: &ChecksumSettings) -> Result<u8, Failure> {
    let (output, shown) = (&settings.output, settings.shown.as_str());
    choose_output(output.progress, output.quiet);
    start_log(output, &settings.place)?;
    Show::of(output.progress, output.quiet).attended(|show| {
        let (told, code) = disk::checksum(settings, show)?;
        print_result(settings.form, &told.checksum, told.size, shown, told.by_server)?;
        Ok(code)
    })
}

fn of_image(args: &ChecksumArgs, image: &Path) -> Result<u8, Failure> {
    let format = args.image_format.map(Format::from);
    let (method, signals) = (args.method(), heard()?);
    let shown = image.display().to_string();
    Show::of(args.run.output.progress, args.run.output.quiet).attended(|show| {
        let watch = Arc::new(Watch::default());
        let (path, seen) = (image.to_owned(), watch.clone());
        let size = Arc::new(OnceLock::new());
        let sized = size.clone();
        let work = move || {
            // The bytes stay here, so the image may name any file. Its file system may hang.
            let source = Source::open_with(&path, format, Backing::Anywhere);
            let source = source.map_err(|e| Failure::text(Exit::Other, e))?;
            let size = *sized.get_or_init(|| source.size());
            let (checksum, _) = hash(&source as &dyn Bytes, method, &seen)?;
            let unchanged = source.check_unchanged();
            unchanged.map_err(|e| Failure::text(Exit::Other, e))?;
            Ok((checksum, size))
        };
        let look = |show: &mut Show| {
            if let Some(size) = size.get().copied() {
                show.row(&shown, watch.done(), Some(size));
            }
        };
        let (checksum, size) = attend(work, &watch, &signals, || look(show))?;
        print_result(args.form, &checksum, size, &shown, false)?;
        Ok(Exit::Done as u8)
    })
}

/// Does `work` in a thread of its own, and looks how far it has got; a signal has it stop soon, and a second
/// one does not wait for that.
fn attend<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    watch: &Watch,
    heard: &Receiver<i32>,
    mut look: impl FnMut(),
) -> Result<T, Failure> {
    let (give, done) = bounded(1);
    spawn("work", move || {
        let _ = give.send(work());
    })?;
    let mut stopped = false;
    loop {
        select! {
            recv(done) -> result => {
                let died = |_| Failure::text(Exit::Other, "internal error in the thread that computes it");
                return result.map_err(died)?;
            }
            recv(heard) -> signal => {
                if stopped {
                    // It hangs in a read.
                    return Err(Failure::text(Exit::Other, "stopped by a second signal"));
                }
                stopped = true;
                watch.stop();
                if let Ok(signal) = signal {
                    signals::tell(signal, "the checksum is given up, and what was read is left as it is");
                }
            }
            default(LOOK_INTERVAL) => look(),
        }
    }
}

/// The signals that stop the work, from now on.
fn heard() -> Result<Receiver<i32>, Failure> {
    let (give, signals) = unbounded();
    let forward = move |signal| {
        let _ = give.send(signal);
    };
    signals::forward(forward, || ())?;
    Ok(signals)
}

fn print_result(
    output: Output,
    checksum: &Checksum,
    size: u64,
    of: &str,
    by_server: bool,
) -> Result<(), Failure> {
    let text = match output {
        Output::Text => format!("{}  {}\n", checksum.checksum, plain(of)),
        Output::Json => {
            let told = Told {
                checksum,
                size,
                of,
                computed_by: if by_server { "server" } else { "client" },
            };
            let json = serde_json::to_string_pretty(&told).map_err(|e| Failure::text(Exit::Other, e))?;
            format!("{}\n", plain_json(&json))
        }
    };
    Ok(print(&text)?)
}
