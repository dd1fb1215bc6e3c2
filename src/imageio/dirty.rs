//! GET extents?context=dirty: what has changed since the checkpoint that a backup was made from.
//!
//! imageio answers 404 where the ticket, or the export behind it, has no bitmap, and old servers leave `zero`
//! out, which is data then. Apache CloudStack's server calls everything dirty where it has no bitmap.

use std::io::{self, Read};

use serde::Deserialize;

use super::answers::each_extent;
use super::client::Client;
use super::error::Error;
use super::requests::{EXTENTS_TIMEOUT, MAX_EXTENTS_BYTES};
use crate::remote::{DirtyAnswer, DirtyExtent, RemoteError};

#[derive(Deserialize)]
struct Body {
    start: u64,
    length: u64,
    /// A server that leaves it out says nothing that could be skipped.
    #[serde(default = "yes")]
    dirty: bool,
    #[serde(default)]
    zero: bool,
}

fn yes() -> bool {
    true
}

impl Client {
    /// Asks for the extents; it may block for minutes.
    pub(super) fn get_dirty(
        &mut self,
        found: &mut dyn FnMut(DirtyExtent),
    ) -> Result<DirtyAnswer, RemoteError> {
        if !self.capabilities.extents {
            return Ok(DirtyAnswer::NotOffered(format!(
                "{} has no feature `extents`",
                self.host()
            )));
        }
        self.permit.be_patient(EXTENTS_TIMEOUT);
        let got = self.try_dirty(found);
        self.permit.be_patient(self.permit.usual);
        self.learn(got)
    }

    fn try_dirty(&mut self, found: &mut dyn FnMut(DirtyExtent)) -> Result<DirtyAnswer, Error> {
        let what = || "GET of the dirty extents".to_owned();
        self.begin(MAX_EXTENTS_BYTES);
        let answer = self.agent.get(self.url.address("/extents?context=dirty")).call();
        let mut response = answer.map_err(|e| self.diagnosis.broken(what(), e))?;
        match response.status().as_u16() {
            200 => {}
            status @ (400 | 404 | 405 | 501) => {
                // The connection goes on behind the body.
                let mut body = response.body_mut().as_reader().take(4096);
                io::copy(&mut body, &mut io::sink()).map_err(|e| self.diagnosis.lost(what(), e))?;
                let why = format!(
                    "{} answers HTTP {status}, and has no record of changes",
                    self.host()
                );
                return Ok(DirtyAnswer::NotOffered(why));
            }
            _ => return Err(self.diagnosis.refusal(what(), response)),
        }
        read(response.body_mut().as_reader(), found).map_err(|e| match e.is_io() {
            true => self.diagnosis.lost(what(), e.into()),
            false => self.diagnosis.nonsense(what(), e.to_string()),
        })?;
        Ok(DirtyAnswer::Told)
    }
}

/// Streams the array of extents to `found`, as it comes.
fn read(body: impl Read, found: &mut dyn FnMut(DirtyExtent)) -> Result<(), serde_json::Error> {
    let range = |body: &Body| (body.start, body.length);
    each_extent(body, range, &mut |body, end| {
        found(DirtyExtent {
            range: body.start..end,
            dirty: body.dirty,
            zero: body.zero,
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_without_zero_is_data_and_one_without_dirty_is_dirty() {
        let mut all = Vec::new();
        let json = br#"[{"start": 0, "length": 4, "dirty": false, "zero": true}, {"start": 4, "length": 4,
                        "dirty": true}, {"start": 8, "length": 4, "zero": true}]"#;
        read(json.as_slice(), &mut |extent| all.push(extent)).unwrap();
        let of = |range, dirty, zero| DirtyExtent { range, dirty, zero };
        assert_eq!(
            all,
            [
                of(0..4, false, true),
                of(4..8, true, false),
                of(8..12, true, true)
            ]
        );
        let endless = br#"[{"start": 18446744073709551615, "length": 4, "dirty": true}]"#;
        assert!(read(endless.as_slice(), &mut |_| ()).is_err());
    }
}
