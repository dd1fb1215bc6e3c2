use proptest::prelude::*;

use super::*;
use crate::disk::write::payload::share_block;
use crate::disk::zeros::pace::MAX_BYTES;

const CELL: u64 = 4 << 20;
const SIZE: usize = 3 * CELL as usize;
const MEMORY: usize = 64 << 20;

/// Applies a flight to the server's image, as a writer thread does.
fn perform(server: &mut [u8], flight: &Flight) {
    let at = flight.start as usize;
    match &*flight.payload {
        Payload::Data(bytes) => server[at..at + bytes.len()].copy_from_slice(bytes),
        Payload::Zero(len) => server[at..at + *len as usize].fill(0),
    }
}

/// Picks the flights of one request of at most two cells.
fn go(table: &mut Table) -> Option<Vec<Flight>> {
    match table.pick(Instant::now(), true, 2 * CELL) {
        Pick::Go(run) => Some(run),
        Pick::Wait(_) | Pick::Blocked(_) => None,
    }
}

fn reach(run: &[Flight]) -> Range<u64> {
    run[0].start..run[run.len() - 1].end()
}

fn land(table: &mut Table, server: &mut [u8], run: Vec<Flight>) {
    for flight in run {
        perform(server, &flight);
        table.landed(flight, None, None);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Start,
    Land(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // The positions are near the borders of cells and few blocks, so that most writes overlap.
    let offset = prop_oneof![
        0..40_000u64,
        (CELL - 20_000..CELL + 20_000),
        (2 * CELL - 5000..2 * CELL + 5000)
    ];
    let len = prop_oneof![1..300usize, 1..20_000usize, 4000..4200usize];
    let step = prop_oneof![
        4 => (offset.clone(), len.clone(), 1..=255u8).prop_map(|(o, l, b)| Step::Write(o, l, b)),
        2 => (offset, len).prop_map(|(o, l)| Step::Zero(o, l as u64)),
        3 => Just(Step::Start),
        2 => (0..4usize).prop_map(Step::Land),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn reads_see_the_last_write_and_the_server_ends_equal(steps in steps()) {
        let mut table = Table::new(CELL, 1, MEMORY);
        let mut model = vec![0u8; SIZE];
        let mut server = vec![0u8; SIZE];
        let mut flying: Vec<Vec<Flight>> = Vec::new();
        for step in steps {
            match step {
                Step::Write(offset, len, byte) => {
                    let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
                    table.write(offset, &data);
                    model[offset as usize..offset as usize + len].copy_from_slice(&data);
                }
                Step::Zero(offset, len) => {
                    table.zero(offset..offset + len);
                    model[offset as usize..(offset + len) as usize].fill(0);
                }
                Step::Start => {
                    if let Some(run) = go(&mut table) {
                        let range = reach(&run);
                        prop_assert!(run.len() == 1 || range.end - range.start <= 2 * CELL);
                        prop_assert!(run.is_sorted_by(|a, b| a.end() == b.start));
                        for other in &flying {
                            prop_assert!(!share_block(&range, &reach(other)));
                        }
                        flying.push(run);
                    }
                }
                // Flights land in any order; their bytes reach the server at some time before.
                Step::Land(n) if !flying.is_empty() => {
                    land(&mut table, &mut server, flying.swap_remove(n % flying.len()));
                }
                Step::Land(_) => {}
            }
            let mut seen = server.clone();
            let gaps = table.overlay(0, &mut seen);
            prop_assert!(seen == model, "a read differs from the last write");
            for gap in gaps {
                prop_assert!(!table.touches(&gap));
            }
        }
        for run in flying.drain(..) {
            land(&mut table, &mut server, run);
        }
        while let Some(run) = go(&mut table) {
            land(&mut table, &mut server, run);
        }
        prop_assert!(server == model, "the server's image differs");
        prop_assert_eq!(table.cost(), 0);
        prop_assert_eq!(table.oldest(), None);
    }
}

#[test]
fn a_stream_of_small_writes_becomes_whole_aligned_cells() {
    let mut table = Table::new(CELL, 1, MEMORY);
    let step = 100_001;
    let mut offset = 0;
    while offset < 2 * CELL {
        table.write(offset, &vec![1; step]);
        offset += step as u64;
    }
    let first = match table.pick(Instant::now(), false, CELL) {
        Pick::Go(run) => run,
        Pick::Wait(_) | Pick::Blocked(_) => panic!("a full cell goes out at once"),
    };
    assert_eq!(reach(&first), 0..CELL);
    assert!(
        matches!(table.pick(Instant::now(), false, CELL), Pick::Go(run) if reach(&run) == (CELL..2 * CELL))
    );
    assert!(
        matches!(table.pick(Instant::now(), false, CELL), Pick::Wait(Some(_))),
        "the tail waits for more"
    );
}

#[test]
fn the_backlog_of_a_stream_goes_out_in_large_requests() {
    let mut table = Table::new(CELL, 1, MEMORY);
    for n in 0..6 {
        table.write(n * CELL, &vec![1; CELL as usize]);
    }
    table.write(6 * CELL, &[1; 10]);
    let mut next = |most| match table.pick(Instant::now(), false, most) {
        Pick::Go(run) => Some(reach(&run)),
        Pick::Wait(_) | Pick::Blocked(_) => None,
    };
    assert_eq!(next(0), Some(0..CELL), "at least one");
    assert_eq!(next(3 * CELL), Some(CELL..4 * CELL));
    assert_eq!(
        next(9 * CELL),
        Some(4 * CELL..6 * CELL),
        "the tail waits for more"
    );
    assert_eq!(next(9 * CELL), None);
}

#[test]
fn the_oldest_number_stays_with_merged_and_carved_segments() {
    let mut table = Table::new(CELL, 1, MEMORY);
    table.write(100, &[1; 100]);
    let mark = table.last_seq();
    table.write(200, &[2; 100]);
    table.write(120, &[3; 10]);
    table.zero(140..150);
    assert_eq!(table.oldest(), Some(mark));
    table.hurry(mark);
    let run = match table.pick(Instant::now(), false, 100) {
        Pick::Go(run) => run,
        Pick::Wait(_) | Pick::Blocked(_) => panic!("a segment that a flush waits for goes out at once"),
    };
    run.into_iter()
        .for_each(|flight| table.landed(flight, None, None));
    assert_eq!(
        table.oldest(),
        Some(mark),
        "the carved right part is as old as the left one"
    );
}

#[test]
fn zeros_next_to_zeros_are_one_request() {
    let mut table = Table::new(CELL, 1, MEMORY);
    table.zero(0..CELL);
    table.zero(2 * CELL..8 * CELL);
    table.zero(CELL..2 * CELL);
    let run = go(&mut table).unwrap();
    assert_eq!(reach(&run), 0..8 * CELL);
    assert!(go(&mut table).is_none());
}

#[test]
fn bytes_of_random_writes_do_not_hold_whole_cells() {
    let mut table = Table::new(CELL, 1, MEMORY);
    for n in 0..100u64 {
        table.write(n * 2 * CELL, &vec![1; MIN_STREAM_WRITE_BYTES]);
    }
    let held: usize = table
        .queued
        .values()
        .map(|s| match &s.payload {
            Payload::Data(bytes) => bytes.capacity(),
            Payload::Zero(_) => 0,
        })
        .sum();
    assert!(
        held <= 2 * table.content + 2 * CELL as usize,
        "{held} for {}",
        table.content
    );
}

/// The writes were answered one by one; sending them again must not cost a request, or a look at all others,
/// for each.
#[test]
fn small_writes_that_are_lost_go_again_as_large_ones() {
    let mut table = Table::new(CELL, 1, MEMORY);
    let writes = 2 * CELL / 512;
    for n in 0..writes {
        table.write(n * 512, &[n as u8; 512]);
        for flight in go(&mut table).expect("it may go") {
            table.landed(flight, Some(0), None);
        }
    }
    table.lost(0);
    let again = go(&mut table).expect("it has to be written again");
    assert_eq!((again.len(), reach(&again)), (2, 0..2 * CELL));
    assert!(again[0].bytes()[512..1024] == [1; 512]);
}

#[test]
fn zeros_of_a_whole_large_disk_go_in_pieces() {
    let mut table = Table::new(CELL, 1, MEMORY);
    table.zero(0..1 << 40);
    let mut end = 0;
    while let Some(run) = go(&mut table) {
        assert_eq!((run.len(), run[0].start), (1, end));
        assert!(run[0].payload.len() <= MAX_BYTES);
        end = run[0].end();
        table.zeroed(run[0].payload.len(), Duration::ZERO);
        table.landed(run.into_iter().next().unwrap(), None, None);
    }
    assert_eq!(end, 1 << 40);
}

#[test]
fn a_slot_that_lost_its_connection_is_flushed_earlier_until_flushes_succeed() {
    let mut table = Table::new(CELL, 2, MEMORY);
    let carry = |table: &mut Table, writes: u64| {
        for n in 0..writes {
            table.write(n * CELL, &[1; 4096]);
            for flight in go(table).expect("it may go") {
                table.landed(flight, Some(0), None);
            }
        }
        table.unflushed(0)
    };
    let lost = carry(&mut table, 3);
    table.lost(0);
    assert_eq!((table.allowance(0), table.allowance(1)), (lost / 2, usize::MAX));
    while let Some(run) = go(&mut table) {
        run.into_iter()
            .for_each(|flight| table.landed(flight, Some(1), None));
    }
    let lost = carry(&mut table, 1);
    table.lost(0);
    assert!(
        table.allowance(0) < lost,
        "after one request the slot has to be flushed"
    );
    table.flushed(0);
    table.flushed(0);
    assert_eq!(table.allowance(0), lost / 2 * 4);
}

#[test]
fn buffers_that_a_flush_frees_serve_the_next_writes() {
    let mut table = Table::new(CELL, 2, MEMORY);
    let carry = |table: &mut Table, slot| {
        for n in 0..4 {
            table.write(n * CELL, &vec![1; CELL as usize]);
        }
        let mut places = Vec::new();
        while let Some(run) = go(table) {
            for flight in run {
                places.push(flight.bytes().as_ptr());
                table.landed(flight, Some(slot), None);
            }
        }
        places.sort();
        places
    };
    let first = carry(&mut table, 0);
    // Slot 1 replaces all of them, in buffers of its own, and the replaced buffers serve the next round.
    let second = carry(&mut table, 1);
    assert!(first.iter().all(|place| !second.contains(place)));
    assert_eq!(carry(&mut table, 0), first);
    table.flushed(1);
    table.flushed(0);
    let again = carry(&mut table, 0);
    assert!(
        again
            .iter()
            .all(|place| first.contains(place) || second.contains(place))
    );
}

#[test]
fn buffers_kept_for_the_next_writes_make_room_for_small_ones() {
    let mut table = Table::new(CELL, 1, MEMORY);
    for n in 0..MEMORY as u64 / CELL {
        table.write(n * CELL, &vec![1; CELL as usize]);
        for flight in go(&mut table).expect("a full cell may go") {
            table.landed(flight, Some(0), None);
        }
    }
    table.write(0, &[2; 512]);
    table.flushed(0);
    assert!(table.buffers.kept() > MEMORY - 2 * CELL as usize);
    for n in 0..4 * MEMORY as u64 / 65536 {
        table.write(n * 3 * CELL, &[1; 65536]);
        if table.cost() > MEMORY / 2 {
            for flight in go(&mut table).expect("somebody waits for room") {
                table.landed(flight, Some(0), None);
            }
        }
        let held = table.cost() + table.journal.total();
        assert!(held + table.buffers.kept() <= MEMORY.max(held));
    }
    assert_eq!(table.buffers.kept(), 0);
}
