//! Says what goes on, as one line for people.

use std::time::Duration;

use super::Stage;
use super::metrics::Picture;
use crate::amounts::size;
use crate::open_disk::DiskStatus;

/// Says what goes on in a stage that began `since` ago.
pub(super) fn line(picture: &Picture, since: Duration) -> String {
    let disks = || picture.disks.iter().map(|(status, _)| status);
    let seconds = since.as_secs();
    match &picture.stage {
        None | Some(Stage::Opening) => format!("opening the disk for {}", picture.mountpoint),
        Some(Stage::Mounted) => {
            let disks: Vec<String> = disks().map(|disk| mounted(disk, &picture.mountpoint)).collect();
            disks.join("; ")
        }
        Some(Stage::Flushing) => flushing(picture, seconds),
        Some(Stage::Finalizing) => {
            let transfers: Vec<&str> = disks().filter_map(|disk| disk.transfer.as_deref()).collect();
            match transfers.as_slice() {
                [] => format!("ending, {seconds} s"),
                transfers => format!("finalizing transfer {}, {seconds} s", transfers.join(", ")),
            }
        }
        Some(Stage::Ended(0, None)) => "done: every acknowledged byte is on the storage".to_owned(),
        Some(Stage::Ended(code, None)) => format!("ended with exit code {code}"),
        Some(Stage::Ended(_, Some(message))) => message.clone(),
    }
}

fn flushing(picture: &Picture, seconds: u64) -> String {
    let disks = || picture.disks.iter().map(|(status, _)| status);
    let unflushed = size(disks().map(|disk| disk.bytes_unflushed).sum::<u64>());
    let trouble: Vec<String> = disks().filter_map(DiskStatus::trouble).collect();
    let parts = [format!("flushing {unflushed}"), format!("{seconds} s")];
    parts.into_iter().chain(trouble).collect::<Vec<_>>().join(", ")
}

/// Says how a mounted disk stands: what moved, what waits, and whatever is not as it should be.
fn mounted(disk: &DiskStatus, mountpoint: &str) -> String {
    let name = disk.disk_name.as_deref().unwrap_or("disk");
    let mut line = format!("{name} on {mountpoint}: {} read", size(disk.bytes_read));
    if !disk.read_only {
        line += &format!(
            ", {} written, {} not flushed",
            size(disk.bytes_written),
            size(disk.bytes_unflushed)
        );
    }
    for more in disk.pace_shown().into_iter().chain(disk.trouble()) {
        line += &format!(", {more}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(stage: Stage, disk: DiskStatus) -> Picture {
        Picture {
            mountpoint: "/mnt".to_owned(),
            stage: Some(stage),
            disks: vec![(disk, vec![])],
            began: None,
        }
    }

    #[test]
    fn what_is_not_as_it_should_be_is_in_the_line() {
        let disk = DiskStatus {
            disk_name: Some("web01".to_owned()),
            bytes_written: 3 << 30,
            bytes_unflushed: 120 << 20,
            transfer: Some("t".to_owned()),
            transfer_phase: Some("resuming".to_owned()),
            failure: Some("no space".to_owned()),
            ..DiskStatus::default()
        };
        let since = Duration::from_secs(12);
        let line = |stage| line(&picture(stage, disk.clone()), since);
        let trouble = "transfer resuming, DATA MAY BE LOST: no space";
        assert_eq!(
            line(Stage::Mounted),
            format!("web01 on /mnt: 0 bytes read, 3.00 GiB written, 120.00 MiB not flushed, {trouble}")
        );
        assert_eq!(
            line(Stage::Flushing),
            format!("flushing 120.00 MiB, 12 s, {trouble}")
        );
        assert_eq!(line(Stage::Finalizing), "finalizing transfer t, 12 s");
        let lost = Stage::Ended(7, Some("data may be lost: x".to_owned()));
        assert_eq!(line(lost), "data may be lost: x");
    }
}
