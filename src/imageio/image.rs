//! One remote image: it dials the first and all further connections, and replaces a transfer URL that has
//! ended.
//!
//! Further connections to a server far away are begun while the first one is being made (`ahead`).
//!
//! The pool's threads call [`Image`] as their [`Dial`]. A renewal runs in a thread of its own (`renewals`),
//! for which they wait. Each new URL starts a new epoch. The unix socket is used only for the server that it
//! was proven for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use tracing::{debug, info};

use super::ahead::{Ahead, Connect};
use super::patience::Load;
use super::permit::Permit;
use super::renewals::{Renewals, TicketState};
use super::socket::{Route, UnixRoute};
use super::tls::with_keys;
use super::transport::{Far, OneShot};
use super::{Capabilities, Client, Error, TransferUrl, local};
use crate::remote::{Denial, Dial, Remote, RemoteError};
use crate::trust::Trust;

/// The way to reach an image.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) url: TransferUrl,
    pub(crate) trust: Trust,
    /// Use the server's unix socket if the server runs on this host.
    pub(crate) unix_socket: bool,
    /// Upper bound on the server's silence during a request.
    pub(crate) timeout: Duration,
    /// Number of connections that will be made, this one included.
    pub(crate) connections: usize,
    /// They will read only.
    pub(crate) read_only: bool,
    /// The extents will be asked for.
    pub(crate) extents: bool,
}

/// A remote image that can be connected to any number of times.
pub(crate) struct Image {
    /// The current URL, and how it is replaced.
    renewals: Arc<Renewals>,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    /// The work of the server for all connections.
    load: Arc<Load>,
    /// The proven unix socket of the server `first_host`.
    local: Option<UnixRoute>,
    first_host: String,
    capabilities: Capabilities,
    size: u64,
    /// The server ends each connection with its first answer.
    brief: Arc<AtomicBool>,
    /// The last epoch in which the disk had its size.
    sized: AtomicU64,
    /// The connections that are being made, for the extents and for the pool.
    ahead: Arc<Ahead>,
}

/// Upper bound on the connections that are begun before the server has said how many it wants. imageio wants
/// 8, and more would stand in the way of those.
const MAX_AHEAD: usize = 8;

impl Image {
    /// Makes the first connection, and returns it with the image for the pool.
    pub(crate) fn open(endpoint: &Endpoint) -> Result<(Image, Client), Error> {
        let url = endpoint.url.clone();
        endpoint.trust.warn("imageio", &url.host());
        let tls = match url.is_tls() {
            true => Some(with_keys(&*endpoint.trust.client_config()?)),
            false => None,
        };
        let mut image = Image {
            first_host: url.host(),
            renewals: Renewals::from(url),
            tls,
            timeout: endpoint.timeout,
            load: Arc::default(),
            local: None,
            capabilities: Capabilities::default(),
            size: 0,
            brief: Arc::default(),
            sized: AtomicU64::new(0),
            ahead: Arc::default(),
        };
        let mut client = image.connect_first(endpoint.connections)?;
        image.capabilities = client.capabilities().clone();
        let mut size = None;
        let offered = image.capabilities.unix_socket.clone();
        if let Some(name) = offered.filter(|_| endpoint.unix_socket) {
            match image.connect_locally(&name, &mut client) {
                Ok((local, compared)) => {
                    (client, size) = (local, Some(compared));
                    image.ahead.end();
                }
                Err(why) => {
                    info!(
                        "its unix socket is not used, staying with {}: {why}",
                        client.host()
                    );
                    image.local = None;
                }
            }
        }
        image.size = match size {
            Some(size) => size,
            None => {
                image.allow_others(endpoint);
                image.ask_size(&mut client)?
            }
        };
        debug!(host = client.host(), size = image.size, capabilities = ?image.capabilities, "image opened");
        Ok((image, client))
    }

