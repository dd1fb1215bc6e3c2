//! `docs/troubleshooting.md` explains the messages of the program that these rules find, and no others.
//!
//! A message is a text in the source that can become a part of what a user reads: on stderr, in the log, from
//! `status`, or in an outcome that is kept. Messages are put together from parts, each beside the error that
//! it tells, so a list of the places that print would miss most of them. Every text of three words or more,
//! or of two beside a placeholder, counts therefore, unless one of these rules takes it out:
//!
//! - It is code for tests, fuzz targets or the manual (`cfg(test)`, `cfg(any(test, ...))`).
//! - It is in an attribute other than `#[error(...)]`, as comments and the help of options are.
//! - It is for programmers: in `info!`, `debug!`, `trace!`, `panic!`, `unreachable!`, an assertion, `expect`.
//! - It is what another program says, and is looked for: a literal as a pattern, or beside `==`, `contains`,
//!   `starts_with` and others.
//! - It is a list of names: a constant of the type `[&str; N]`.
//! - It is no message by its form: more than one line (a table, the help), a blank at its beginning (a piece
//!   that goes behind another text), a full stop at its end where metrics are described, or `word=` at its
//!   beginning (a query, a variable).
//!
//! In `#[error(...)]`, `warn!` and `error!` one word is enough; where there is none, as in `#[error("{0}")]`,
//! the text comes from elsewhere, and is found there.
//!
//! On the page each placeholder is `…`. A row of a table has the messages that have one explanation, each as
//! code, and with `<br>` between two of them.

mod page;
#[path = "../source/mod.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use syn::buffer::{Cursor, TokenBuffer};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{
    Attribute, BinOp, Expr, ExprBinary, ExprMethodCall, ImplItem, Item, ItemConst, Lit, LitStr, Macro, Pat,
    Token, Type,
};

use page::{PAGE, explained, rows, span, text_of_the_page};
use source::{Module, is_for_tests, library};

/// Macros whose texts are for programmers, or are seen only by those who ask for them (`--log-level info`).
const FOR_PROGRAMMERS: [&str; 6] = ["info", "debug", "trace", "panic", "unreachable", "matches"];

/// Methods whose arguments are looked for in what others say, or are for programmers.
const LOOKED_FOR: [&str; 9] = [
    "expect",
    "contains",
    "starts_with",
    "ends_with",
    "strip_prefix",
    "strip_suffix",
    "split_once",
    "rsplit_once",
    "find",
];

/// The module whose texts with a full stop describe metrics.
const METRICS: &str = "supervisor/metrics";

#[test]
fn every_message_is_explained() {
    let explained = explained();
    let missing: BTreeMap<_, _> = messages(&library())
        .into_iter()
        .filter(|(message, _)| !explained.contains(message))
        .collect();
    let rows = missing
        .iter()
        .map(|(message, module)| format!("(src/{module}) add:\n| {} | MEANING; WHAT TO DO |", span(message)));
    let rows = rows.collect::<Vec<_>>().join("\n");
    assert!(
        missing.is_empty(),
        "{PAGE} does not explain these messages:\n{rows}"
    );
}

#[test]
fn every_explanation_is_of_a_message() {
    let messages = messages(&library());
    let unknown: Vec<_> = explained()
        .into_iter()
        .filter(|message| !messages.contains_key(message))
        .collect();
    assert!(
        unknown.is_empty(),
        "{PAGE} has messages that the program does not have, remove or change them: {unknown:#?}"
    );
}

#[test]
fn no_explanation_is_empty_and_no_message_has_two() {
    let mut seen = BTreeSet::new();
    for (messages, explanation) in rows(&text_of_the_page()) {
        assert!(explanation.len() > 10, "{messages:?}: {explanation:?}");
        for message in messages {
            assert!(seen.insert(message.clone()), "{message} is there twice");
        }
    }
    assert!(
        seen.len() > 300,
        "{} messages: the page was not parsed",
        seen.len()
    );
}

