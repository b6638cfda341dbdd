//! The public documentation of the library: few pages, and an example on each.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Attribute, Expr, Item, Lit, Meta, UseTree, Visibility};

use super::sources;
use crate::support::harness::root;

/// Most pages that the documentation of the library may have, its first page included.
const PAGES_MAX: usize = 62;

/// The names that the crate root exports, without hidden modules.
fn exported() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("host/src/lib.rs")).expect("the crate root");
    let file = syn::parse_file(&text).expect("the crate root compiles");
    let mut names = BTreeSet::new();
    for item in &file.items {
        match item {
            Item::Use(exports) if matches!(exports.vis, Visibility::Public(_)) => {
                add_names(&exports.tree, &mut names);
            }
            Item::Mod(module) if matches!(module.vis, Visibility::Public(_)) => {
                assert!(is_hidden(&module.attrs), "the module {} is public", module.ident);
            }
            _ => {}
        }
    }
    names
}

fn add_names(tree: &UseTree, names: &mut BTreeSet<String>) {
    match tree {
        UseTree::Path(path) => add_names(&path.tree, names),
        UseTree::Group(group) => group.items.iter().for_each(|tree| add_names(tree, names)),
        UseTree::Name(name) => _ = names.insert(name.ident.to_string()),
        UseTree::Rename(renamed) => _ = names.insert(renamed.rename.to_string()),
        UseTree::Glob(_) => panic!("the crate root exports everything of a module"),
    }
}

fn is_hidden(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| match &attr.meta {
        Meta::List(list) => list.path.is_ident("doc") && list.tokens.to_string() == "hidden",
        _ => false,
    })
}

/// The documentation of every public type and trait, by name.
fn documented() -> BTreeMap<String, Vec<String>> {
    let mut files = Vec::new();
    sources(&root().join("host/src"), &mut files);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let file = syn::parse_file(&text).expect("a source file compiles");
        for item in file.items {
            let (visibility, name, attrs) = match item {
                Item::Struct(item) => (item.vis, item.ident, item.attrs),
                Item::Enum(item) => (item.vis, item.ident, item.attrs),
                Item::Trait(item) => (item.vis, item.ident, item.attrs),
                Item::Type(item) => (item.vis, item.ident, item.attrs),
                _ => continue,
            };
            if matches!(visibility, Visibility::Public(_)) {
                found.entry(name.to_string()).or_default().push(text_of(&attrs));
            }
        }
    }
    found
}

fn text_of(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(value) if value.path.is_ident("doc") => match &value.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn documentation_of_the_library_has_few_pages_with_an_example_each() {
    let (exported, documented) = (exported(), documented());
    let pages = exported.len() + 1;
    assert!(pages < PAGES_MAX, "{pages} pages: {exported:?}");
    assert!(pages > 30, "only {exported:?} were found");
    let has_example = |name: &String| {
        documented.get(name).is_some_and(|texts| texts.iter().any(|text| text.contains("```")))
    };
    let without: Vec<&String> = exported.iter().filter(|name| !has_example(name)).collect();
    assert!(without.is_empty(), "without an example: {without:?}");
}
