//! The little of XML that a configuration takes: its elements, with their attributes, their text, and the
//! place of each in the document, so that one can be cut out.
//!
//! Names are without their prefixes, as nothing in a configuration depends on them. A document type, which
//! could define entities, is refused. Nothing here is trusted: depth and number of the elements are bounded,
//! and no input makes a panic.

use std::ops::Range;

use thiserror::Error;

/// Upper bound on the elements: those of a VM with ten thousand disks.
const MAX_ELEMENTS: usize = 500_000;

/// Upper bound on the elements around one.
const MAX_DEPTH: usize = 100;

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum MarkupError {
    #[error("it ends within an element, or before its first one")]
    Ends,
    #[error("at byte {0} it is no XML")]
    Odd(usize),
    #[error("it has a document type, which no configuration has")]
    DocumentType,
    #[error("it has too many elements")]
    TooMany,
}

/// An element.
#[derive(Debug)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    /// The text in it, without that of the elements in it.
    pub(super) text: String,
    /// The number of the element around it.
    pub(super) parent: Option<usize>,
    /// Its place in the document, in bytes.
    pub(super) place: Range<usize>,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Returns the elements of a document, each before those in it.
pub(super) fn parse(document: &str) -> Result<Vec<Element>, MarkupError> {
    let mut elements: Vec<Element> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < document.len() {
        let rest = &document[at..];
        if !rest.starts_with('<') {
            let end = rest.find('<').unwrap_or(rest.len());
            if let Some(inner) = open.last() {
                elements[*inner].text += &unescaped(&rest[..end]);
            }
            at += end;
        } else if rest.starts_with("<!--") {
            at += length_to("-->", rest, 4)?;
        } else if rest.starts_with("<![CDATA[") {
            let length = length_to("]]>", rest, 9)?;
            if let Some(inner) = open.last() {
                elements[*inner].text += &rest[9..length - 3];
            }
            at += length;
        } else if rest.starts_with("<?") {
            at += length_to("?>", rest, 2)?;
        } else if rest.starts_with("<!") {
            return Err(MarkupError::DocumentType);
        } else if let Some(name) = rest.strip_prefix("</") {
            let end = name.find('>').ok_or(MarkupError::Ends)?;
            let length = end + 3;
            let inner = open.pop().ok_or(MarkupError::Odd(at))?;
            if elements[inner].name != local(name[..end].trim()) {
                return Err(MarkupError::Odd(at));
            }
            at += length;
            elements[inner].place.end = at;
        } else {
            let tag = tag(rest).ok_or(MarkupError::Odd(at))?;
            if elements.len() >= MAX_ELEMENTS || open.len() >= MAX_DEPTH {
                return Err(MarkupError::TooMany);
            }
            elements.push(Element {
                name: tag.name,
                attributes: tag.attributes,
                text: String::new(),
                parent: open.last().copied(),
                place: at..at + tag.length,
            });
            if !tag.is_closed {
                open.push(elements.len() - 1);
            }
            at += tag.length;
        }
    }
    match open.is_empty() && !elements.is_empty() {
        true => Ok(elements),
        false => Err(MarkupError::Ends),
    }
}

/// Returns the length of what begins `text` and ends with `end`, which is looked for from `from` on.
fn length_to(end: &str, text: &str, from: usize) -> Result<usize, MarkupError> {
    let found = text[from..].find(end).ok_or(MarkupError::Ends)?;
    Ok(from + found + end.len())
}

/// The beginning of an element.
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
    /// Nothing is in it.
    is_closed: bool,
    /// Bytes.
    length: usize,
}

/// Reads the tag that begins `text`.
fn tag(text: &str) -> Option<Tag> {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '/' | '>' | '=');
    let inside = text.strip_prefix('<')?;
    let (name, mut rest) = inside.split_at(inside.find(is_end)?);
    if name.is_empty() {
        return None;
    }
    let mut attributes = Vec::new();
    loop {
        rest = rest.trim_start();
        let (is_closed, closing) = match rest.strip_prefix("/>") {
            Some(after) => (true, Some(after)),
            None => (false, rest.strip_prefix('>')),
        };
        if let Some(after) = closing {
            return Some(Tag {
                name: local(name).to_owned(),
                attributes,
                is_closed,
                length: text.len() - after.len(),
            });
        }
        let (attribute, after) = rest.split_at(rest.find(is_end)?);
        let value = after.trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, after) = value[1..].split_once(quote)?;
        if attribute.is_empty() {
            return None;
        }
        attributes.push((local(attribute).to_owned(), unescaped(value)));
        rest = after;
    }
}

/// The name without its prefix.
fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// Replaces the entities of XML by what they stand for. Others stay as they are.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain += before;
        let entity = after.split_once(';');
        match entity.and_then(|(name, behind)| Some((meant(name)?, behind))) {
            Some((c, behind)) => {
                plain.push(c);
                rest = behind;
            }
            None => {
                plain.push('&');
                rest = after;
            }
        }
    }
    plain + rest
}

fn meant(entity: &str) -> Option<char> {
    let number = match entity {
        "amp" => return Some('&'),
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        other => other.strip_prefix('#')?,
    };
    let number = match number.strip_prefix('x') {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok()?,
        None => number.parse().ok()?,
    };
    char::from_u32(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_their_attributes_their_text_and_their_place() {
        let document = "<?xml version='1.0'?>\n<!-- <no/> --><ovf:a ovf:x=\"1 &lt; 2\" y = 'a>b'>one<b/> \
                        &amp; <c>t&#x65;xt</c>two<![CDATA[<&amp;]]></ovf:a>\n";
        let elements = parse(document).unwrap();
        let names: Vec<_> = elements.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let [a, b, c] = &elements[..] else {
            panic!("{elements:?}");
        };
        assert_eq!((a.attribute("x"), a.attribute("y")), (Some("1 < 2"), Some("a>b")));
        assert_eq!((a.text.as_str(), c.text.as_str()), ("one & two<&amp;", "text"));
        assert_eq!((a.parent, b.parent, c.parent), (None, Some(0), Some(0)));
        assert_eq!(&document[b.place.clone()], "<b/>");
        assert_eq!(&document[c.place.clone()], "<c>t&#x65;xt</c>");
        assert!(document[a.place.clone()].ends_with("</ovf:a>"));
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for (document, error) in [
            ("", MarkupError::Ends),
            ("just words", MarkupError::Ends),
            ("<a><b></a>", MarkupError::Odd(6)),
            ("<a", MarkupError::Odd(0)),
            ("<a x></a>", MarkupError::Odd(0)),
            ("<a x=1/>", MarkupError::Odd(0)),
            ("<>", MarkupError::Odd(0)),
            ("</a>", MarkupError::Odd(0)),
            ("<a><!-- </a>", MarkupError::Ends),
            ("<a>&#xFFFFFFFF;&nope;&", MarkupError::Ends),
            ("<!DOCTYPE x [<!ENTITY a 'b'>]><a/>", MarkupError::DocumentType),
        ] {
            assert_eq!(parse(document).unwrap_err(), error, "{document}");
        }
        let deep = "<a>".repeat(MAX_DEPTH + 1);
        assert_eq!(parse(&deep).unwrap_err(), MarkupError::TooMany);
    }

    #[test]
    fn no_beginning_of_a_document_makes_a_panic() {
        let whole = "<ä b='é'><!-- ü --><![CDATA[x]]>&#228;<?p?></ä>";
        assert!(parse(whole).is_ok());
        for (at, _) in whole.char_indices() {
            assert!(parse(&whole[..at]).is_err(), "{at}");
        }
    }
}
