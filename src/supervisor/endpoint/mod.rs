//! `populate`: tells the figures over HTTPS, for forklift's controller, which asks every five seconds while
//! the pod runs, and for Prometheus.
//!
//! `GET /metrics` is answered with `ovirt_progress`, which the controller looks for, and with what
//! `--metrics-file` would hold. The counter is 100 only once the run has ended with exit code 0. The
//! certificate is made here, signed by itself, as the controller verifies none; its key is in memory only.
//!
//! The thread "reports" writes the page, and the threads here read it, so that a client holds up nobody: the
//! thread "endpoint" accepts connections, and each has a thread for [`client::PATIENCE`] at most; those that
//! are one too many are closed. Where nobody can listen (the port is taken), that is told, and the copy goes
//! on.

mod client;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tracing::{debug, warn};

use self::client::serve;
use super::Stage;
use super::metrics::{self, Picture};
use crate::process::spawn;
use crate::settings::copy::Volume;

/// The port that forklift's controller asks at.
const PORT: u16 = 8443;

/// Upper bound on the clients that are served at once.
const MAX_CLIENTS: usize = 8;

/// The pause after a connection that could not be accepted, as where descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long a client that has asked before gets to see the end. The controller asks every five seconds.
const LINGER: Duration = Duration::from_secs(8);

/// The share of the work that is told while the end is not known, in per cent.
const NOT_DONE: u64 = 99;

/// See the head of this file.
pub(super) struct Endpoint {
    /// The label of the progress.
    owner: String,
    page: Arc<Page>,
}

/// The facts that are told, and to whom they were.
#[derive(Default)]
struct Page {
    state: Mutex<State>,
    given: Condvar,
}

#[derive(Default)]
struct State {
    text: Arc<str>,
    /// In per cent; it only grows.
    progress: u64,
    /// The page says that all is done.
    is_last: bool,
    /// Somebody has got a page.
    is_asked: bool,
    /// Somebody has got the last one.
    is_told: bool,
}

impl Endpoint {
    /// Begins to listen, with `first` on the page, and tells where that fails.
    pub(super) fn start(volume: &Volume, first: &Picture) -> Endpoint {
        let endpoint = Endpoint {
            owner: volume.owner.clone(),
            page: Arc::default(),
        };
        // Nobody gets an empty page.
        endpoint.publish(first);
        let listening = listen(volume.listen).and_then(|listener| {
            let (config, page) = (config()?, endpoint.page.clone());
            let accept = move || accept(&listener, &config, &page);
            spawn("endpoint", accept).map_err(|e| io::Error::other(e.to_string()))
        });
        if let Err(e) = listening {
            warn!("nobody can ask how the copy goes, which goes on: {e}");
        }
        endpoint
    }

    /// Writes the page anew.
    pub(super) fn publish(&self, picture: &Picture) {
        let mut state = self.page.state.lock();
        state.is_last = matches!(picture.stage, Some(Stage::Ended(0, _)));
        state.progress = state.progress.max(match state.is_last {
            true => 100,
            false => progress(picture),
        });
        state.text = format!(
            "# HELP ovirt_progress The share of the disk that is copied, in per cent; 100 when all is safe.\n\
             # TYPE ovirt_progress counter\n\
             ovirt_progress{{ownerUID=\"{}\"}} {}\n{}",
            metrics::label(&self.owner),
            state.progress,
            metrics::text(picture)
        )
        .into();
    }

    /// Waits until the last page was given to somebody, where somebody has asked before; not for long.
    pub(super) fn linger(&self) {
        let until = Instant::now() + LINGER;
        let mut state = self.page.state.lock();
        while state.is_last && state.is_asked && !state.is_told {
            if self.page.given.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }
}

/// The share of the disk that is copied, in per cent.
fn progress(picture: &Picture) -> u64 {
    let (done, total) = picture.copied.unwrap_or_default();
    let share = done.saturating_mul(100).checked_div(total);
    share.unwrap_or_default().min(NOT_DONE)
}

/// Listens at `wanted`, else at every address of this machine, also where it has no IPv6.
fn listen(wanted: Option<SocketAddr>) -> io::Result<TcpListener> {
    let places = match wanted {
        Some(wanted) => vec![wanted],
        None => vec![
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
        ],
    };
    TcpListener::bind(&places[..]).map_err(|e| {
        let places: Vec<String> = places.iter().map(ToString::to_string).collect();
        io::Error::new(e.kind(), format!("cannot listen at {}: {e}", places.join(" or ")))
    })
}

/// Makes a key and a certificate.
fn config() -> io::Result<Arc<ServerConfig>> {
    let made = || -> Result<_, rcgen::Error> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, "rhv-mount populate");
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?, key))
    };
    let (certificate, key) =
        made().map_err(|e| io::Error::other(format!("cannot make a certificate: {e}")))?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key.into())
        });
    config.map(Arc::new).map_err(io::Error::other)
}

