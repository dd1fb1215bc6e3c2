//! After a backup that went well: checkpoints of ours that no disk needs any more go, and with `--keep` the
//! backups that are older than those to be kept. Neither is a reason to fail: what stays is told, and the
//! next backup tries again.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use tracing::info;

use super::check::unnamed;
use super::manifest::Manifest;
use super::naming::time;
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
    let now = time(SystemTime::now());
    let pruned = rights::with(move || match in_the_way(&dir, &all, &vm, &now)? {
        Some(why) => Ok(Err(why)),
        None => remove(&dir, &all, &goes(&all, &vm, keep)).map(Ok),
    });
    match pruned {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => inform(format_args!("--keep {keep}: {count} older backups are removed")),
        Ok(Err(why)) => tell(plain(&format!("--keep removes nothing: {why}"))),
        Err(e) => {
            let e: io::Error = e;
            tell(format_args!("--keep could not remove everything: {e}"));
        }
    }
}

/// Says why nothing may be removed: a file that may need any other one, or a manifest by which what was made
/// just now would count as old.
fn in_the_way(dir: &Path, all: &[Manifest], vm: &str, now: &str) -> io::Result<Option<String>> {
    let is_early = |one: &&Manifest| one.vm.id == vm && one.time.as_str() > now;
    if let Some(early) = all.iter().find(is_early) {
        return Ok(Some(format!(
            "the backup {} is of {}, which is yet to come: set the clock, or move its files elsewhere",
            early.file_name().display(),
            early.time
        )));
    }
    // The files that are being written are looked for first: one of them may get its name meanwhile.
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.ends_with(".part") {
            return Ok(Some(format!(
                "{name} may need any file: another backup writes it, or was killed, and `rhv-mount recover` \
                 removes it"
            )));
        }
    }
    let names = all
        .iter()
        .flat_map(|manifest| manifest.disks.iter().map(|entry| entry.file.as_str()))
        .collect();
    let other = unnamed(dir, &names)?.into_iter().next();
    Ok(other.map(|other| format!("no manifest names {other}, which may need any file; move it elsewhere")))
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

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    #[test]
    fn nothing_goes_while_a_file_is_written_or_while_the_clock_says_that_a_backup_is_yet_to_come() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let all = [manifest("a.qcow2", None)];
        let why = |now: &str| in_the_way(dir, &all, "v", now).unwrap();
        fs::write(dir.join("a.qcow2"), "bytes").unwrap();
        assert_eq!(why("2026-11-29T08:35:02.000Z"), None);
        let early = why("2026-11-28T08:35:02.000Z").unwrap();
        assert!(early.contains("yet to come"), "{early}");
        let of_another = in_the_way(dir, &all, "another", "2026-11-28T08:35:02.000Z");
        assert_eq!(of_another.unwrap(), None);
        fs::write(dir.join(".2026.c.d.abc.part"), "bytes").unwrap();
        let written = why("2026-11-29T08:35:02.000Z").unwrap();
        assert!(written.contains(".part may need any file"), "{written}");
        fs::rename(dir.join(".2026.c.d.abc.part"), dir.join("b.qcow2")).unwrap();
        let unnamed = why("2026-11-29T08:35:02.000Z").unwrap();
        assert!(unnamed.contains("no manifest names b.qcow2"), "{unnamed}");
    }
}
