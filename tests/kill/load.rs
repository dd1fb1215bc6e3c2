//! A worker process that keeps a mounted file open, and writes, flushes and reads as a test orders.
//!
//! The test does not open the file itself: a program that another test starts at that moment holds a copy of
//! this process's open files until its exec, and closing a file on a mount waits for the mount's server.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::rig::BOUND;
use crate::support::content::Random;
use crate::support::mount::Mount;

/// An order is a line `ORDER OFFSET LENGTH`, followed by the bytes of a write. An answer is a line `ERRNO
/// LENGTH`, followed by the bytes of a read.
const WORKER: &str = r#"
import mmap, os, sys
orders, answers = sys.stdin.buffer, sys.stdout.buffer
file = os.open(sys.argv[1], os.O_RDWR)
for line in orders:
    order, offset, length = line.split()
    offset, length = int(offset), int(length)
    data = b""
    if order == b"write":
        # The buffer is page-aligned, as in most programs: the kernel splits others at arbitrary offsets.
        pages = mmap.mmap(-1, length)
        pages[:] = orders.read(length)
        data = memoryview(pages)
    got, errno = b"", 0
    try:
        if order == b"sync":
            os.fsync(file)
        while len(data) > 0:
            done = os.pwrite(file, data, offset)
            data, offset = data[done:], offset + done
        while order == b"read" and len(got) < length:
            got += os.pread(file, length - len(got), offset + len(got)) or sys.exit("unexpected end of file")
    except OSError as error:
        got, errno = b"", error.errno
    answers.write(b"%d %d\n" % (errno, len(got)) + got)
    answers.flush()
"#;

#[derive(Debug)]
pub(crate) struct Load {
    path: PathBuf,
    child: Child,
    pipes: Mutex<(Option<ChildStdin>, BufReader<ChildStdout>)>,
}

impl Load {
    pub(crate) fn on(mount: &Mount) -> Self {
        Self::open(&mount.file())
    }

    fn open(path: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", WORKER])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the worker");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let pipes = Mutex::new((child.stdin.take(), answers));
        Self {
            path: path.to_owned(),
            child,
            pipes,
        }
    }

    /// Writes `length` random bytes of `seed`, without a flush.
    pub(crate) fn write(&self, seed: u64, offset: u64, length: u64) -> io::Result<()> {
        self.order("write", offset, length, &bytes(seed, length))
            .map(drop)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.order("sync", 0, 0, &[]).map(drop)
    }

    pub(crate) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        self.order("read", offset, length, &[])
    }

    /// Asserts that the error sticks: every write and flush is an EIO, through this file and through any
    /// other.
    #[track_caller]
    pub(crate) fn assert_broken(&self) {
        let other = Self::open(&self.path);
        for load in [self, &other, self] {
            assert_eio("fsync", load.sync());
            let written = load.write(9, 0, 512).and_then(|()| load.sync());
            assert_eio("a write after the loss", written);
        }
    }

    fn order(&self, order: &str, offset: u64, length: u64, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut pipes = self.pipes.lock().expect("no thread has failed");
        let (orders, answers) = &mut *pipes;
        let orders = orders.as_mut().expect("it is open");
        let head = format!("{order} {offset} {length}\n");
        orders
            .write_all(head.as_bytes())
            .and_then(|()| orders.write_all(data))
            .and_then(|()| orders.flush())
            .expect("the worker takes an order");
        let mut line = String::new();
        answers.read_line(&mut line).expect("the worker answers");
        let mut numbers = line.split_whitespace().map(|word| word.parse::<usize>());
        let mut number = || numbers.next().and_then(Result::ok).expect("the worker answers");
        let (errno, length) = (number(), number());
        let mut got = vec![0; length];
        answers.read_exact(&mut got).expect("the bytes of the answer");
        match errno {
            0 => Ok(got),
            errno => Err(io::Error::from_raw_os_error(errno as i32)),
        }
    }
}

impl Drop for Load {
    /// Closes the file. The close waits for the server; after [`BOUND`] seconds the worker is killed.
    fn drop(&mut self) {
        if let Ok(pipes) = self.pipes.get_mut() {
            pipes.0 = None;
        }
        let end = Instant::now() + Duration::from_secs(BOUND);
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[track_caller]
pub(crate) fn assert_eio<T>(what: &str, result: io::Result<T>) {
    let Err(error) = result else {
        panic!("{what} succeeded")
    };
    assert_eq!(error.raw_os_error(), Some(5), "{what}: {error}");
}

pub(crate) fn bytes(seed: u64, length: u64) -> Vec<u8> {
    Random::new(seed).bytes(length as usize)
}
