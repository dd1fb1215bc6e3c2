//! Reads, one after the other, and what is wanted for them.

use super::*;

const MIB: u64 = 1 << 20;

fn streams(max: u64) -> Streams {
    Streams::new(max, 8 * MIB, MIB, 4)
}

fn plain(range: Range<u64>, most: u64) -> Option<u64> {
    let bytes = range.end - range.start;
    (bytes <= most).then_some(bytes)
}

/// Notes a read, and announces all that is wanted; returns that.
fn note(
    streams: &mut Streams,
    read: Range<u64>,
    data: impl Fn(Range<u64>, u64) -> Option<u64>,
) -> Option<Range<u64>> {
    let ahead = streams.note(&read, Instant::now(), data)?;
    let end = ahead.until.min(ahead.from + ahead.want).max(ahead.from);
    streams.announced(ahead.stream, end, end - ahead.from);
    Some(ahead.from..end)
}

#[test]
fn a_sequential_reader_gets_a_growing_window_and_a_random_one_none() {
    let mut streams = streams(MIB);
    let step = 16 << 10;
    assert_eq!(note(&mut streams, 0..step, plain), None);
    let mut end = 2 * step;
    for (n, window) in [(1, 4 * step), (2, 16 * step), (3, MIB), (4, MIB)] {
        let read = n * step..(n + 1) * step;
        let wanted = note(&mut streams, read.clone(), plain).unwrap();
        assert_eq!(wanted.start, end, "read {n}");
        let full = read.end + window;
        assert!(
            wanted.end == full || n == 4 && wanted.is_empty(),
            "read {n}: {wanted:?}"
        );
        end = end.max(wanted.end);
    }
    for n in 1..20u64 {
        let at = (n * 7919) << 20;
        assert_eq!(note(&mut streams, at..at + 4096, plain), None);
    }
}

#[test]
fn a_first_read_of_many_bytes_where_the_data_begins_is_a_copy() {
    let long = 128 << 10;
    let holes = |range: Range<u64>, most| plain(range.start.max(4 * MIB)..range.end.max(4 * MIB), most);
    let first = |read, data: fn(Range<u64>, u64) -> Option<u64>| note(&mut streams(48 * MIB), read, data);
    assert_eq!(first(0..long, plain), Some(long..long + 8 * MIB));
    assert_eq!(first(0..long - 4096, plain), None);
    assert_eq!(first(long..2 * long, plain), None, "not where the data begins");
    let start = 4 * MIB;
    assert_eq!(
        first(start..start + long, holes),
        Some(start + long..start + long + 8 * MIB)
    );
    let mut later = streams(48 * MIB);
    assert_eq!(note(&mut later, 32 * MIB..32 * MIB + 4096, plain), None);
    assert_eq!(note(&mut later, 0..long, plain), None, "not the first");
    let mut on = streams(48 * MIB);
    let ends = (0..3).map(|n| note(&mut on, n * long..(n + 1) * long, plain).unwrap().end);
    let windows = [long + 8 * MIB, 2 * long + 8 * MIB, 3 * long + 32 * MIB];
    let ends: Vec<u64> = ends.collect();
    assert!(
        ends[0] == windows[0] && ends[1] <= windows[1] && ends[2] == windows[2],
        "{ends:?}"
    );
}

#[test]
fn a_full_window_is_refilled_by_full_requests_and_never_exceeded() {
    let mut streams = streams(48 * MIB);
    let (mut announced, mut refills) = (0, Vec::new());
    for n in 0..30_000u64 {
        let read = n * 4096..(n + 1) * 4096;
        if let Some(wanted) = note(&mut streams, read.clone(), plain) {
            if !wanted.is_empty() {
                assert!(announced == 0 || wanted.start == announced.max(read.end));
                announced = wanted.end;
                refills.push(wanted.end - wanted.start);
            }
            assert!(announced - read.end <= 48 * MIB);
            assert!(n < 100 || announced - read.end >= 40 * MIB - 4096);
        }
    }
    let large = refills.iter().filter(|&&bytes| bytes >= 8 * MIB).count();
    assert!(refills.len() - large < 12, "{refills:?}");
}

