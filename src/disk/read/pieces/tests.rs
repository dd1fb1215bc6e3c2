//! Pieces of a few bytes, in a cache of a few pieces.

use super::*;

const STREAM: u64 = 1;

/// Has every piece of the runs arrive.
fn arrive(pieces: &Pieces, begun: &Begun) {
    for piece in begun.runs.iter().flat_map(|run| pieces.cut(run.clone())) {
        let bytes = vec![piece.start as u8; (piece.end - piece.start) as usize];
        pieces.end(piece.start, Some(Arc::new(bytes)));
    }
}

fn begin(pieces: &Pieces, range: Range<u64>) -> Vec<Range<u64>> {
    let begun = pieces.begin(range, 40, STREAM, true, Some(&[STREAM]));
    arrive(pieces, &begun);
    begun.runs
}

fn total(runs: &[Range<u64>]) -> u64 {
    runs.iter().map(|run| run.end - run.start).sum()
}

fn is_kept(pieces: &Pieces, at: u64) -> bool {
    let state = pieces.lock();
    matches!(state.at(at), Some((_, piece)) if matches!(piece.content, Content::Kept(_)))
}

#[test]
fn a_write_drops_a_kept_piece_and_spoils_one_under_way() {
    let pieces = Pieces::new(80, 10);
    begin(&pieces, 3..13);
    assert!(matches!(pieces.find(5..6), Found::Kept(_, 3)));
    let begun = pieces.begin(0..30, 40, STREAM, true, Some(&[STREAM]));
    assert_eq!(begun.runs, [0..3, 13..30], "what is kept is not fetched again");
    assert_eq!(
        pieces.begin(0..30, 40, STREAM, true, Some(&[])).runs,
        [],
        "one fetch at a time"
    );
    let Found::Coming(fetch, piece) = pieces.find(14..20) else {
        panic!("it was announced")
    };
    assert_eq!(piece, 13..23);
    pieces.taint(&(12..14));
    assert!(matches!(pieces.find(5..6), Found::Missing(6)));
    assert!(
        matches!(pieces.find(14..40), Found::Missing(23)),
        "a reader after the write doesn't share it"
    );
    arrive(&pieces, &begun);
    let bytes = fetch.wait().unwrap();
    assert_eq!(bytes[0], 13, "a reader before the write may have the bytes");
    assert!(!is_kept(&pieces, 14), "and they are not kept");
    assert!(is_kept(&pieces, 23) && is_kept(&pieces, 0));
}

#[test]
fn pieces_that_were_read_make_room_in_their_order_and_no_others_do() {
    let pieces = Pieces::new(40, 10);
    begin(&pieces, 0..40);
    let full = pieces.begin(40..50, 40, STREAM, true, Some(&[STREAM]));
    assert!(full.runs.is_empty() && !full.all);
    for range in [10..20, 0..9, 20..30] {
        assert!(matches!(pieces.find(range), Found::Kept(..)));
    }
    assert_eq!(begin(&pieces, 40..50), [Range { start: 40, end: 50 }]);
    let kept: Vec<u64> = (0..5).filter(|n| is_kept(&pieces, n * 10)).collect();
    assert_eq!(
        kept,
        [0, 2, 3, 4],
        "the one that was read first is gone; of the first one a byte is unread"
    );
    let begun = pieces.begin(50..80, 40, STREAM, true, Some(&[STREAM]));
    assert_eq!((begun.runs.len(), begun.all), (1, false), "there is room for one");
}

#[test]
fn what_is_passed_or_of_an_idle_stream_makes_room() {
    let pieces = Pieces::new(40, 10);
    begin(&pieces, 0..40);
    pieces.pass(&(5..20), 2);
    pieces.pass(&(5..25), STREAM);
    let begun = pieces.begin(100..140, 40, 2, true, Some(&[STREAM, 2]));
    assert_eq!((total(&begun.runs), begun.all), (10, false));
    arrive(&pieces, &begun);
    let begun = pieces.begin(110..140, 40, 2, true, Some(&[2]));
    assert_eq!((total(&begun.runs), begun.all), (30, true));
    assert!(!is_kept(&pieces, 20) && is_kept(&pieces, 100));
}

#[test]
fn zeros_that_are_read_in_place_of_a_short_hole_count_and_a_prefetch_waits_for_room_for_all_of_it() {
    let pieces = Pieces::new(40, 10);
    begin(&pieces, 0..40);
    for n in 0..2 {
        assert!(matches!(pieces.find(n * 10..n * 10 + 7), Found::Kept(..)));
    }
    pieces.read_zeros(&(7..10));
    let begun = pieces.begin(40..60, 20, STREAM, false, Some(&[STREAM]));
    assert!(
        begun.runs.is_empty() && !begun.all,
        "ten bytes fit, twenty do not"
    );
    pieces.read_zeros(&(17..20));
    let begun = pieces.begin(40..60, 20, STREAM, false, Some(&[STREAM]));
    assert_eq!((total(&begun.runs), begun.all), (20, true));
}

#[test]
fn a_read_that_waits_takes_nothing_from_a_stream() {
    let pieces = Pieces::new(40, 10);
    begin(&pieces, 0..40);
    let begun = pieces.begin(100..110, 10, NO_STREAM, true, None);
    assert!(begun.runs.is_empty() && !begun.all);
    assert!((0..4).all(|n| is_kept(&pieces, n * 10)));
}

#[test]
fn what_another_stream_wants_too_stays_for_it() {
    let pieces = Pieces::new(40, 10);
    begin(&pieces, 0..40);
    assert!(matches!(pieces.find(0..10), Found::Kept(..)));
    assert_eq!(
        pieces.begin(0..30, 40, 2, true, Some(&[2])).runs,
        [],
        "it is there"
    );
    let begun = pieces.begin(100..140, 40, 2, true, Some(&[2]));
    assert_eq!((total(&begun.runs), begun.all), (10, false));
    assert!(is_kept(&pieces, 0) && is_kept(&pieces, 29) && !is_kept(&pieces, 30));
}

#[test]
fn a_run_is_one_request_and_a_failed_piece_leaves_its_place() {
    let pieces = Pieces::new(1000, 10);
    let begun = pieces.begin(5..130, 40, STREAM, true, Some(&[]));
    assert_eq!(begun.runs, [5..45, 45..85, 85..125, 125..130]);
    let Found::Coming(fetch, _) = pieces.find(5..6) else {
        panic!("it was announced")
    };
    pieces.end(5, None);
    assert!(fetch.wait().is_none());
    assert!(matches!(pieces.find(5..50), Found::Missing(15)));
    assert!(pieces.in_one(&(5..15)) && !pieces.in_one(&(5..16)) && pieces.in_one(&(15..25)));
}

/// Several fetches are announced before the first one begins. Fresh pages cost more than the bytes in them.
#[test]
fn what_makes_room_is_the_memory_of_what_comes() {
    const MOST: u64 = 10;
    let pieces = Pieces::new(160, MOST);
    begin(&pieces, 10..170);
    pieces.pass(&(10..170), STREAM);
    let announced: Vec<Range<u64>> = [200, 300, 400, 500]
        .iter()
        .flat_map(|&at| {
            pieces
                .begin(at..at + 2 * MOST, 40, STREAM, true, Some(&[STREAM]))
                .runs
        })
        .flat_map(|run| pieces.cut(run))
        .collect();
    assert_eq!(announced.len(), 8);
    for piece in &announced {
        let buffer = pieces.buffer(piece);
        assert!(buffer.len() == 10 && buffer[0] != 0, "it is fresh: {buffer:?}");
    }
}