/// Serves clients for as long as the process lives.
fn accept(listener: &TcpListener, config: &Arc<ServerConfig>, page: &Arc<Page>) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) => {
                debug!("a client that asks how the copy goes is not accepted: {e}");
                sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let Some(place) = Place::take(&clients) else {
            continue;
        };
        let (config, page) = (config.clone(), page.clone());
        let serve = move || {
            let _place = place;
            if let Err(e) = serve(stream, config, &page) {
                debug!("a client that asks how the copy goes is not answered: {e}");
            }
        };
        if let Err(e) = spawn("endpoint-client", serve) {
            debug!("{e}");
        }
    }
}

/// One of the places for clients, which is free again when this is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Option<Place> {
        let place = Place(clients.clone());
        (clients.fetch_add(1, Ordering::AcqRel) < MAX_CLIENTS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            owner: "5b0e\"7".to_owned(),
            page: Arc::default(),
        }
    }

    fn picture(stage: Stage, copied: Option<(u64, u64)>) -> Picture {
        Picture {
            stage: Some(stage),
            copied,
            ..Picture::default()
        }
    }

    /// The number on the page, as forklift's controller finds it.
    fn told(endpoint: &Endpoint) -> u64 {
        let text = endpoint.page.state.lock().text.clone();
        let sample = "progress{ownerUID=\"5b0e\\\"7\"} ";
        let (_, rest) = text.split_once(sample).unwrap_or_else(|| panic!("{text}"));
        assert!(!rest.contains(sample), "{text}");
        rest.lines().next().unwrap().parse().unwrap()
    }

    #[test]
    fn the_progress_grows_and_is_100_only_when_all_is_safe() {
        for (last, code) in [(100, 0), (NOT_DONE, 7), (NOT_DONE, 1)] {
            let endpoint = endpoint();
            for (stage, copied, progress) in [
                (Stage::Opening, None, 0),
                (Stage::Copying, Some((0, 400)), 0),
                (Stage::Copying, Some((202, 400)), 50),
                (Stage::Copying, Some((100, 400)), 50),
                (Stage::Copying, Some((400, 400)), NOT_DONE),
                (Stage::Copying, Some((0, 0)), NOT_DONE),
                (Stage::Finalizing, Some((400, 400)), NOT_DONE),
                (Stage::Ended(code, None), Some((400, 400)), last),
            ] {
                endpoint.publish(&picture(stage.clone(), copied));
                assert_eq!(told(&endpoint), progress, "{stage:?} {copied:?}");
            }
        }
    }

    #[test]
    fn the_end_is_awaited_by_those_alone_who_have_asked_and_have_not_heard_of_it() {
        let endpoint = endpoint();
        endpoint.publish(&picture(Stage::Ended(0, None), None));
        // Nobody has asked.
        endpoint.linger();
        endpoint.page.state.lock().is_asked = true;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| endpoint.linger());
            endpoint.page.state.lock().is_told = true;
            endpoint.page.given.notify_all();
            waiting.join().unwrap();
        });
        let failed = self::endpoint();
        failed.publish(&picture(Stage::Ended(1, None), None));
        failed.page.state.lock().is_asked = true;
        failed.linger();
        assert!(!failed.page.state.lock().is_told);
    }

    #[test]
    fn clients_beyond_the_places_for_them_are_not_served() {
        let clients = Arc::default();
        let places: Vec<_> = (0..MAX_CLIENTS).map(|_| Place::take(&clients).unwrap()).collect();
        assert!(Place::take(&clients).is_none() && Place::take(&clients).is_none());
        drop(places);
        assert!(Place::take(&clients).is_some());
    }
}
