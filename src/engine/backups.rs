//! Backups of a VM: starts one, and waits until its disks can be read. `ended_backups` finalizes it.
//!
//! ```text
//! initializing -> starting -> ready -> finalizing -> succeeded | failed        (cold: never starting)
//! ```
//!
//! The engine chooses the id (oVirt 4.5: StartVmBackupCommand). With an id of the client's, an engine that is
//! restarted takes a running backup for one that nobody looks after, and fails it. So a POST whose answer was
//! lost is found by random words in the description.

use std::time::Duration;

use serde_json::{Value, json};
use tracing::info;

use super::effect::Effect;
use super::json::{list, reference, text};
use super::refused_backups::{explained, is_busy, needs_full};
use super::{Engine, Error, Patience};
use crate::logging::plain;
use crate::output::tell;

/// Upper bound on the wait for another backup of the VM, or for locked disks, before a start is given up.
const MAX_BUSY_WAIT: Duration = Duration::from_secs(120);

/// A wait for it that is shorter than this is not told.
const QUIET_BUSY_WAIT: Duration = Duration::from_secs(5);

/// Upper bound on the time until the disks can be read: the engine makes scratch disks, or a snapshot.
const MAX_READY_WAIT: Duration = Duration::from_secs(1800);

/// The phase of a backup, in the classes that decide how to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackupPhase {
    /// Not ready yet: `initializing`, `starting`, or an unknown name.
    Coming(String),
    /// The disks can be read.
    Ready,
    Finalizing,
    Succeeded,
    Failed,
}

impl BackupPhase {
    fn of(name: &str) -> BackupPhase {
        match name {
            "ready" => BackupPhase::Ready,
            "finalizing" => BackupPhase::Finalizing,
            "succeeded" => BackupPhase::Succeeded,
            "failed" => BackupPhase::Failed,
            other => BackupPhase::Coming(other.to_owned()),
        }
    }

    pub(super) fn shown(&self) -> &str {
        match self {
            BackupPhase::Coming(name) => name,
            BackupPhase::Ready => "ready",
            BackupPhase::Finalizing => "finalizing",
            BackupPhase::Succeeded => "succeeded",
            BackupPhase::Failed => "failed",
        }
    }
}

/// A backup as the engine describes it.
#[derive(Debug, Clone)]
pub(crate) struct Backup {
    pub(crate) id: String,
    pub(crate) phase: BackupPhase,
    description: String,
    /// The checkpoint that it makes, once that is there. A VM without a qcow2 disk may get none.
    pub(crate) to_checkpoint: Option<String>,
    /// The snapshot that the engine has made for it: a hybrid backup.
    pub(crate) snapshot: Option<String>,
}

impl Backup {
    fn of(value: &Value) -> Option<Backup> {
        let id_at = |key| text(value, key).filter(|id| !id.is_empty()).map(|id| plain(&id));
        Some(Backup {
            id: plain(&text(value, "id")?),
            phase: BackupPhase::of(&text(value, "phase").unwrap_or_default()),
            description: text(value, "description").unwrap_or_default(),
            to_checkpoint: id_at("to_checkpoint_id"),
            snapshot: reference(value, "snapshot").map(|id| plain(&id)),
        })
    }

    /// Returns true while it holds its VM.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.phase, BackupPhase::Succeeded | BackupPhase::Failed)
    }
}

/// A backup to start.
#[derive(Debug, Clone)]
pub(crate) struct BackupOrder {
    /// The id of the VM.
    pub(crate) vm: String,
    /// The ids of the disks.
    pub(crate) disks: Vec<String>,
    /// The words in its description that no other backup has.
    pub(crate) token: String,
    /// The checkpoint from which changes are wanted; disks that it does not have come whole.
    pub(crate) from: Option<String>,
    /// Through libvirt, without a snapshot.
    pub(crate) live: bool,
    /// A guest whose file systems can't be frozen is an error.
    pub(crate) consistent: bool,
}

