//! Options that cannot be meant: each is refused before anything is connected, in one line that names it.

use crate::bad_servers::{refused, server_with};
use crate::rig::TICKET;

const USAGE: i32 = 2;

#[test]
fn a_bad_number_of_connections_is_a_usage_error() {
    let server = server_with(|_| {});
    for number in ["0", "1000000", "abc", "-1", ""] {
        refused(
            &server.url(),
            &[&format!("--connections={number}")],
            USAGE,
            &["--connections"],
        );
    }
    assert_eq!(server.connections_opened(), 0, "rhv-mount connected first");
}

#[test]
fn a_bad_url_is_a_usage_error_that_shows_no_ticket() {
    let urls = [
        "nonsense".to_string(),
        String::new(),
        format!("ftp://127.0.0.1/images/{TICKET}"),
        format!("http://127.0.0.1:99999/images/{TICKET}"),
        format!("http:///images/{TICKET}"),
        format!("127.0.0.1:54322/images/{TICKET}"),
        "http://127.0.0.1:54322/".to_string(),
        "http://127.0.0.1:54322/images/".to_string(),
        format!("http://127.0.0.1:54322/images/{TICKET}?flush=n"),
        format!("http://user:word@127.0.0.1:54322/images/{TICKET}"),
    ];
    for url in urls {
        refused(
            &url,
            &[],
            USAGE,
            &["transfer URL", "https://HOST:54322/images/TICKET"],
        );
    }
}

#[test]
fn insecure_together_with_a_ca_is_a_usage_error() {
    let url = format!("https://127.0.0.1:1/images/{TICKET}");
    refused(
        &url,
        &["--insecure", "--cafile", "/etc/hostname"],
        USAGE,
        &["--insecure", "/etc/hostname"],
    );
}

#[test]
fn a_ca_file_that_is_missing_or_not_a_certificate_is_named() {
    let url = format!("https://127.0.0.1:1/images/{TICKET}");
    refused(
        &url,
        &["--cafile", "/nonexistent/ca.pem"],
        USAGE,
        &["/nonexistent/ca.pem"],
    );
    refused(&url, &["--cafile", "/etc/hostname"], USAGE, &["/etc/hostname"]);
}
