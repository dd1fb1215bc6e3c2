//! From the settings to a disk: our own transfer where there is none yet, the first connection, what the server
//! allows, how many connections to make and how large their requests are.

use std::path::Path;
use std::sync::Arc;

use tracing::info;

use crate::disk::{Disk, DiskOptions};
use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::imageio::{self, Access, Client, Image, TransferUrl};
use crate::pool::Pool;
use crate::settings::{Settings, Source};
use crate::transfer::Held;

/// Largest request, bytes: as much as the server takes in before it turns to the storage (its buffer). On storage that
/// is far away size hides latency: with 20 ms a request and 4 connections, 1 MiB gave 160 MiB/s, 4 MiB 380, 8 MiB 455.
const REQUEST_SIZE: u64 = 8 << 20;

/// A disk that can be mounted.
pub(crate) struct Open {
    pub(crate) image: Arc<Image>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) disk: Arc<Disk>,
    /// The transfer, when it is ours.
    pub(crate) held: Option<Arc<Held>>,
}

/// Starts the transfer if need be, connects, and checks that the transfer allows what is asked.
pub(crate) fn open(settings: &Settings, mountpoint: &Path, interrupt: &Interrupt) -> Result<Open, Failure> {
    let held = match &settings.disk.source {
        Source::Transfer(_) => None,
        Source::Engine(source) => Some(Held::acquire(
            source,
            settings.disk.read_only,
            mountpoint,
            interrupt,
        )?),
    };
    let (image, first) = match (&settings.disk.source, &held) {
        (Source::Engine(source), Some(held)) => open_held(settings, held, source.proxy)?,
        (Source::Transfer(url), _) => Image::open(&access(settings, url.clone()))?,
        (Source::Engine(_), None) => unreachable!("acquired above"),
    };
    let can = image.capabilities().clone();
    if !settings.disk.read_only && !can.write {
        return Err(Failure::text(
            Exit::Transfer,
            format!(
                "the transfer on {} is read-only: mount it with --read-only, or start an upload transfer",
                image.host()
            ),
        ));
    }
    let readers = can.max_readers.unwrap_or(settings.disk.connections).max(1);
    let writers = can.max_writers.unwrap_or(settings.disk.connections).max(1);
    // A single writer still leaves the other connections to the readers.
    let most = if settings.disk.read_only {
        readers
    } else {
        readers.max(writers)
    };
    let connections = settings.disk.connections.min(most);
    let advice = [can.max_readers, can.max_writers];
    let most_allowed = advice.into_iter().flatten().max().unwrap_or(0);
    let image = Arc::new(image);
    let pool = Pool::open(
        image.clone(),
        Box::new(first),
        connections,
        writers,
        settings.disk.retry_time,
    )?;
    let options = DiskOptions {
        read_only: settings.disk.read_only,
        cache_size: settings.disk.cache_size,
        // Nobody is there to write again what waits in it.
        journal_size: match settings.disk.retry_time.is_zero() {
            true => 0,
            false => settings.disk.journal_size,
        },
        request_size: REQUEST_SIZE,
        zero_detect: settings.disk.zero_detect,
        extents: can.extents,
        spare_connection: connections < most_allowed,
    };
    let disk = Arc::new(Disk::open(pool.clone(), image.size(), options)?);
    info!(
        host = image.host(),
        transport = image.transport(),
        connections,
        size = image.size(),
        "disk open"
    );
    let held = held.map(Arc::new);
    if let Some(held) = &held {
        let held = Arc::downgrade(held);
        image.renew_with(move |url, state| held.upgrade()?.renew(url, state));
    }
    Ok(Open {
        image,
        pool,
        disk,
        held,
    })
}

fn access(settings: &Settings, url: TransferUrl) -> Access {
    Access {
        url,
        trust: settings.disk.trust.clone(),
        unix_socket: settings.disk.unix_socket,
        timeout: settings.disk.timeout,
    }
}

/// Straight to the host; through the engine's proxy when that is asked for, or is the only way.
fn open_held(settings: &Settings, held: &Held, proxy: bool) -> Result<(Image, Client), Failure> {
    let direct = if proxy { None } else { held.url(false)? };
    let unreachable = match direct {
        Some(url) => match Image::open(&access(settings, url)) {
            Err(e @ (imageio::Error::Resolve { .. } | imageio::Error::Connect { .. })) => Some(e),
            other => return Ok(other?),
        },
        None => None,
    };
    match (held.url(true)?, unreachable) {
        (Some(through), unreachable) => {
            if let Some(e) = &unreachable {
                eprintln!(
                    "rhv-mount: {e}; going through the engine's proxy {}",
                    through.host()
                );
            }
            let opened = Image::open(&access(settings, through)).map_err(Failure::from);
            opened.map_err(|e| {
                let hint = if proxy {
                    "; that is the engine's proxy, try without --proxy"
                } else {
                    ""
                };
                Failure::text(e.exit, format!("through the engine's proxy: {e}{hint}"))
            })
        }
        (None, Some(e)) => Err(e.into()),
        (None, None) => Err(Failure::text(
            Exit::Transfer,
            format!("transfer {} has no proxy URL: mount without --proxy", held.id()),
        )),
    }
}
