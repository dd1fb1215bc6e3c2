//! The text that servers write beside an error status, cut down to what has a place in a message.
//!
//! A proxy, a load balancer or a web server without its application answers with a page for browsers. Its
//! markup tells a user nothing, so a message shows at most the title. The servers that this program works
//! with send such a page only for a request that they cannot parse (imageio) and for one without a session
//! (the engine): imageio's other errors are plain text, and the engine's are JSON or have no body.

use crate::logging::plain;
use crate::secret::clean;

/// Upper bound on a title, in characters.
const MAX_TITLE_CHARS: usize = 80;

/// Upper bound on a plain text, in characters.
const MAX_TEXT_CHARS: usize = 300;

/// Returns true if `body` is markup, as HTML and XML are.
pub(crate) fn is_page(body: &[u8]) -> bool {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    text.trim_ascii_start().starts_with(b"<")
}

/// Returns the title of a page, or else its first heading, as one short line without markup.
pub(crate) fn title(body: &[u8]) -> Option<String> {
    if !is_page(body) {
        return None;
    }
    let text = String::from_utf8_lossy(body);
    let lower = text.to_ascii_lowercase();
    ["title", "h1"].iter().find_map(|tag| {
        // The lower case of ASCII letters has the same offsets.
        let begin = lower.match_indices(&format!("<{tag}")).find_map(|(at, begin)| {
            let rest = &lower[at + begin.len()..];
            let end = rest.find('>')?;
            let whole = rest.starts_with(['>', ' ', '\t', '\r', '\n']);
            whole.then_some(at + begin.len() + end + 1)
        })?;
        let length = lower[begin..].find(&format!("</{tag}"))?;
        let words = one_line(&without_tags(&text[begin..begin + length]), MAX_TITLE_CHARS);
        Some(words).filter(|words| !words.is_empty())
    })
}

/// Returns what a message says about the body of an error: a text as one line, a page's title, or nothing.
pub(crate) fn excerpt(body: &[u8]) -> String {
    match (is_page(body), title(body)) {
        (true, Some(title)) => format!("a page with the title \"{title}\""),
        (true, None) => "a page without a title".to_owned(),
        (false, _) => one_line(&String::from_utf8_lossy(body), MAX_TEXT_CHARS),
    }
}

fn without_tags(text: &str) -> String {
    let mut inside = false;
    let visible = |c: &char| {
        inside |= *c == '<';
        let shown = !inside;
        inside &= *c != '>';
        shown
    };
    text.chars().filter(visible).collect()
}

fn one_line(text: &str, most: usize) -> String {
    let words = plain(&clean(text));
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.chars().count() > most {
        true => words.chars().take(most).chain(" [...]".chars()).collect(),
        false => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_by_its_title_only() {
        let page =
            b"\r\n<!DOCTYPE html>\n<HTML><head><style>h1{color:red}</style>\n<Title lang=en>502 Bad\n \
                     Gateway</title></head><body><h1>Oh</h1><script>alert(1)</script></body></html>";
        assert_eq!(excerpt(page), "a page with the title \"502 Bad Gateway\"");
        let heading = b"<html><body><h1 class=x>It <b>works</b>!</h1>more</body></html>";
        assert_eq!(excerpt(heading), "a page with the title \"It works!\"");
        for bare in [
            "<html><body>Service Unavailable</body>",
            "<title>never ends",
            "<",
            "<titles>x</titles>",
        ] {
            assert_eq!(excerpt(bare.as_bytes()), "a page without a title", "{bare}");
        }
        let long = format!("<html><title>{}</title>", "x".repeat(5000));
        assert!(excerpt(long.as_bytes()).len() < 150);
    }

    #[test]
    fn a_text_stays_as_one_bounded_line() {
        assert_eq!(excerpt(b"No such ticket 'x'\n"), "No such ticket 'x'");
        assert_eq!(excerpt(b"{\"error\":\n\t\"a < b\"}"), "{\"error\": \"a < b\"}");
        assert_eq!(excerpt(b" \n"), "");
        let long = excerpt("\u{e9}".repeat(5000).as_bytes());
        assert!(long.chars().count() < 320 && long.ends_with("[...]"), "{long}");
    }
}
