//! Certificates of hosts beside the usual ones: of an old engine, out of their time, and out of it for a
//! while, as after a jump of a clock.

use std::fs;

use crate::rig::{
    HALF, Load, also_in, assert_free, assert_nothing_deleted, daemon, existing, mounting, used_disk,
    used_image, wait_until_written,
};
use crate::support::content::MIB;
use crate::support::daemon::Daemon;
use crate::support::engine::Engine;
use crate::support::image::Backend;
use crate::support::mount::Mounting;
use crate::support::run::{run, wait_until};

const CANNOT_CONNECT: i32 = 5;

/// Gives the daemon another certificate from its CA, with these extensions and the time from `begin` to
/// `end`, and starts it again. Returns the old certificate.
fn enroll(daemon: &Daemon, extensions: &str, begin: &str, end: &str) -> Vec<u8> {
    let path = |name: &str| daemon.dir().join(name);
    let old = fs::read(path("server.pem")).expect("read the certificate");
    let configuration = "[ca]\ndefault_ca = own\n[own]\nnew_certs_dir = .\ndatabase = index\n\
                         serial = number\ndefault_md = sha256\nunique_subject = no\npolicy = any\n\
                         [any]\ncommonName = supplied\n";
    for (name, text) in [
        ("ca.conf", configuration),
        ("index", ""),
        ("number", "77\n"),
        ("other.ext", extensions),
    ] {
        fs::write(path(name), text).expect("write a file for openssl");
    }
    let mut openssl = std::process::Command::new("openssl");
    openssl
        .current_dir(daemon.dir())
        .args(["ca", "-batch", "-notext", "-config", "ca.conf"]);
    openssl.args([
        "-cert",
        "ca.pem",
        "-keyfile",
        "ca.key",
        "-in",
        "server.csr",
        "-out",
        "other.pem",
    ]);
    openssl.args(["-startdate", begin, "-enddate", end, "-extfile", "other.ext"]);
    run(&mut openssl, 30).ok();
    daemon.kill();
    fs::rename(path("other.pem"), path("server.pem")).expect("replace the certificate");
    daemon.restart();
    old
}

const USUAL: &str = "extendedKeyUsage = serverAuth\nsubjectAltName = DNS:localhost, IP:127.0.0.1\n";
const NO_NAMES: &str = "extendedKeyUsage = serverAuth\n";
const LONG_AGO: &str = "20200101000000Z";
const AGO: &str = "20210101000000Z";
const LATER: &str = "20990101000000Z";

/// Hosts that an old engine has enrolled have such certificates.
#[test]
fn a_host_whose_certificate_has_a_common_name_only_is_mounted_by_that_name() {
    let daemon = daemon();
    let (disk, _model, _dir) = used_image(&daemon, Backend::RawNbd);
    enroll(&daemon, NO_NAMES, LONG_AGO, LATER);
    disk.grant_again(&daemon);
    let url = disk.url().replace("127.0.0.1", "localhost");
    Mounting::new(&url).args(disk.args()).start().umount().ok();
    let ran = mounting(&disk)
        .try_start()
        .expect_err("it is mounted by its address");
    assert_eq!(ran.code, Some(CANNOT_CONNECT), "{ran}");
    assert!(
        ran.stderr.contains("valid for localhost, and not for 127.0.0.1"),
        "{ran}"
    );
    assert!(!ran.stderr.contains("--cafile"), "the CA is blamed: {ran}");
}

#[test]
fn a_certificate_that_has_expired_is_refused_at_the_start_with_the_clock_and_what_to_do() {
    let daemon = daemon();
    let (disk, _model, _dir) = used_image(&daemon, Backend::RawNbd);
    enroll(&daemon, USUAL, LONG_AGO, AGO);
    disk.grant_again(&daemon);
    let ran = mounting(&disk).try_start().expect_err("it is mounted");
    assert_eq!(ran.code, Some(CANNOT_CONNECT), "{ran}");
    for word in ["expired on 2021-01-01", "clock", "enroll"] {
        assert!(ran.stderr.contains(word), "{word:?} is missing: {ran}");
    }
    assert!(!ran.stderr.contains("--cafile"), "the CA is blamed: {ran}");
}

#[test]
fn a_certificate_that_is_out_of_its_time_for_a_while_is_not_noticed() {
    let engine = Engine::start();
    let (disk, model) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).arg("--no-unix-socket").start();
    let load = Load::on(&mount);
    load.write(1, 0, HALF).expect("write");
    wait_until_written(&mount, HALF);
    let daemon = engine.daemon();
    let usual = enroll(daemon, USUAL, LONG_AGO, AGO);
    load.write(2, MIB, HALF).expect("write");
    also_in(&model, 1, 0, HALF);
    also_in(&model, 2, MIB, HALF);
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| load.sync());
        wait_until("the certificate is refused", 60, || {
            mount.log().contains("has expired on 2021-01-01")
        });
        daemon.kill();
        fs::write(daemon.dir().join("server.pem"), usual).expect("put the certificate back");
        daemon.restart();
        synced.join().expect("no panic").expect("fsync");
    });
    drop(load);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &model);
    assert_nothing_deleted(&engine);
}
