//! The transfer URL: `https://HOST:PORT/images/TICKET`. Anybody with the URL can read and write the disk, so
//! its path is a secret, and only [`TransferUrl::host`] is printed.

use serde::{Deserialize, Serialize};
use url::Url;

use super::Error;
use crate::secret::{Secret, hide};
use crate::zone;

/// A checked transfer URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransferUrl {
    scheme: String,
    host: String,
    /// The network that an IPv6 address belongs to.
    #[serde(default)]
    zone: Option<String>,
    port: u16,
    path: Secret,
}

impl TransferUrl {
    /// Checks `text` and registers its ticket as a secret. Errors never quote `text`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Url { why };
        let text = text.trim();
        if let Some((_, ticket)) = text.split_once("/images/") {
            hide(ticket.trim_end_matches('/'));
        }
        // The parser silently drops these characters, which would change the ticket.
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(refuse("there are blanks or control characters in it".into()));
        }
        let (text, zone) = zone::split(text);
        zone.as_deref().map_or(Ok(()), zone::check).map_err(refuse)?;
        let url = Url::parse(&text).map_err(|e| refuse(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse(format!(
                "the scheme is {:?}, not https or http",
                url.scheme()
            )));
        }
        let segments: Vec<&str> = url.path().trim_matches('/').split('/').collect();
        let ["images", ticket] = segments[..] else {
            return Err(refuse("the path is not /images/TICKET".into()));
        };
        if ticket.is_empty() {
            return Err(refuse("the ticket after /images/ is empty".into()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse(
                "it carries a user name; the ticket is the only credential".into(),
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it has a query or a fragment".into()));
        }
        hide(ticket);
        let host = url
            .host_str()
            .filter(|h| !h.is_empty())
            .ok_or_else(|| refuse("no host".into()))?;
        Ok(TransferUrl {
            scheme: url.scheme().to_owned(),
            host: host.to_owned(),
            zone,
            port: url.port_or_known_default().unwrap_or(54322),
            path: Secret::new(format!("/images/{ticket}")),
        })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// The host's name or address; an IPv6 address has its brackets, and not its zone.
    pub(crate) fn host_name(&self) -> &str {
        &self.host
    }

    /// The zone of an IPv6 address.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `scheme://host:port`, which is safe to print.
    pub(crate) fn host(&self) -> String {
        zone::join(&self.server(), self.zone())
    }

    fn server(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    /// The ticket itself, for the redaction in another process.
    pub(crate) fn ticket(&self) -> &str {
        self.path.expose().trim_start_matches("/images/")
    }

    /// The absolute address of the image followed by `below` (such as `"/extents"`), for the server: a zone
    /// means nothing there.
    pub(super) fn address(&self, below: &str) -> String {
        format!("{}{}{}", self.server(), self.path.expose(), below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_url_is_taken_apart_and_never_printed_whole() {
        let url = TransferUrl::parse("https://host1.example:54322/images/1234-secret\n").unwrap();
        assert_eq!(url.host(), "https://host1.example:54322");
        assert_eq!(
            url.address("/extents"),
            "https://host1.example:54322/images/1234-secret/extents"
        );
        assert!(!format!("{url:?}").contains("1234-secret"));
        let v6 = TransferUrl::parse("http://[::1]:99/images/t").unwrap();
        assert_eq!(v6.host(), "http://[::1]:99");
        for text in [
            "http://[fe80::1%25lo]:99/images/t",
            "http://[fe80::1%lo]:99/images/t",
        ] {
            let local = TransferUrl::parse(text).unwrap();
            assert_eq!(local.host(), "http://[fe80::1%25lo]:99");
            assert_eq!((local.host_name(), local.zone()), ("[fe80::1]", Some("lo")));
            assert_eq!(local.address("/extents"), "http://[fe80::1]:99/images/t/extents");
        }
    }

    #[test]
    fn what_is_not_a_transfer_url_is_refused_without_being_quoted() {
        for bad in [
            "",
            "host:54322",
            "ftp://h/images/topsecret",
            "https://h/",
            "https://h/images/",
            "https://h/disks/topsecret",
            "https://u:p@h/images/topsecret",
            "https://h/images/topsecret?x=1",
            "https://[fe80::1%25]x]/images/topsecret",
            "https://[fe80::1%]/images/topsecret",
            "https://[fe80::1%25a/b]/images/topsecret",
            "https://h/images/topsecret\r\nX-Evil: yes",
        ] {
            let error = TransferUrl::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("topsecret"), "{error}");
        }
    }
}
