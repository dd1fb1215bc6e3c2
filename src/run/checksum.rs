//! `rhv-mount checksum`: the block hash that imageio computes, of a local image or of a disk.
//!
//! An image is hashed here, by a few threads. A disk is opened read-only and without a mount, in a process
//! whose arguments hold no secret (`process::handover`); its server computes the hash, or else the disk is
//! read. The main thread shows how the work goes and hears signals: the first one stops the work and ends the
//! transfer in order, the next ones give up on that.

mod disk;
mod show;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded, select, unbounded};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::show::Show;
use super::choose_output;
use crate::block_hash::{Bytes, Checksum, Watch, hash};
use crate::failure::{Exit, Failure};
use crate::images::{Format, Source};
use crate::logging::plain;
use crate::output::{plain_json, print};
use crate::process::handover::{self, Role};
use crate::process::spawn;
use crate::settings::cli::{ChecksumArgs, Output};
use crate::settings::{ChecksumTask, Settings};

/// How often it is looked how far the work has got.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The result for programs.
#[derive(Debug, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    checksum: &'a Checksum,
    /// Bytes of the image or disk.
    size: u64,
    /// What was hashed: the path of the image, or the disk as the user has named it.
    of: &'a str,
    /// `server`, or `client` where the bytes were read here.
    computed_by: &'static str,
}

/// Prints the checksum of an image, or becomes the process that does so for a disk.
pub(super) fn checksum(args: ChecksumArgs) -> Result<u8, Failure> {
    choose_output(args.progress, args.quiet);
    match args.image.clone() {
        Some(image) => of_image(&args, &image),
        None => {
            let settings = Settings::gather_for_checksum(args)?;
            Err(handover::become_clean(Role::Foreground, &settings))
        }
    }
}

/// Prints the checksum of a disk, in that process.
pub(super) fn go_on(settings: &Settings, task: &ChecksumTask) -> Result<u8, Failure> {
    let show = Show::of(settings.progress, settings.quiet);
    let shown = settings
        .shown_source
        .as_deref()
        .unwrap_or("the disk of the transfer");
    show.attended(|show| {
        disk::checksum(settings, task.method, shown, show).and_then(|(told, code)| {
            print_result(task.output, &told.checksum, told.size, shown, told.by_server)?;
            Ok(code)
        })
    })
}

fn of_image(args: &ChecksumArgs, image: &Path) -> Result<u8, Failure> {
    let format = match args.image_format.as_deref() {
        Some("raw") => Some(Format::Raw),
        Some("qcow2") => Some(Format::Qcow2),
        Some("vmdk") => Some(Format::Vmdk),
        _ => None,
    };
    let (method, signals) = (args.method(), signals()?);
    let shown = image.display().to_string();
    Show::of(args.progress, args.quiet).attended(|show| {
        let source = Source::open(image, format).map_err(|e| Failure::text(Exit::Other, e))?;
        let size = source.size();
        let watch = Arc::new(Watch::default());
        let seen = watch.clone();
        let work = move || {
            let (checksum, _) = hash(&source as &dyn Bytes, method, &seen)?;
            let unchanged = source.check_unchanged();
            unchanged.map_err(|e| Failure::text(Exit::Other, e))?;
            Ok(checksum)
        };
        let look = |show: &mut Show| show.row(&shown, watch.done(), Some(size));
        let checksum = attend(work, &watch, &signals, || look(show))?;
        print_result(args.output, &checksum, size, &shown, false)?;
        Ok(Exit::Done as u8)
    })
}

/// Does `work` in a thread of its own, and looks how far it has got; a signal has it stop soon.
fn attend<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    watch: &Watch,
    signals: &Receiver<i32>,
    mut look: impl FnMut(),
) -> Result<T, Failure> {
    let (give, done) = bounded(1);
    spawn("work", move || drop(give.send(work())))?;
    loop {
        select! {
            recv(done) -> result => {
                let died = |_| Failure::text(Exit::Other, "internal error in the thread that computes it");
                return result.map_err(died)?;
            }
            recv(signals) -> _ => watch.stop(),
            default(LOOK_INTERVAL) => look(),
        }
    }
}

/// The signals that stop the work, from now on.
fn signals() -> Result<Receiver<i32>, Failure> {
    let (give, signals) = unbounded();
    let mut caught = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    spawn("signals", move || {
        for signal in caught.forever() {
            let _ = give.send(signal);
        }
    })?;
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
