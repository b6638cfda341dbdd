//! Only `worker/decide.rs` makes a verdict: no other shipped code has an expression that builds one.
//!
//! Patterns may name a verdict anywhere, and conformance suites of stores build their own. The
//! test does not follow aliases of the type.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::imports::{attributes, is_test_only, shipped_files};
use crate::support::harness::root;

/// The lines with expressions that name a variant of `Verdict`.
#[derive(Default)]
struct Verdicts {
    lines: Vec<usize>,
}

impl Verdicts {
    /// Adds `Verdict::…` in unparsed tokens, except in the pattern of a `matches!`.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            let before = |steps: usize| at.checked_sub(steps).map(|at| tokens[at].to_string());
            match token {
                TokenTree::Group(group) => {
                    let is_pattern = before(1).as_deref() == Some("!")
                        && before(2).as_deref() == Some("matches");
                    if !is_pattern {
                        self.add_tokens(group.stream());
                    }
                }
                TokenTree::Ident(ident) if ident == "Verdict" => {
                    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
                    if colon(tokens.get(at + 1)) && colon(tokens.get(at + 2)) {
                        self.lines.push(ident.span().start().line);
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Verdicts {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_pat(&mut self, _: &'ast syn::Pat) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let [.., owner, variant] = &path.segments.iter().collect::<Vec<_>>()[..]
            && owner.ident == "Verdict"
        {
            self.lines.push(variant.ident.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if !call.path.is_ident("matches") {
            self.add_tokens(call.tokens.clone());
        }
    }
}

fn verdicts_in(syntax: &syn::File) -> Vec<usize> {
    let mut verdicts = Verdicts::default();
    verdicts.visit_file(syntax);
    verdicts.lines
}

#[test]
fn only_decide_makes_a_verdict() {
    let (mut in_decide, mut elsewhere) = (0, Vec::new());
    for file in shipped_files(&root().join("host/src")) {
        let path = file.path.display().to_string();
        let lines = verdicts_in(&file.syntax);
        if path.starts_with("worker/decide") {
            in_decide += lines.len();
        } else if !path.starts_with("store/conformance") {
            elsewhere.extend(lines.iter().map(|line| format!("host/src/{path}:{line}")));
        }
    }
    assert!(in_decide > 3, "only {in_decide} verdicts found in worker/decide");
    assert!(elsewhere.is_empty(), "verdicts made outside of worker/decide: {elsewhere:?}");
}

#[test]
fn expressions_are_found_and_patterns_are_not() {
    let found = |text: &str| verdicts_in(&syn::parse_file(text).expect("valid Rust")).len();
    for text in [
        "fn f() -> Verdict { Verdict::Skipped }",
        "fn f() -> Verdict { store::Verdict::Dead { code } }",
        "fn f() -> Verdict { wrap!(Verdict::Done(events)) }",
        "fn f() { g(&Verdict::Skipped) }",
    ] {
        assert_eq!(found(text), 1, "{text}");
    }
    for text in [
        "fn f(v: Verdict) { match v { Verdict::Skipped => {} _ => {} } }",
        "fn f(v: Verdict) { if let Verdict::Done(events) = v {} }",
        "fn f(v: Verdict) -> bool { matches!(v, Verdict::Done(_)) }",
        "fn f(v: Verdict) { info!(dead = matches!(v, Verdict::Dead { .. })) }",
        "#[cfg(test)] mod tests { fn f() -> Verdict { Verdict::Skipped } }",
    ] {
        assert_eq!(found(text), 0, "{text}");
    }
}