#[test]
fn two_interleaved_readers_are_both_followed_and_share_the_window() {
    let mut streams = streams(48 * MIB);
    let far = 1 << 40;
    for n in 0..50u64 {
        for from in [0, far] {
            let at = from + n * MIB;
            let wanted = note(&mut streams, at..at + MIB, plain);
            assert_eq!(wanted.is_some(), n > 0 || from == 0);
            let most = at + MIB + if n > 1 { 24 * MIB } else { 48 * MIB };
            assert!(wanted.is_none_or(|wanted| wanted.is_empty() || wanted.end <= most));
        }
    }
    assert_eq!(streams.active(Instant::now()).len(), 2);
}

#[test]
fn a_jump_over_a_hole_continues_the_stream() {
    let (from, to) = (8 << 20, 1 << 30);
    let data = |range: Range<u64>, most: u64| {
        let before = range.end.min(from).saturating_sub(range.start);
        let behind = range.end.saturating_sub(range.start.max(to));
        (before + behind <= most).then_some(before + behind)
    };
    let mut streams = streams(48 * MIB);
    // The reads that are left before the hole come after the first read behind it.
    for n in 0..6u64 {
        streams.note(&(n << 20..(n + 1) << 20), Instant::now(), data);
    }
    let first = streams.note(&(to..to + MIB), Instant::now(), data).unwrap();
    for n in 6..8u64 {
        let late = streams
            .note(&(n << 20..(n + 1) << 20), Instant::now(), data)
            .unwrap();
        assert_eq!(
            (late.stream, late.from, late.promised),
            (first.stream, first.from, false)
        );
        assert_eq!(
            late.want,
            first.want + (n - 5) * MIB,
            "what was jumped over is read"
        );
    }
    assert_eq!(
        streams.note(&(1 << 35..(1 << 35) + 4096), Instant::now(), data),
        None
    );
}

#[test]
fn small_pieces_of_data_between_holes_are_a_stream() {
    // Every second block of 4 KiB is a hole.
    let data = |range: Range<u64>, most: u64| {
        let blocks = range.start / 4096..range.end.div_ceil(4096);
        let bytes = blocks.filter(|n| n % 2 == 0).count() as u64 * 4096;
        (bytes <= most).then_some(bytes)
    };
    let mut streams = streams(48 * MIB);
    let missed = (0..1000u64).filter(|n| {
        let at = n * 8192;
        note(&mut streams, at..at + 4096, data).is_none()
    });
    assert_eq!(missed.count(), 1);
}

#[test]
fn eight_large_reads_at_once_are_one_stream() {
    let mut streams = streams(48 * MIB);
    let read = |n: u64| (2 * n) << 20..(2 * n + 1) << 20;
    for n in [0, 1, 2, 4, 3, 5, 7, 6] {
        assert!(note(&mut streams, read(n), plain).is_some(), "read {n}");
    }
    assert_eq!(streams.streams.len(), 1);
    let skipped: u64 = streams.streams[0].skipped.iter().map(|s| s.data).sum();
    assert_eq!(skipped, 7 * MIB);
    for n in 0..7u64 {
        let late = (2 * n + 1) << 20..(2 * n + 2) << 20;
        assert!(note(&mut streams, late, plain).is_some());
    }
    assert_eq!(streams.streams[0].skipped.len(), 0);
}

#[test]
fn a_late_read_belongs_to_its_stream_and_random_ones_take_nothing_from_it() {
    let mut streams = streams(48 * MIB);
    let mib = |n: u64| n << 20..(n + 1) << 20;
    for n in (0..20).chain([21, 22]) {
        note(&mut streams, mib(n), plain);
    }
    assert!(note(&mut streams, mib(20), plain).is_some());
    let mut announced = 0;
    for n in 0..40 {
        assert_eq!(note(&mut streams, mib((n + 1) * 7919), plain), None);
        let wanted = note(&mut streams, mib(23 + n), plain).unwrap();
        announced = announced.max(wanted.end);
        assert!(announced >= (24 + n + 40) * MIB, "{n}: {announced}");
    }
}

