//! Two threads write the two halves of a header that the engine would take for an image.

use std::sync::atomic::AtomicBool;

use super::*;

/// One of the halves must be refused, whichever comes first, and the storage never holds both.
#[test]
fn of_two_halves_of_a_head_one_is_refused() {
    explore("heads", 4_000, || {
        let server = server_filled_with(9);
        let disk = open(&server, 64 << 10, false);
        let halves: [(u64, &[u8]); 2] = [(0, b"QFI\xfb"), (4, &[0, 0, 0, 3])];
        let accepted = [const { AtomicBool::new(false) }; 2];
        thread::scope(|scope| {
            let disk = &disk;
            for ((offset, half), accepted) in halves.into_iter().zip(&accepted) {
                scope.spawn(move || accepted.store(disk.write(offset, half).is_ok(), Ordering::SeqCst));
            }
        });
        let accepted = accepted.map(|accepted| accepted.into_inner());
        assert_ne!(accepted[0], accepted[1], "one half, and not the other");
        disk.flush().unwrap();
        assert_eq!(
            detect(server.state().durable[..HEAD_BYTES].try_into().unwrap()),
            None
        );
        disk.close().unwrap();
    });
}
