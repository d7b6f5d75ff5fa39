//! Where imports lead: to the handler's own modules and to "koksmat".

use std::cell::RefCell;
use std::collections::BTreeMap;

use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Error, Module};

use crate::errors::{Kind, throw, with_property};
use crate::host::{Koksmat, MODULE};
use crate::{imports, stack};

thread_local! {
    /// Path → source of what has not been forgotten (`forget_loaded`).
    static SOURCES: RefCell<BTreeMap<String, Source>> = const { RefCell::new(BTreeMap::new()) };
}

struct Source {
    text: String,
    loaded: bool,
}

pub fn set(modules: Vec<(String, String)>) {
    SOURCES.set(modules.into_iter().map(|(path, text)| (path, Source { text, loaded: false })).collect());
}

/// Give all sources to `visit`, as (path, text).
pub fn with_sources<R>(visit: impl FnOnce(&[(&str, &str)]) -> R) -> R {
    SOURCES.with_borrow(|sources| {
        let all: Vec<_> = sources.iter().map(|(path, source)| (path.as_str(), source.text.as_str())).collect();
        visit(&all)
    })
}

pub fn contains(path: &str) -> bool {
    SOURCES.with_borrow(|sources| sources.contains_key(path))
}

/// When loading is done: the engine has what it loaded, so the text need not be in every instance. A module that was not loaded may still
/// be imported dynamically, and stays.
pub fn forget_loaded() {
    SOURCES.with_borrow_mut(|sources| {
        for source in sources.values_mut().filter(|source| source.loaded) {
            source.text = String::new();
        }
    });
}

/// The path an import leads to.
pub fn resolve(base: &str, specifier: &str) -> Result<String, String> {
    if specifier == MODULE {
        return Ok(specifier.to_owned());
    }
    if !(specifier.starts_with("./") || specifier.starts_with("../") || specifier == "." || specifier == "..") {
        return Err(not_relative(specifier));
    }
    let mut parts: Vec<&str> = base.split('/').collect();
    parts.pop();
    for part in specifier.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return Err("it leads out of the handler's folder".to_owned());
                }
            }
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    let candidates = [path.clone(), format!("{path}.js"), format!("{path}.ts"), format!("{path}/index.js")];
    if let Some(found) = candidates.into_iter().find(|candidate| contains(candidate)) {
        return Ok(found);
    }
    let nearest = with_sources(|sources| {
        let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let wanted = file(&path);
        sources
            .iter()
            .map(|(known, _)| known)
            .find(|known| file(known).split('.').next() == wanted.split('.').next())
            .map(|known| format!("; there is {known}"))
    });
    Err(format!("there is no file {path}{}", nearest.unwrap_or_default()))
}

fn not_relative(specifier: &str) -> String {
    if specifier.starts_with('/') || specifier.contains("://") {
        return "imports are relative, such as \"./lib.js\", or \"koksmat\"".to_owned();
    }
    if specifier.starts_with("node:") {
        return "Node's modules are not here; \"koksmat\" has keyvalue, http, config and log".to_owned();
    }
    if specifier.starts_with("koksmat/") {
        return "everything is in \"koksmat\" itself".to_owned();
    }
    format!(
        "packages are not looked up: bundle it into a file beside the handler, for example with \
         `npx esbuild {specifier} --bundle --format=esm --outfile={}.js`, and import that relatively",
        specifier.trim_start_matches('@').replace('/', "-")
    )
}

/// QuickJS's side of this.
pub struct Modules;

impl Resolver for Modules {
    fn resolve<'js>(&mut self, ctx: &Ctx<'js>, base: &str, name: &str, _: Option<ImportAttributes<'js>>) -> Result<String, Error> {
        resolve(base, name).map_err(|why| {
            let error = throw(ctx, Kind::Reference, &format!("{base} imports \"{name}\": {why}"));
            // QuickJS knows no line here, and what it takes for the stack is whoever is running.
            let frame = imports::line_of_specifier(base, name).map(|place| format!("    at {place}\n")).unwrap_or_default();
            with_property(ctx, error, "stack", &frame)
        })
    }
}

impl Loader for Modules {
    fn load<'js>(&mut self, ctx: &Ctx<'js>, name: &str, _: Option<ImportAttributes<'js>>) -> Result<Module<'js, Declared>, Error> {
        if name == MODULE {
            return Module::declare_def::<Koksmat, _>(ctx.clone(), name);
        }
        // Copied, so that nothing is borrowed while the engine asks for what this module imports.
        let source = SOURCES.with_borrow_mut(|sources| {
            let source = sources.get_mut(name)?;
            source.loaded = true;
            Some(source.text.clone())
        });
        let source = source.ok_or_else(|| throw(ctx, Kind::Reference, &format!("there is no file {name}")))?;
        stack::for_parser(ctx, || Module::declare(ctx.clone(), name, source))
    }
}
