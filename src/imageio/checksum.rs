//! GET checksum: the block hash of the whole disk, which the server computes.
//!
//! The server reads all of the disk that is allocated, and sends not a byte before it is done. So this one
//! request may be silent for as long as a storage takes that reads 1 MiB/s (`patience`); a host that has died
//! meanwhile is noticed by the kernel's keep-alive probes (`socket`). The other connections stay under their
//! usual limits, and keep the ticket alive: a server without an answer for them is told as one.
//!
//! A hash that the server can't compute is no failure: the caller reads the disk back instead. imageio
//! answers 400 for an algorithm or a size of blocks that it does not know, releases before 2.0.10 answer 404
//! for the path, and servers of other makers do not list the feature.

use std::io::Read;

use super::answers::ChecksumBody;
use super::client::Client;
use super::diagnosis::MAX_MESSAGE_BYTES;
use super::error::Error;
use super::patience::time_for;
use crate::logging::plain;
use crate::page;
use crate::remote::{HashAnswer, HashRequest, RemoteError};
use crate::secret::clean;

impl Client {
    /// Asks for a block hash; it blocks for as long as the server takes.
    pub(super) fn checksum(&mut self, wanted: HashRequest<'_>) -> Result<HashAnswer, RemoteError> {
        if !self.capabilities.checksum {
            let why = format!("{} has no feature `checksum`", self.host());
            return Ok(HashAnswer::NotOffered(why));
        }
        let usual = self.permit.usual;
        self.permit.be_patient(usual + time_for(wanted.size, usual));
        let got = self.get_checksum(wanted);
        self.permit.be_patient(usual);
        self.learn(got)
    }

    fn get_checksum(&mut self, wanted: HashRequest<'_>) -> Result<HashAnswer, Error> {
        let what = || "GET of the checksum".to_owned();
        let HashRequest {
            algorithm,
            block_size,
            ..
        } = wanted;
        self.begin(MAX_MESSAGE_BYTES);
        let query = format!("/checksum?algorithm={algorithm}&block_size={block_size}");
        let answer = self.agent.get(self.url.address(&query)).call();
        let mut response = answer.map_err(|e| self.diagnosis.broken(what(), e))?;
        let status = response.status().as_u16();
        if !matches!(status, 200 | 400 | 404 | 405 | 501) {
            return Err(self.diagnosis.refusal(what(), response));
        }
        let mut body = Vec::new();
        let answer = response.body_mut().as_reader();
        answer
            .take(MAX_MESSAGE_BYTES)
            .read_to_end(&mut body)
            .map_err(|e| self.diagnosis.lost(what(), e))?;
        if status != 200 {
            let message = plain(&clean(&page::excerpt(&body)));
            let why = format!("{} answers HTTP {status}: {message}", self.host());
            return Ok(HashAnswer::NotOffered(why));
        }
        let hash = ChecksumBody::parse(&body, algorithm, block_size);
        hash.map(HashAnswer::Hash)
            .map_err(|why| self.diagnosis.nonsense(what(), why))
    }
}
