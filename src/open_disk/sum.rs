//! The sum of several disks, for whoever wants one figure for all.

use super::DiskStatus;

impl DiskStatus {
    /// Returns the sum of `disks`; of what cannot be added, the longest time, and each text once. What names a
    /// single disk or transfer is not there.
    pub(crate) fn sum<'a>(disks: impl Iterator<Item = &'a DiskStatus> + Clone) -> DiskStatus {
        let total = |of: fn(&DiskStatus) -> u64| disks.clone().map(of).sum::<u64>();
        let texts = |of: fn(&DiskStatus) -> Option<&String>| {
            let mut texts: Vec<&str> = disks.clone().filter_map(of).map(String::as_str).collect();
            texts.retain(|text| !text.is_empty());
            texts.sort_unstable();
            texts.dedup();
            texts.join(", ")
        };
        let failures = texts(|disk| disk.failure.as_ref());
        let refusals = texts(|disk| disk.refused.as_ref());
        let bytes_per_second = total(|disk| disk.bytes_per_second);
        let bytes_done = total(|disk| disk.bytes_done);
        let bytes_total: Option<u64> = disks.clone().map(|disk| disk.bytes_total).sum();
        let left = bytes_total.map(|total| total.saturating_sub(bytes_done));
        DiskStatus {
            host: texts(|disk| Some(&disk.host)),
            transport: texts(|disk| Some(&disk.transport)),
            read_only: disks.clone().all(|disk| disk.read_only),
            disk_size: total(|disk| disk.disk_size),
            file_size: total(|disk| disk.file_size),
            connections: disks.clone().map(|disk| disk.connections).sum(),
            writers: disks.clone().map(|disk| disk.writers).sum(),
            replaced: total(|disk| disk.replaced),
            seconds: disks.clone().map(|disk| disk.seconds).max().unwrap_or_default(),
            bytes_read: total(|disk| disk.bytes_read),
            bytes_written: total(|disk| disk.bytes_written),
            bytes_zeroed: total(|disk| disk.bytes_zeroed),
            bytes_unflushed: total(|disk| disk.bytes_unflushed),
            bytes_done,
            bytes_total,
            bytes_per_second,
            seconds_left: left
                .filter(|_| bytes_per_second > 0)
                .map(|left| left.div_ceil(bytes_per_second)),
            unanswered_seconds: disks.clone().filter_map(|disk| disk.unanswered_seconds).max(),
            flushes: total(|disk| disk.flushes),
            durable_writes: total(|disk| disk.durable_writes),
            errors: total(|disk| disk.errors),
            failure: Some(failures).filter(|text| !text.is_empty()),
            refused: Some(refusals).filter(|text| !text.is_empty()),
            disk_id: None,
            disk_name: None,
            transfer: None,
            transfer_phase: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_added_and_texts_told_once() {
        let disk = |host: &str, bytes: u64, total: Option<u64>| DiskStatus {
            host: host.to_owned(),
            bytes_read: bytes,
            bytes_done: bytes,
            bytes_total: total,
            bytes_per_second: 10,
            seconds: bytes,
            disk_id: Some("d".to_owned()),
            read_only: true,
            ..DiskStatus::default()
        };
        let mut disks = [
            disk("a", 50, Some(100)),
            disk("b", 70, Some(100)),
            disk("a", 0, Some(40)),
        ];
        let sum = DiskStatus::sum(disks.iter());
        assert_eq!(
            (sum.host.as_str(), sum.bytes_read, sum.seconds),
            ("a, b", 120, 70)
        );
        assert_eq!((sum.bytes_total, sum.seconds_left), (Some(240), Some(4)));
        assert_eq!((sum.read_only, sum.disk_id, sum.failure), (true, None, None));
        disks[1].failure = Some("lost".to_owned());
        disks[2].bytes_total = None;
        disks[2].read_only = false;
        let sum = DiskStatus::sum(disks.iter());
        assert_eq!(sum.failure.as_deref(), Some("lost"));
        assert_eq!(
            (sum.bytes_total, sum.seconds_left, sum.read_only),
            (None, None, false)
        );
    }
}