    /// Connects over the unix socket `name` of the server that `remote` is connected to; returns the
    /// connection and the size of the disk. The listener gets no byte before it is proven to be that server.
    /// It must then report the same capabilities and size for the ticket as `remote`.
    fn connect_locally(&mut self, name: &str, remote: &mut Client) -> Result<(Client, u64), String> {
        self.local = Some(local::prove(name, remote.ends())?);
        let mut local = self.connect(self.local.as_ref()).map_err(|e| e.to_string())?;
        let ask = |client: &mut Client| client.size().map_err(|e| e.to_string());
        let size = ask(&mut local)?;
        match local.capabilities() == remote.capabilities() && size == ask(remote)? {
            true => Ok((local, size)),
            false => Err("the ticket has other capabilities or another size there".to_owned()),
        }
    }

    /// Size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The answer to OPTIONS on the first connection.
    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// `scheme://host:port` of the transfer URL.
    pub(crate) fn host(&self) -> String {
        self.current().1.host()
    }

    /// Registers the source of new transfer URLs; it is asked once the ticket has ended or its server is
    /// away.
    pub(crate) fn renew_with(
        &self,
        renewal: impl Fn(&TransferUrl, TicketState) -> Option<TransferUrl> + Send + Sync + 'static,
    ) {
        self.renewals.renew_with(Box::new(renewal));
    }

    fn current(&self) -> (u64, TransferUrl) {
        self.renewals.current()
    }

    /// The transport of new connections: `https`, `http` or `unix`.
    pub(crate) fn transport(&self) -> &'static str {
        match (&self.local, &self.tls) {
            (Some(_), _) => "unix",
            (None, Some(_)) => "https",
            (None, None) => "http",
        }
    }

    /// Makes the connection that finds out what the server can do. If that is far away, and the user allows
    /// several connections, the others are begun meanwhile.
    fn connect_first(&self, connections: usize) -> Result<Client, Error> {
        // The pool has the first one already, and the extents have one of their own.
        let others = if connections > 1 {
            connections.min(MAX_AHEAD)
        } else {
            0
        };
        let mut connects: Vec<Connect> = (0..others).map(|_| self.unasked()).collect();
        let ahead = self.ahead.clone();
        let far = Far(Box::new(move || {
            ahead.begin(connects.drain(..others.min(1)));
            Box::new(move || ahead.begin(connects.drain(..)))
        }));
        self.connector(None, None, Some(far))()
    }

    /// Returns what makes a connection without a request.
    fn unasked(&self) -> Connect {
        Box::new(self.connector(None, Some(self.capabilities.clone()), None))
    }

    /// Lets those of the begun connections go on that the server wants, and sees to one for the extents, if
    /// it may have one beside those of the pool. The round trips that they take pass while other things are
    /// asked.
    fn allow_others(&self, endpoint: &Endpoint) {
        let can = &self.capabilities;
        let count = can.connections(endpoint.connections, endpoint.read_only);
        let walks = endpoint.extents && can.extents && can.allows_beside(count);
        self.ahead.allow(walks.then(|| self.unasked()), count - 1);
    }

    fn connect(&self, local: Option<&UnixRoute>) -> Result<Client, Error> {
        // Such a connection has one request to give, and OPTIONS would take it. Its own request finds out
        // whether the ticket is good.
        let is_known = self.capabilities != Capabilities::default();
        let known = (is_known && self.brief.load(Ordering::Relaxed)).then(|| self.capabilities.clone());
        self.connector(local, known, None)()
    }

    /// Returns what makes a connection. With `known` capabilities it has no OPTIONS. `far` is called if the
    /// server proves to be far away.
    fn connector(
        &self,
        local: Option<&UnixRoute>,
        known: Option<Capabilities>,
        far: Option<Far>,
    ) -> impl FnOnce() -> Result<Client, Error> + Send + use<> {
        let (epoch, url) = self.current();
        let (route, tls, host) = match local {
            Some(local) => (Route::Unix(local.clone()), None, local.shown()),
            None => {
                let route = Route::Tcp {
                    host: url.host_name().to_owned(),
                    zone: url.zone().map(str::to_owned),
                    port: url.port(),
                };
                let tls = self
                    .tls
                    .clone()
                    .map(|config| (config, url.host_name().to_owned()));
                (route, tls, url.host())
            }
        };
        let permit = Permit::once(self.timeout, self.load.clone(), self.brief.clone());
        let mut shot = OneShot::new(route, tls, permit);
        if let Some(far) = far {
            shot = shot.when_far(far);
        }
        move || Client::open(&url, epoch, host, shot, known)
    }

    /// Asks for the size of the disk on the connection after its OPTIONS, or on a new one where the server
    /// has ended that one with the answer and the news came too late. That one has no OPTIONS, for which such
    /// a server has no time.
    fn ask_size(&self, client: &mut Client) -> Result<u64, Error> {
        client.size().or_else(|error| match error {
            Error::Lost { late: false, .. } => {
                self.brief.store(true, Ordering::Relaxed);
                let again = self.connect(None).and_then(|mut other| other.size());
                again.map_err(|_| error)
            }
            other => Err(other),
        })
    }
}