/// The outcome of the wait for a backup.
#[derive(Debug)]
pub(crate) enum Readiness {
    Ready(Backup),
    /// It has failed, and is over.
    Failed(String),
}

impl Engine {
    /// Starts a backup. [`Error::Unclear`] means that the engine may have started one nevertheless; after any
    /// other error it has not.
    pub(crate) fn start_backup(&self, order: &BackupOrder) -> Result<Backup, Error> {
        let what = format!("start of a backup of VM {}", order.vm);
        let disks: Vec<Value> = order.disks.iter().map(|id| json!({"id": id})).collect();
        let body = json!({"description": order.token, "disks": {"disk": disks}});
        let mut body = body;
        if let Some(from) = &order.from {
            body["from_checkpoint_id"] = from.as_str().into();
        }
        let mut path = format!("/vms/{}/backups", order.vm);
        let mut parameters = Vec::new();
        if order.live {
            // The documented parameter is the second one; engines of today read the first.
            parameters.extend(["legacy=true", "use_active=true"]);
        }
        if order.consistent {
            parameters.push("require_consistency=true");
        }
        if !parameters.is_empty() {
            path = format!("{path}?{}", parameters.join("&"));
        }
        let mut patience = Patience::new(MAX_BUSY_WAIT, self.interrupt());
        let (mut unanswered, mut told) = (false, false);
        loop {
            let error = match self.post(&what, Effect::Creation, &path, &body) {
                Ok(Some(value)) => match Backup::of(&value) {
                    Some(started) => return Ok(started),
                    None => self.nonsense(&what, "no backup in the answer".into()),
                },
                Ok(None) => Error::Unfit(format!("{what}: the VM is gone")),
                Err(error) => error,
            };
            unanswered |= error.may_have_made();
            let unclear = |error: Error| match unanswered {
                true => Error::Unclear(error.to_string()),
                false => error,
            };
            if unanswered {
                // Another backup of the VM is refused while ours is there, so ours is looked for first.
                match self.backup_with(&order.vm, &order.token) {
                    Ok(Some(ours)) => {
                        info!(id = ours.id, "the backup was started nevertheless");
                        return Ok(ours);
                    }
                    Ok(None) => {}
                    Err(e) if e.is_passing() => info!("{e}"),
                    Err(e) => return Err(unclear(e)),
                }
            }
            if !told && is_busy(&error) && patience.waited() >= QUIET_BUSY_WAIT {
                told = true;
                let limit = MAX_BUSY_WAIT.as_secs();
                tell(format_args!("{error}. Trying again, for {limit} s at most"));
            }
            let may_ask_again = is_busy(&error) || error.is_passing();
            if !may_ask_again || !patience.pause().map_err(unclear)? {
                // The caller tells a refusal, and goes on without a checkpoint.
                return Err(unclear(match order.from.is_some() && needs_full(&error) {
                    true => error,
                    false => explained(error),
                }));
            }
        }
    }

    /// Returns the backup of a VM whose description has these words.
    pub(crate) fn backup_with(&self, vm: &str, token: &str) -> Result<Option<Backup>, Error> {
        let mut all = self.backups(vm)?.into_iter();
        Ok(all.find(|backup| backup.description.contains(token)))
    }

    /// Returns the backups of a VM that the engine has not forgotten.
    pub(crate) fn backups(&self, vm: &str) -> Result<Vec<Backup>, Error> {
        let Some(answer) = self.get_list("backups", &format!("/vms/{vm}/backups"))? else {
            return Ok(Vec::new());
        };
        let answer = self.listed("backups", "backup", Some(answer))?;
        Ok(list(&answer, "backup").iter().filter_map(Backup::of).collect())
    }

    pub(crate) fn backup(&self, vm: &str, id: &str) -> Result<Option<Backup>, Error> {
        let found = self.get("backup", &format!("/vms/{vm}/backups/{id}"))?;
        self.object("backup", id, found, Backup::of)
    }

