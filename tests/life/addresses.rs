//! The routes of data and requests: straight to the host, through the engine's proxy, or through a proxy from
//! the environment; and the time that rhv-mount waits for an address that does not answer.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::rig::{
    CANNOT_CONNECT, CANNOT_REACH_ENGINE, assert_free, assert_nothing_deleted, assert_told, command,
    copy_command, create, existing, over, point, source, used_disk,
};
use crate::support::engine::Engine;
use crate::support::refusing::RefusingPort;
use crate::support::run::{Ran, run, wait_until};

fn copy_with(engine: &Engine, name: &str, options: &[&str]) -> Ran {
    let source = source(engine, 81);
    let mut args = create(name);
    args.extend(options.iter().map(|&option| option.to_owned()));
    over(engine, &args, &copy_command(&source))
}

#[test]
fn a_host_that_cannot_be_reached_is_reached_through_the_proxy_and_that_is_said() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "url_host", "value": "dead"}));
    let ran = copy_with(&engine, "proxied", &[]).ok();
    assert!(ran.stderr.to_lowercase().contains("proxy"), "not said: {ran}");
    assert_free(&engine, "proxied", &source(&engine, 81));
}

#[test]
fn a_transfer_with_one_url_only_uses_that_one() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "url_missing", "value": "transfer_url"}));
    copy_with(&engine, "proxied", &[]).ok();
    assert_free(&engine, "proxied", &source(&engine, 81));
    let engine = Engine::with(["--proxy-url", "none"]);
    copy_with(&engine, "direct", &[]).ok();
    assert_free(&engine, "direct", &source(&engine, 81));
}

#[test]
fn the_proxy_is_taken_first_where_that_is_asked_for() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "url_host", "value": "silent"}));
    let ran = copy_with(&engine, "proxied", &["--proxy", "--no-unix-socket"]).ok();
    let said = ran.stderr.to_lowercase();
    assert!(!said.contains("proxy"), "the host was tried first: {ran}");
    assert_free(&engine, "proxied", &source(&engine, 81));
}

#[test]
fn a_proxy_that_is_asked_for_and_does_not_answer_is_named() {
    let engine = Engine::with(["--proxy-url", "dead"]);
    let ran = copy_with(&engine, "proxied", &["--proxy"]);
    assert_told(&ran, &[CANNOT_CONNECT], &["proxy", "refused"]);
    assert!(engine.disks().is_empty(), "the new disk is left");
    let engine = Engine::with(["--proxy-url", "none"]);
    let ran = copy_with(&engine, "proxied", &["--proxy"]);
    assert_told(&ran, &[4, CANNOT_CONNECT], &["proxy"]);
    assert!(engine.disks().is_empty(), "the new disk is left");
}

/// Nothing was written, so the existing disk, which may begin like anything as a qcow2 disk, is free again,
/// and its upload was not cancelled. `unseen` has the raw disks.
#[test]
fn a_host_and_a_proxy_that_do_not_answer_are_both_named() {
    let engine = Engine::with(["--proxy-url", "dead"]);
    let (disk, content) = used_disk(&engine, "web01", "cow");
    engine.switch(&json!({"switch": "url_host", "value": "dead"}));
    let ran = over(&engine, &existing("web01"), "true");
    assert_told(&ran, &[CANNOT_CONNECT], &["refused", "127.0.0.1"]);
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
    let ran = copy_with(&engine, "new", &[]);
    assert_told(&ran, &[CANNOT_CONNECT], &["refused"]);
    wait_until("the new disk is removed", 60, || engine.disk("new").is_none());
    assert!(engine.state_files().is_empty());
}

#[test]
fn an_engine_that_does_not_answer_is_named() {
    let engine = Engine::start();
    let closed = RefusingPort::bind();
    let address = closed.address().to_string();
    for (url, words) in [
        (format!("https://{address}"), vec![address.as_str(), "refused"]),
        ("https://engine.invalid".into(), vec!["engine.invalid"]),
        // An IPv6 address with a port is parsed right.
        (
            format!("https://[::1]:{}/ovirt-engine/api", engine.port()),
            vec!["[::1]"],
        ),
    ] {
        let mut args: Vec<String> = ["--engine-url", &url].map(str::to_owned).to_vec();
        args.extend(existing("web01"));
        let point = point(&engine, "unanswered");
        let ran = run(&mut command(&engine, &args, &point, "true"), 60);
        // The option is given twice: either the last one counts, or the command line is refused.
        if ran.code == Some(2) {
            let mut alone = engine.program();
            alone.args([
                "--engine-url",
                &url,
                "--username",
                "admin@internal",
                "--password-file",
            ]);
            alone
                .arg(engine.password_file())
                .args(["--disk", "web01"])
                .arg(&point);
            assert_told(&run(&mut alone, 60), &[CANNOT_REACH_ENGINE], &words);
        } else {
            assert_told(&ran, &[CANNOT_REACH_ENGINE], &words);
        }
        assert!(!point.exists());
    }
}

#[test]
fn the_http_proxy_of_the_environment_is_used() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let proxy = Proxy::start();
    let point = point(&engine, "web01");
    let mut program = command(&engine, &existing("web01"), &point, "true");
    program.env("https_proxy", format!("http://{}", proxy.address));
    program.env_remove("no_proxy").env_remove("NO_PROXY");
    run(&mut program, 60).ok();
    assert!(proxy.tunnels() > 0, "the proxy was not used");
}

/// A loopback proxy that knows only CONNECT. Its threads end with their connections.
struct Proxy {
    address: String,
    tunnels: Arc<AtomicUsize>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a proxy");
        let address = listener.local_addr().expect("the proxy's address").to_string();
        let tunnels = Arc::new(AtomicUsize::new(0));
        let counted = tunnels.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counted = counted.clone();
                std::thread::spawn(move || {
                    if let Ok(server) = connect(&client) {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let _ = tunnel(client, server);
                    }
                });
            }
        });
        Self { address, tunnels }
    }

    fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }
}

fn connect(client: &TcpStream) -> io::Result<TcpStream> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let target = first.split(' ').nth(1).unwrap_or_default();
    let server = TcpStream::connect(target)?;
    let mut client = client;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    Ok(server)
}

fn tunnel(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    io::copy(&mut from, &mut to)?;
    to.shutdown(std::net::Shutdown::Write)
}
