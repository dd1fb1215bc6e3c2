//! `--verify`: the disk is compared with an image, or with itself, between the last flush and the end of its
//! transfer.

use std::ffi::OsStr;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use crossbeam::channel::bounded;

use crate::block_hash::{Method, Watch};
use crate::failure::{Exit, Failure};
use crate::images::{Backing, Source};
use crate::open_disk::{Expected, OpenDisk, Proof};
use crate::output::inform;
use crate::process::{rights, spawn};
use crate::settings::{Settings, Verify};

/// Refuses before COMMAND runs what could not be verified after it.
pub(super) fn check(settings: &Settings, disk: &OpenDisk) -> Result<(), Failure> {
    match settings.verify {
        Some(Verify::Itself) if !disk.offers_block_hash() => Err(Failure::text(
            Exit::Transfer,
            format!(
                "--verify: the server {} computes no checksum, so the disk can only be compared with an image; \
                 name one with --verify=IMAGE",
                disk.host()
            ),
        )),
        _ => Ok(()),
    }
}

/// Returns the proof that is asked for; `file` tells one of several disks from the others.
pub(super) fn proof(settings: &Settings, file: Option<&OsStr>) -> Option<Proof> {
    let (verify, watch) = (settings.verify.clone()?, Arc::new(Watch::default()));
    let (seen, file) = (
        watch.clone(),
        file.map(|name| name.to_string_lossy().into_owned()),
    );
    Some(Proof {
        watch,
        prove: Box::new(move |disk| prove(disk, &verify, file.as_deref(), &seen)),
    })
}

fn prove(
    disk: &Arc<OpenDisk>,
    verify: &Verify,
    file: Option<&str>,
    watch: &Arc<Watch>,
) -> Result<(), Failure> {
    let (proven, what) = match verify {
        // All disks of a VM are verified at once, each with buffers of whole blocks.
        Verify::Itself => (
            disk.verify(Expected::Itself, Method::of_several(file.is_some()), watch)?,
            "what is read back from it".to_owned(),
        ),
        Verify::Image(path) => {
            let name = path.display().to_string();
            let source = open(path)?;
            let expected = Expected::Bytes(&source, &name);
            let proven = disk.verify(expected, Method::default(), watch)?;
            source.check_unchanged().map_err(unproven)?;
            (proven, name)
        }
    };
    let told = proven.told(&what);
    match file {
        Some(file) => inform(format_args!("{file}: {told}")),
        None => inform(told),
    }
    Ok(())
}

/// Opens the image with root's rights, with which COMMAND has read it, but not in the thread that keeps them
/// for all others: its file system may hang.
fn open(path: &Path) -> Result<Source, Failure> {
    let (give, opened) = bounded(1);
    let path = path.to_owned();
    let open = move || drop(give.send(Source::open_with(&path, None, Backing::Anywhere)));
    rights::with(move || spawn("image", open).map(drop)).map_err(unproven)?;
    match opened.recv() {
        Ok(source) => source.map_err(unproven),
        Err(_) => Err(unproven("internal error while its image was opened")),
    }
}

fn unproven(why: impl Display) -> Failure {
    Failure::text(Exit::DataLoss, format!("the disk could not be verified: {why}"))
}