impl Dial for Image {
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError> {
        if let Some(client) = self.ahead.take().filter(|client| client.epoch() == self.epoch()) {
            return Ok(Box::new(client));
        }
        // The unix socket was proven for the first server only.
        let local = self.local.as_ref().filter(|_| self.host() == self.first_host);
        let mut client = match self.connect(local) {
            // A restarted server is another process, and the proof does not cover it.
            Err(Error::Connect { why, .. }) if local.is_some() => {
                info!("the unix socket is no longer usable, connecting over TCP: {why}");
                self.connect(None)?
            }
            other => other?,
        };
        if client.epoch() > self.sized.load(Ordering::Relaxed) {
            // Between two transfers the disk was unlocked for a moment, so somebody else may have resized it.
            let size = self.ask_size(&mut client)?;
            if size != self.size {
                return Err(RemoteError::Protocol(format!(
                    "the disk on {} has {size} bytes now instead of {}: somebody else has resized it; unmount \
                     it and mount it again",
                    client.host(),
                    self.size
                )));
            }
            self.sized.fetch_max(client.epoch(), Ordering::Relaxed);
        }
        Ok(Box::new(client))
    }

    fn dial_to_walk(&self) -> Result<Box<dyn Remote>, RemoteError> {
        let walker = self.ahead.take_walker();
        match walker.filter(|client| client.epoch() == self.epoch()) {
            Some(mut client) => {
                client.capabilities = self.capabilities.clone();
                Ok(Box::new(client))
            }
            None => self.dial(),
        }
    }

    fn epoch(&self) -> u64 {
        self.current().0
    }

    fn retired(&self) -> u64 {
        self.renewals.retired()
    }

    fn retire(&self, epoch: u64, wait: Duration) -> bool {
        self.renewals.renew(epoch, TicketState::InDoubt, wait) && self.retired() > epoch
    }

    fn renew(&self, epoch: u64, why: &RemoteError, wait: Duration) -> bool {
        let state = match why {
            RemoteError::Denied(Denial::UnknownTicket, _) => TicketState::Unknown,
            RemoteError::Denied(Denial::EndedTicket, _) => TicketState::Refused,
            RemoteError::Unreachable(_) => TicketState::NobodyThere,
            RemoteError::Denied(Denial::Forbidden, _)
            | RemoteError::Over(_)
            | RemoteError::Busy(..)
            | RemoteError::Garbled(_)
            | RemoteError::Lost(_)
            | RemoteError::Late(_)
            | RemoteError::Failed(_)
            | RemoteError::Protocol(_) => return false,
        };
        self.renewals.renew(epoch, state, wait)
    }
}

#[cfg(test)]
mod tests;
