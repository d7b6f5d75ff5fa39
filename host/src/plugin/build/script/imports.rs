//! The imports of one module: where each leads, what it takes from `"koksmat"`, and how it is written for the runtime.
//!
//! The runtime finds modules by their exact path, so an import that leaves out an extension or names `index` by its folder is spelt out:
//! in TypeScript in the syntax tree, in JavaScript in the text, whose lines stay what they are.

use std::{collections::BTreeSet, ops::Range};

use oxc::{
    allocator::Allocator,
    ast::ast::{
        Decorator, ExportAllDeclaration, ExportFromDeclaration, Expression, ImportDeclaration, ImportDeclarationSpecifier,
        ImportExpression, ModuleExportName, StringLiteral,
    },
    ast_visit::{VisitMut, walk_mut},
    span::Span,
};

use super::{
    capability::{self, Capability},
    files::{Project, SourceFile},
};

/// What a module imports, and what is wrong with it.
pub(super) struct Imports<'a, 'p> {
    /// The files it needs, in the order of the text, each with the place that names it.
    pub(super) files: Vec<(SourceFile, Span)>,
    /// What its imports from `"koksmat"` need.
    pub(super) needs: BTreeSet<Capability>,
    /// What is wrong.
    pub(super) problems: Vec<(Span, String)>,
    /// For JavaScript: what to write in place of which bytes of the text, in its order.
    pub(super) edits: Vec<(Range<usize>, String)>,
    allocator: &'a Allocator,
    project: &'p Project,
    importer: &'p SourceFile,
}

impl<'a, 'p> Imports<'a, 'p> {
    /// To be given a program to visit.
    pub(super) fn of(importer: &'p SourceFile, project: &'p Project, allocator: &'a Allocator) -> Self {
        Self { files: Vec::new(), needs: BTreeSet::new(), problems: Vec::new(), edits: Vec::new(), allocator, project, importer }
    }

    /// Follow one import. Returns whether it is of `"koksmat"`.
    fn follow(&mut self, source: &mut StringLiteral<'a>) -> bool {
        let specifier = source.value.as_str();
        if specifier == capability::MODULE {
            return true;
        }
        let found = match refused(specifier, &self.importer.name) {
            Some(message) => Err(message),
            None => self.project.resolve(self.importer, specifier),
        };
        match found {
            Ok(file) => {
                let exact = self.importer.specifier_of(&file);
                if exact != specifier {
                    let quoted = serde_json::Value::from(exact.as_str()).to_string();
                    self.edits.push((source.span.start as usize..source.span.end as usize, quoted));
                    source.value = self.allocator.alloc_str(&exact).into();
                    source.raw = None;
                }
                self.files.push((file, source.span));
            }
            Err(message) => self.problems.push((source.span, message)),
        }
        false
    }

    fn need_all(&mut self) {
        self.needs = Capability::all();
    }

    fn need(&mut self, name: &str, span: Span) {
        match capability::of_export(name) {
            Ok(capability) => self.needs.extend(capability),
            Err(message) => self.problems.push((span, message)),
        }
    }
}

impl<'a> VisitMut<'a> for Imports<'a, '_> {
    fn visit_import_declaration(&mut self, import: &mut ImportDeclaration<'a>) {
        if !self.follow(&mut import.source) {
            return;
        }
        for specifier in import.specifiers.iter().flatten() {
            match specifier {
                ImportDeclarationSpecifier::ImportSpecifier(specifier) => self.need(&exported(&specifier.imported), specifier.span),
                ImportDeclarationSpecifier::ImportDefaultSpecifier(specifier) => {
                    let message = "\"koksmat\" has no default export: import what you use, for instance `import { log } from \"koksmat\"`";
                    self.problems.push((specifier.span, message.to_owned()));
                }
                ImportDeclarationSpecifier::ImportNamespaceSpecifier(_) => self.need_all(),
            }
        }
    }

    fn visit_export_from_declaration(&mut self, export: &mut ExportFromDeclaration<'a>) {
        if self.follow(&mut export.source) {
            for specifier in &export.specifiers {
                self.need(&exported(&specifier.local), specifier.span);
            }
            // Who takes it from here is not looked into.
            self.need_all();
        }
    }

    fn visit_export_all_declaration(&mut self, export: &mut ExportAllDeclaration<'a>) {
        if self.follow(&mut export.source) {
            self.need_all();
        }
    }

    fn visit_import_expression(&mut self, import: &mut ImportExpression<'a>) {
        match &mut import.source {
            Expression::StringLiteral(source) => {
                if self.follow(source) {
                    self.need_all();
                }
            }
            _ => {
                let message = "import() needs its path as a literal string: a handler's files are collected when it is built";
                self.problems.push((import.span, message.to_owned()));
            }
        }
        walk_mut::walk_import_expression(self, import);
    }

    fn visit_decorator(&mut self, decorator: &mut Decorator<'a>) {
        let message = "decorators are not supported: call the function instead, for instance `const Decorated = decorate(class { … })`";
        self.problems.push((decorator.span, message.to_owned()));
    }
}

/// What cannot be followed, and the way out.
fn refused(specifier: &str, importer: &str) -> Option<String> {
    if specifier.starts_with("./") || specifier.starts_with("../") || specifier == "." || specifier == ".." {
        return None;
    }
    let package = specifier.strip_prefix("node:").unwrap_or(specifier);
    let module = package.split('/').next().unwrap_or(package);
    if specifier.starts_with("node:") || NODE_MODULES.contains(&module) {
        return Some(format!(
            "`{specifier}` is Node's own and not here: a handler has no files, sockets or processes, it has what \"koksmat\" exports; \
             bundle the parts that are plain JavaScript: {}",
            bundle(importer)
        ));
    }
    if specifier.contains("://") || specifier.starts_with('/') || specifier.starts_with("data:") {
        return Some(format!("\"{specifier}\" cannot be followed: download the module into the project and import it by a relative path"));
    }
    if specifier.starts_with('#') {
        return Some(format!("\"{specifier}\" needs a package.json, which is not read: import the file by a relative path"));
    }
    Some(format!("`{specifier}` is an npm package and none is installed: bundle it first, {}", bundle(importer)))
}

fn bundle(importer: &str) -> String {
    let stem = importer.rsplit_once('.').map_or(importer, |(stem, _)| stem);
    format!(
        "for instance `npx esbuild {importer} --bundle --format=esm --external:koksmat --outfile={stem}.bundle.js`, \
         and name the bundle as the handler's plugin"
    )
}

/// Modules of Node that are imported without `node:`, too.
const NODE_MODULES: &[&str] = &[
    "assert",
    "async_hooks",
    "buffer",
    "child_process",
    "cluster",
    "crypto",
    "dgram",
    "dns",
    "events",
    "fs",
    "http",
    "http2",
    "https",
    "module",
    "net",
    "os",
    "path",
    "perf_hooks",
    "process",
    "querystring",
    "readline",
    "stream",
    "string_decoder",
    "timers",
    "tls",
    "tty",
    "url",
    "util",
    "v8",
    "vm",
    "worker_threads",
    "zlib",
];

fn exported(name: &ModuleExportName<'_>) -> String {
    name.name().to_string()
}
