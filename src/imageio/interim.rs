//! Interim answers: 100, 102, 103 and other 1xx, any number of which may come before the answer itself (RFC
//! 9110, 15.2). A gateway sends them to say that the request is still at work, or by habit.
//!
//! They say nothing about the result, so `transport` drops them before ureq sees them. ureq 3.5 counts every
//! byte behind an interim answer as its header, and refuses a 100 with headers. An answer of 101 is none of
//! these: it ends HTTP on the connection, which nobody has asked for, and is an error like any other status.

/// Upper bound on the header lines of one interim answer; ureq has the same for the answer itself.
const MAX_LINES: usize = 128;

/// The status by which a server leaves HTTP.
const SWITCHING_PROTOCOLS: u16 = 101;

/// The first answer in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// An interim answer of so many bytes.
    Interim(usize),
    /// Too little has arrived to tell.
    Unclear,
    /// The answer itself, or no HTTP at all.
    Final,
}

impl Front {
    /// Looks at `input`, which begins where an answer may begin.
    pub(super) fn of(input: &[u8]) -> Front {
        let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
        let mut head = httparse::Response::new(&mut lines);
        let parsed = head.parse(input);
        let interim = head
            .code
            .map(|code| (100..200).contains(&code) && code != SWITCHING_PROTOCOLS);
        match (parsed, interim) {
            (Ok(httparse::Status::Complete(bytes)), Some(true)) => Front::Interim(bytes),
            (Ok(httparse::Status::Partial), Some(true) | None) => Front::Unclear,
            _ => Front::Final,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interim_answer_is_told_from_the_answer_at_every_length() {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        let both = format!("{interim}HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nHTT");
        for end in 0..interim.len() {
            assert_eq!(Front::of(&both.as_bytes()[..end]), Front::Unclear, "{end}");
        }
        for end in interim.len()..both.len() {
            assert_eq!(
                Front::of(&both.as_bytes()[..end]),
                Front::Interim(interim.len()),
                "{end}"
            );
        }
    }

    #[test]
    fn the_answer_itself_is_known_by_its_status() {
        for (said, front) in [
            ("HTTP/1.1 100 Continue\r\n\r\n", Front::Interim(25)),
            ("HTTP/1.1 102\r\nA: b\r\n\r\n", Front::Interim(22)),
            ("HTTP/1.0 199 x\r\n\r\n", Front::Interim(18)),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Front::Final),
            ("HTTP/1.1 200 OK\r\nContent-Le", Front::Final),
            ("HTTP/1.1 40", Front::Unclear),
            ("SSH-2.0-OpenSSH_9.2p1\r\n", Front::Final),
            ("", Front::Unclear),
        ] {
            assert_eq!(Front::of(said.as_bytes()), front, "{said:?}");
        }
    }
}
