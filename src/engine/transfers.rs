//! Transfers: start one, follow its phases, bring it to its end.
//!
//! Engines before 4.4.7 forget a transfer as soon as it has ended: 404, and the disk's status tells how.

use std::time::Duration;

use serde_json::{Value, json};
use tracing::info;

use super::json::{list, number, text};
use super::wire::Effect;
use super::{Direction, Engine, Error, Patience, Phase};
use crate::logging::plain;

/// Seconds without activity after which the engine pauses a transfer. Never 0: imageio takes that for "no waiting at
/// all" and drops connections. virt-v2v uses the same number.
const INACTIVITY_SECONDS: u64 = 3600;

/// Longest wait for `transferring`; the stock client uses the same.
const MAX_START_WAIT: Duration = Duration::from_secs(60);

/// Longest wait for somebody else's lock on the disk.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(30);

/// The engine looks at a busy transfer every 10 s; an action that shows no effect for longer was lost.
pub(super) const MAX_EFFECT_DELAY: Duration = Duration::from_secs(15);

/// What is transferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A disk, by id.
    Disk(String),
    /// A disk snapshot, by id.
    Snapshot(String),
}

/// A transfer to be started.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// What.
    pub(crate) subject: Subject,
    /// Which way.
    pub(crate) direction: Direction,
    /// On this host, when it matters.
    pub(crate) host: Option<String>,
}

/// What the engine says of a transfer.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    /// UUID.
    pub(crate) id: String,
    /// Where it stands.
    pub(crate) phase: Phase,
    /// Which way.
    pub(crate) direction: Direction,
    /// Straight to the host; there while the ticket is.
    pub(crate) transfer_url: Option<String>,
    /// Through the engine's proxy.
    pub(crate) proxy_url: Option<String>,
    /// The id of the host.
    pub(crate) host: Option<String>,
    /// The id of the disk, which the engine calls image here.
    pub(crate) disk: Option<String>,
    /// Seconds without activity until it is paused.
    pub(crate) inactivity_timeout: Option<u64>,
}

impl Transfer {
    pub(super) fn of(value: &Value) -> Option<Transfer> {
        let id_of = |key| value.get(key).and_then(|v| text(v, "id")).map(|id| plain(&id));
        Some(Transfer {
            id: plain(&text(value, "id")?),
            phase: Phase::of(&text(value, "phase").unwrap_or_default()),
            direction: match text(value, "direction").as_deref() {
                Some("download") => Direction::Download,
                _ => Direction::Upload,
            },
            transfer_url: text(value, "transfer_url"),
            proxy_url: text(value, "proxy_url"),
            host: id_of("host"),
            disk: id_of("image").or_else(|| id_of("disk")),
            inactivity_timeout: number(value, "inactivity_timeout"),
        })
    }

    /// It holds its disk.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Finished | Phase::Failed)
    }
}

impl Engine {
    /// The transfer with this id.
    pub(crate) fn transfer(&self, id: &str) -> Result<Option<Transfer>, Error> {
        let found = self.get("transfer", &format!("/imagetransfers/{id}"))?;
        Ok(found.as_ref().and_then(Transfer::of))
    }

    /// The transfer that holds a disk, if one does.
    pub(crate) fn transfer_of(&self, disk: &str) -> Result<Option<Transfer>, Error> {
        let all = self.get("transfers", "/imagetransfers")?.unwrap_or_default();
        let mut open = list(&all, "image_transfer").iter().filter_map(Transfer::of);
        Ok(open.find(|t| t.is_open() && t.disk.as_deref() == Some(disk)))
    }

