//! The files of a VM's disks in `status`, for people.

use crate::amounts::size;
use crate::mount::control::Status;
use crate::mount::files::{BackupStatus, FileStatus};

/// Returns the lines about the VM, its files, and its disks that have none; nothing for a single disk.
pub(super) fn text(status: &Status) -> String {
    let vm = status.vm.iter().map(|vm| format!("vm           {vm}"));
    let backup = status.backup.iter().map(backup);
    let files = status.disks.iter().map(file);
    let left_out = status.left_out.iter().map(|one| {
        let why = &one.why;
        format!("left out     disk {} ({}): {why}", one.disk_id, one.disk_name)
    });
    let lines = vm.chain(backup).chain(files).chain(left_out);
    // Names are the engine's.
    let lines = lines.map(|line| format!("  {}\n", line.replace(char::is_control, " ")));
    lines.collect()
}

fn backup(backup: &BackupStatus) -> String {
    let checkpoint = backup.checkpoint.as_deref().unwrap_or("none");
    let mut parts = vec![
        format!("{} ({})", backup.id, backup.phase),
        format!("checkpoint {checkpoint}"),
    ];
    parts.extend(
        backup
            .from_checkpoint
            .iter()
            .map(|id| format!("changes since {id}")),
    );
    format!("backup       {}", parts.join(", "))
}

fn file(file: &FileStatus) -> String {
    let disk = &file.disk;
    let named = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut parts = vec![size(disk.file_size)];
    if let (Some(id), Some(phase)) = (&disk.transfer, &disk.transfer_phase) {
        parts.push(format!("transfer {id} ({phase})"));
    }
    if disk.connections > 0 {
        parts.push(format!("{} connections to {}", disk.connections, disk.host));
        parts.push(format!("{} read", size(disk.bytes_read)));
    }
    if !disk.read_only {
        parts.push(format!("{} written", size(disk.bytes_written)));
        parts.push(format!("{} not flushed", size(disk.bytes_unflushed)));
    }
    if disk.errors > 0 {
        parts.push(format!("{} errors", disk.errors));
    }
    parts.extend(disk.failure.iter().map(|why| format!("FAILED: {why}")));
    format!(
        "disk         {}: disk {} ({}), {}",
        file.file_name,
        named(&disk.disk_id),
        named(&disk.disk_name),
        parts.join(", ")
    )
}
