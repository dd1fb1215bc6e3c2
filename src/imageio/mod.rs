//! The HTTP side of one disk: no other module of the data path knows ureq, rustls or imageio's protocol.
//!
//! [`Image::open`] makes the first connection and learns what the ticket allows, how large the disk is, and
//! whether the server provably runs on this host (its unix socket then replaces TCP and TLS). Afterwards
//! [`Image`] is the pool's [`Dial`](crate::remote::Dial): each call makes one more connection and authorises
//! it with OPTIONS.
//!
//! ```text
//! url       the transfer URL and its secret ticket
//! socket    a TCP or unix stream with timeouts
//! local     proves that a unix socket belongs to the server
//! tls       certificate checks and the TLS stream
//! transport socket and TLS below ureq: no silent reconnect, early answers are read, answers are bounded
//! line      the stream of a connection, which the bytes of the disk take past ureq
//! interim   tells 100, 102, 103 from the answer that follows them
//! permit    what a client and its transport tell each other
//! patience  how long the server may be silent, given all that it does for us
//! client    one connection, and what every request on it has in common
//! requests  reads, writes, zeros, flushes and extents
//! checksum  the block hash that the server computes
//! diagnosis turns failed requests into errors
//! error     these errors, and their classes for the core
//! answers   the JSON of imageio's answers
//! image     dials connections
//! ahead     connections that are begun before they are dialled
//! renewals  the transfer URL, and its replacement once its ticket has ended
//! script    a recorded server for fuzzing, in the place of a socket
//! ```

mod ahead;
mod answers;
mod checksum;
mod client;
mod diagnosis;
mod dirty;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod image;
mod interim;
mod line;
mod local;
mod patience;
mod permit;
mod renewals;
mod requests;
#[cfg(any(test, feature = "fuzzing"))]
mod script;
mod socket;
mod tls;
mod transport;
mod url;

pub(crate) use self::answers::Capabilities;
pub(crate) use self::client::Client;
pub(crate) use self::error::Error;
pub(crate) use self::image::{Endpoint, Image};
pub(crate) use self::renewals::TicketState;
pub(crate) use self::url::TransferUrl;
