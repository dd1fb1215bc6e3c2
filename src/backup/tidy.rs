//! After a backup that went well: checkpoints of ours that no disk needs any more go, and with `--keep` the
//! backups that are older than those to be kept. Neither is a reason to fail: what stays is told, and the next
//! backup tries again.

use tracing::info;

use super::check::unnamed;
use super::manifest::Manifest;
use super::outdated::outdated;
use super::plan::Plan;
use super::prune::{goes, remove};
use crate::engine::Engine;
use crate::logging::plain;
use crate::output::{inform, tell};
use crate::process::rights;
use crate::settings::backup::BackupSettings;

/// See the head of this file.
pub(super) fn tidy(engine: &Engine, settings: &BackupSettings, plan: &Plan) {
    let dir = settings.dir.clone();
    let (all, unreadable) = match rights::with(move || Manifest::all(&dir)) {
        Ok(read) => read,
        Err(e) => {
            tell(format_args!(
                "nothing old is removed: {}: {e}",
                settings.dir.display()
            ));
            return;
        }
    };
    forget_checkpoints(engine, plan, &all);
    let Some(keep) = settings.keep else { return };
    if let Some((path, why)) = unreadable.first() {
        tell(plain(&format!(
            "--keep removes nothing: the manifest {} can't be used, and may need any file: {why}",
            path.display()
        )));
        return;
    }
    let (dir, vm) = (settings.dir.clone(), plan.vm.id.clone());
    let pruned = rights::with(move || {
        let names = all
            .iter()
            .flat_map(|manifest| manifest.disks.iter().map(|entry| entry.file.as_str()))
            .collect();
        match unnamed(&dir, &names)?.into_iter().next() {
            Some(other) => Ok(Err(other)),
            None => remove(&dir, &all, &goes(&all, &vm, keep)).map(Ok),
        }
    });
    match pruned {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => inform(format_args!("--keep {keep}: {count} older backups are removed")),
        Ok(Err(other)) => tell(plain(&format!(
            "--keep removes nothing: no manifest names {other}, which may need any file; move it elsewhere"
        ))),
        Err(e) => {
            let e: std::io::Error = e;
            tell(format_args!("--keep could not remove everything: {e}"));
        }
    }
}

fn forget_checkpoints(engine: &Engine, plan: &Plan, all: &[Manifest]) {
    let vm = &plan.vm.id;
    let usable = match engine.checkpoints(vm) {
        Ok(usable) => usable,
        Err(e) => return info!("{e}"),
    };
    for id in outdated(all, vm, &usable) {
        // It may have been paused meanwhile.
        let status = engine.vm_status(vm);
        if !matches!(status.as_deref(), Ok("up" | "down")) {
            info!(?status, "no checkpoint is deleted now");
            return;
        }
        match engine.delete_checkpoint(vm, &id) {
            Ok(()) => info!(id, "checkpoint deleted"),
            // The backup is still at its end, or a bitmap is in use.
            Err(e) => {
                inform(plain(&format!(
                    "checkpoint {id}, which no disk needs any more, stays for now: {e}"
                )));
                return;
            }
        }
    }
}
