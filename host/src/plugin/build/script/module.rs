//! One file on its way to the runtime: parsed, checked, its imports spelt out, and TypeScript made JavaScript.

use std::{collections::BTreeSet, path::Path};

use oxc::{
    allocator::Allocator,
    ast::ast::{Declaration, Program, Statement},
    ast_visit::VisitMut,
    codegen::{Codegen, CodegenOptions},
    diagnostics::{Diagnostics, OxcDiagnostic},
    parser::Parser,
    semantic::SemanticBuilder,
    span::{SourceType, Span},
    transformer::{EnvOptions, JsxOptions, Module as EsModule, TransformOptions, Transformer},
};

use super::{
    super::{
        error::{Place, Problems},
        sourcemap::Stretch,
    },
    capability::Capability,
    files::{Project, SourceFile},
    globals,
    imports::Imports,
};

/// A module that is ready to be loaded.
pub(super) struct Module {
    /// JavaScript.
    pub(super) source: String,
    /// For TypeScript: where each stretch of `source` came from.
    pub(super) stretches: Option<Vec<Stretch>>,
    /// The files it imports, with where it says so.
    pub(super) imports: Vec<(SourceFile, Place)>,
    /// What its imports from `"koksmat"` need.
    pub(super) needs: BTreeSet<Capability>,
    /// Whether it exports a handler.
    pub(super) exports_handler: bool,
}

impl Module {
    /// The module in `file`, whose text is `text`; or everything that is wrong with it.
    pub(super) fn read(file: &SourceFile, text: &str, project: &Project) -> Result<Self, Problems> {
        let allocator = Allocator::default();
        let mut problems = InFile { name: &file.name, text, problems: Problems::default() };
        let kind = if file.is_typescript() { SourceType::ts().with_module(true) } else { SourceType::mjs() };

        let parsed = Parser::new(&allocator, text, kind).parse();
        problems.diagnosed(parsed.diagnostics)?;
        let mut program = parsed.program;

        let checked = SemanticBuilder::new().with_build_nodes(true).with_check_syntax_error(true).with_enum_eval(true).build(&program);
        problems.diagnosed(checked.diagnostics)?;
        for missing in globals::missing(&checked.semantic) {
            problems.add(missing.span, missing.message);
        }

        if file.is_typescript() {
            // Imports of which only types are used are gone after this, and are not followed.
            let scoping = checked.semantic.into_scoping();
            let env = EnvOptions { module: EsModule::Esm, ..EnvOptions::default() };
            let options = TransformOptions { env, jsx: JsxOptions::disable(), ..TransformOptions::default() };
            let transformed = Transformer::new(&allocator, Path::new(&file.name), &options).build_with_scoping(scoping, &mut program);
            // Also what it calls a warning: it warns of what it leaves out.
            problems.diagnosed(transformed.diagnostics)?;
        }

        let mut imports = Imports::of(file, project, &allocator);
        imports.visit_program(&mut program);
        let Imports { files, needs, problems: refused, edits, .. } = imports;
        for (span, message) in refused {
            problems.add(span, message);
        }
        let exports_handler = exports_handler(&program);
        let imports = files.into_iter().map(|(imported, span)| (imported, Place::of(text, span.start))).collect();
        let (source, stretches) = if file.is_typescript() { printed(&program) } else { (edited(text, edits), None) };
        problems.problems.or(Self { source, stretches, imports, needs, exports_handler })
    }
}

/// Collects what is wrong with one file.
struct InFile<'a> {
    name: &'a str,
    text: &'a str,
    problems: Problems,
}

impl InFile<'_> {
    fn add(&mut self, span: Span, message: String) {
        self.problems.push(self.name, Some(Place::of(self.text, span.start)), message);
    }

    /// Add what oxc found. When it found something there is no going on: what comes later would only repeat it in other words.
    fn diagnosed(&mut self, diagnostics: Diagnostics) -> Result<(), Problems> {
        if diagnostics.is_empty() {
            return Ok(());
        }
        for diagnostic in &diagnostics {
            let place = diagnostic.labels.first().map(|label| Place::of(self.text, label.offset()));
            self.problems.push(self.name, place, described(diagnostic));
        }
        std::mem::take(&mut self.problems).or(())
    }
}

/// `message (label): help`
fn described(diagnostic: &OxcDiagnostic) -> String {
    if diagnostic.message.contains("JSX") {
        return "JSX is not supported: bundle it first, for instance with esbuild".to_owned();
    }
    let mut message = diagnostic.message.trim_end_matches('.').to_owned();
    if let Some(label) = diagnostic.labels.first().and_then(|label| label.label()) {
        message.push_str(&format!(" ({label})"));
    }
    if let Some(help) = &diagnostic.help {
        message.push_str(&format!(": {help}"));
    }
    message
}

/// Whether a module exports `handle` or a default. `export *` may: that is found out when it runs.
fn exports_handler(program: &Program<'_>) -> bool {
    let is_handler = |name: &str| name == "handle" || name == "default";
    program.body.iter().any(|statement| match statement {
        Statement::ExportDefaultDeclaration(_) | Statement::ExportAllDeclaration(_) => true,
        Statement::ExportDeclaration(export) => declares_handle(&export.declaration),
        Statement::ExportNamedDeclaration(export) => export.specifiers.iter().any(|specifier| is_handler(&specifier.exported.name())),
        Statement::ExportFromDeclaration(export) => export.specifiers.iter().any(|specifier| is_handler(&specifier.exported.name())),
        _ => false,
    })
}

fn declares_handle(declaration: &Declaration<'_>) -> bool {
    match declaration {
        Declaration::VariableDeclaration(variables) => {
            variables.declarations.iter().any(|variable| variable.id.get_binding_identifiers().iter().any(|name| name.name == "handle"))
        }
        other => other.id().is_some_and(|name| name.name == "handle"),
    }
}

/// The text with its imports spelt out.
fn edited(text: &str, edits: Vec<(std::ops::Range<usize>, String)>) -> String {
    let mut out = text.to_owned();
    for (range, replacement) in edits.into_iter().rev() {
        out.replace_range(range, &replacement);
    }
    out
}

/// A transformed program as JavaScript.
fn printed(program: &Program<'_>) -> (String, Option<Vec<Stretch>>) {
    let options = CodegenOptions { source_map_path: Some("source".into()), ..CodegenOptions::default() };
    let printed = Codegen::new().with_options(options).build(program);
    let stretches = printed.map.map(|map| {
        map.get_tokens()
            .map(|token| [token.get_dst_line(), token.get_dst_col(), token.get_src_line(), token.get_src_col()].into())
            .collect()
    });
    (printed.code, stretches)
}
