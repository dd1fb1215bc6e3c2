//! The translation of a request into one of imageio's operations, or into imageio's answer to an invalid
//! request.

use super::cousin;
use super::http::{Request, Response};
use super::ledger::Verb;
use super::settings::Settings;
use serde_json::Value;
use std::ops::Range;

#[derive(Clone, Debug)]
pub enum Operation {
    Options,
    Get { range: Range<u64>, whole: bool },
    Put { range: Range<u64>, flush: bool },
    Zero { range: Range<u64>, flush: bool },
    Flush,
    Extents,
    Checksum { block_size: u64 },
}

impl Operation {
    pub fn verb(&self) -> Verb {
        match self {
            Operation::Options => Verb::Options,
            Operation::Get { .. } => Verb::Get,
            Operation::Put { .. } => Verb::Put,
            Operation::Zero { .. } => Verb::Zero,
            Operation::Flush => Verb::Flush,
            Operation::Extents => Verb::Extents,
            Operation::Checksum { .. } => Verb::Checksum,
        }
    }

    pub fn range(&self) -> Range<u64> {
        match self {
            Operation::Get { range, .. } | Operation::Put { range, .. } | Operation::Zero { range, .. } => {
                range.clone()
            }
            _ => 0..0,
        }
    }

    pub fn changes_data(&self) -> bool {
        matches!(self, Operation::Put { .. } | Operation::Zero { .. })
    }

    pub fn needs_write(&self) -> bool {
        self.changes_data() || matches!(self, Operation::Flush)
    }

    /// Parses a request. `patch` is the body of a PATCH, which has been read; a PUT's body is still in the
    /// stream.
    pub fn parse(request: &Request, patch: &[u8], settings: &Settings) -> Result<Operation, Response> {
        let rest = request
            .path
            .strip_prefix("/images/")
            .ok_or_else(|| Response::text(404, "Not found"))?;
        let (ticket, sub) = rest.split_once('/').unwrap_or((rest, ""));
        if settings.cousin && (ticket != settings.ticket || settings.revoked) {
            return Err(cousin::unknown_ticket());
        }
        if ticket != settings.ticket || settings.revoked {
            let text = format!("You are not allowed to access this resource: No such ticket {ticket}");
            return Err(Response::text(403, &text).closing());
        }
        match (request.method.as_str(), sub) {
            ("OPTIONS", "") => Ok(Operation::Options),
            ("GET", "") => get(request, settings.size),
            ("GET", "extents") if settings.extents => Ok(Operation::Extents),
            ("GET", "checksum") if settings.checksum => checksum(request),
            ("PUT", "") => put(request, settings),
            ("PATCH", "") => match self::patch(patch, settings)? {
                operation if settings.cousin => {
                    let range = operation.range();
                    let refused = cousin::refuses_patch(request, range.end - range.start);
                    refused.map_or(Ok(operation), Err)
                }
                operation => Ok(operation),
            },
            (_, "" | "extents") => Err(Response::text(
                405,
                &format!("Method {} not allowed", request.method),
            )),
            _ => Err(Response::text(404, "No handler for this path")),
        }
    }
}

fn get(request: &Request, size: u64) -> Result<Operation, Response> {
    let refused = |text: &str| Response::text(416, text).with("content-range", format!("bytes */{size}"));
    match request.range() {
        None => Ok(Operation::Get {
            range: 0..size,
            whole: true,
        }),
        Some(Err(())) => Err(refused("Unsupported range")),
        Some(Ok((first, None))) if first <= size => Ok(Operation::Get {
            range: first..size,
            whole: false,
        }),
        Some(Ok((first, None))) => Err(Response::text(400, &format!("Requested -{} bytes", first - size))),
        Some(Ok((first, Some(last)))) if last < size => Ok(Operation::Get {
            range: first..last + 1,
            whole: false,
        }),
        Some(Ok(_)) => Err(refused("Requested range out of allowed range")),
    }
}

/// This server knows one algorithm.
fn checksum(request: &Request) -> Result<Operation, Response> {
    let block_size = request.query("block_size").and_then(|size| size.parse().ok());
    match (request.query("algorithm"), block_size) {
        (Some("blake2b"), Some(block_size)) => Ok(Operation::Checksum { block_size }),
        (other, _) => Err(Response::text(
            400,
            &format!("Unsupported value {other:?} for 'algorithm'"),
        )),
    }
}

fn put(request: &Request, settings: &Settings) -> Result<Operation, Response> {
    if let Some(refusal) = cousin::refuses_put(request, settings.whole_only).filter(|_| settings.cousin) {
        return Err(refusal);
    }
    let length = request
        .content_length()
        .ok_or_else(|| Response::text(400, "Content-Length header is required"))?;
    let offset = request
        .content_range_start()
        .map_err(|()| Response::text(400, "Invalid Content-Range"))?;
    let flush = match request.query("flush") {
        None => !settings.cousin,
        Some("y") => true,
        Some("n") => false,
        Some(other) => {
            return Err(Response::text(
                400,
                &format!("Invalid value '{other}' for 'flush'"),
            ));
        }
    };
    let range = offset..offset + length;
    if range.end > settings.size {
        return Err(Response::text(416, "Requested range out of allowed range"));
    }
    Ok(Operation::Put { range, flush })
}

fn patch(body: &[u8], settings: &Settings) -> Result<Operation, Response> {
    let message: Value =
        serde_json::from_slice(body).map_err(|_| Response::text(400, "Invalid JSON message"))?;
    match message["op"].as_str() {
        Some("flush") if settings.flush => Ok(Operation::Flush),
        Some("zero") if settings.zero => {
            let offset = message.get("offset").map_or(Some(0), Value::as_u64);
            let (Some(offset), Some(size)) = (offset, message["size"].as_u64()) else {
                return Err(Response::text(400, "Missing required value for 'size'"));
            };
            let flush = message.get("flush").map_or(Some(false), Value::as_bool);
            let flush = flush.ok_or_else(|| Response::text(400, "Boolean required"))?;
            if offset + size > settings.size {
                return Err(Response::text(416, "Requested range out of allowed range"));
            }
            Ok(Operation::Zero {
                range: offset..offset + size,
                flush,
            })
        }
        op => Err(Response::text(400, &format!("Unsupported value {op:?} for 'op'"))),
    }
}
