//! Trust: one CA for the engine and its hosts, two where another CA has signed the API's certificate, none
//! with `--insecure`; and `rhv-mount ca`, which fetches the CA so that the user can check it.

use std::fs;
use std::process::Command;

use crate::rig::{
    CANNOT_CONNECT, CANNOT_REACH_ENGINE, ENGINE_FAILED, LIMIT, USAGE, assert_free, assert_refused,
    assert_told, assert_warned, create, existing, point, source, used_disk,
};
use crate::support::daemon::{Daemon, LocalSocket, Scheme};
use crate::support::engine::Engine;
use crate::support::mount::rhv_mount;
use crate::support::run::{Ran, run, text};

/// Copies into a new disk, with the options `trust`.
fn copy_trusting(engine: &Engine, name: &str, trust: &[&str]) -> Ran {
    let point = point(engine, name);
    let mut program = engine.program();
    program
        .args(engine.args_without_trust())
        .args(trust)
        .args(create(name));
    program
        .arg(&point)
        .args(["--", "cp"])
        .arg(source(engine, 91))
        .arg("{}");
    let ran = run(&mut program, LIMIT);
    assert!(!point.exists(), "the mountpoint is left: {ran}");
    ran
}

#[test]
fn an_engine_with_a_ca_of_its_own_needs_a_second_one_for_the_hosts() {
    let engine = Engine::with(["--own-ca"]);
    let (api, hosts) = (engine.cafile().to_owned(), engine.daemon().cafile());
    let (api, hosts) = (api.to_str().expect("UTF-8"), hosts.to_str().expect("UTF-8"));
    copy_trusting(&engine, "both", &["--cafile", api, "--imageio-cafile", hosts]).ok();
    assert_free(&engine, "both", &source(&engine, 91));
    // With only one CA, the message names the option for the other, and the new disk is removed.
    let ran = copy_trusting(&engine, "one", &["--cafile", api]);
    assert_told(&ran, &[CANNOT_CONNECT], &["certificate", "--imageio-cafile"]);
    assert!(engine.disk("one").is_none(), "the new disk is left: {ran}");
    // One file with both CAs works too.
    let bundle = engine.dir().join("bundle.pem");
    let both = fs::read_to_string(api).expect("a CA") + &fs::read_to_string(hosts).expect("a CA");
    fs::write(&bundle, both).expect("write a bundle");
    copy_trusting(&engine, "bundle", &["--cafile", bundle.to_str().expect("UTF-8")]).ok();
}

#[test]
fn an_unknown_ca_is_refused_and_the_remedies_are_named() {
    let engine = Engine::start();
    let other = Daemon::start(Scheme::Https, LocalSocket::None);
    let other_ca = other.cafile();
    for trust in [vec![], vec!["--cafile", other_ca.to_str().expect("UTF-8")]] {
        let ran = copy_trusting(&engine, "untrusted", &trust);
        assert_refused(
            &ran,
            &[CANNOT_REACH_ENGINE],
            &["certificate", "--cafile", "rhv-mount ca"],
        );
    }
    assert!(
        engine.log("request").is_empty(),
        "a request was sent to an untrusted server"
    );
    let ran = copy_trusting(&engine, "untrusted", &["--cafile", "/nowhere/ca.pem"]);
    assert_refused(&ran, &[USAGE], &["/nowhere/ca.pem"]);
}

#[test]
fn without_verification_it_works_too() {
    let engine = Engine::with(["--own-ca"]);
    let ran = copy_trusting(&engine, "insecure", &["--insecure"]).ok();
    assert_warned(&ran, &[engine.url(), &engine.daemon().url()]);
    assert_free(&engine, "insecure", &source(&engine, 91));
    // Only the servers that are not verified get a warning.
    let (api, hosts) = (engine.cafile().to_owned(), engine.daemon().cafile());
    let (api, hosts) = (api.to_str().expect("UTF-8"), hosts.to_str().expect("UTF-8"));
    let ran = copy_trusting(&engine, "half", &["--insecure", "--imageio-cafile", hosts]).ok();
    assert_warned(&ran, &[engine.url()]);
    let ran = copy_trusting(&engine, "secure", &["--cafile", api, "--imageio-cafile", hosts]).ok();
    assert_warned(&ran, &[]);
}

#[test]
fn ca_prints_the_certificate_and_its_fingerprint() {
    let engine = Engine::with(["--own-ca"]);
    let pem = text(engine.cafile());
    let fingerprint = run(
        Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(engine.cafile()),
        20,
    )
    .ok();
    let (_, fingerprint) = fingerprint.stdout.trim().split_once('=').expect("a fingerprint");
    for url in ["", "/", "/ovirt-engine", "/ovirt-engine/api"].map(|path| format!("{}{path}", engine.url())) {
        let ran = rhv_mount(None, ["ca", &url]).ok();
        assert_eq!(ran.stdout.trim(), pem.trim(), "{url}");
        assert!(
            ran.stderr.contains(fingerprint),
            "no fingerprint {fingerprint}: {ran}"
        );
    }
    assert!(engine.log("session_opened").is_empty(), "it needs no login");
    // A mount works with the printed CA.
    let saved = engine.dir().join("saved.pem");
    fs::write(&saved, rhv_mount(None, ["ca", engine.url()]).ok().stdout).expect("save the CA");
    used_disk(&engine, "web01", "raw");
    let mut program = engine.program();
    program.args(engine.args_without_trust()).args(existing("web01"));
    program
        .arg("--cafile")
        .arg(&saved)
        .arg("--imageio-cafile")
        .arg(engine.daemon().cafile());
    program.arg(point(&engine, "web01")).args(["--", "true"]);
    run(&mut program, LIMIT).ok();
}

#[test]
fn ca_of_what_is_no_engine_says_so() {
    let daemon = Daemon::start(Scheme::Https, LocalSocket::None);
    let ran = rhv_mount(None, ["ca", &daemon.url()]);
    assert_refused(&ran, &[ENGINE_FAILED], &[&daemon.url(), "404|nonsense|engine"]);
    assert!(ran.stdout.is_empty(), "{ran}");
    let ran = rhv_mount(None, ["ca", "https://engine.invalid"]);
    assert_refused(&ran, &[CANNOT_REACH_ENGINE], &["engine.invalid"]);
    let ran = rhv_mount(None, ["ca", "ftp://engine.invalid"]);
    assert_refused(&ran, &[USAGE], &["engine.invalid", "https"]);
}
