//! Transfers: starts one, and waits until data may move. `endings` ends it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;

use super::disks::{MAX_LOCK_WAIT, QUIET_LOCK_WAIT};
use super::effect::Effect;
use super::json::{list, number, text};
use super::{Direction, Engine, Error, Interrupt, Patience, Phase};
use crate::logging::plain;
use crate::output::tell;

/// Least number of seconds without activity until the engine pauses a transfer. It must not be 0: imageio
/// takes that for "no waiting at all" and drops connections. virt-v2v uses the same number.
const INACTIVITY_SECONDS: u64 = 3600;

/// Number of different [`Mark`]s: the longest inactivity is five and a half hours.
const MARKS: u64 = 1 << 14;

/// The same for a download that nobody looks after: the engine ends it, and frees the disk, when its process
/// is gone. It is longer than the pauses between our own requests by far.
const UNATTENDED_SECONDS: u64 = 120;

/// Number of different marks of such downloads: the longest inactivity is [`MAX_UNATTENDED_SECONDS`].
const UNATTENDED_MARKS: u64 = 1 << 8;

/// The longest inactivity of a download that nobody looks after, in seconds.
const MAX_UNATTENDED_SECONDS: u64 = UNATTENDED_SECONDS + UNATTENDED_MARKS;

/// How long a disk is waited for that such a download may have left locked. The engine looks at idle
/// transfers every few seconds, and unlocks the disk a moment later.
pub(crate) const UNATTENDED_LOCK_WAIT: Duration = Duration::from_secs(MAX_UNATTENDED_SECONDS + 45);

/// Upper bound on the wait for `transferring`; the stock client uses the same.
const MAX_START_WAIT: Duration = Duration::from_secs(60);

/// Upper bound on the looks for the URLs of a transfer, which may come a moment after its phase.
const MAX_LOOKS_FOR_URLS: u32 = 20;

/// The pause before each of these looks.
const URL_PAUSE: Duration = Duration::from_millis(100);

/// Upper bound on the time until an action shows an effect; after it the action was lost. The engine looks at
/// a busy transfer every 10 s.
pub(super) const MAX_EFFECT_DELAY: Duration = Duration::from_secs(15);

/// The object of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A disk, by id.
    Disk(String),
    /// A disk snapshot, by id.
    Snapshot(String),
}

/// The mark by which a transfer of ours is known when the request that started it got no answer.
///
/// The engine shows nothing of a request in the transfer that it has started but the values that it was
/// asked for. The limit on inactivity is one that it keeps as it is and that nobody depends on, so each order
/// asks for a limit of its own: its mark. Any other transfer of the disk in the same direction, which
/// somebody else may have started meanwhile, has another limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark(u64);

impl Mark {
    /// A random mark.
    pub(crate) fn random() -> Mark {
        let id = super::random_id().unwrap_or_default();
        let last = id.rsplit('-').next().unwrap_or_default();
        let number = u64::from_str_radix(last, 16).unwrap_or_default();
        // The first number is what other clients ask for, too.
        Mark(INACTIVITY_SECONDS + 1 + number % MARKS)
    }

    /// A random mark of a download that the engine ends by itself when its process is gone.
    pub(crate) fn unattended() -> Mark {
        let Mark(number) = Mark::random();
        Mark(UNATTENDED_SECONDS + 1 + number % UNATTENDED_MARKS)
    }

    /// Tells the engine what to do with an idle transfer. With "legacy" it ends a download, and pauses an
    /// upload; that and "cancel" are the ones that end anything, and "cancel" would remove the disk of an
    /// upload.
    fn policy(self) -> &'static str {
        match self.0 {
            0..=MAX_UNATTENDED_SECONDS => "legacy",
            _ => "pause",
        }
    }
}

/// The description of a transfer to start.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) subject: Subject,
    pub(crate) direction: Direction,
    /// The id of the host that must serve it; by default the engine chooses.
    pub(crate) host: Option<String>,
    pub(crate) mark: Mark,
    /// The id of the backup as part of which the disk is read.
    pub(crate) backup: Option<String>,
}

impl Order {
    /// The same order on the host that the engine chooses. A host whose imageio has failed must not be asked
    /// again: an upload that it can't start costs the disk.
    pub(crate) fn on_any_host(&self) -> Order {
        Order {
            host: None,
            ..self.clone()
        }
    }
}

