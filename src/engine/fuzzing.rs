//! Fuzz targets for the engine's answers; see `crate::fuzzing`.

use std::time::Duration;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use serde_json::Value;
use ureq::config::Config;

use super::ca::of_pem;
use super::disks::Disk;
use super::json::{fault, list, number, text};
use super::new_disks::full_qcow2_size;
use super::opening::Opening;
use super::wire::Account;
use super::{Engine, Interrupt, MAX_LOCK_WAIT, Mark, Order, Phase, Subject, Transfer};
use crate::engine::Direction;
use crate::failure::Failure;
use crate::fuzzing::{assert_presentable, first_line, number_of};
use crate::imageio::fuzzing::scripted_agent;
use crate::logging::plain;
use crate::secret::{Secret, forget_all, hide};
use crate::trust::{Trust, certificates};

const PASSWORD: &str = "hunter2-and-more";
const DISK: &str = "bc922a10-62e5-4709-a1b2-0123456789ab";

/// Reads any JSON as a disk, a transfer, a list of them and a fault. A disk or transfer must have the id from
/// the JSON, and a transfer's must be printable; a phase must keep its name; the message of a fault must
/// consist of the fault's texts.
pub fn engine_values(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let of_lists = ["disk", "image_transfer", "storage_domain", "host"].map(|key| list(&value, key));
    for one in of_lists.into_iter().flatten().chain([&value]) {
        if let Some(disk) = Disk::of(one) {
            assert_eq!(one["id"], disk.id.as_str());
            assert!(disk.shown().contains(&disk.id));
            let size = one.get("provisioned_size").map(|size| match size {
                // Rust accepts one sign before the digits.
                Value::String(text) => text
                    .strip_prefix('+')
                    .unwrap_or(text)
                    .parse()
                    .ok()
                    .filter(|_| !text.starts_with("++")),
                other => other.as_u64(),
            });
            assert_eq!(disk.size, size.flatten().unwrap_or_default());
            assert!(full_qcow2_size(disk.size) >= disk.size);
        }
        if let Some(transfer) = Transfer::of(one) {
            let id = text(one, "id").expect("a transfer has one");
            assert_eq!(transfer.id, plain(&id));
            let phase = text(one, "phase").unwrap_or_default();
            assert_eq!(transfer.phase.to_string(), phase);
            let ended = matches!(phase.as_str(), "finished_success" | "finished_failure");
            assert_eq!(transfer.is_open(), !ended);
            let download = one.get("direction").is_some_and(|d| d == "download");
            assert_eq!(transfer.direction == Direction::Download, download);
            assert_eq!(transfer.inactivity_timeout, number(one, "inactivity_timeout"));
        }
        if let Some(words) = fault(one) {
            let fault = one.get("fault").unwrap_or(one);
            let said = |key| text(fault, key).is_some_and(|said| !said.is_empty() && words.contains(&said));
            assert!(fault.get("detail").is_some() || words.is_empty() || said("reason"));
        }
    }
    if let Some(name) = value.as_str() {
        assert_eq!(Phase::of(name).to_string(), name);
    }
}

/// Sends the requests of the input's first line, one letter each; the rest of the input is everything that
/// the engine sends. Every request must end, and no message may show the password or the token, or control
/// the terminal. All pauses end at once, as after a signal.
pub fn engine_answers(data: &[u8]) {
    forget_all();
    hide(PASSWORD);
    let (requests, said) = first_line(data);
    let interrupt = Interrupt::default();
    interrupt.set();
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build();
    let (agent, reconnect) = scripted_agent(config, said, number_of(requests));
    let engine = Engine {
        agent,
        account: Account {
            url: "http://engine.example".into(),
            username: "admin@internal".into(),
            password: Secret::new(PASSWORD),
            trust: Trust::Insecure,
        },
        token: Mutex::new(None),
        correlation: "rhv-mount-12345678".into(),
        interrupt,
        opening: Opening::over(),
        refusal: Mutex::new(None),
    };
    for request in requests.iter().take(8) {
        reconnect();
        let order = || Order {
            subject: Subject::Disk(DISK.into()),
            direction: Direction::Download,
            host: None,
            mark: Mark::random(),
            backup: None,
        };
        let done = match request {
            b'l' => engine.renew(None),
            b'd' => engine.disk(DISK).map(drop),
            b'n' => engine
                .find_disk("web01")
                .map(|disk| assert_eq!(disk.name, "web01")),
            b'w' => match engine.disk(DISK) {
                Ok(Some(disk)) => engine
                    .wait_for_disk(disk, None, MAX_LOCK_WAIT)
                    .map(|disk| assert_ne!(disk.status, "locked")),
                other => other.map(drop),
            },
            b't' => engine.transfer(DISK).map(drop),
            b'o' => engine
                .open_transfers(DISK)
                .map(|all| assert!(all.iter().all(|t| t.is_open() && t.disk.as_deref() == Some(DISK)))),
            b's' => match engine.start_transfer(&order(), false) {
                Ok(transfer) => engine
                    .wait_for_transferring(transfer)
                    .map(|t| assert_eq!(t.phase, Phase::Transferring)),
                Err(e) => Err(e),
            },
            b'f' => engine.finalize(DISK, Some(DISK), &engine.interrupt).map(drop),
            b'i' => engine.list_disks(None).map(drop),
            b'm' => engine.list_domains(Some("data")).map(drop),
            b'p' => engine.list_snapshots(Some("web*")).map(drop),
            b'v' => engine.list_vms(Some("web")).map(drop),
            b'h' => engine.find_host("hardware", "data").map(drop),
            _ => Ok(()),
        };
        let token = engine.token.lock().clone();
        let token = token.as_ref().map(Secret::expose);
        let token = token.filter(|t| t.len() >= 8 && t.bytes().all(|b| b.is_ascii_alphanumeric()));
        if let Err(e) = done {
            let _ = (e.is_locked(), e.is_passing());
            let secrets: Vec<&str> = [PASSWORD].into_iter().chain(token).collect();
            assert_presentable(&Failure::from(e), &secrets);
        }
    }
}

/// Reads a PEM file. Each certificate that is printed, and so trusted later, must have its fingerprint shown,
/// and the output must be plain text.
pub fn ca_pem(data: &[u8]) {
    if let Ok(roots) = certificates(data) {
        assert!(!roots.is_empty());
        RootCertStore::empty().add_parsable_certificates(roots);
    }
    let Some(saved) = std::str::from_utf8(data).ok().and_then(|text| of_pem(text).ok()) else {
        return;
    };
    let plain = |b: u8| b == b'\n' || b == b'\r' || (b' '..=b'~').contains(&b);
    assert!(saved.pem.bytes().all(plain), "{:?}", saved.pem);
    let trusted = certificates(saved.pem.as_bytes()).expect("it was printed to be trusted");
    assert_eq!(trusted.len(), saved.fingerprints.len(), "not what was shown");
    for (der, shown) in trusted.iter().zip(&saved.fingerprints) {
        let digest = digest(&SHA256, der);
        let digest: Vec<_> = digest.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(*shown, digest.join(":"));
    }
}
