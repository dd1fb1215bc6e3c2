//! The blocks of code in a document, and what becomes of each in a test.
//!
//! Above each block is a line that says it: `<!-- run -->`, `<!-- run: FROM=TO, FROM=TO -->` with the texts
//! that are replaced in it, or `*Not run by a test: REASON.*`, which readers see, too.

use crate::support::run::{text, top};

/// A block of code, its section, and what the line above it says.
pub(crate) struct Block {
    pub(crate) section: String,
    pub(crate) fate: Fate,
    text: String,
}

pub(crate) enum Fate {
    Run(Vec<(String, String)>),
    NotRun,
}

/// Reads the line above a block; panics with the line where it says neither.
fn fate_of(line: &str) -> Fate {
    let reason = line.strip_prefix("*Not run by a test: ");
    if reason.is_some_and(|reason| reason.ends_with(".*")) {
        return Fate::NotRun;
    }
    let marked = line
        .strip_prefix("<!-- run")
        .and_then(|it| it.strip_suffix(" -->"));
    let marked = marked.unwrap_or_else(|| panic!("it does not say whether the block is run: {line:?}"));
    let pairs = marked.trim_start_matches(':').split(',').map(str::trim);
    let pairs = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        let (from, to) = pair.split_once('=').expect("FROM=TO");
        (from.to_owned(), to.to_owned())
    });
    Fate::Run(pairs.collect())
}

/// Returns the blocks of a document in their order.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let document = text(&top().join(document));
    let mut blocks: Vec<Block> = Vec::new();
    let (mut section, mut above, mut inside) = (String::new(), "", false);
    for line in document.lines() {
        match (line.starts_with("```"), inside) {
            (true, false) => blocks.push(Block {
                section: section.clone(),
                fate: fate_of(above),
                text: String::new(),
            }),
            (false, true) => {
                let block = blocks.last_mut().expect("a block has begun");
                block.text += &format!("{line}\n");
            }
            _ => {}
        }
        inside ^= line.starts_with("```");
        if let Some(heading) = line.strip_prefix("## ").filter(|_| !inside) {
            heading.clone_into(&mut section);
        }
        above = line;
    }
    assert!(!inside, "the last block has no end");
    blocks
}

/// Returns the blocks that are run, as one script with a subshell for each of them.
pub(crate) fn script_of<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> String {
    let mut script = String::new();
    for block in blocks {
        let Fate::Run(pairs) = &block.fate else { continue };
        let replace = |text: String, (from, to): &(String, String)| {
            assert!(
                text.contains(from),
                "{}: there is no {from} in:\n{text}",
                block.section
            );
            text.replace(from, to)
        };
        script += &format!("(\n{})\n", pairs.iter().fold(block.text.clone(), replace));
    }
    assert!(!script.is_empty(), "no block is run");
    script
}