/// A transfer as the engine describes it.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) id: String,
    pub(crate) phase: Phase,
    pub(crate) direction: Direction,
    /// The URL straight to the host; it exists as long as the ticket.
    pub(crate) transfer_url: Option<String>,
    /// The URL through the engine's proxy.
    pub(crate) proxy_url: Option<String>,
    /// The id of the host.
    pub(crate) host: Option<String>,
    /// The id of the disk; the engine calls it image here.
    pub(crate) disk: Option<String>,
    /// Seconds without activity until the engine pauses it.
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

    /// Returns true if the transfer has not ended, so that it holds its disk.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Finished | Phase::Failed)
    }

    /// Returns true if an order with this direction and this mark has started it. Without a mark nothing is
    /// proven.
    pub(crate) fn is_of(&self, direction: Direction, mark: Option<Mark>) -> bool {
        self.direction == direction && mark.is_some_and(|Mark(mark)| self.inactivity_timeout == Some(mark))
    }
}

impl Engine {
    /// Returns the transfer with this id. Apache CloudStack's control service answers 400 for one that is no
    /// more, as for much else; then the list of all transfers tells.
    pub(crate) fn transfer(&self, id: &str) -> Result<Option<Transfer>, Error> {
        match self.get("transfer", &format!("/imagetransfers/{id}")) {
            Err(error @ Error::Fault { status: 400, .. }) => match self.transfers() {
                Ok(all) => Ok(all.into_iter().find(|t| t.id.eq_ignore_ascii_case(id))),
                Err(_) => Err(error),
            },
            found => self.object("transfer", id, found?, Transfer::of),
        }
    }

    /// Returns the transfers that hold a disk, whoever has started them: one upload, or any number of
    /// downloads.
    pub(crate) fn open_transfers(&self, disk: &str) -> Result<Vec<Transfer>, Error> {
        let mut all = self.transfers()?;
        all.retain(|t| t.is_open() && t.disk.as_deref() == Some(disk));
        Ok(all)
    }

    fn transfers(&self) -> Result<Vec<Transfer>, Error> {
        let all = self.get("transfers", "/imagetransfers")?;
        let all = self.listed("transfers", "image_transfer", all)?;
        Ok(list(&all, "image_transfer")
            .iter()
            .filter_map(Transfer::of)
            .collect())
    }

    /// Starts a transfer, which may not be ready for data yet. [`Error::Unclear`] means that the engine may
    /// have started one nevertheless; after any other error it has not. `unanswered`: an earlier request for
    /// the same, with the same mark, may have been performed or be about to be.
    pub(crate) fn start_transfer(&self, order: &Order, mut unanswered: bool) -> Result<Transfer, Error> {
        let mut body = json!({
            "direction": order.direction.to_string(),
            // The guest's view, through NBD, in any format of the disk.
            "format": "raw",
            "inactivity_timeout": order.mark.0.to_string(),
            "timeout_policy": order.mark.policy(),
        });
        match &order.subject {
            Subject::Disk(id) => body["disk"] = json!({"id": id}),
            Subject::Snapshot(id) => body["snapshot"] = json!({"id": id}),
        }
        if let Some(host) = &order.host {
            body["host"] = json!({"id": host});
        }
        if let Some(backup) = &order.backup {
            body["backup"] = json!({"id": backup});
        }
        let what = match &order.subject {
            Subject::Disk(id) => format!("start of the {} of disk {id}", order.direction),
            Subject::Snapshot(id) => format!("start of the {} of disk snapshot {id}", order.direction),
        };
        let mut patience = Patience::new(MAX_LOCK_WAIT, self.interrupt());
        let mut told = false;
        loop {
            let error = match self.post(&what, Effect::Creation, "/imagetransfers", &body) {
                Ok(Some(value)) => match Transfer::of(&value) {
                    Some(started) => return Ok(started),
                    None => self.nonsense(&what, "no transfer in the answer".into()),
                },
                Ok(None) => Error::Unfit(format!("{what}: it is gone, somebody has removed it")),
                Err(error) => error,
            };
            unanswered |= error.may_have_made();
            // The disk's lock is released some seconds after the disk is `ok`, so a lock is waited for, and
            // so is an engine that is away. Any other refusal is reported at once. The transfer of a snapshot
            // can't be searched for, and a second start might make a second transfer.
            let may_ask_again = error.is_locked()
                || error.is_passing()
                    && match order.subject {
                        Subject::Disk(_) => true,
                        Subject::Snapshot(_) => !unanswered,
                    };
            if !told && error.is_locked() && patience.waited() >= QUIET_LOCK_WAIT {
                told = true;
                tell(format_args!(
                    "{error}. Trying again, for {} s at most",
                    MAX_LOCK_WAIT.as_secs()
                ));
            }
            let unclear = |error: Error| match unanswered {
                true => Error::Unclear(error.to_string()),
                false => error,
            };
            if !may_ask_again || !patience.pause().map_err(unclear)? {
                return Err(unclear(error));
            }
            if let (true, Subject::Disk(disk)) = (unanswered, &order.subject) {
                info!("{error}");
                let mut open = self.open_transfers(disk).map_err(unclear)?.into_iter();
                if let Some(ours) = open.find(|t| t.is_of(order.direction, Some(order.mark))) {
                    info!(id = ours.id, "the transfer was started nevertheless");
                    return Ok(ours);
                }
            }
        }
    }

