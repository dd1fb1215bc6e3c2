//! Another server with imageio's API does some things in its own way. The traits are those of Apache
//! CloudStack's image server, seen when one was run.
//!
//! It answers in JSON, does not know a ticket by 404, flushes after no write by itself, wants the type of a
//! PATCH to be JSON and each write to have a Content-Range, can't zero 4 GiB at once, and asks its storage
//! for the extents of a piece of the disk, whose answer may be longer than the piece.

use super::http::{Request, Response};
use super::image::Extent;
use serde_json::json;

/// Size of the pieces, in bytes.
const PIECE: u64 = 1 << 20;

/// Upper bound on the length of one request to its storage.
const MAX_LENGTH: u64 = u32::MAX as u64;

pub fn error(status: u16, text: &str) -> Response {
    let body = json!({"error": text}).to_string().into_bytes();
    Response::empty(status)
        .with("content-type", "application/json".to_string())
        .body(body)
}

/// The answer to a ticket that was never there, or that a restart has forgotten.
pub fn unknown_ticket() -> Response {
    error(404, "unknown image_id")
}

/// Returns why a PUT with this head is refused.
pub fn refuses_put(request: &Request, whole_only: bool) -> Option<Response> {
    match (request.header("content-range"), whole_only) {
        (Some(_), true) => Some(error(400, "range writes not supported; use full PUT").closing()),
        // It would replace the image by the body.
        (None, false) => Some(error(400, "no Content-Range").closing()),
        _ => None,
    }
}

/// Returns why a PATCH of this many bytes is refused.
pub fn refuses_patch(request: &Request, length: u64) -> Option<Response> {
    match request.header("content-type") {
        Some("application/json") if length <= MAX_LENGTH => None,
        Some("application/json") => Some(error(500, "nbd_zero: invalid argument")),
        _ => Some(error(415, "unsupported Content-Type")),
    }
}

/// The answer to a change or a flush that is done.
pub fn done(bytes: u64) -> Response {
    Response::json(json!({"ok": true, "bytes_written": bytes}).to_string())
}

/// Tells `extents` piece by piece, each with what the storage answers beyond the piece.
pub fn told_in_pieces(extents: &[Extent], size: u64) -> Vec<Extent> {
    let mut told = Vec::new();
    for piece in (0..size).step_by(PIECE as usize) {
        let end = (piece + PIECE).min(size);
        for extent in extents {
            let last = extent.start + extent.length;
            if last > piece && extent.start < end {
                let start = extent.start.max(piece);
                told.push(Extent {
                    start,
                    length: last - start,
                    zero: extent.zero,
                });
            }
        }
    }
    told
}
