//! Collects the paths that a crate's source files name: `use` declarations with their nested trees,
//! inline paths, and paths in the arguments of macros and attributes.
//!
//! It resolves `crate`, `self` and `super`, and skips code that only `test` or `fuzzing` compiles.
//! It does not expand macros and does not follow re-exports.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, Meta, Token, UseTree};

use super::sources;

/// A path that a file names.
#[derive(Debug)]
pub(super) struct Import {
    /// Relative to the crate's source folder.
    pub(super) file: PathBuf,
    pub(super) line: usize,
    /// The module that names the path, from the crate's root.
    pub(super) module: Vec<String>,
    pub(super) target: Target,
}

#[derive(Debug)]
pub(super) enum Target {
    /// A path in the same crate, from its root.
    Local(Vec<String>),
    /// A path whose first segment is another crate, or a name in scope.
    Other(Vec<String>),
}

/// Every path that the crate with the sources in `folder` names outside of its tests.
pub(super) fn imports(folder: &Path) -> Vec<Import> {
    shipped_files(folder).into_iter().flat_map(File::imports).collect()
}

/// The source files in `folder` that are not modules for tests only.
pub(super) fn shipped_files(folder: &Path) -> Vec<File> {
    let mut paths = Vec::new();
    sources(folder, &mut paths);
    let files: Vec<File> = paths.iter().map(|path| File::parse(folder, path)).collect();
    let test_only: HashSet<Vec<String>> = files.iter().flat_map(File::test_modules).collect();
    let is_test =
        |module: &[String]| (1..=module.len()).any(|end| test_only.contains(&module[..end]));
    files.into_iter().filter(|file| !is_test(&file.module)).collect()
}

/// Every path that one source text names, as the module `module` of a crate.
pub(super) fn imports_of(text: &str, module: &[&str]) -> Vec<Import> {
    let module = module.iter().map(ToString::to_string).collect();
    let syntax = syn::parse_file(text).expect("valid Rust");
    File { path: "text".into(), module, syntax }.imports()
}

/// A parsed source file.
pub(super) struct File {
    /// Relative to the crate's source folder.
    pub(super) path: PathBuf,
    module: Vec<String>,
    pub(super) syntax: syn::File,
}

impl File {
    fn parse(folder: &Path, path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a source file");
        let syntax =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let path = path.strip_prefix(folder).expect("a file of the folder").to_owned();
        let mut module: Vec<String> = path
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if matches!(module[..], [ref root] if root == "lib" || root == "main") {
            module.clear();
        }
        Self { path, module, syntax }
    }

    /// The modules in files of their own that this file declares for tests only.
    fn test_modules(&self) -> Vec<Vec<String>> {
        let modules = self.syntax.items.iter().filter_map(|item| match item {
            syn::Item::Mod(module) if module.content.is_none() => Some(module),
            _ => None,
        });
        modules
            .filter(|module| is_test_only(&module.attrs))
            .map(|module| child(&self.module, &module.ident))
            .collect()
    }

    fn imports(self) -> Vec<Import> {
        let mut collector = Collector { path: self.path, module: self.module, found: Vec::new() };
        collector.visit_file(&self.syntax);
        collector.found
    }
}

fn child(module: &[String], name: &Ident) -> Vec<String> {
    [module, &[name.to_string()]].concat()
}

/// Whether the code below these attributes is compiled only for tests or fuzzing.
pub(super) fn is_test_only(attributes: &[Attribute]) -> bool {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions
        .filter_map(|attribute| attribute.parse_args::<Meta>().ok())
        .any(|condition| implies_test(&condition))
}

fn implies_test(condition: &Meta) -> bool {
    let parts = |list: &syn::MetaList| {
        list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default()
    };
    match condition {
        Meta::Path(path) => path.is_ident("test") || path.is_ident("fuzzing"),
        Meta::List(list) if list.path.is_ident("any") => parts(list).iter().all(implies_test),
        Meta::List(list) if list.path.is_ident("all") => parts(list).iter().any(implies_test),
        // `feature = "…"` and `not(…)`.
        Meta::List(_) | Meta::NameValue(_) => false,
    }
}

struct Collector {
    path: PathBuf,
    module: Vec<String>,
    found: Vec<Import>,
}

impl Collector {
    fn add(&mut self, segments: &[Ident]) {
        let Some(first) = segments.first() else { return };
        let names: Vec<String> = segments
            .iter()
            .map(|segment| segment.to_string().trim_start_matches("r#").to_owned())
            .collect();
        let target = match names[0].as_str() {
            "crate" => Target::Local(names[1..].to_vec()),
            "self" | "super" => {
                let steps =
                    names.iter().take_while(|name| matches!(name.as_str(), "self" | "super"));
                let (up, prefix) =
                    (steps.clone().filter(|name| *name == "super").count(), steps.count());
                let base = &self.module[..self.module.len().saturating_sub(up)];
                Target::Local([base, &names[prefix..]].concat())
            }
            _ => Target::Other(names),
        };
        let line = first.span().start().line;
        self.found.push(Import {
            file: self.path.clone(),
            line,
            module: self.module.clone(),
            target,
        });
    }

    fn add_tree(&mut self, prefix: &[Ident], tree: &UseTree) {
        let extended = |ident: &Ident| [prefix, std::slice::from_ref(ident)].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&extended(&path.ident), &path.tree),
            UseTree::Name(name) => self.add(&extended(&name.ident)),
            UseTree::Rename(rename) => self.add(&extended(&rename.ident)),
            UseTree::Glob(_) => self.add(prefix),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_tree(prefix, tree));
            }
        }
    }

    /// Adds the paths of two or more segments in unparsed tokens.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<Ident> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => path.push(ident),
                TokenTree::Ident(ident) => {
                    self.flush(&mut path);
                    path.push(ident);
                }
                TokenTree::Group(group) => {
                    self.flush(&mut path);
                    self.add_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.flush(&mut path),
            }
            colons = 0;
        }
        self.flush(&mut path);
    }

    fn flush(&mut self, path: &mut Vec<Ident>) {
        if path.len() > 1 {
            self.add(path);
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test_only(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments: Vec<Ident> =
                path.segments.iter().map(|segment| segment.ident.clone()).collect();
            self.add(&segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        self.add_tokens(call.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        visit::visit_meta_list(self, list);
        self.add_tokens(list.tokens.clone());
    }
}

pub(super) fn attributes(item: &syn::Item) -> &[Attribute] {
    use syn::Item;
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