    /// Waits until data may move. A transfer that the system has paused is resumed once.
    pub(crate) fn wait_for_transferring(&self, transfer: Transfer) -> Result<Transfer, Error> {
        let what = format!("transfer {}", transfer.id);
        let mut patience = Patience::new(MAX_START_WAIT, self.interrupt());
        let (mut transfer, mut resumed) = (transfer, false);
        loop {
            match &transfer.phase {
                Phase::Transferring => return Ok(transfer),
                // The user who has paused it will resume it, or not.
                paused if paused.is_paused_by_user() => {}
                Phase::Paused(_) if !resumed => {
                    resumed = true;
                    self.resume(&transfer.id)?;
                }
                // A resume may take its time.
                Phase::Paused(phase) if patience.waited() > MAX_EFFECT_DELAY => {
                    return Err(Error::Failed(format!(
                        "{what} is {phase} before any data moved: no host could serve it; engine.log says \
                         why (correlation id {})",
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
                    &format!("start of {what}"),
                    MAX_START_WAIT,
                    &format!("its phase is {}", transfer.phase),
                ));
            }
            transfer = self
                .transfer(&transfer.id)?
                .ok_or_else(|| Error::Failed(format!("{what} is gone before any data moved")))?;
        }
    }

    /// Waits until the engine says where the ticket is; returns a transfer that still has no URL as it is.
    pub(crate) fn wait_for_urls(
        &self,
        mut transfer: Transfer,
        interrupt: &Interrupt,
    ) -> Result<Transfer, Error> {
        let mut patience = Patience::even(URL_PAUSE, MAX_LOOKS_FOR_URLS, interrupt);
        while transfer.transfer_url.is_none() && transfer.proxy_url.is_none() && patience.pause()? {
            transfer = self.transfer(&transfer.id)?.unwrap_or(transfer);
        }
        Ok(transfer)
    }

    /// Resumes a paused transfer.
    pub(crate) fn resume(&self, id: &str) -> Result<(), Error> {
        self.act(id, "resume")
    }

    /// Pauses a transfer; the disk stays locked and keeps its data.
    pub(crate) fn pause(&self, id: &str) -> Result<(), Error> {
        self.act(id, "pause")
    }

    /// Sends an action. Its success means nothing until it shows an effect.
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

    #[test]
    fn an_unattended_download_is_ended_by_the_engine_and_nothing_else_is() {
        for _ in 0..50 {
            let (Mark(attended), Mark(unattended)) = (Mark::random(), Mark::unattended());
            assert!(attended > INACTIVITY_SECONDS && Mark(attended).policy() == "pause");
            assert!((UNATTENDED_SECONDS + 1..=MAX_UNATTENDED_SECONDS).contains(&unattended));
            assert_eq!(Mark(unattended).policy(), "legacy");
            assert!(Duration::from_secs(unattended) < UNATTENDED_LOCK_WAIT);
        }
    }

    #[test]
    fn a_transfer_without_the_mark_or_in_the_other_direction_is_not_ours() {
        let seen = |direction: &str, limit: u64| {
            Transfer::of(&json!({"id": "t", "direction": direction, "inactivity_timeout": limit.to_string()}))
                .unwrap()
        };
        let mark = Mark::random();
        assert!(seen("upload", mark.0).is_of(Direction::Upload, Some(mark)));
        assert!(!seen("upload", mark.0).is_of(Direction::Download, Some(mark)));
        assert!(!seen("upload", mark.0 + 1).is_of(Direction::Upload, Some(mark)));
        assert!(!seen("upload", mark.0).is_of(Direction::Upload, None));
        assert!((INACTIVITY_SECONDS..INACTIVITY_SECONDS + MARKS).contains(&mark.0));
        assert!((0..20).any(|_| Mark::random() != mark), "they are all the same");
    }
}
