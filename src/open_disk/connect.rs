//! The first connection to the server of a transfer: straight to the host, or through the engine's proxy. A
//! failure that may pass within seconds is waited out, and that is said.

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
/// that is under load, or a device in front of it, resets one now and then.
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
    }
}

/// Makes the first connection. A proxy that cannot reach the server is asked again for a while, and so is a
/// server that ends the connection before it has answered; that is said.
pub(super) fn first_connection(
    settings: &DiskSettings,
    url: TransferUrl,
    interrupt: &Interrupt,
) -> Result<(Image, Client), imageio::Error> {
    let endpoint = endpoint(settings, url);
    let began = Instant::now();
    let mut told = false;
    loop {
        let error = match Image::open(&endpoint) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let limit = match (error.is_unready(), error.is_cut_at_once()) {
            (true, _) => UNREADY_LIMIT,
            (false, true) => CUT_LIMIT,
            (false, false) => return Err(error),
        };
        let limit = limit.min(settings.retry_time);
        if began.elapsed() + UNREADY_PAUSE > limit {
            return Err(error);
        }
        if !told {
            let text = error.to_string();
            let end = if text.ends_with('?') { "" } else { "." };
            tell(format_args!("{text}{end} Trying again for {} s", limit.as_secs()));
            told = true;
        }
        if interrupt.sleep(UNREADY_PAUSE).is_err() {
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
        Some(url) => match first_connection(settings, url, interrupt) {
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
            let opened = first_connection(settings, through, interrupt).map_err(Failure::from);
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
