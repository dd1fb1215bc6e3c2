//! The records of one direction after the handshake, under the keys that rustls has agreed on.
//!
//! A record is sealed and opened by rustls's own cipher, with its number, which no other record of these keys
//! ever has: [`Sealer`] and [`Opener`] count it, and both are made once for their keys. A record is opened
//! where it lies. What the keys and the handshake messages mean is the stream's business.

use std::ops::Range;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, PeerIncompatible, ProtocolVersion,
    SupportedCipherSuite,
};

/// The length of a record's header: type, version, and the length of what follows.
const HEADER_BYTES: usize = 5;

/// Upper bound on the plain bytes of a record (RFC 8446, 5.1).
pub(super) const MAX_PLAIN_BYTES: usize = 16 << 10;

/// Upper bound on a record with its header (RFC 5246, 6.2.3; TLS 1.3 allows less).
pub(super) const MAX_RECORD_BYTES: usize = HEADER_BYTES + MAX_PLAIN_BYTES + 2048;

/// Returns the length of the record that `bytes` begins with, or `None` when it is not complete.
pub(super) fn complete_record(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some([kind, major, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    if let ContentType::Unknown(_) = ContentType::from(*kind) {
        return Err(InvalidMessage::InvalidContentType.into());
    }
    if *major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    let len = HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX_RECORD_BYTES {
        return Err(InvalidMessage::MessageTooLarge.into());
    }
    Ok((bytes.len() >= len).then_some(len))
}

/// Seals the records that are sent under one key.
pub(super) struct Sealer {
    cipher: Box<dyn MessageEncrypter>,
    next: u64,
    limit: u64,
}

impl Sealer {
    /// A sealer whose first record has the number `next`.
    pub(super) fn new(
        suite: SupportedCipherSuite,
        (next, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Sealer, Error> {
        let (key, iv) = key_and_iv(secrets)?;
        let (cipher, limit) = match suite {
            SupportedCipherSuite::Tls13(suite) => (
                suite.aead_alg.encrypter(key, iv),
                suite.common.confidentiality_limit,
            ),
            SupportedCipherSuite::Tls12(suite) => {
                let shape = suite.aead_alg.key_block_shape();
                let (fixed, rest) = iv.as_ref().split_at(shape.fixed_iv_len);
                let explicit = &rest[..shape.explicit_nonce_len];
                (
                    suite.aead_alg.encrypter(key, fixed, explicit),
                    suite.common.confidentiality_limit,
                )
            }
        };
        Ok(Sealer { cipher, next, limit })
    }

    /// True when the key has sealed as many records as are safe.
    pub(super) fn is_spent(&self) -> bool {
        self.next >= self.limit
    }

    /// The number of the next record.
    #[cfg(test)]
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Returns the record of `plain`, at most [`MAX_PLAIN_BYTES`], with its header.
    pub(super) fn seal(&mut self, kind: ContentType, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let number = self.next;
        // No number is used again, whatever becomes of the record.
        self.next = number.checked_add(1).ok_or(Error::EncryptError)?;
        let message = OutboundPlainMessage {
            typ: kind,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(plain),
        };
        Ok(self.cipher.encrypt(message, number)?.encode())
    }
}

/// Opens the records that arrive under one key.
pub(super) struct Opener {
    cipher: Box<dyn MessageDecrypter>,
    next: u64,
}

impl Opener {
    /// An opener whose first record has the number `next`.
    pub(super) fn new(
        suite: SupportedCipherSuite,
        (next, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Opener, Error> {
        let (key, iv) = key_and_iv(secrets)?;
        let cipher = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => {
                let fixed = &iv.as_ref()[..suite.aead_alg.key_block_shape().fixed_iv_len];
                suite.aead_alg.decrypter(key, fixed)
            }
        };
        Ok(Opener { cipher, next })
    }

    /// Opens `record`, a complete one, where it lies; returns its kind and the place of its plain bytes.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Error> {
        let first = record.as_ptr().addr();
        let (header, sealed) = record.split_at_mut(HEADER_BYTES);
        let version = ProtocolVersion::from(u16::from_be_bytes([header[1], header[2]]));
        let message = InboundOpaqueMessage::new(ContentType::from(header[0]), version, sealed);
        let plain = self.cipher.decrypt(message, self.next)?;
        self.next = self.next.checked_add(1).ok_or(Error::DecryptError)?;
        // The cipher chooses the place: it may move them over a nonce of TLS 1.2.
        let start = plain.payload.as_ptr().addr() - first;
        Ok((plain.typ, start..start + plain.payload.len()))
    }
}

fn key_and_iv(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(PeerIncompatible::NoCipherSuitesInCommon.into()),
    }
}