#[test]
fn the_rules_tell_messages_from_other_texts() {
    let found = |code: &str| {
        let source = format!("fn f() {{ {code} }}");
        let sources = BTreeMap::from([(vec!["a".to_owned()], source)]);
        messages(&sources).into_keys().collect::<Vec<_>>()
    };
    for (code, message) in [
        (r#"Failure::text(Exit::Usage, "no such disk")"#, "no such disk"),
        (r#"let why = format!("{n} of them\n   are {{x}}{y}{z}");"#, ""),
        (
            r#"let why = format!("{n:?} of them \
            are {{x}} {y}{z}");"#,
            "… of them are {x} …",
        ),
        (r#"f(g(None.map_or("by somebody else", h)))"#, "by somebody else"),
        (
            r#"format!("{}", x.expect("it is there").unwrap_or("it is not"))"#,
            "it is not",
        ),
        (r#"warn!(id, disk = x.id, "lost {id}")"#, "lost …"),
        (r#"warn!(target: X, "lost")"#, "lost"),
        (r#"warn!("{e}")"#, ""),
        (r#"info!("nobody needs this")"#, ""),
        (
            r#"if x.contains("three words there") || x == "and here too" {}"#,
            "",
        ),
        (
            r#"match x { "one two three" => "four five six" }"#,
            "four five six",
        ),
        (r#"const NAMES: [&str; 1] = ["ro rw auto"];"#, ""),
        (r#"const WHY: &str = "it is so";"#, "it is so"),
        (
            r#"const WHY: [(&str, &str); 1] = [("x", "it is so")];"#,
            "it is so",
        ),
        (r#"writeln!(out, " sorted by name")"#, ""),
        (r#"help("It is so.")"#, "It is so."),
        (r#"x.contains(&format!("it is {y}"))"#, "it is …"),
        (r#"query("name=x and more there")"#, ""),
        (r#"#[cfg(test)] fn g() { f("it is a test") }"#, ""),
        (
            r#"enum E { #[error("gone: {0}")] A, #[doc = "it is so"] B, #[error("{0}")] C }"#,
            "gone: …",
        ),
    ] {
        let expected: Vec<_> = Some(message).filter(|it| !it.is_empty()).into_iter().collect();
        assert_eq!(found(code), expected, "{code}");
    }
    let declared = BTreeMap::from([
        (vec![], "#[cfg(any(test, feature = \"x\"))] mod a;".to_owned()),
        (
            vec!["a".to_owned(), "b".to_owned()],
            "fn f() { g(\"it is there\") }".to_owned(),
        ),
    ]);
    assert_eq!(messages(&declared), BTreeMap::new());
}

/// The messages of all sources, each with a module that has it.
fn messages(sources: &BTreeMap<Module, String>) -> BTreeMap<String, String> {
    let parsed = sources.iter().map(|(module, text)| {
        let name = module.join("/");
        let file = syn::parse_file(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (module, name, file)
    });
    let parsed: Vec<_> = parsed.collect();
    let mut left_out: Vec<Module> = Vec::new();
    for (module, _, file) in &parsed {
        left_out.extend(file.items.iter().filter_map(|item| match item {
            Item::Mod(inner) if is_for_tests(&inner.attrs) => {
                Some([module.as_slice(), &[inner.ident.to_string()]].concat())
            }
            _ => None,
        }));
    }
    let mut texts = Texts {
        least_words: 3,
        module: String::new(),
        found: BTreeMap::new(),
    };
    for (module, name, file) in &parsed {
        if !left_out.iter().any(|out| module.starts_with(out)) {
            texts.module.clone_from(name);
            texts.visit_file(file);
        }
    }
    texts.found
}

/// Collects messages.
struct Texts {
    /// A text without a placeholder that has fewer words is none.
    least_words: usize,
    module: String,
    found: BTreeMap<String, String>,
}

impl Texts {
    fn add(&mut self, text: &str) {
        let form = normal(text);
        let words = form
            .split(' ')
            .filter(|word| word.contains(|c: char| c.is_ascii_alphabetic()));
        let least = match form.contains('…') {
            true => self.least_words.min(2),
            false => self.least_words,
        };
        let is_of_a_metric = self.module == METRICS && text.ends_with('.');
        if words.count() >= least && !is_of_a_metric && !is_another_text(text) {
            self.found.entry(form).or_insert_with(|| self.module.clone());
        }
    }

    /// Adds every string among tokens that are no Rust.
    fn add_all(&mut self, mut cursor: Cursor) {
        while !cursor.eof() {
            if let Some((inside, _, _, after)) = cursor.any_group() {
                self.add_all(inside);
                cursor = after;
            } else if let Some((literal, after)) = cursor.literal() {
                if let Lit::Str(text) = Lit::new(literal) {
                    self.add(&text.value());
                }
                cursor = after;
            } else {
                cursor = cursor.token_tree().expect("it is not at its end").1;
            }
        }
    }
}

impl<'ast> Visit<'ast> for Texts {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Const(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Fn(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        let is_list = match &*item.ty {
            Type::Array(array) => matches!(&*array.elem, Type::Reference(_)),
            _ => false,
        };
        if !is_list {
            visit::visit_item_const(self, item);
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Ok(list) = attribute.meta.require_list() else {
            return;
        };
        if attribute.path().is_ident("error") {
            let tokens = TokenBuffer::new2(list.tokens.clone());
            self.least_words = 1;
            self.add_all(tokens.begin());
            self.least_words = 3;
        }
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        let name = called.path.segments.last().expect("a name").ident.to_string();
        if FOR_PROGRAMMERS.contains(&name.as_str()) || name.contains("assert") {
            return;
        }
        let is_of_the_log = matches!(name.as_str(), "warn" | "error");
        self.least_words = if is_of_the_log { 1 } else { 3 };
        match called.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated) {
            Ok(arguments) => arguments.iter().for_each(|argument| self.visit_expr(argument)),
            Err(_) => self.add_all(TokenBuffer::new2(called.tokens.clone()).begin()),
        }
        self.least_words = 3;
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.visit_expr(&call.receiver);
        let is_looked_for = LOOKED_FOR.contains(&call.method.to_string().as_str());
        let seen = call.args.iter();
        let seen = seen.filter(|argument| !(is_looked_for && matches!(argument, Expr::Lit(_))));
        seen.for_each(|argument| self.visit_expr(argument));
    }

    fn visit_expr_binary(&mut self, expression: &'ast ExprBinary) {
        let compares = matches!(expression.op, BinOp::Eq(_) | BinOp::Ne(_));
        for side in [&*expression.left, &*expression.right] {
            if !(compares && matches!(side, Expr::Lit(_))) {
                self.visit_expr(side);
            }
        }
    }

    fn visit_pat(&mut self, _pattern: &'ast Pat) {}

    fn visit_lit_str(&mut self, text: &'ast LitStr) {
        self.add(&text.value());
    }
}

/// True for a text that is no message by its form.
fn is_another_text(text: &str) -> bool {
    let begins_with_a_name = text.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    text.trim_end().contains('\n') || text.starts_with(' ') || begins_with_a_name
}

/// Writes `…` for each placeholder of a format or for several side by side, and single blanks.
fn normal(text: &str) -> String {
    let mut form = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.peek() == Some(&c) => form.extend(rest.next()),
            '{' => {
                rest.by_ref().find(|c| *c == '}');
                if !form.ends_with('…') {
                    form.push('…');
                }
            }
            _ => form.push(c),
        }
    }
    form.split_whitespace().collect::<Vec<_>>().join(" ")
}
