//! The end of a backup: finalizes it, and says how it has ended and what it has left.
//!
//! Facts that shape this (oVirt 4.5: HybridBackupCommand, StopVmBackupCommand):
//! - *A finalize is not idempotent.* A second one, and one before the backup is ready, are answered by
//!   faults, although the latter works. So the phase decides, and no answer does.
//! - *A backup goes soon after its end*: 404 says neither that it went well nor that it failed. The events
//!   tell.
//! - A hybrid backup stays `ready` for some 10 s after it was finalized, and its snapshot is merged then,
//!   which may take hours. It needs nobody.

use std::time::Duration;

use serde_json::json;
use tracing::info;

use super::backups::BackupPhase;
use super::effect::Effect;
use super::events::Event;
use super::{Engine, Error, Interrupt, Patience};
use crate::logging::plain;

/// Upper bound on the time in which a finalize shows an effect. The engine looks at a backup every 10 s.
const MAX_EFFECT_DELAY: Duration = Duration::from_secs(30);

/// Upper bound on the time in which the engine sees that the transfers of a backup have ended.
const MAX_TRANSFERS_WAIT: Duration = Duration::from_secs(120);

/// How a backup has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackupEnd {
    Succeeded,
    /// The engine is at it, and needs nobody for the rest.
    Going,
    /// It has failed, for this reason.
    Failed(String),
    /// The engine has forgotten it, and nothing tells how it ended.
    Forgotten,
}

impl Engine {
    /// Finalizes a backup whose transfers have ended, and waits for its end, up to `limit` once the engine is
    /// at it; `hurry` ends that part of the wait. Passing errors of the engine are waited out, after `hurry`
    /// for [`MAX_TRANSFERS_WAIT`] at most.
    pub(crate) fn finalize_backup(
        &self,
        vm: &str,
        id: &str,
        limit: Duration,
        hurry: &Interrupt,
    ) -> Result<BackupEnd, Error> {
        let what = format!("finalize of backup {id}");
        let path = format!("/vms/{vm}/backups/{id}/finalize");
        let never = Interrupt::default();
        let mut patience = Patience::new(limit.max(MAX_TRANSFERS_WAIT), &never);
        let (mut asked, mut refused): (Option<Duration>, Option<Error>) = (None, None);
        let mut hurried: Option<Duration> = None;
        loop {
            let waited = patience.waited();
            if hurry.check().is_err() {
                hurried.get_or_insert(waited);
            }
            let found = match self.backup(vm, id) {
                Ok(Some(backup)) => Some(backup.phase),
                Ok(None) => return Ok(self.end_of_forgotten(id)),
                Err(e) if e.is_passing() => {
                    info!("{e}");
                    None
                }
                Err(e) => return Err(e),
            };
            match &found {
                Some(BackupPhase::Succeeded) => return Ok(BackupEnd::Succeeded),
                Some(BackupPhase::Failed) => return Ok(BackupEnd::Failed(self.why_failed(id))),
                Some(BackupPhase::Finalizing) if hurry.check().is_err() || waited >= limit => {
                    return Ok(BackupEnd::Going);
                }
                Some(BackupPhase::Coming(_) | BackupPhase::Ready)
                    if asked.is_none_or(|at| waited > at + MAX_EFFECT_DELAY) =>
                {
                    match self.post(&what, Effect::Idempotent, &path, &json!({})) {
                        Ok(_) => {
                            asked = Some(waited);
                            refused = None;
                        }
                        Err(e) if e.is_passing() => info!("{e}"),
                        // Another one says the same, or it has an effect all the same.
                        Err(e @ Error::Fault { status: 400, .. }) => {
                            info!("{e}");
                            asked = Some(waited);
                            refused = Some(e);
                        }
                        // Its transfers have not ended yet, as far as the engine knows.
                        Err(e @ Error::Fault { status: 409, .. }) => {
                            info!("{e}");
                            if waited > MAX_TRANSFERS_WAIT {
                                return Err(e);
                            }
                            refused = Some(e);
                        }
                        Err(e) => return Err(e),
                    }
                }
                // One that was told to stop before it was ready ends by itself.
                Some(BackupPhase::Coming(_) | BackupPhase::Ready) if asked.is_some() => {
                    let accepted = asked.is_some_and(|at| waited > at + MAX_EFFECT_DELAY / 2);
                    if hurry.check().is_err() && accepted && refused.is_none() {
                        return Ok(BackupEnd::Going);
                    }
                }
                Some(_) | None => {}
            }
            let is_over = hurried.is_some_and(|at| waited > at + MAX_TRANSFERS_WAIT);
            if is_over || !patience.pause()? {
                // The limit may have passed during the request.
                if matches!(found, Some(BackupPhase::Finalizing)) {
                    return Ok(BackupEnd::Going);
                }
                let state = match (&found, refused) {
                    (_, Some(e)) => e.to_string(),
                    (Some(phase), None) => format!("its phase is {}", phase.shown()),
                    (None, None) => "no answer".to_owned(),
                };
                return Err(self.too_long(&what, patience.waited(), &state));
            }
        }
    }

    /// Says how a backup has ended that the engine has forgotten.
    fn end_of_forgotten(&self, id: &str) -> BackupEnd {
        let events = self.events_of(id).unwrap_or_default();
        let told = events
            .iter()
            .find(|event| event.is_failure() || event.code == Event::SUCCEEDED);
        match told {
            Some(event) if event.code == Event::SUCCEEDED => BackupEnd::Succeeded,
            Some(_) => BackupEnd::Failed(self.why_failed(id)),
            None => BackupEnd::Forgotten,
        }
    }

    /// Says which snapshot a backup that has ended has left, and what to do about it. `snapshot` is the one
    /// that was made for it.
    pub(crate) fn left_by_backup(&self, vm: &str, id: &str, snapshot: Option<&str>) -> Option<String> {
        let snapshot = snapshot?;
        let left = match self.snapshots_of_backups(vm) {
            Ok(there) => there.iter().any(|one| one == snapshot),
            Err(_) => {
                let events = self.events_of(id).unwrap_or_default();
                events.iter().any(|event| event.code == Event::SNAPSHOT_LEFT)
            }
        };
        left.then(|| {
            plain(&format!(
                "the engine has not removed snapshot {snapshot} of backup {id}, which takes space and slows \
                 the VM down: delete that snapshot in the engine, while the VM may go on"
            ))
        })
    }
}
