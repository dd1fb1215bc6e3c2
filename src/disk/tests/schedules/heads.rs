//! Two threads write the two halves of a header that the engine would take for an image.

use super::*;

/// One of the halves must be refused, whichever comes first, and the storage never holds both.
#[test]
fn of_two_halves_of_a_head_one_is_refused() {
    explore("heads", 4_000, || {
        let server = server_filled_with(9);
        let disk = Arc::new(open(&server, 64 << 10, false));
        let halves: [(u64, &[u8]); 2] = [(0, b"QFI\xfb"), (4, &[0, 0, 0, 3])];
        let writers = halves.map(|(offset, half)| {
            let disk = disk.clone();
            thread::spawn(move || disk.write(offset, half).is_ok())
        });
        let accepted = writers.map(|writer| writer.join().unwrap());
        assert_ne!(accepted[0], accepted[1], "one half, and not the other");
        disk.flush().unwrap();
        let head = server.state().durable[..HEAD_BYTES].try_into().unwrap();
        assert_eq!(detect(head), None);
        disk.close().unwrap();
    });
}