#[test]
fn what_others_have_read_is_not_fetched_ahead_of_late_reads_nor_of_the_one_before() {
    let mut streams = streams(48 * MIB);
    let mib = |n: u64| n << 20..(n + 1) << 20;
    for n in 1000..1100 {
        note(&mut streams, mib(n), plain);
    }
    for n in 980..1000 {
        let wanted = note(&mut streams, mib(n), plain);
        assert!(
            wanted.is_none_or(|wanted| wanted.is_empty() || wanted.end <= 1000 * MIB),
            "{n}"
        );
        let ahead = streams.note(&mib(n), Instant::now(), plain);
        assert!(
            n == 980 || ahead.is_some_and(|ahead| ahead.until == 1000 * MIB),
            "{n}"
        );
    }
    // The first pass is far ahead, so a second one is told from late reads only by its length.
    for n in 1000..1020 {
        let ahead = streams.note(&mib(n), Instant::now(), plain).unwrap();
        assert_eq!(ahead.until, u64::MAX, "{n}");
    }
    let mut streams = self::streams(48 * MIB);
    for n in 0..100 {
        note(&mut streams, mib(n), plain);
    }
    let firsts = (0..40).filter(|n| {
        let wanted = note(&mut streams, mib(10 + n), plain);
        wanted.is_none_or(|wanted| wanted.is_empty())
    });
    let firsts: Vec<u64> = firsts.collect();
    assert!(firsts.contains(&14) && !firsts.contains(&15), "{firsts:?}");
}

#[test]
fn a_stream_just_behind_another_one_becomes_its_late_reads() {
    let mut streams = streams(48 * MIB);
    let mib = |n: u64| n << 20..(n + 1) << 20;
    for n in [0, 1, 2, 30, 31] {
        streams.note(&mib(n), Instant::now(), plain);
    }
    assert_eq!(streams.streams.len(), 2, "the jump was too long");
    streams.note(&mib(3), Instant::now(), plain);
    let mut merged = Vec::new();
    for n in [4, 5, 6, 32] {
        let ahead = streams.note(&mib(n), Instant::now(), plain);
        merged.extend(ahead.map(|ahead| ahead.merged).unwrap_or_default());
    }
    assert!(merged.is_empty(), "they are 25 MiB apart");
    for n in (7..=20).chain([33]) {
        let ahead = streams.note(&mib(n), Instant::now(), plain).unwrap();
        merged.extend(ahead.merged);
    }
    assert_eq!((merged.len(), streams.streams.len()), (1, 1));
    let skipped: Vec<_> = streams.streams[0]
        .skipped
        .iter()
        .map(|s| s.range.clone())
        .collect();
    assert_eq!(skipped, std::slice::from_ref(&(21 * MIB..30 * MIB)));
}

#[test]
fn what_was_jumped_over_for_good_is_passed_and_what_is_gone_is_announced_again() {
    let mut streams = streams(48 * MIB);
    let mib = |n: u64| n << 20..(n + 1) << 20;
    let mut passed = 0;
    for n in (0..60).filter(|n| *n != 10) {
        if let Some(ahead) = streams.note(&mib(n), Instant::now(), plain) {
            assert!(ahead.passed.is_empty() || ahead.passed.start == passed);
            passed = passed.max(ahead.passed.end);
            assert!(passed + 40 * MIB <= (n + 1) * MIB || passed == 0, "{n}: {passed}");
            streams.announced(ahead.stream, ahead.from + ahead.want, ahead.want);
        }
    }
    assert!(passed >= 11 * MIB && streams.streams[0].skipped.is_empty());
    let ahead = streams.note(&mib(60), Instant::now(), plain).unwrap();
    assert!(ahead.promised);
    streams.missed(ahead.stream);
    let again = streams.note(&mib(61), Instant::now(), plain).unwrap();
    assert_eq!((again.from, again.want), (62 * MIB, 48 * MIB));
}

#[test]
fn reading_half_of_it_or_a_little_again_is_a_stream() {
    for (len, step) in [(128u64, 256u64), (128, 124)] {
        let mut streams = streams(48 * MIB);
        let starts = [0, len].into_iter().chain((1..2000).map(|n| len + n * step));
        let missed = starts.filter(|at| note(&mut streams, at << 10..(at + len) << 10, plain).is_none());
        assert_eq!(missed.count(), 0, "{len} KiB every {step}");
    }
}

#[test]
fn random_reads_near_a_stream_do_not_become_one() {
    let mut streams = streams(48 * MIB);
    let step = 64 << 10;
    // Two blocks that follow each other by chance, then anything within 256 MiB.
    note(&mut streams, 0..step, plain);
    note(&mut streams, step..2 * step, plain);
    let mut taken = 0;
    for n in 1..2000u64 {
        let at = (n * 2_654_435_761) % 4096 * step;
        taken += u64::from(note(&mut streams, at..at + step, plain).is_some());
    }
    assert!(taken < 200, "{taken} of 2000");
}
