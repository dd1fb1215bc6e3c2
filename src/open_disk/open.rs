//! From the settings to a disk: a transfer of our own where there is none yet, what the server allows on the
//! first connection, how many more to make and how large their requests are.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::info;

use super::connect::{first_connection, open_own};
use super::course::Course;
use super::hands::Hands;
use super::{OpenDisk, ranges};
use crate::disk::{Disk, DiskOptions, HEAD_BYTES, Head, HeadRule, ImageFormat, detect};
use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::imageio::{Client, Image};
use crate::logging::announce;
use crate::pool::{Keeper, Pool, USUAL_TIMEOUT};
use crate::process::limits::no_thread;
use crate::remote::Remote;
use crate::settings::{DiskSettings, Source, Task};
use crate::transfer::OwnTransfer;
use crate::transfer::head::Danger;

/// A ticket on which nothing happened for so long is touched at the next look at its transfer.
const TICKET_QUIET: Duration = Duration::from_secs(1);

impl OpenDisk {
    /// Starts the transfer if need be, connects, and checks that the transfer allows what is asked.
    /// `mountpoint` is the path under which `recover` finds what this process leaves when it is killed.
    pub(crate) fn open(
        settings: &DiskSettings,
        mountpoint: &Path,
        interrupt: &Interrupt,
    ) -> Result<OpenDisk, Failure> {
        let (transfer, image, first) = match &settings.source {
            Source::Transfer(url) => {
                let (image, first) = first_connection(settings, url.clone(), None, interrupt)?;
                (None, image, first)
            }
            Source::Engine(source) => {
                let transfer = OwnTransfer::acquire(source, settings, mountpoint, interrupt)?;
                let (image, first) = open_own(settings, &transfer, source.proxy, interrupt)?;
                (Some(Arc::new(transfer)), image, first)
            }
        };
        let mut first = first;
        let image = Arc::new(image);
        let guarded = transfer.as_ref().filter(|transfer| transfer.minds_the_head());
        let guarded = match guarded {
            Some(transfer) => Some(look_at_head(transfer, &image, &mut first)?),
            None => None,
        };
        if !settings.read_only {
            ranges::try_out(&image, &mut first)?;
        }
        let head = match &transfer {
            None if !settings.read_only => HeadRule::Warn,
            Some(transfer) if transfer.minds_the_head() => HeadRule::Refuse,
            _ => HeadRule::Any,
        };
        let (pool, disk) = open_disk(settings, &image, first, head)?;
        if let Some((head, guard)) = guarded {
            disk.begins_with(&head);
            let _ = guard.set(disk.clone());
        }
        info!(
            host = image.host(),
            transport = image.transport(),
            connections = pool.connections(),
            size = image.size(),
            "disk open"
        );
        let mut timeout = USUAL_TIMEOUT;
        if let Some(transfer) = &transfer {
            let renewed = Arc::downgrade(transfer);
            image.renew_with(move |url, state| renewed.upgrade()?.renew(url, state));
            timeout = transfer.inactivity_timeout().unwrap_or(timeout);
        }
        let keeper = Keeper::start(&pool, timeout).map_err(|e| no_thread("keeper", &e))?;
        if let Some(transfer) = &transfer {
            let touched = pool.clone();
            OwnTransfer::watch(Arc::downgrade(transfer), move || touched.touch(TICKET_QUIET))?;
        }
        let hands = Hands::start()?;
        Ok(OpenDisk {
            mountpoint: mountpoint.to_owned(),
            task: settings.task,
            image,
            pool,
            disk,
            transfer,
            since: Instant::now(),
            course: Course::begin(),
            hands,
            _keeper: keeper,
        })
    }
}

/// As many connections as are wanted and allowed, and the disk over them.
fn open_disk(
    settings: &DiskSettings,
    image: &Arc<Image>,
    first: Client,
    head: HeadRule,
) -> Result<(Arc<Pool>, Arc<Disk>), Failure> {
    let can = image.capabilities();
    if !settings.read_only && !can.write {
        return Err(Failure::text(
            Exit::Transfer,
            format!(
                "the transfer on {} is read-only: {}, or start an upload transfer",
                image.host(),
                match settings.task {
                    Task::Mount => "mount it with --read-only",
                    _ => "it can be downloaded",
                }
            ),
        ));
    }
    let writers = can.max_writers.unwrap_or(settings.connections).max(1);
    let connections = can.connections(settings.connections, settings.read_only);
    let pool = Pool::open(
        image.clone(),
        Box::new(first),
        connections,
        writers,
        settings.retry_time,
    );
    let options = DiskOptions {
        read_only: settings.read_only,
        cache_size: settings.budgets.cache,
        // Without time to retry, nobody writes again what waits in it.
        journal_size: match settings.retry_time.is_zero() {
            true => 0,
            false => settings.budgets.journal,
        },
        write_behind: settings.budgets.write_behind,
        request_size: settings.budgets.request_size(pool.writers()),
        zero_detect: settings.zero_detect,
        extents: can.extents,
        spare_connection: can.allows_beside(connections),
        head,
        announce,
    };
    let disk = Disk::open(pool.clone(), image.size(), options).map_err(|e| no_thread("of the disk", &e))?;
    Ok((pool, Arc::new(disk)))
}

/// The disk, once it is open.
type Opened = Arc<OnceLock<Arc<Disk>>>;

/// Looks at the head of a raw disk before anything else can fail: from here on nothing finalizes the transfer
/// without asking for the head. The disk answers for itself once it is set.
fn look_at_head(
    transfer: &OwnTransfer,
    image: &Image,
    first: &mut Client,
) -> Result<(Head, Opened), Failure> {
    let mut head = [0; HEAD_BYTES];
    let n = image.size().min(HEAD_BYTES as u64) as usize;
    if let Err(e) = first.read(0, &mut [&mut head[..n]]) {
        transfer.ask_for_the_head(|| Some(Danger::Unseen));
        return Err(e.into());
    }
    let like = |format: ImageFormat| Danger::Like(format.to_string());
    let before = detect(&head).map(like);
    let guard = Opened::default();
    let (disk, unopened) = (guard.clone(), before.clone());
    transfer.ask_for_the_head(move || match disk.get() {
        Some(disk) => disk.head_in_danger().map(like),
        None => unopened.clone(),
    });
    transfer.note_head(before.as_ref())?;
    if let Some(danger) = &before {
        announce(&transfer.head_warning(danger));
    }
    Ok((head, guard))
}
