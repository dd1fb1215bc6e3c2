//! The modules of the library depend on each other in one direction only.
//!
//! At each level of the tree, a module together with everything below it is one node, and an arrow goes to
//! each of its siblings that it names in a `use` or in a path. There must be no circle of such arrows. Parent
//! and child are apart: a folder's `mod.rs` belongs to the folder as a whole and is no sibling of the files
//! in it. Tests and fuzz targets, which reach everywhere, do not count.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree};

use source::{Module, is_for_tests, library};

/// The arrows of one level: the modules that each module names.
type Arrows = BTreeMap<Module, BTreeSet<Module>>;

#[test]
fn no_modules_depend_on_each_other_in_a_circle() {
    let circles = circles(&library());
    assert!(circles.is_empty(), "circles of modules: {circles:#?}");
}

#[test]
fn a_circle_is_found_wherever_it_closes() {
    let source = |module: &str, text: &str| {
        let module = module.split("::").filter(|name| !name.is_empty());
        (module.map(str::to_owned).collect(), text.to_owned())
    };
    let tree = |a: &str, b: &str| {
        BTreeMap::from([
            source("", "mod a; mod b;"),
            source("a", "pub mod deep;"),
            source("a::deep", a),
            source("b", b),
        ])
    };
    let uses_a = "use crate::a::deep::X;";
    assert!(circles(&tree("fn f() {}", uses_a)).is_empty());
    assert!(circles(&tree("use super::Parent;", uses_a)).is_empty());
    let back_by_test = "#[cfg(test)] mod tests { use crate::b; }";
    assert!(circles(&tree(back_by_test, uses_a)).is_empty());
    for back in [
        "use crate::b::Y;",
        "use super::super::{c::Z, b};",
        "fn f() { crate::b::g() }",
        "mod inline { use super::super::super::b; }",
    ] {
        let found = circles(&tree(back, uses_a));
        assert_eq!(found, [vec!["a".to_owned(), "b".to_owned()]], "{back}");
    }
}

/// The modules that are left at each level when those that depend on nothing left are taken away again and
/// again: they are in a circle, or lead into one.
fn circles(sources: &BTreeMap<Module, String>) -> Vec<Vec<String>> {
    let mut levels: BTreeMap<Module, Arrows> = BTreeMap::new();
    for (module, text) in sources {
        for target in named_in(module, text, sources) {
            let shared = module.iter().zip(&target).take_while(|(a, b)| a == b).count();
            // Otherwise one is below the other.
            if shared < module.len().min(target.len()) {
                let arrows = levels.entry(module[..shared].to_vec()).or_default();
                let (from, to) = (module[..=shared].to_vec(), target[..=shared].to_vec());
                arrows.entry(from).or_default().insert(to);
            }
        }
    }
    let mut circles = Vec::new();
    for arrows in levels.values_mut() {
        while let Some(end) = arrows
            .iter()
            .find(|(_, to)| to.iter().all(|to| !arrows.contains_key(to)))
            .map(|(from, _)| from.clone())
        {
            arrows.remove(&end);
        }
        if !arrows.is_empty() {
            circles.push(arrows.keys().map(|module| module.join("::")).collect());
        }
    }
    circles
}

/// The modules that the text of `module` names.
fn named_in(module: &Module, text: &str, sources: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let parsed = syn::parse_file(text).unwrap_or_else(|e| panic!("{}: {e}", module.join("::")));
    let mut names = Names {
        here: module.clone(),
        named: Vec::new(),
    };
    if !is_for_tests(&parsed.attrs) && !module.iter().any(|name| name == "fuzzing" || name == "tests") {
        names.visit_file(&parsed);
    }
    let known = |path: &Module| {
        let prefixes = (0..=path.len()).rev().map(|len| path[..len].to_vec());
        prefixes.into_iter().find(|prefix| sources.contains_key(prefix))
    };
    names.named.iter().filter_map(known).collect()
}

/// Collects the paths that begin with `crate`, `super` or `self`, as seen from the root.
struct Names {
    here: Module,
    named: Vec<Module>,
}

impl Names {
    fn add(&mut self, path: &[String]) {
        let mut base = match path.first().map(String::as_str) {
            Some("crate") => Module::new(),
            Some("super" | "self") => self.here.clone(),
            _ => return,
        };
        for name in path {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(base.pop()),
                name => base.push(name.to_owned()),
            }
        }
        self.named.push(base);
    }

    fn add_tree(&mut self, before: &[String], tree: &UseTree) {
        let longer = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&longer(path.ident.to_string()), &path.tree),
            UseTree::Name(name) => self.add(&longer(name.ident.to_string())),
            UseTree::Rename(name) => self.add(&longer(name.ident.to_string())),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.here.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.here.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }
}
