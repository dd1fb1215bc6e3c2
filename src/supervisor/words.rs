//! Says what goes on, as one line for people.

use std::time::Duration;

use super::Stage;
use super::metrics::Picture;
use crate::amounts::{size, time};
use crate::logging::plain;
use crate::open_disk::DiskStatus;

/// Fewest columns that a bar is worth drawing in.
const MIN_BAR_COLUMNS: usize = 10;

/// Says what goes on in a stage that began `since` ago.
pub(super) fn line(picture: &Picture, since: Duration) -> String {
    let disks = || picture.disks.iter().map(|(status, _)| status);
    let seconds = since.as_secs();
    match &picture.stage {
        None | Some(Stage::Opening) => format!("opening the disk for {}", picture.place),
        Some(Stage::Mounted) => {
            let whole = Whole::of(picture);
            whole.map_or_else(String::new, |whole| mounted(&whole, &picture.place))
        }
        Some(Stage::Copying) => {
            let disks: Vec<String> = disks().map(|disk| copied(disk, &picture.place)).collect();
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

/// One disk, or several as one.
struct Whole {
    disk: DiskStatus,
    /// The reason why data does not move, told with the disk's name where there are several.
    trouble: Option<String>,
}

impl Whole {
    fn of(picture: &Picture) -> Option<Whole> {
        let disks = picture.disks.iter().map(|(status, _)| status);
        match picture.disks.as_slice() {
            [] => None,
            [(disk, _)] => Some(Whole {
                disk: disk.clone(),
                trouble: disk.trouble(),
            }),
            several => {
                let told = |disk: &DiskStatus| Some(format!("{}: {}", name(disk), disk.trouble()?));
                let trouble: Vec<String> = disks.clone().filter_map(told).collect();
                Some(Whole {
                    disk: DiskStatus {
                        disk_name: Some(format!("{} disks", several.len())),
                        ..DiskStatus::sum(disks)
                    },
                    trouble: (!trouble.is_empty()).then(|| trouble.join(", ")),
                })
            }
        }
    }
}

fn flushing(picture: &Picture, seconds: u64) -> String {
    let whole = Whole::of(picture);
    let unflushed = whole.as_ref().map_or(0, |whole| whole.disk.bytes_unflushed);
    let parts = [format!("flushing {}", size(unflushed)), format!("{seconds} s")];
    let trouble = whole.and_then(|whole| whole.trouble);
    parts.into_iter().chain(trouble).collect::<Vec<_>>().join(", ")
}

/// Says how mounted disks stand: what moved, what waits, and whatever is not as it should be.
fn mounted(whole: &Whole, mountpoint: &str) -> String {
    let disk = &whole.disk;
    let mut line = format!("{} on {mountpoint}: {} read", name(disk), size(disk.bytes_read));
    if !disk.read_only {
        line += &format!(
            ", {} written, {} not flushed",
            size(disk.bytes_written),
            size(disk.bytes_unflushed)
        );
    }
    for more in disk.pace_shown().iter().chain(&whole.trouble) {
        line += &format!(", {more}");
    }
    line
}

/// Says how a copy between a disk and `image` stands.
fn copied(disk: &DiskStatus, image: &str) -> String {
    let moved = match disk.read_only {
        true => format!("{} to {image}: {} read", name(disk), size(disk.bytes_read)),
        false => format!(
            "{image} to {}: {} written, {} not flushed",
            name(disk),
            size(disk.bytes_written),
            size(disk.bytes_unflushed)
        ),
    };
    let parts = [Some(moved), disk.pace_shown(), disk.trouble()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Says the same on the last row of a terminal, with a bar where the whole is known and there is room.
pub(super) fn row(picture: &Picture, since: Duration, columns: usize) -> String {
    let elapsed = time(since.as_secs());
    match (&picture.stage, picture.disks.as_slice()) {
        (None | Some(Stage::Opening), _) => format!("opening the disk for {}, {elapsed}", picture.place),
        (Some(Stage::Mounted | Stage::Copying), _) => {
            Whole::of(picture).map_or_else(String::new, |whole| moving(&whole, columns))
        }
        (Some(Stage::Flushing), _) => flushing(picture, since.as_secs()),
        (Some(Stage::Finalizing), [(disk, _)]) => format!("{}: finalizing, {elapsed}", name(disk)),
        _ => line(picture, since),
    }
}

fn moving(whole: &Whole, columns: usize) -> String {
    let disk = &whole.disk;
    let amount = match disk.bytes_total {
        Some(total) => format!("{} of {}", size(disk.bytes_done), size(total)),
        None => size(disk.bytes_done),
    };
    let speed = Some(disk.bytes_per_second).filter(|speed| *speed > 0);
    let speed = speed.map(|speed| format!("{}/s", size(speed)));
    let left = disk.seconds_left.map(|left| format!("{} left", time(left)));
    let parts = [Some(amount), speed, left, whole.trouble.clone()];
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join("  ");
    let name = name(disk);
    let Some(percent) = disk.percent() else {
        return format!("{name}  {text}");
    };
    let whole = format!("{name} []  {percent:>3} %  {text}");
    // The last column stays free.
    let room = columns.saturating_sub(whole.chars().count() + 1);
    if room < MIN_BAR_COLUMNS {
        return format!("{name}  {percent} %  {text}");
    }
    let filled = room * percent as usize / 100;
    let bar = "#".repeat(filled) + &"-".repeat(room - filled);
    format!("{name} [{bar}]  {percent:>3} %  {text}")
}

fn name(disk: &DiskStatus) -> &str {
    disk.disk_name.as_deref().unwrap_or("disk")
}

/// Says at the end which disk it was, what moved in the time `took`, and how it ended.
pub(super) fn outcome(disk: &DiskStatus, code: u8, took: Duration) -> String {
    let shown = plain(&match (&disk.disk_name, &disk.disk_id) {
        (Some(name), Some(id)) => format!("{name} ({id})"),
        _ => format!("the disk on {}", disk.host),
    });
    // A copy onto a disk reads a little of it as well.
    let is_changed = disk.bytes_written + disk.bytes_zeroed > 0;
    let read = if is_changed { 0 } else { disk.bytes_read };
    let amounts = [
        (disk.bytes_written, "written"),
        (disk.bytes_zeroed, "zeroed"),
        (read, "read"),
    ];
    let moved = amounts.iter().filter(|(bytes, _)| *bytes > 0);
    let moved: Vec<String> = moved
        .map(|(bytes, done)| format!("{} {done}", size(*bytes)))
        .collect();
    let moved = match moved.as_slice() {
        [] => "nothing moved".to_owned(),
        moved => moved.join(", "),
    };
    // No speed: the time is also that of the engine, and of the flush.
    let line = format!("{shown}: {moved} in {}", time(took.as_secs()));
    match (code, disk.read_only) {
        (0, true) => line,
        (0, false) => line + "; every byte is on the storage",
        (code, _) => line + &format!("; exit status {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Task;

    fn picture(stage: Stage, disk: DiskStatus) -> Picture {
        Picture {
            place: "/mnt".to_owned(),
            task: Task::Mount,
            stage: Some(stage),
            disks: vec![(disk, vec![])],
            began: None,
            unopened: vec![],
            copied: None,
        }
    }

    fn copied() -> DiskStatus {
        DiskStatus {
            disk_name: Some("web01".to_owned()),
            disk_id: Some("d1".to_owned()),
            bytes_written: 5 << 30,
            bytes_done: 5 << 30,
            bytes_total: Some(20 << 30),
            bytes_per_second: 310 << 20,
            seconds_left: Some(49),
            ..DiskStatus::default()
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

    #[test]
    fn several_disks_are_one_line_in_which_trouble_names_its_disk() {
        let mut picture = picture(Stage::Mounted, copied());
        let other = DiskStatus {
            disk_name: Some("web02".to_owned()),
            failure: Some("no space".to_owned()),
            ..copied()
        };
        picture.disks.push((other, vec![]));
        let told = line(&picture, Duration::ZERO);
        assert!(
            told.starts_with("2 disks on /mnt: 0 bytes read, 10.00 GiB written"),
            "{told}"
        );
        assert!(told.ends_with(", web02: DATA MAY BE LOST: no space"), "{told}");
        let drawn = row(&picture, Duration::ZERO, 200);
        assert!(
            drawn.starts_with("2 disks [#") && drawn.contains("10.00 GiB of 40.00 GiB"),
            "{drawn}"
        );
    }

    #[test]
    fn a_row_has_a_bar_where_the_whole_is_known_and_never_fills_the_last_column() {
        let row = |disk, columns| row(&picture(Stage::Mounted, disk), Duration::ZERO, columns);
        let wide = row(copied(), 100);
        assert_eq!(wide.len(), 99);
        assert!(
            wide.starts_with("web01 [#####") && wide.contains("---]   25 %  5.00 GiB of"),
            "{wide}"
        );
        assert!(wide.ends_with("20.00 GiB  310.00 MiB/s  49 s left"), "{wide}");
        let narrow = row(copied(), 60);
        assert!(narrow.starts_with("web01  25 %  5.00 GiB"), "{narrow}");
        let unknown = DiskStatus {
            bytes_total: None,
            seconds_left: None,
            ..copied()
        };
        assert_eq!(row(unknown, 100), "web01  5.00 GiB  310.00 MiB/s");
    }

    #[test]
    fn the_end_names_disk_id_bytes_and_time() {
        let outcome = |code, disk: DiskStatus| outcome(&disk, code, Duration::from_secs(16));
        assert_eq!(
            outcome(0, copied()),
            "web01 (d1): 5.00 GiB written in 16 s; every byte is on the storage"
        );
        assert_eq!(
            outcome(130, copied()),
            "web01 (d1): 5.00 GiB written in 16 s; exit status 130"
        );
        let idle = DiskStatus {
            host: "https://h:54322".to_owned(),
            read_only: true,
            ..DiskStatus::default()
        };
        assert_eq!(
            outcome(0, idle),
            "the disk on https://h:54322: nothing moved in 16 s"
        );
    }
}
