//! Fuzz targets for imageio's answers and for the transfer URL; see `crate::fuzzing`.

use std::sync::Arc;

use serde_json::Value;
use ureq::Agent;

use super::answers::{Capabilities, ExtentBody, MAX_EXTENT_TEXT_BYTES, each_extent, read_extents};
use super::permit::Permit;
use super::script::Script;
use super::socket::{IO_TIMEOUT, Route};
use super::transport::{NoResolver, OneShot};
use super::{Client, TransferUrl};
use crate::failure::Failure;
use crate::fuzzing::{Pieces, assert_presentable, first_line, number_of};
use crate::remote::{Extent, HashAnswer, HashRequest, Remote};
use crate::secret::forget_all;

const TICKET: &str = "bc922a10-62e5-4709-a1b2-0123456789ab";

/// Parses an OPTIONS answer: the Allow header (`-` for none) is the input's first line, the body is the rest.
/// A parsed answer must agree with its JSON.
pub fn options_answer(data: &[u8]) {
    let (allow, body) = first_line(data);
    let allow = std::str::from_utf8(allow).ok().filter(|allow| *allow != "-");
    let Ok(got) = Capabilities::parse(body, allow) else {
        return;
    };
    // serde also accepts an array of the fields, and skips invalid values of unknown keys.
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(said) = json.as_object() else { return };
    let features = said["features"].as_array().expect("it was understood");
    let offers = |name: &str| features.iter().any(|f| f == name);
    assert!(got.options);
    assert_eq!(
        (got.zero, got.flush, got.extents, got.checksum),
        (
            offers("zero"),
            offers("flush"),
            offers("extents"),
            offers("checksum")
        )
    );
    let socket = said.get("unix_socket").and_then(Value::as_str);
    assert_eq!(got.unix_socket.as_deref(), socket.filter(|s| !s.is_empty()));
    let readers = said.get("max_readers").and_then(Value::as_u64);
    assert_eq!(got.max_readers, readers.map(|n| n as usize));
    match allow {
        Some(allow) => assert!(!got.write || allow.to_ascii_uppercase().contains("PUT")),
        None => assert_eq!(got.write, got.zero || got.flush || features.is_empty()),
    }
}

/// Parses the body of an extents answer. The extents must not be empty, zeros must begin behind all that came
/// before, and the data must be that of the JSON; the parser must give up after a bounded number of bytes
/// without a complete extent.
pub fn extents_answer(data: &[u8]) {
    assert_bounded(data);
    let (mut next, mut seen) = (0, Vec::new());
    let done = read_extents(Pieces::new(data), &mut |Extent { start, length, zero }| {
        assert!(seen.is_empty() <= (start == 0), "it does not begin at 0");
        assert!(!zero || start >= next, "zeros over something else");
        assert!(length > 0);
        next = start.checked_add(length).expect("it ends before 2^64").max(next);
        seen.push((start, length, zero));
    });
    if done.is_err() || !Pieces::is_plain(data) {
        return;
    }
    // This parser also rejects invalid values that ours skips.
    let Ok(json) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let of = |e: &Value| Some((e["start"].as_u64()?, e["length"].as_u64()?, e["zero"].as_bool()?));
    let said = json.as_array().expect("it was understood");
    if !said.iter().all(Value::is_object) {
        return;
    }
    let said = said.iter().map(of).collect::<Option<Vec<_>>>();
    let said = said.expect("it was understood");
    // A byte that is passed on as zero was never said to be data.
    let data_said = |at: u64| {
        said.iter()
            .any(|&(start, length, zero)| !zero && (start..start + length).contains(&at))
    };
    for &(start, length, _) in seen.iter().filter(|(_, _, zero)| *zero).take(64) {
        for at in [start, start + length - 1] {
            let taken_back = |&(s, l, zero): &(u64, u64, bool)| !zero && (s..s + l).contains(&at);
            assert!(!data_said(at) || seen.iter().any(taken_back), "{at} is data");
        }
    }
}

/// Checks that the parser takes a bounded number of bytes for each extent of the answer, and as many at its
/// end. The extents are counted as they stand in the answer: zeros that others cover are not passed on.
fn assert_bounded(data: &[u8]) {
    /// Size of the parser's read buffer.
    const READ_AHEAD_BYTES: usize = 8 << 10;
    let pieces = Pieces::new(data);
    let taken = pieces.taken();
    let mut seen_at = 0;
    let mut bounded = || {
        let waits = taken.get() - std::mem::replace(&mut seen_at, taken.get());
        assert!(
            waits <= MAX_EXTENT_TEXT_BYTES + READ_AHEAD_BYTES,
            "{waits} bytes without an extent"
        );
    };
    let range = |body: &ExtentBody| (body.start, body.length);
    // A body that cannot be parsed is given up within the same bound.
    let _ = each_extent(pieces, range, &mut |_, _| bounded());
    bounded();
}

