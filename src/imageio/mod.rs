//! The HTTP side of one disk: the only place that knows ureq, rustls and ovirt-imageio's protocol.
//!
//! [`Image::open`] makes the first connection, learns what the ticket allows, how large the disk is,
//! and whether the server is proven to be this host (then its unix socket serves, without TLS). From then on
//! [`Image`] is the pool's [`Dial`](crate::remote::Dial): each call makes one more connection, authorised with OPTIONS.
//!
//! ```text
//! url       the transfer URL and its secret
//! socket    TCP or unix stream, timeouts
//! local     the proof that a unix socket is the server's
//! tls       trust and the TLS stream
//! transport socket + TLS as ureq wants it; no silent reconnect; the server is heard out
//! client    the requests
//! diagnosis the errors of the requests
//! image     the first connection to a disk, and the following ones
//! answers   the JSON
//! ```

mod answers;
mod client;
mod diagnosis;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod image;
mod local;
#[cfg(any(test, feature = "fuzzing"))]
mod script;
mod socket;
mod tls;
mod transport;
mod url;

pub(crate) use self::answers::Capabilities;
pub(crate) use self::client::Client;
pub(crate) use self::error::Error;
pub(crate) use self::image::{Endpoint as Access, Image, TicketState};
pub(crate) use self::url::TransferUrl;
