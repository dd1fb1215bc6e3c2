//! The proxy of the kill tests as a program, for `scripts/soak`: it cuts connections at random bytes and
//! stalls some for a while.
//!
//!     cutting_proxy UPSTREAM SEED [calm]          calm: no faults
//!
//! UPSTREAM is a file that holds the server's port on this host. It is read anew for each connection. While
//! it is missing a connection is reset, so the program that restarts the server decides when clients can
//! reach it.
//!
//! Each connection is cut after about [`MEAN_BYTES_TO_CUT`], both directions together; one in ten is cut
//! within its first [`HANDSHAKE_BYTES`]. Half of the cuts are resets, half are ends of the stream, and each
//! loses the bytes that are on their way. About every [`MEAN_BYTES_TO_STALL`], one direction stands still for
//! up to [`MAX_STALL_MS`].
//!
//! The program prints its port, and at SIGTERM or SIGINT one line of JSON with its counts.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use content::{MIB, Random};
use proxy::{Effect, Fault, Proxy};

#[allow(dead_code, unreachable_pub, reason = "only the generator is of use here")]
#[path = "../tests/support/content.rs"]
mod content;
#[allow(dead_code, reason = "the kill tests need the rest")]
#[path = "../tests/kill/proxy.rs"]
mod proxy;

const MEAN_BYTES_TO_CUT: f64 = 64.0 * MIB as f64;
const MEAN_BYTES_TO_STALL: f64 = 256.0 * MIB as f64;
const MAX_STALL_MS: u64 = 8000;
const HANDSHAKE_BYTES: u64 = 8192;

#[derive(Default)]
struct Struck {
    cuts: AtomicU64,
    cuts_in_handshake: AtomicU64,
    stalls: AtomicU64,
}

/// Returns a random number of bytes, exponentially distributed with this mean.
fn far(random: &mut Random, mean: f64) -> u64 {
    let uniform = random.below(1 << 53) as f64 / (1_u64 << 53) as f64;
    (-(1.0 - uniform).ln() * mean) as u64
}

/// Returns a connection's stalls and then its cut. The proxy takes the next fault when one has struck, so
/// that is when a fault is counted.
fn faults(mut random: Random, struck: Arc<Struck>) -> impl Iterator<Item = Fault> + Send {
    let early = random.below(10) == 0;
    let mut left = match early {
        true => random.below(HANDSHAKE_BYTES),
        false => HANDSHAKE_BYTES + far(&mut random, MEAN_BYTES_TO_CUT),
    };
    let cut = [Effect::Cut, Effect::Reset][random.below(2) as usize];
    let mut last = None;
    std::iter::from_fn(move || {
        match last {
            Some(Effect::Pause(_)) => _ = struck.stalls.fetch_add(1, Ordering::Relaxed),
            Some(_) => {
                struck.cuts.fetch_add(1, Ordering::Relaxed);
                struck
                    .cuts_in_handshake
                    .fetch_add(early.into(), Ordering::Relaxed);
                return None;
            }
            None => {}
        }
        let to_stall = far(&mut random, MEAN_BYTES_TO_STALL);
        let (effect, after) = if to_stall < left {
            let time = Duration::from_millis(50 + random.below(MAX_STALL_MS - 50));
            (Effect::Pause(time), to_stall)
        } else {
            (cut, left)
        };
        left -= after;
        last = Some(effect);
        Some(Fault {
            effect,
            direction: None,
            after,
        })
    })
}

fn main() -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut args = std::env::args().skip(1);
    let upstream = PathBuf::from(args.next().context("no UPSTREAM")?);
    let seed = args.next().context("no SEED")?.parse()?;
    let calm = args.next().is_some_and(|word| word == "calm");
    let proxy = Proxy::start(move || {
        let port = fs::read_to_string(&upstream)?;
        port.trim().parse().map_err(io::Error::other)
    });
    let struck = Arc::new(Struck::default());
    if !calm {
        let (mut random, struck) = (Random::new(seed), struck.clone());
        proxy.plan(move |_| faults(Random::new(random.below(u64::MAX)), struck.clone()));
    }
    println!("{}", proxy.port());
    signals.forever().next();
    let counts = proxy.counts();
    println!(
        "{}",
        json!({
            "connections": counts.connections,
            "refused": counts.refused,
            "cuts": struck.cuts.load(Ordering::Relaxed),
            "cuts_in_handshake": struck.cuts_in_handshake.load(Ordering::Relaxed),
            "stalls": struck.stalls.load(Ordering::Relaxed),
            "bytes": counts.bytes,
        })
    );
    Ok(())
}
