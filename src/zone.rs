//! The zones of IPv6 addresses in URLs: `fe80::1` is another host on each network, and `[fe80::1%25eth0]`
//! (RFC 6874; many people write `%eth0`) names the network by its interface.
//!
//! A zone means something on this machine only. So it belongs to the socket's address, and to no header and
//! no certificate's name; URL parsers refuse it, and it is taken out before.

use nix::net::if_::if_nametoindex;

/// Takes the zone out of the host of a URL, with or without a scheme. Returns the rest, and the zone.
pub(crate) fn split(url: &str) -> (String, Option<String>) {
    let begin = url.find("://").map_or(0, |at| at + "://".len());
    // URL parsers take a backslash for a slash.
    let end = url[begin..]
        .find(['/', '\\', '?', '#'])
        .map_or(url.len(), |length| begin + length);
    let begin = url[begin..end].rfind('@').map_or(begin, |at| begin + at + 1);
    let host = &url[begin..end];
    let zone = host.strip_prefix('[').and_then(|address| {
        let close = 1 + address.find(']')?;
        let percent = host[..close].find('%')?;
        Some((begin + percent, begin + close))
    });
    let Some((percent, close)) = zone else {
        return (url.to_owned(), None);
    };
    let zone = &url[percent + 1..close];
    // A zone that is the number 25 is only taken for one where nothing follows it.
    let zone = zone
        .strip_prefix("25")
        .filter(|rest| !rest.is_empty())
        .unwrap_or(zone);
    (
        format!("{}{}", &url[..percent], &url[close..]),
        Some(zone.to_owned()),
    )
}

/// Puts a zone back behind the address in the host of a URL.
pub(crate) fn join(url: &str, zone: Option<&str>) -> String {
    match (zone, url.find(']')) {
        (Some(zone), Some(close)) => format!("{}%25{zone}{}", &url[..close], &url[close..]),
        _ => url.to_owned(),
    }
}

/// Checks the form of a zone: the name or the number of an interface. The error says what is wrong with it.
pub(crate) fn check(zone: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~');
    match !zone.is_empty() && zone.len() <= 64 && zone.bytes().all(allowed) {
        true => Ok(()),
        false => Err("the zone of the IPv6 address is not the name of a network interface".to_owned()),
    }
}

/// Returns the scope of a zone in a socket's address: the number of its interface.
pub(crate) fn scope(zone: &str) -> Result<u32, String> {
    match (if_nametoindex(zone), zone.parse::<u32>()) {
        (Ok(index), _) | (Err(_), Ok(index)) => Ok(index),
        (Err(_), Err(_)) => Err(format!("this machine has no network interface {zone}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_taken_out_and_put_back() {
        for (url, rest, zone) in [
            (
                "http://[fe80::1%25lo]:9/images/t",
                "http://[fe80::1]:9/images/t",
                Some("lo"),
            ),
            (
                "http://[fe80::1%eth0.7]/images/t",
                "http://[fe80::1]/images/t",
                Some("eth0.7"),
            ),
            ("[fe80::1%25eth0]:443", "[fe80::1]:443", Some("eth0")),
            ("https://[fe80::1%2525]/", "https://[fe80::1]/", Some("25")),
            ("https://[fe80::1%25]/", "https://[fe80::1]/", Some("25")),
            ("https://[fe80::1%]/", "https://[fe80::1]/", Some("")),
            ("https://[::1]:1/a%25b]", "https://[::1]:1/a%25b]", None),
            ("https://host/[a%25b]", "https://host/[a%25b]", None),
            ("https://[::1]%25x]/", "https://[::1]%25x]/", None),
            // A backslash ends the host, too, and only what begins with a bracket is an address.
            (r"https:\\h\images\t[%2e]", r"https:\\h\images\t[%2e]", None),
            (r"https://h\images\[%2e]", r"https://h\images\[%2e]", None),
            ("https://h[%25x]/", "https://h[%25x]/", None),
            ("https://[%25x]@h/", "https://[%25x]@h/", None),
            ("https://u@[fe80::1%25lo]/", "https://u@[fe80::1]/", Some("lo")),
            ("", "", None),
        ] {
            assert_eq!(split(url), (rest.to_owned(), zone.map(str::to_owned)), "{url}");
        }
        assert_eq!(join("http://[fe80::1]:9", Some("lo")), "http://[fe80::1%25lo]:9");
        assert_eq!(join("http://host:9", None), "http://host:9");
    }

    #[test]
    fn a_zone_is_an_interface_of_this_machine() {
        assert_eq!(scope("lo"), Ok(if_nametoindex("lo").unwrap()));
        assert_eq!(scope("7"), Ok(7));
        assert!(scope("no such one").unwrap_err().contains("no such one"));
        for bad in ["", "a/b", "a]b", "a\u{1b}b", "a b"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
