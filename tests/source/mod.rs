//! The source of the library, as tests read it with `syn`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use syn::Attribute;

/// The path of a module: `["disk", "write"]` for `src/disk/write/mod.rs`, nothing for `src/lib.rs`.
pub(crate) type Module = Vec<String>;

/// Every source file of the library, by its module.
pub(crate) fn library() -> BTreeMap<Module, String> {
    let sources = sources_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 50, "only {} sources were found", sources.len());
    sources
}

fn sources_below(folder: &Path) -> BTreeMap<Module, String> {
    let mut sources = BTreeMap::new();
    let mut folders = vec![(folder.to_owned(), Module::new())];
    while let Some((folder, module)) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = [module.clone(), vec![name.clone()]].concat();
            if path.is_dir() {
                folders.push((path, inner));
            } else if name != "main" {
                let own = matches!(name.as_str(), "mod" | "lib");
                let module = if own { module.clone() } else { inner };
                sources.insert(module, fs::read_to_string(path).unwrap());
            }
        }
    }
    sources
}

/// True for code that only tests or fuzz targets have.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.meta.require_list();
        let condition = list.map(|list| list.tokens.to_string()).unwrap_or_default();
        attribute.path().is_ident("cfg") && condition.contains("test") && !condition.starts_with("not")
    })
}
