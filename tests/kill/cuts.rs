//! The network between a mount and imageio fails: connections are cut after a number of bytes, stall, are
//! closed in one direction, or are accepted and never answered. The mount replaces a lost connection and
//! writes again the bytes that it carried.

use crate::proxy::{Direction, Effect, Fault, Proxy};
use crate::rig::{
    BOUND, HALF, Load, SIZE, SOON, also_in, assert_each_block_is_of, assert_eio, assert_eio_in_time,
    assert_lost, assert_old_or_written, copy_of, count, cut_at_random, daemon, proxy_to, used_image,
    wait_until_written, write_flushed,
};
use crate::support::content::{KIB, MIB};
use crate::support::daemon::Daemon;
use crate::support::disk::Disk;
use crate::support::image::Backend;
use crate::support::mount::{Mount, Mounting};
use crate::support::run::{sh, wait_until};
use std::path::PathBuf;

/// A used disk behind a proxy. The fields are dropped in this order.
struct Setting {
    proxy: Proxy,
    disk: Disk,
    model: PathBuf,
    _dir: tempfile::TempDir,
    _daemon: Daemon,
}

impl Setting {
    fn new() -> Self {
        let daemon = daemon();
        let (disk, model, dir) = used_image(&daemon, Backend::RawNbd);
        Self {
            proxy: proxy_to(&daemon),
            disk,
            model,
            _dir: dir,
            _daemon: daemon,
        }
    }

    fn mount(&self, options: &[&str]) -> Mount {
        let url = self.proxy.url(self.disk.url());
        assert_ne!(url, self.disk.url(), "not through the proxy");
        Mounting::new(&url).args(self.disk.args()).args(options).start()
    }

    /// Writes and reads, each with `fault` on every connection, and asserts that every byte is right.
    #[track_caller]
    fn assert_unnoticed(&mut self, fault: Fault) {
        // The mount gives up a silent connection after this time.
        let mount = self.mount(&["--timeout", "5"]);
        let load = Load::on(&mount);
        load.write(1, 0, HALF).expect("write");
        wait_until_written(&mount, HALF);
        self.proxy.arm(fault);
        load.write(2, HALF, HALF).expect("write");
        load.sync().expect("fsync");
        also_in(&self.model, 1, 0, HALF);
        also_in(&self.model, 2, HALF, HALF);
        self.proxy.arm(fault);
        let direct = r#"dd if="$1" iflag=direct bs=1M status=none | cmp - "$2""#;
        sh(direct, [&mount.file(), &self.model], BOUND).ok();
        let struck = self.proxy.counts().faults;
        assert!(struck >= 2, "{fault:?} struck {struck} times");
        drop(load);
        self.proxy.heal();
        mount.umount().ok();
        self.disk
            .compare_with(&self.model)
            .expect("the storage holds every byte");
    }
}

fn both_directions(effect: Effect) {
    for (direction, after) in [
        (Direction::ToServer, 300 * KIB),
        (Direction::ToServer, 1),
        (Direction::ToClient, 10),
    ] {
        Setting::new().assert_unnoticed(Fault {
            effect,
            direction: Some(direction),
            after,
        });
    }
}

#[test]
fn connections_that_are_cut_are_not_noticed() {
    both_directions(Effect::Cut);
}

#[test]
fn connections_that_stall_are_given_up_and_not_noticed() {
    both_directions(Effect::Stall);
}

/// The stalled bytes may reach the storage at any time and overwrite newer ones, so there is no safe way to
/// go on.
#[test]
fn a_write_that_stalls_under_newer_bytes_is_an_error_that_sticks() {
    let mut setting = Setting::new();
    let mount = setting.mount(&["--timeout", "5"]);
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    load.sync().expect("fsync");
    also_in(&setting.model, 1, 0, HALF);
    setting.proxy.arm(Fault {
        effect: Effect::Stall,
        direction: Some(Direction::ToServer),
        after: 100 * KIB,
    });
    load.write(2, HALF, HALF).expect("write");
    wait_until("a write stalls", 60, || setting.proxy.counts().faults > 0);
    let written = load.write(3, HALF, HALF).and_then(|()| load.sync());
    assert_eio("newer bytes", written);
    load.assert_broken();
    drop(load);
    assert_lost(
        &mount.umount(),
        &["may perform it still", "write the image again"],
    );
    setting.proxy.heal();
    let (second, third) = (
        copy_of(&setting.model, "second"),
        copy_of(&setting.model, "third"),
    );
    also_in(&second, 2, HALF, HALF);
    also_in(&third, 3, HALF, HALF);
    assert_each_block_is_of(&setting.disk.server_side(), &[&setting.model, &second, &third]);
}

#[test]
fn connections_that_are_closed_in_one_direction_are_not_noticed() {
    both_directions(Effect::HalfClose);
}

/// New connections are cut as well: in the handshake, in the first request, and later.
#[test]
fn connections_that_are_cut_again_and_again_are_not_noticed() {
    let mut setting = Setting::new();
    let mount = setting.mount(&[]);
    for seed in 0..4 {
        cut_at_random(&setting.proxy, seed, (seed + 1) * 8, 3 * MIB, 2 * KIB);
        setting.proxy.arm(Fault {
            effect: Effect::Cut,
            direction: Some(Direction::ToServer),
            after: 1,
        });
        let load = Load::on(&mount);
        load.write(seed, 0, SIZE).expect("write");
        load.sync().expect("fsync");
        also_in(&setting.model, seed, 0, SIZE);
    }
    let cuts = setting.proxy.counts().faults;
    assert!(cuts > 20, "{cuts} cuts");
    mount.umount().ok();
    setting
        .disk
        .compare_with(&setting.model)
        .expect("the storage holds every byte");
}

/// The connection is accepted and never answered, as by a stuck server or a firewall that lost its state.
const SILENCE: Fault = Fault {
    effect: Effect::Stall,
    direction: Some(Direction::ToServer),
    after: 0,
};

fn fall_silent(proxy: &Proxy) {
    proxy.plan(|_| Some(SILENCE));
    proxy.arm(Fault {
        effect: Effect::Cut,
        direction: Some(Direction::ToServer),
        after: 1,
    });
}

#[test]
fn a_server_that_answers_nothing_any_more_is_an_error_that_sticks() {
    let mut setting = Setting::new();
    let mount = setting.mount(&SOON);
    let load = Load::on(&mount);
    write_flushed(&load, &setting.model);
    fall_silent(&setting.proxy);
    assert_eio_in_time("fsync", || load.write(2, 4 * MIB, MIB).and_then(|()| load.sync()));
    load.assert_broken();
    drop(load);
    assert_lost(&mount.umount(), &[]);
    assert_old_or_written(&setting.disk.server_side(), &setting.model, 2, 4 * MIB, MIB);
}

#[test]
fn a_server_that_answers_nothing_for_a_while_is_not_noticed() {
    let mut setting = Setting::new();
    let mount = setting.mount(&["--timeout", "5"]);
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    wait_until_written(&mount, HALF);
    fall_silent(&setting.proxy);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| load.write(2, HALF, HALF).and_then(|()| load.sync()));
        wait_until("the mount has seen the silence", 60, || {
            count(&mount, "errors") > 2
        });
        setting.proxy.heal();
        writing.join().expect("no panic").expect("write and fsync");
    });
    also_in(&setting.model, 1, 0, HALF);
    also_in(&setting.model, 2, HALF, HALF);
    drop(load);
    mount.umount().ok();
    setting
        .disk
        .compare_with(&setting.model)
        .expect("the storage holds every byte");
}
