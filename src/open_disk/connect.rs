//! The first connection to the server of a transfer: straight to the host, or through the engine's proxy. A
//! failure that may pass within seconds is waited out, and that is said.
//!
//! imageio may restart just when the engine has told a URL of it: for a second nobody listens, and then the
//! ticket is unknown, since tickets live in memory. Where the transfer is our own, that second is waited for,
//! and another transfer takes its place where that can cost no data ([`OwnTransfer::renew_at_start`]). A
//! proxy may never have had the ticket, so what it says of one is final.

use std::time::{Duration, Instant};

use crate::engine::Interrupt;
use crate::failure::{Exit, Failure};
use crate::imageio::{self, Client, Endpoint, Image, TransferUrl};
use crate::output::{inform, tell};
use crate::settings::DiskSettings;
use crate::transfer::OwnTransfer;

/// Longest time that a proxy without its server is asked again at the start. A wrong URL should not keep a
/// user waiting for longer.
const UNREADY_LIMIT: Duration = Duration::from_secs(20);

/// Longest time that a connection which ends before its first answer is tried again at the start. A server
/// that is under load, or a device in front of it, resets one now and then. A server that the engine has just
/// made a ticket on, and that refuses the connection, gets as long: it restarts.
const CUT_LIMIT: Duration = Duration::from_secs(3);

/// The pause between two attempts in this time.
const UNREADY_PAUSE: Duration = Duration::from_secs(1);

fn endpoint(settings: &DiskSettings, url: TransferUrl) -> Endpoint {
    Endpoint {
        url,
        trust: settings.trust.clone(),
        unix_socket: settings.unix_socket,
        timeout: settings.timeout,
        connections: settings.connections,
        read_only: settings.read_only,
        extents: true,
    }
}

/// Makes the first connection. A proxy that cannot reach the server is asked again for a while, and so is a
/// server that ends the connection before it has answered; that is said. With `own`, `url` leads straight to
/// the host on which the engine has just made a ticket for that transfer: a server that refuses the
/// connection is asked again, too, and for one that does not know the ticket another transfer is started,
/// which may take minutes.
pub(super) fn first_connection(
    settings: &DiskSettings,
    url: TransferUrl,
    own: Option<&OwnTransfer>,
    interrupt: &Interrupt,
) -> Result<(Image, Client), imageio::Error> {
    let mut endpoint = endpoint(settings, url);
    let mut began = Instant::now();
    let (mut told, mut replaceable) = (false, own.filter(|_| !settings.retry_time.is_zero()));
    loop {
        let error = match Image::open(&endpoint) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        if let Some(own) = replaceable.filter(|_| error.is_unknown_ticket()) {
            replaceable = None;
            match own.renew_at_start(&endpoint.url, interrupt) {
                Some(url) => (endpoint.url, began) = (url, Instant::now()),
                None => return Err(error),
            }
            continue;
        }
        let restarts = own.is_some() && error.is_refused_connection();
        let limit = match (error.is_unready(), error.is_cut_at_once() || restarts) {
            (true, _) => UNREADY_LIMIT,
            (false, true) => CUT_LIMIT,
            (false, false) => return Err(error),
        };
        let limit = limit.min(settings.retry_time);
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(error);
        }
        if !told {
            let text = error.to_string();
            let end = if text.ends_with('?') { "" } else { "." };
            tell(format_args!("{text}{end} Trying again for {} s", limit.as_secs()));
            told = true;
        }
        if interrupt.sleep(UNREADY_PAUSE.min(left)).is_err() {
            return Err(error);
        }
    }
}

/// Straight to the host; through the engine's proxy when that is asked for, or is the only way.
pub(super) fn open_own(
    settings: &DiskSettings,
    transfer: &OwnTransfer,
    proxy: bool,
    interrupt: &Interrupt,
) -> Result<(Image, Client), Failure> {
    let direct = if proxy { None } else { transfer.url(false)? };
    let unreachable = match direct {
        Some(url) => match first_connection(settings, url, Some(transfer), interrupt) {
            Err(e @ (imageio::Error::Resolve { .. } | imageio::Error::Connect { .. })) => Some(e),
            other => return Ok(other?),
        },
        None => None,
    };
    match (transfer.url(true)?, unreachable) {
        (Some(through), unreachable) => {
            if let Some(e) = &unreachable {
                inform(format_args!(
                    "{e}; going through the engine's proxy {}",
                    through.host()
                ));
            }
            let opened = first_connection(settings, through, None, interrupt).map_err(Failure::from);
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
            format!("transfer {} has no proxy URL: try without --proxy", transfer.id()),
        )),
    }
}
