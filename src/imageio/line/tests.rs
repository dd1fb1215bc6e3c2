//! One line over a socket pair: bodies that pass ureq by, and what becomes of the line.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::super::socket::IO_TIMEOUT;
use super::*;

/// A line, its permit, and the server's end of its stream.
fn line() -> (SharedLine, Arc<Permit>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let permit = Permit::once(IO_TIMEOUT, Arc::default(), Arc::default());
    permit.expect(100);
    let line = Line::new(Stream::Plain(Socket::Unix(ours)), permit.clone());
    (line, permit, theirs)
}

fn buffers(early: &[u8]) -> LazyBuffers {
    let mut buffers = LazyBuffers::new(64, 64);
    buffers.input_append_buf()[..early.len()].copy_from_slice(early);
    buffers.input_appended(early.len());
    buffers
}

/// Wherever the bytes that came with the head end, every part gets its own bytes.
#[test]
fn a_body_begins_with_what_came_with_its_head() {
    let body = b"0123456789";
    for early in 0..=body.len() {
        let (line, _, mut server) = line();
        let mut line = line.lock();
        line.leave(buffers(&body[..early]));
        server.write_all(&body[early..]).unwrap();
        let (mut a, mut b, mut c) = ([0; 3], [0; 1], [0; 6]);
        line.read_body(&mut [&mut a, &mut [], &mut b, &mut c]).unwrap();
        assert_eq!([&a[..], &b, &c].concat(), body, "{early}");
        assert!(line.is_open() && line.take_left().is_some(), "{early}");
    }
}

#[test]
fn a_body_that_ends_early_is_an_error_and_the_line_ends_too() {
    let (line, _, mut server) = line();
    let mut line = line.lock();
    line.leave(buffers(b"01"));
    server.write_all(b"23").unwrap();
    drop(server);
    let error = line.read_body(&mut [&mut [0; 5]]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(!line.is_open());
}

/// They would be taken for the beginning of the next answer.
#[test]
fn a_line_with_bytes_behind_a_body_carries_no_further_request() {
    for (early, late) in [(&b"0123"[..], &b""[..]), (b"01", b"23")] {
        let (line, _, mut server) = line();
        let mut line = line.lock();
        line.leave(buffers(early));
        server.write_all(late).unwrap();
        let mut part = [0; 3];
        line.read_body(&mut [&mut part]).unwrap();
        assert_eq!(&part, b"012");
        assert!(!line.is_open(), "{early:?}");
    }
}

#[test]
fn a_line_that_a_transport_still_uses_gives_no_body_away() {
    let (line, _, mut server) = line();
    server.write_all(b"012").unwrap();
    assert!(line.lock().read_body(&mut [&mut [0; 3]]).is_err());
}

#[test]
fn a_kept_line_is_given_to_one_request() {
    let (line, permit, _server) = line();
    permit.live.store(true, Ordering::Relaxed);
    let lines = Lines::default();
    assert!(lines.take_kept().is_none());
    lines.keep(line.clone());
    let kept = lines.take_kept().expect("it was kept");
    assert!(Arc::ptr_eq(&kept, &line));
    assert!(lines.take_kept().is_none() && !permit.is_over());
}

/// The pool replaces a connection that is over before it sends a request there.
#[test]
fn a_line_that_has_ended_is_not_kept_and_its_connection_is_over() {
    for ends_while_kept in [false, true] {
        let (line, permit, server) = line();
        permit.live.store(true, Ordering::Relaxed);
        let lines = Lines::default();
        let server = ends_while_kept.then_some(server);
        lines.keep(line);
        assert_eq!(permit.is_over(), !ends_while_kept);
        drop(server);
        assert!(lines.take_kept().is_none() && permit.is_over());
    }
}

/// A body that passes ureq by is bounded in bytes like any other.
#[test]
fn a_body_larger_than_the_permit_allows_is_an_error() {
    const TOO_LONG: usize = 1 << 20;
    let (line, _, mut server) = line();
    let sender = std::thread::spawn(move || server.write_all(&[1; TOO_LONG]));
    line.lock().leave(buffers(b""));
    let error = line.lock().read_body(&mut [&mut vec![0; TOO_LONG]]).unwrap_err();
    assert!(
        error.to_string().contains("bytes in answer to one request"),
        "{error}"
    );
    // The sender ends with its last byte, or when nobody is left to receive that.
    drop(line);
    let _ = sender.join().unwrap();
}

/// The server may have answered and closed, and its answer is worth more than the failure.
#[test]
fn what_is_sent_ahead_counts_even_when_the_server_takes_no_more() {
    let (line, permit, mut server) = line();
    let mut line = line.lock();
    line.send_ahead(b"01234").unwrap();
    line.send_ahead(b"56").unwrap();
    assert_eq!((line.take_ahead(), line.take_ahead()), (7, 0));
    server.write_all(b"no").unwrap();
    drop(server);
    line.send_ahead(b"789").unwrap();
    assert_eq!(line.take_ahead(), 3);
    assert!(permit.is_cut());
    let mut answer = [0; 8];
    assert_eq!(line.receive(&mut answer).unwrap(), 2);
    assert_eq!(
        line.receive(&mut answer).unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
}
