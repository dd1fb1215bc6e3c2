//! The words of a certificate about itself, for the fallback to its common name and for messages. Nothing
//! here decides on a signature.

use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::{ServerName, UnixTime};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{DateTime, Decode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};
use x509_cert::{Certificate, Version};

pub(super) const SERVER_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
pub(super) const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// An RSA key of 2048 bits, the shortest that is accepted, takes at least this many bytes.
const MIN_RSA_BYTES: usize = 256;

/// A certificate's own words. They are from a server that is not trusted yet.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
    /// The names of hosts that it is valid for: DNS names and addresses of its subjectAltName.
    pub(super) names: Vec<String>,
    /// The common names of its subject.
    pub(super) common_names: Vec<String>,
    /// It has no list of purposes, or one with servers in it.
    pub(super) is_for_servers: bool,
    pub(super) has_name_constraints: bool,
    pub(super) is_version_3: bool,
    /// Its key is RSA with less than 2048 bits.
    pub(super) has_short_key: bool,
}

impl Description {
    /// Reads a certificate; `None` if it can't be read as a whole.
    pub(super) fn of(der: &[u8]) -> Option<Description> {
        let certificate = Certificate::from_der(der).ok()?;
        let body = certificate.tbs_certificate();
        let names = body.get_extension::<SubjectAltName>().ok()?;
        let purposes = body.get_extension::<ExtendedKeyUsage>().ok()?;
        let mut extensions = body.extensions().into_iter().flatten();
        let key = body.subject_public_key_info();
        Some(Description {
            subject: body.subject().to_string(),
            issuer: body.issuer().to_string(),
            not_before: unix(body.validity().not_before.to_unix_duration()),
            not_after: unix(body.validity().not_after.to_unix_duration()),
            names: names.map_or(Vec::new(), |(_, names)| names.0.iter().filter_map(host).collect()),
            common_names: body
                .subject()
                .iter()
                .filter(|attribute| attribute.oid == COMMON_NAME)
                .filter_map(|attribute| String::from_utf8(attribute.value.value().to_vec()).ok())
                .collect(),
            is_for_servers: purposes.is_none_or(|(_, purposes)| {
                let purposes = &purposes.0;
                purposes.contains(&SERVER_PURPOSE) || purposes.contains(&ANY_PURPOSE)
            }),
            has_name_constraints: extensions.any(|extension| extension.extn_id == NAME_CONSTRAINTS),
            is_version_3: body.version() == Version::V3,
            has_short_key: key.algorithm.oid == RSA
                && key.subject_public_key.raw_bytes().len() < MIN_RSA_BYTES,
        })
    }

    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Returns true if the certificate names no host at all but in its common name, and that fits `name`: the
    /// rule of OpenSSL, for certificates from before the time of subjectAltName.
    pub(super) fn covers_by_common_name(&self, name: &ServerName<'_>) -> bool {
        match name {
            ServerName::DnsName(host) if self.names.is_empty() => self
                .common_names
                .iter()
                .any(|pattern| covers(pattern, host.as_ref())),
            _ => false,
        }
    }

    /// The hosts that it is valid for, for messages.
    pub(super) fn shown_names(&self) -> String {
        let names = match self.names.is_empty() {
            true => &self.common_names,
            false => &self.names,
        };
        match names.is_empty() {
            true => "no name at all".to_owned(),
            false => names.join(", "),
        }
    }
}

/// Returns true if `pattern` is `host`, or has a `*` in the place of its first label. Two labels must follow:
/// no certificate is for a whole top level domain.
fn covers(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let pattern = pattern.trim_end_matches('.');
    let plain = |name: &str| {
        let label = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        name.split('.').all(label)
    };
    match pattern.strip_prefix("*.") {
        Some(domain) => {
            let rest = host.split_once('.').map(|(_, rest)| rest);
            plain(domain)
                && domain.contains('.')
                && rest.is_some_and(|rest| rest.eq_ignore_ascii_case(domain))
        }
        None => plain(pattern) && pattern.eq_ignore_ascii_case(host),
    }
}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
            // An address of another length is a name all the same, so it forbids the fallback.
            Some(address.map_or_else(|_| "an invalid address".to_owned(), |ip| ip.to_string()))
        }
        _ => None,
    }
}

fn unix(since_epoch: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch)
}

/// The date and time of day in UTC.
pub(super) fn shown_time(time: UnixTime) -> String {
    let since_epoch = Duration::from_secs(time.as_secs());
    match DateTime::from_unix_duration(since_epoch) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{} s after 1970", since_epoch.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_fits_exactly_or_by_its_first_label() {
        for (pattern, host) in [
            ("host1.example.com", "host1.example.com"),
            ("HOST1.example.com", "host1.EXAMPLE.com."),
            ("*.example.com", "host1.example.com"),
            ("localhost", "localhost"),
        ] {
            assert!(covers(pattern, host), "{pattern} {host}");
        }
        for (pattern, host) in [
            ("host1.example.com", "host2.example.com"),
            ("example.com", "host1.example.com"),
            ("*.example.com", "example.com"),
            ("*.example.com", "a.b.example.com"),
            ("*.com", "example.com"),
            ("*", "localhost"),
            ("h*.example.com", "host1.example.com"),
            ("*.*.com", "a.example.com"),
            ("host1.example.com\0.evil.com", "host1.example.com"),
            ("", ""),
        ] {
            assert!(!covers(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn a_time_is_shown_in_utc() {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1_609_459_200));
        assert_eq!(shown_time(time), "2021-01-01T00:00:00Z");
        assert!(shown_time(UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX / 2))).contains("1970"));
    }
}
