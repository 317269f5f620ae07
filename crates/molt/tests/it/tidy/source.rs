//! Rules about Rust source that the compiler's lints don't know, read with a real parser.
//! Never: a look at generated text.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{files, no_faults};

/// One screen and a half: a function that needs more holds a second thought.
const FUNCTION_LINES_MAX: usize = 70;
/// Files that may ask the environment: read once, where the configuration is made.
const ASKS_THE_ENVIRONMENT: [&str; 3] = ["config.rs", "environment.rs", "build.rs"];
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

struct Source<'a> {
    path: &'a str,
    in_tests: bool,
    asks_environment: bool,
    faults: Vec<String>,
}

/// Everything that is wrong with one file.
fn faults(path: &str, text: &str) -> Vec<String> {
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(error) => return vec![format!("{path} can't be read as Rust: {error}")],
    };
    let in_tests = ["/tests/", "/tests.rs", "/testing/", "/testing.rs"].iter().any(|part| path.contains(part));
    let asks_environment = ASKS_THE_ENVIRONMENT.iter().any(|name| path.ends_with(name));
    let mut source = Source { path, in_tests, asks_environment, faults: Vec::new() };
    let doc = file
        .attrs
        .iter()
        .any(|attribute| matches!(attribute.style, syn::AttrStyle::Inner(_)) && attribute.path().is_ident("doc"));
    if !doc {
        source.faults.push(format!("{path}:1 says nothing about what it is for (//! first)"));
    }
    source.visit_file(&file);
    source.faults
}

impl Source<'_> {
    fn fault(&mut self, span: proc_macro2::Span, what: &str) {
        self.faults.push(format!("{}:{} {what}", self.path, span.start().line));
    }

    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let (first, last) = (signature.span().start().line, body.brace_token.span.close().end().line);
        let (name, lines) = (&signature.ident, last - first + 1);
        if lines > FUNCTION_LINES_MAX {
            self.fault(name.span(), &format!("fn {name} has {lines} lines, more than {FUNCTION_LINES_MAX}"));
        }
    }

    /// Runs `inside` as test code when these attributes say so.
    fn under(&mut self, attributes: &[syn::Attribute], inside: impl FnOnce(&mut Self)) {
        let before = self.in_tests;
        self.in_tests |= attributes.iter().any(is_for_tests);
        inside(self);
        self.in_tests = before;
    }

    /// What a macro is given is not parsed as code; its tokens are looked at one by one.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(word) => {
                    let follows = |back: usize, sign: char| {
                        at >= back && matches!(&tokens[at - back], TokenTree::Punct(p) if p.as_char() == sign)
                    };
                    let called =
                        matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if group.stream().is_empty());
                    if word == "unwrap" && follows(1, '.') && called {
                        self.unwrap(word.span());
                    }
                    if UNFINISHED.iter().any(|name| word == name)
                        && matches!(tokens.get(at + 1), Some(TokenTree::Punct(p)) if p.as_char() == '!')
                    {
                        self.fault(word.span(), &format!("{word}! is unfinished work"));
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn unwrap(&mut self, span: proc_macro2::Span) {
        if !self.in_tests {
            self.fault(span, ".unwrap() outside tests");
        }
    }
}

