//! A script handler on its way to a component: its files found, checked, and made the JavaScript modules that the runtime loads.
//!
//! Everything that is wrong is reported at once, with file, line and column. Nothing is run here.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

pub(crate) use capability::Capability;

use self::{
    files::{MAX_FILES, MAX_TOTAL, Project, SourceFile},
    module::Module,
};
use super::{
    error::{BuildError, Place, Problem, Problems},
    sourcemap::Positions,
};

mod capability;
mod files;
mod globals;
mod imports;
mod module;

/// A script handler, ready to be loaded by the JavaScript runtime.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// The name of the module that exports `handle`.
    pub(crate) entry: String,
    /// (name, JavaScript) of every module, the entry first. The name is the file's path in the project.
    pub(crate) modules: Vec<(String, String)>,
    /// What it imports from `"koksmat"` that needs a grant.
    pub(crate) needs: BTreeSet<Capability>,
    /// From positions in `modules` to positions in the files.
    pub(crate) positions: Positions,
    /// SHA-256 of all of the above, in hexadecimal: two scripts with the same digest are the same handler.
    pub(crate) digest: String,
    /// Where they were read from, every link resolved.
    pub(crate) files: Vec<PathBuf>,
}

impl Script {
    /// Read a `.js` or `.ts` file and all it imports. The files stay inside the project: the nearest folder above `entry` that holds
    /// `koksmat.toml`, else the entry's own folder.
    ///
    /// Reads files: to be called where blocking is allowed. It takes about a millisecond a file.
    ///
    /// # Errors
    /// [`BuildError::Script`] with everything that is wrong in all files.
    pub(crate) fn read(entry: &Path) -> Result<Self, BuildError> {
        let (project, entry) = Project::of(entry).map_err(|message| Problem { file: entry.display().to_string(), place: None, message })?;
        let mut reading = Reading { project, files: vec![entry], modules: Vec::new(), total: 0, problems: Problems::default() };
        while let Some(file) = reading.files.get(reading.modules.len()).cloned() {
            let module = reading.next(&file);
            reading.modules.push(module);
        }
        Ok(reading.finish()?)
    }
}

impl Script {
    /// The hosts that stand in its texts, as far as they stand there whole: what it probably wants to send requests to.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let mut hosts = BTreeSet::new();
        for (_, source) in &self.modules {
            for scheme in ["http://", "https://"] {
                for (at, _) in source.match_indices(scheme) {
                    let in_quotes = source[..at].ends_with(['"', '\'', '`']);
                    let rest = &source[at + scheme.len()..];
                    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':'))).unwrap_or(rest.len());
                    let (host, behind) = rest.split_at(end);
                    // `https://${host}` names none.
                    if in_quotes && !host.is_empty() && !behind.starts_with('$') {
                        hosts.insert(host.to_owned());
                    }
                }
            }
        }
        hosts.into_iter().collect()
    }
}

/// A script of which some files have been read.
struct Reading {
    project: Project,
    /// All files that are known to be needed, the entry first.
    files: Vec<SourceFile>,
    /// What the first of them became; nothing where something is wrong with one.
    modules: Vec<Option<Module>>,
    /// Bytes read.
    total: u64,
    problems: Problems,
}

impl Reading {
    fn next(&mut self, file: &SourceFile) -> Option<Module> {
        let text = match file.read() {
            Ok(text) => text,
            Err(message) => {
                self.problems.push(&file.name, None, message);
                return None;
            }
        };
        self.total += text.len() as u64;
        if self.total > MAX_TOTAL {
            // Said once: the files that are still known are read, the ones they import are not looked for.
            if self.total - text.len() as u64 <= MAX_TOTAL {
                let message = format!("with this file the handler is larger than {} MiB, the most all its files may have", MAX_TOTAL >> 20);
                self.problems.push(&file.name, None, message);
            }
            return None;
        }
        match Module::read(file, &text, &self.project) {
            Ok(module) => {
                for (imported, place) in &module.imports {
                    self.want(file, imported, *place);
                }
                Some(module)
            }
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    fn want(&mut self, importer: &SourceFile, imported: &SourceFile, place: Place) {
        if self.files.contains(imported) {
            return;
        }
        if self.files.len() == MAX_FILES {
            let message = format!("this is the handler's file {}: it may have {MAX_FILES}; bundle it into one", MAX_FILES + 1);
            self.problems.push(&importer.name, Some(place), message);
            return;
        }
        self.files.push(imported.clone());
    }

    fn finish(mut self) -> Result<Script, Problems> {
        let entry = self.files[0].name.clone();
        if matches!(self.modules.first(), Some(Some(module)) if !module.exports_handler) {
            let message = "the handler's file exports no `handle`: write `export function handle(event, ctx) { … }`";
            self.problems.push(&entry, Some(Place { line: 1, column: 1 }), message);
        }
        let mut modules = Vec::new();
        let mut needs = BTreeSet::new();
        let mut positions = Positions::default();
        let mut files = Vec::new();
        for (file, module) in self.files.into_iter().zip(self.modules) {
            files.push(file.path().to_owned());
            let Some(module) = module else { continue };
            needs.extend(module.needs);
            if let Some(stretches) = module.stretches {
                positions.insert(&file.name, stretches);
            }
            modules.push((file.name, module.source));
        }
        let digest = digest(&entry, &modules, &needs, &positions);
        self.problems.or(Script { entry, modules, needs, positions, digest, files })
    }
}

/// Each part with its length in front, so that no two scripts give the same bytes.
fn digest(entry: &str, modules: &[(String, String)], needs: &BTreeSet<Capability>, positions: &Positions) -> String {
    let mut sha = Sha256::new();
    let mut part = |text: &str| {
        sha.update((text.len() as u64).to_le_bytes());
        sha.update(text);
    };
    part(entry);
    part(&format!("{needs:?}"));
    part(&format!("{positions:?}"));
    for (name, source) in modules {
        part(name);
        part(source);
    }
    hex::encode(sha.finalize())
}

#[cfg(test)]
mod tests;