/// Parses a transfer URL from a user. An accepted one must have a host and one ticket, must survive a second
/// parse unchanged, and must never be printed; a refused one must not be quoted.
pub fn transfer_url(data: &[u8]) {
    forget_all();
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let long =
        |ticket: &&str| ticket.len() >= 8 && ticket.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let given = text.trim().split_once("/images/");
    let given = given.map(|(_, ticket)| ticket.trim_end_matches('/')).filter(long);
    match TransferUrl::parse(text) {
        Ok(url) => {
            let address = format!("{}/images/{}", url.host(), url.ticket());
            assert_eq!(TransferUrl::parse(&address).expect("it was accepted"), url);
            assert!(!url.ticket().is_empty() && !url.ticket().contains(['/', '?', '#']));
            assert!(!url.host_name().is_empty() && !url.host().contains(['@', ' ']));
            if long(&url.ticket()) {
                assert!(!format!("{url:?}").contains(url.ticket()) || url.host().contains(url.ticket()));
                assert!(!crate::secret::clean(&address).contains(url.ticket()));
            }
        }
        Err(e) => assert_presentable(&e.into(), given.as_slice()),
    }
}

/// Sends the requests of the input's first line, one letter each, after an OPTIONS; the rest of the input is
/// everything that the server sends. Every request must end, a successful one must have got its own answer,
/// and no message may quote the ticket or control the terminal.
pub fn imageio_answers(data: &[u8]) {
    forget_all();
    let (requests, said) = first_line(data);
    let route = scripted_route(said, number_of(requests));
    let url =
        TransferUrl::parse(&format!("http://imageio.example:54322/images/{TICKET}")).expect("it is one");
    let refused = |e: Failure| assert_presentable(&e, &[TICKET]);
    let connector = OneShot::new(
        route,
        None,
        Permit::once(IO_TIMEOUT, Arc::default(), Arc::default()),
    );
    let mut client = match Client::open(&url, 0, url.host(), connector, None) {
        Ok(client) => client,
        Err(e) => return refused(e.into()),
    };
    let has = |needle: &str| {
        said.windows(needle.len())
            .any(|w| w.eq_ignore_ascii_case(needle.as_bytes()))
    };
    for request in requests.iter().take(16) {
        let done = match request {
            b's' => client
                .size()
                .map(|size| {
                    assert!(has(&size.to_string()), "the size {size} out of nothing");
                })
                .map_err(Into::into),
            b'r' => {
                let (mut a, mut b) = ([0; 3], [0; 2]);
                let read = client.read(16, &mut [&mut a, &mut b]);
                read.map(|()| {
                    assert!(has("bytes 16-20/") && has(" 206"), "bytes out of nothing");
                })
                .map_err(Failure::from)
            }
            b'w' => client.write(512, &[b"ab", b"", b"cde"]).map_err(Into::into),
            b'z' => client.zero(4096, 8192).map_err(Into::into),
            b'f' => client.flush().map_err(Into::into),
            b'c' => {
                let wanted = HashRequest {
                    algorithm: "sha1",
                    block_size: 4096,
                    size: 1,
                };
                let asked = client.block_hash(wanted);
                asked
                    .map(|answer| {
                        if let HashAnswer::Hash(hash) = answer {
                            assert!(has(&hash) && has("4096"), "a hash out of nothing");
                        }
                    })
                    .map_err(Into::into)
            }
            b't' => client.touch().map_err(Into::into),
            b'e' => {
                let mut next = 0;
                client
                    .extents(&mut |e| {
                        assert!(!e.zero || e.start >= next);
                        next = next.max(e.start + e.length);
                    })
                    .map_err(Into::into)
            }
            _ => Ok(()),
        };
        if let Err(e) = done {
            refused(e);
        }
    }
}

/// Returns an HTTP client whose server sends `said`, and a function that allows it one more connection.
pub(crate) fn scripted_agent(config: ureq::config::Config, said: &[u8], number: usize) -> (Agent, impl Fn()) {
    let permit = Permit::once(IO_TIMEOUT, Arc::default(), Arc::default());
    let connector = OneShot::new(scripted_route(said, number), None, permit.clone());
    let agent = Agent::with_parts(config, connector, NoResolver);
    (agent, move || permit.allow(true))
}

/// Returns a route to a server that sends `said`. `number` chooses the length of its pieces, and whether it
/// closes the connection or stays silent at its end.
fn scripted_route(said: &[u8], number: usize) -> Route {
    let piece_bytes = [usize::MAX, 7, 64, 1000][number % 4];
    let closes = [false, true, true][number / 4 % 3];
    Route::Script(Script::new(said, piece_bytes, closes))
}