    /// Asks for a transfer; it may not move data yet. [`Error::Unclear`] when there may be one all the same.
    pub(crate) fn start_transfer(&self, order: &Order) -> Result<Transfer, Error> {
        let mut body = json!({
            "direction": order.direction.to_string(),
            // The guest's view, through NBD, whatever the disk's own format.
            "format": "raw",
            "inactivity_timeout": INACTIVITY_SECONDS.to_string(),
            // Any other policy ends an idle transfer, and with an upload its disk.
            "timeout_policy": "pause",
        });
        match &order.subject {
            Subject::Disk(id) => body["disk"] = json!({"id": id}),
            Subject::Snapshot(id) => body["snapshot"] = json!({"id": id}),
        }
        if let Some(host) = &order.host {
            body["host"] = json!({"id": host});
        }
        let what = match &order.subject {
            Subject::Disk(id) => format!("start of the {} of disk {id}", order.direction),
            Subject::Snapshot(id) => format!("start of the {} of disk snapshot {id}", order.direction),
        };
        let mut patience = Patience::new(MAX_LOCK_WAIT, self.interrupt());
        // Once an answer was lost, a transfer of the disk is ours: the disk was free before.
        let mut unanswered = false;
        loop {
            let error = match self.post(&what, Effect::Creation, "/imagetransfers", &body) {
                Ok(Some(value)) => {
                    return Transfer::of(&value)
                        .ok_or_else(|| Error::Failed(format!("{what}: no transfer in the answer")));
                }
                Ok(None) => return Err(Error::Unfit("the disk is not there any more".into())),
                Err(error) => error,
            };
            // The disk's lock is free some seconds after the disk is `ok`; what has it for good is told at once.
            let lost = error.is_passing();
            unanswered |= lost;
            // A snapshot can't be looked for: a second start might make a second transfer.
            let may_ask_again = match order.subject {
                Subject::Disk(_) => unanswered || error.is_locked(),
                Subject::Snapshot(_) => error.is_locked() || error.is_not_performed(),
            };
            let unclear = |error: Error| match unanswered {
                true => Error::Unclear(error.to_string()),
                false => error,
            };
            if !may_ask_again || !patience.pause().map_err(unclear)? {
                return Err(unclear(error));
            }
            if let (true, Subject::Disk(disk)) = (unanswered, &order.subject) {
                info!("{error}");
                let open = self.transfer_of(disk).map_err(unclear)?;
                if let Some(ours) = open.filter(|t| t.direction == order.direction) {
                    info!(id = ours.id, "the transfer was started all the same");
                    return Ok(ours);
                }
            }
        }
    }

    /// Waits until data may move. One that the system paused before is resumed once.
    pub(crate) fn wait_for_transferring(&self, transfer: Transfer) -> Result<Transfer, Error> {
        let what = format!("transfer {}", transfer.id);
        let mut patience = Patience::new(MAX_START_WAIT, self.interrupt());
        let (mut transfer, mut resumed) = (transfer, false);
        loop {
            match &transfer.phase {
                Phase::Transferring => return Ok(transfer),
                Phase::Paused(_) if !resumed => {
                    resumed = true;
                    self.resume(&transfer.id)?;
                }
                // The effect of a resume may take its time.
                Phase::Paused(phase) if patience.waited() > MAX_EFFECT_DELAY => {
                    return Err(Error::Failed(format!(
                        "{what} is {phase} before any data moved: no host could serve it; engine.log says why \
                         (correlation id {})",
                        self.correlation()
                    )));
                }
                Phase::Coming(_) | Phase::Paused(_) => {}
                other => {
                    return Err(Error::Failed(format!(
                        "{what} is {other} before any data moved; engine.log says why (correlation id {})",
                        self.correlation()
                    )));
                }
            }
            if !patience.pause()? {
                return Err(self.too_long(
                    &what,
                    MAX_START_WAIT,
                    &format!("its phase is {}", transfer.phase),
                ));
            }
            transfer = self
                .transfer(&transfer.id)?
                .ok_or_else(|| Error::Failed(format!("{what} is gone before any data moved")))?;
        }
    }

    /// Lets a paused transfer go on.
    pub(crate) fn resume(&self, id: &str) -> Result<(), Error> {
        self.act(id, "resume")
    }

    /// Stops a transfer without ending it; the disk stays locked and keeps what it has.
    pub(crate) fn pause(&self, id: &str) -> Result<(), Error> {
        self.act(id, "pause")
    }

    pub(super) fn act(&self, id: &str, action: &str) -> Result<(), Error> {
        let what = format!("{action} of transfer {id}");
        let path = format!("/imagetransfers/{id}/{action}");
        self.post(&what, Effect::Idempotent, &path, &json!({})).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_read_from_the_engines_json() {
        let value = json!({"id": "t", "phase": "paused_system", "direction": "download", "image": {"id": "d"},
            "host": {"id": "h"}, "inactivity_timeout": "60", "transfer_url": "https://h:54322/images/x"});
        let transfer = Transfer::of(&value).unwrap();
        assert_eq!(transfer.phase, Phase::Paused("paused_system".into()));
        assert_eq!(transfer.direction, Direction::Download);
        assert_eq!(
            (transfer.disk.as_deref(), transfer.inactivity_timeout),
            (Some("d"), Some(60))
        );
        assert_eq!(
            Transfer::of(&json!({"id": "t"})).unwrap().direction,
            Direction::Upload
        );
    }
}