    /// Returns the ids of the disks that are in a backup, each with whether its changes are known: the engine
    /// leaves some out without a word.
    pub(crate) fn disks_in_backup(&self, vm: &str, id: &str) -> Result<Vec<(String, bool)>, Error> {
        let answer = self.get_list("disks of the backup", &format!("/vms/{vm}/backups/{id}/disks"))?;
        let answer = self.listed("disks of the backup", "disk", answer)?;
        let of = |disk| {
            let mode = text(disk, "backup_mode");
            Some((text(disk, "id")?, mode.as_deref() == Some("incremental")))
        };
        Ok(list(&answer, "disk").iter().filter_map(of).collect())
    }

    /// Waits until the disks of a backup can be read.
    pub(crate) fn wait_for_backup(&self, vm: &str, backup: Backup) -> Result<Readiness, Error> {
        let id = backup.id.clone();
        let mut patience = Patience::new(MAX_READY_WAIT, self.interrupt());
        let mut seen = Some(backup);
        loop {
            match seen {
                Some(backup) if backup.phase == BackupPhase::Ready => return Ok(Readiness::Ready(backup)),
                Some(Backup {
                    phase: BackupPhase::Coming(_),
                    ..
                }) => {}
                // Engines before 4.4.7 forget a backup as soon as it has failed.
                Some(_) | None => return Ok(Readiness::Failed(self.why_failed(&id))),
            }
            seen = loop {
                if !patience.pause()? {
                    let what = format!("start of backup {id}");
                    return Err(self.too_long(&what, MAX_READY_WAIT, "it is not ready yet"));
                }
                match self.backup(vm, &id) {
                    Err(e) if e.is_passing() => info!("{e}"),
                    answer => break answer?,
                }
            };
        }
    }

    /// Says why a backup has failed, from the events about it.
    pub(super) fn why_failed(&self, id: &str) -> String {
        let events = self.events_of(id).unwrap_or_default();
        let mut failures = events.iter().filter(|event| event.is_failure());
        // One with a remedy says more than that it has failed.
        let told = failures.clone().find(|event| event.remedy().is_some());
        match told.or_else(|| failures.next()) {
            Some(event) => {
                let remedy = event
                    .remedy()
                    .map_or(String::new(), |remedy| format!("; {remedy}"));
                format!(
                    "the engine says: {} (event {}){remedy}",
                    event.description.trim_end_matches('.'),
                    event.code
                )
            }
            None => format!(
                "no event tells why; engine.log and vdsm.log do (correlation id {})",
                self.correlation()
            ),
        }
    }

    /// Returns the configuration of a VM, or of a snapshot of it, as OVF.
    pub(crate) fn configuration(&self, vm: &str, snapshot: Option<&str>) -> Result<Option<String>, Error> {
        let path = match snapshot {
            Some(snapshot) => format!("/vms/{vm}/snapshots/{snapshot}?all_content=true"),
            None => format!("/vms/{vm}?all_content=true"),
        };
        let answer = self.get("configuration of the VM", &path)?;
        let configuration = answer
            .as_ref()
            .and_then(|value| value.get("initialization"))
            .and_then(|initialization| initialization.get("configuration"));
        Ok(configuration.and_then(|configuration| text(configuration, "data")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_read_from_the_engines_json() {
        let value = json!({"id": "b", "phase": "ready", "description": "x token y", "to_checkpoint_id": "c",
            "snapshot": {"id": "s"}, "vm": {"id": "m"}});
        let backup = Backup::of(&value).unwrap();
        assert_eq!(
            (backup.phase.clone(), backup.is_open()),
            (BackupPhase::Ready, true)
        );
        assert_eq!(
            (backup.to_checkpoint.as_deref(), backup.snapshot.as_deref()),
            (Some("c"), Some("s"))
        );
        for (name, open) in [
            ("initializing", true),
            ("warming_up", true),
            ("finalizing", true),
            ("succeeded", false),
            ("failed", false),
        ] {
            let backup = Backup::of(&json!({"id": "b", "phase": name})).unwrap();
            assert_eq!((backup.is_open(), backup.phase.shown()), (open, name));
        }
    }
}