/// `#[test]`, `#[tokio::test]`, `#[cfg(test)]`, `#[cfg(any(test, feature = "testing"))]`.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    let last = attribute.path().segments.last().map(|segment| segment.ident.to_string());
    match last.as_deref() {
        Some("test" | "proptest") => true,
        Some("cfg") => match &attribute.meta {
            syn::Meta::List(list) => {
                let words = list.tokens.to_string();
                !words.contains("not") && (words.contains("test"))
            }
            _ => false,
        },
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Source<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.under(&item.attrs, |source| visit::visit_item_mod(source, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        self.under(&item.attrs, |source| visit::visit_item_fn(source, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        self.under(&item.attrs, |source| visit::visit_impl_item_fn(source, item));
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.under(&item.attrs, |source| visit::visit_item_impl(source, item));
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let (path, words) = (
            attribute.path(),
            match &attribute.meta {
                syn::Meta::List(list) => list.tokens.to_string(),
                _ => String::new(),
            },
        );
        if path.is_ident("allow") || path.is_ident("cfg_attr") && words.replace(' ', "").contains("allow(") {
            self.fault(attribute.span(), "allow(…): say expect(…, reason = …)");
        }
        if path.is_ident("expect") && !words.contains("reason") {
            self.fault(attribute.span(), "expect(…) without a reason");
        }
        if path.is_ident("ignore") {
            self.fault(attribute.span(), "an ignored test proves nothing");
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.method == "unwrap" && call.args.is_empty() {
            self.unwrap(call.method.span());
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        if let Some(name) = UNFINISHED.iter().find(|name| called.path.is_ident(name)) {
            self.fault(called.span(), &format!("{name}! is unfinished work"));
        }
        self.tokens(called.tokens.clone());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let asks = names.windows(2).any(|pair| pair[0] == "env" && pair[1].starts_with("var"));
        if asks && !self.in_tests && !self.asks_environment {
            self.fault(path.span(), "asks the environment outside the configuration");
        }
        visit::visit_path(self, path);
    }
}

#[test]
fn rust_source_keeps_the_house_rules() {
    let files = files();
    // The rig measures all gateways alike; changed here, its figures would no longer compare.
    let ours = |path: &str| path.ends_with(".rs") && !path.starts_with("bench/gateway-rig/");
    let sources: Vec<_> = files.iter().filter(|file| ours(&file.path)).collect();
    assert!(sources.len() > 30, "the sources were found");
    no_faults(&sources.into_iter().flat_map(|file| faults(&file.path, &file.text)).collect::<Vec<_>>());
}

#[test]
fn each_rule_can_fail() {
    let with_doc = |code: &str| faults("crates/x/src/y.rs", &format!("//! For.\n{code}"));
    let long = |lines: usize| format!("fn f() {{\n{}}}", "g();\n".repeat(lines - 2));
    for good in [
        "fn f() { g().unwrap_or_default(); }",
        "#[cfg(test)] mod tests { fn f() { g().unwrap(); } }",
        "#[tokio::test] async fn f() { assert!(g().unwrap()); }",
        "#[expect(dead_code, reason = \"why\")] fn f() {}",
        "fn f() { std::env::current_dir(); env!(\"X\"); }",
        &long(FUNCTION_LINES_MAX),
    ] {
        assert_eq!(with_doc(good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "fn f() { g().unwrap(); }",
        "fn f() { info!(a = g().unwrap()); }",
        "#[cfg(not(test))] mod m { fn f() { g().unwrap(); } }",
        "fn f() { todo!() }",
        "fn f() { g(unimplemented!()) }",
        "fn f() { vec![todo!()]; }",
        "#[allow(dead_code)] fn f() {}",
        "#![allow(dead_code)]",
        "#[cfg_attr(test, allow(dead_code))] fn f() {}",
        "#[expect(dead_code)] fn f() {}",
        "#[test] #[ignore] fn f() {}",
        "fn f() { std::env::var(\"X\"); }",
        "fn f() { env::vars_os(); }",
        "fn f( {",
        &long(FUNCTION_LINES_MAX + 1),
        &format!("impl X {{ {} }}", long(FUNCTION_LINES_MAX + 1)),
    ] {
        assert_eq!(with_doc(bad).len(), 1, "{bad}: {:?}", with_doc(bad));
    }
    assert_eq!(faults("crates/x/src/y.rs", "/// Not of the module.\nfn f() {}").len(), 1);
    assert!(faults("crates/x/src/config.rs", "//! For.\nfn f() { std::env::var(\"X\"); }").is_empty());
    assert!(faults("crates/x/tests/it.rs", "//! For.\nfn f() { g().unwrap(); }").is_empty());
}
