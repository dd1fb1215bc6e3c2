//! A server and a mount of the built program on top of it.
//!
//! The mount is declared before the server, so it is also dropped first when a test panics. `umount` returns
//! the server, because tests check which bytes are durable after the mount has ended.

use crate::server::{Image, Server, Settings};
pub use crate::support::content::Random;
use crate::support::mount::{Mount, MountKind, Mounting};
use crate::support::run::{Ran, wait_until};
use nix::fcntl::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

pub const TICKET: &str = "3f0c2a9e-7b1d-4c55-9e6a-d2b8f4a61c07";
pub const MIB: u64 = 1 << 20;

pub struct Rig {
    pub mount: Mount,
    pub server: Server,
}

pub fn settings(size: u64) -> Settings {
    Settings::new(size, TICKET)
}

/// Starts a server whose disk is full of `pattern(9, ..)`, visible and durable, like a disk that has been
/// used.
pub fn used_server(settings: Settings) -> Server {
    let size = settings.size;
    let server = Server::start(settings);
    server.preset(0, &pattern(9, size as usize));
    server
}

impl Rig {
    pub fn start(settings: Settings, args: &[&str]) -> Rig {
        Rig::over(Server::start(settings), args)
    }

    pub fn over(server: Server, args: &[&str]) -> Rig {
        let mount = Mounting::new(&server.url())
            .args(args)
            .kind(MountKind::Directory)
            .start();
        Rig { mount, server }
    }

    pub fn open(&self, how: &mut OpenOptions) -> File {
        how.open(self.mount.file()).expect("open the disk")
    }

    pub fn read_write(&self) -> File {
        self.open(OpenOptions::new().read(true).write(true))
    }

    pub fn umount(self) -> (Ran, Server) {
        let Rig { mount, server } = self;
        (mount.umount(), server)
    }

    /// Unmounts and checks that umount reported success, that `expected` is durable, and that no two writes
    /// were in flight in the same block.
    #[track_caller]
    pub fn umount_expecting(self, expected: &Image) {
        let (ran, server) = self.umount();
        assert_eq!(ran.code, Some(0), "{ran}");
        assert_same("durable after umount", &server.durable(), expected);
        assert_same("visible after umount", &server.visible(), expected);
        assert_eq!(server.violations(), Vec::<String>::new());
    }

    pub fn wait_until_visible(&self, offset: u64, bytes: &[u8]) {
        let range = offset..offset + bytes.len() as u64;
        wait_until("the written bytes are on the server", 60, || {
            self.server.requests_running() == 0 && self.server.visible().read(range.clone()) == bytes
        });
    }
}

#[track_caller]
pub fn assert_same(what: &str, got: &Image, expected: &Image) {
    if let Some(at) = got.first_difference(expected) {
        let end = (at + 16).min(got.size()).min(expected.size());
        panic!(
            "{what}: differs at {at}: {:x?} instead of {:x?}",
            got.read(at..end),
            expected.read(at..end)
        );
    }
}

/// Returns bytes without a zero among them, different for every seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..length).map(|_| (random.next() >> 24) as u8 | 1).collect()
}

pub fn read_at(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// Returns the errno of a failed operation; a success or an error without an errno fails the test.
#[track_caller]
pub fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result
        .expect_err("the operation should have failed")
        .raw_os_error()
        .expect("an errno")
}

/// Calls close(2) and returns its result, which dropping a `File` would swallow.
pub fn close(file: File) -> io::Result<()> {
    nix::unistd::close(file).map_err(io::Error::from)
}

pub fn fallocate(file: &File, mode: FallocateFlags, range: Range<u64>) -> io::Result<()> {
    let length = (range.end - range.start) as i64;
    nix::fcntl::fallocate(file, mode, range.start as i64, length).map_err(io::Error::from)
}

pub fn punch_hole(file: &File, range: Range<u64>) -> io::Result<()> {
    fallocate(
        file,
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        range,
    )
}
