//! The mount's side of the control socket: it hears everybody who connects, in a thread of its own.
//!
//! One who connects and says nothing holds up nobody: it may be stopped, or a child that has a copy of the
//! socket. So the thread waits for all of them at once, and lets go of the oldest when it has been silent for
//! too long, which is soon where others wait for its place.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::info;

use super::control::{Ask, MAX_LINE_BYTES, read_line};

/// Longest silence of one who has connected.
const MAX_SILENCE: Duration = Duration::from_secs(10);

/// The same where others wait for the place.
const MAX_SILENCE_IN_A_CROWD: Duration = Duration::from_secs(1);

/// Upper bound on those who have connected and not said what they want. Further ones wait in the kernel.
const MAX_ASKING: usize = 16;

/// The pause after a connection that could not be taken (no descriptor is left).
const PAUSE: Duration = Duration::from_millis(100);

/// One who has connected.
struct Asking {
    stream: UnixStream,
    since: Instant,
    line: Vec<u8>,
}

/// The state of one who has connected.
enum Said {
    /// The line is not complete yet.
    Part,
    All(Ask),
    /// It has gone away, or says what nobody understands.
    Nothing(String),
}

impl Asking {
    /// Reads what has arrived.
    fn read(&mut self) -> Said {
        let mut part = [0; 512];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Said::Nothing("it has gone away".to_owned()),
                Ok(n) => self.line.extend(&part[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Said::Part,
                Err(e) => return Said::Nothing(e.to_string()),
            }
            if self.line.contains(&b'\n') || self.line.len() as u64 >= MAX_LINE_BYTES {
                return match read_line(&self.line[..]) {
                    Ok(ask) => Said::All(ask),
                    Err(e) => Said::Nothing(e.to_string()),
                };
            }
        }
    }
}

/// Calls `answer` for each request that arrives at `listener`, until that fails for good. The streams that it
/// hands over block.
pub(super) fn hear(listener: &UnixListener, mut answer: impl FnMut(UnixStream, Ask)) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    let mut asking: VecDeque<Asking> = VecDeque::new();
    loop {
        let is_full = asking.len() >= MAX_ASKING;
        let patience = if is_full {
            MAX_SILENCE_IN_A_CROWD
        } else {
            MAX_SILENCE
        };
        let mut looks: Vec<_> = asking.iter().map(|one| one.stream.as_fd()).collect();
        looks.extend((!is_full).then_some(listener.as_fd()));
        let mut looks: Vec<_> = looks
            .into_iter()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let left = asking
            .front()
            .map(|one| patience.saturating_sub(one.since.elapsed()));
        let limit = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut looks, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return info!("the control socket is not heard any more: {e}"),
        }
        for _ in 0..asking.len() {
            let Some(mut one) = asking.pop_front() else { break };
            match one.read() {
                Said::Part if one.since.elapsed() < patience => asking.push_back(one),
                Said::Part => info!("control socket: nothing was said for {} s", patience.as_secs()),
                Said::Nothing(why) => info!("control socket: {why}"),
                Said::All(ask) => {
                    let _ = one.stream.set_nonblocking(false);
                    answer(one.stream, ask);
                }
            }
        }
        if !is_full {
            asking.extend(take_new(listener));
        }
    }
}

/// Takes one new connection, if there is one.
fn take_new(listener: &UnixListener) -> Option<Asking> {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
        Err(e) => {
            info!("control socket: {e}");
            std::thread::sleep(PAUSE);
            return None;
        }
    };
    stream.set_nonblocking(true).ok()?;
    Some(Asking {
        stream,
        since: Instant::now(),
        line: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    /// Connects to a listener that is heard, and returns the place.
    fn heard() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            hear(&listener, |mut stream, ask| writeln!(stream, "{ask:?}").unwrap());
        });
        (dir, path)
    }

    fn ask(path: &std::path::Path, line: &[&[u8]]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        for part in line {
            stream.write_all(part).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    #[test]
    fn one_who_says_nothing_holds_nobody_up() {
        let (_dir, path) = heard();
        let silent: Vec<_> = (0..60).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(ask(&path, &[b"\"status\"\n"]), "Status\n");
        }
        assert!(
            start.elapsed() < 30 * MAX_SILENCE,
            "they were waited for one by one"
        );
        drop(silent);
        assert_eq!(ask(&path, &[b"\"umo", b"unt\"", b"\n"]), "Umount\n");
    }

    #[test]
    fn nonsense_is_not_answered() {
        let (_dir, path) = heard();
        assert_eq!(ask(&path, &[b"\"format\"\n"]), "");
        assert_eq!(ask(&path, &[b"\"status\"\n"]), "Status\n");
    }
}
