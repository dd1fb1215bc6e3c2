//! Addresses: the engine's URL in the forms that users write, and searches below it.

use url::Url;

use super::Error;
use crate::secret::clean;
use crate::zone;

/// Returns `scheme://host[:port]`, where an IPv6 address may have a zone, for an engine URL with or without
/// `https://`, `/ovirt-engine` or `/ovirt-engine/api`.
pub(crate) fn address(text: &str) -> Result<String, Error> {
    let refuse = |why: &str| Error::Url {
        url: clean(text).into_owned(),
        why: why.to_owned(),
    };
    // This check comes before any error quotes the text, since a password may be in it.
    if text.split(['?', '#']).next().is_some_and(|t| t.contains('@')) {
        return Err(Error::Url {
            url: "(with a user name in it)".into(),
            why: "give the user name with --username".into(),
        });
    }
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let (whole, zone) = zone::split(whole.trim());
    zone.as_deref()
        .map_or(Ok(()), zone::check)
        .map_err(|why| refuse(&why))?;
    let url = Url::parse(&whole).map_err(|e| refuse(&e.to_string()))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(refuse("the scheme is not https"));
    }
    let path = url.path().trim_end_matches('/');
    if !matches!(path, "" | "/ovirt-engine" | "/ovirt-engine/api") || url.query().is_some() {
        return Err(refuse("the path is not /ovirt-engine/api"));
    }
    let host = url
        .host_str()
        .filter(|h| !h.is_empty())
        .ok_or_else(|| refuse("no host"))?;
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    Ok(zone::join(
        &format!("{}://{host}{port}", url.scheme()),
        zone.as_deref(),
    ))
}

/// Returns `path?search=EXPRESSION` with the expression encoded.
pub(super) fn query(path: &str, search: &str) -> String {
    let encoded: String = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("search", search)
        .finish();
    format!("{path}?{}", encoded.replace('+', "%20"))
}

/// Quotes a value for the engine's search language; plain names need no quotes.
pub(super) fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match value.chars().all(plain) {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('"', "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_url_is_taken_as_users_write_it() {
        for (text, address_of) in [
            ("https://engine.example", "https://engine.example"),
            ("https://engine.example/", "https://engine.example"),
            ("https://engine.example/ovirt-engine", "https://engine.example"),
            (
                "https://engine.example:8443/ovirt-engine/api/",
                "https://engine.example:8443",
            ),
            (
                "https://[fd00::1]:8443/ovirt-engine/api",
                "https://[fd00::1]:8443",
            ),
            ("engine.example", "https://engine.example"),
            (
                "https://[fe80::1%25eth0]:8443/ovirt-engine",
                "https://[fe80::1%25eth0]:8443",
            ),
            ("[fe80::1%eth0]", "https://[fe80::1%25eth0]"),
        ] {
            assert_eq!(address(text).unwrap(), address_of, "{text}");
        }
        for bad in [
            "",
            "ftp://e/",
            "https://e/other",
            "https://admin@internal:pw1@e/",
            "https://admin@internal:pw1@e:99999/",
            "ftp://u:pw1@e",
            "https://e?x=1",
        ] {
            let error = address(bad).unwrap_err().to_string();
            assert!(!error.contains("pw1"), "{error}");
        }
    }
}
