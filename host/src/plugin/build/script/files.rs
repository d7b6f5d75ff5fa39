//! The files of a script: from what an import says to a file inside the project, and its text.
//!
//! Nothing outside the project's folder is ever read, whatever path or symbolic link leads there.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// The most one file may hold, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;
/// The most all files of a script may hold together, in bytes.
pub(super) const MAX_TOTAL: u64 = 8 << 20;
/// The most files of a script.
pub(super) const MAX_FILES: usize = 256;

/// Some editors begin a file with it; QuickJS takes it for a letter.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

const EXTENSIONS: [&str; 4] = ["js", "ts", "mjs", "mts"];

/// The folder whose files a script may consist of.
pub(super) struct Project {
    root: PathBuf,
}

/// A file of the project: its path with every symbolic link resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceFile {
    path: PathBuf,
    /// Its path from the project's folder, with `/`: what it is called in messages and at run time.
    pub(super) name: String,
}

impl Project {
    /// The project of a script, which is the nearest folder that holds `koksmat.toml`, else the script's own; and the script as a file of it.
    /// The error is text to go with the entry's path.
    pub(super) fn of(entry: &Path) -> Result<(Self, SourceFile), String> {
        let entry = std::path::absolute(entry).map_err(|error| error.to_string())?;
        let folder = entry.parent().unwrap_or(&entry);
        let root = folder.ancestors().find(|folder| folder.join("koksmat.toml").is_file()).unwrap_or(folder);
        let root = root.canonicalize().map_err(|error| error.to_string())?;
        let project = Self { root };
        if !is_module(&entry) {
            return Err("a script handler is a .js, .mjs, .ts or .mts file".to_owned());
        }
        let file = project.file(&entry)?.ok_or_else(|| "there is no such file".to_owned())?;
        Ok((project, file))
    }

    /// The file that `specifier` in `importer` means. The error is text to go with the import's place.
    pub(super) fn resolve(&self, importer: &SourceFile, specifier: &str) -> Result<SourceFile, String> {
        let folder = importer.path.parent().unwrap_or(&self.root);
        let wanted = normal(&folder.join(specifier));
        if !wanted.starts_with(&self.root) {
            return Err(self.outside(specifier));
        }
        for candidate in candidates(&wanted) {
            let Some(file) = self.file(&candidate).map_err(|reason| format!("\"{specifier}\": {reason}"))? else { continue };
            if candidate.extension().is_some_and(|extension| extension == "json") {
                let way_out =
                    "write it as a module, `export default {…};`, in a .js file, or give the handler its values in `config = {…}`";
                return Err(format!("\"{specifier}\" is JSON, which cannot be imported: {way_out}"));
            }
            if !is_module(&candidate) {
                return Err(format!(
                    "\"{specifier}\" is neither JavaScript nor TypeScript: only .js, .mjs, .ts and .mts files can be imported"
                ));
            }
            return Ok(file);
        }
        let looked_for = candidates(&wanted).iter().map(|path| self.shown(path)).collect::<Vec<_>>().join(", ");
        Err(format!("\"{specifier}\" is not there: looked for {looked_for}"))
    }

    /// The file at `path`, if there is one.
    fn file(&self, path: &Path) -> Result<Option<SourceFile>, String> {
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        if !fs::metadata(&real).is_ok_and(|metadata| metadata.is_file()) {
            return Ok(None);
        }
        let Ok(inside) = real.strip_prefix(&self.root) else { return Err(self.outside(&self.shown(path))) };
        let Some(parts) = inside.iter().map(|part| part.to_str()).collect::<Option<Vec<_>>>() else {
            return Err("its path is not UTF-8".to_owned());
        };
        Ok(Some(SourceFile { name: parts.join("/"), path: real }))
    }

    fn outside(&self, what: &str) -> String {
        format!("{what} leads out of the project's folder {}: a handler's files stay inside it", self.root.display())
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

impl SourceFile {
    /// Where it is, every link resolved.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is TypeScript.
    pub(super) fn is_typescript(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "ts" || extension == "mts")
    }

    /// What an import in this file says to mean `other` and nothing else.
    pub(super) fn specifier_of(&self, other: &SourceFile) -> String {
        let mut from: Vec<&str> = self.name.split('/').collect();
        from.pop();
        let to: Vec<&str> = other.name.split('/').collect();
        let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        let up = if shared == from.len() { "./".to_owned() } else { "../".repeat(from.len() - shared) };
        up + &to[shared..].join("/")
    }

    /// Its text. The error is text to go with its name.
    pub(super) fn read(&self) -> Result<String, String> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
        read.map_err(|error| error.to_string())?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(format!("the file is larger than {} MiB, the most a handler's file may have", MAX_FILE >> 20));
        }
        if bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        String::from_utf8(bytes).map_err(|_| "the file is not UTF-8".to_owned())
    }
}

fn is_module(path: &Path) -> bool {
    path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
        // Declarations hold no code.
        && !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(".d.ts") || name.ends_with(".d.mts"))
}

/// The files that an import of `path` may mean, in the order in which they are tried.
fn candidates(path: &Path) -> Vec<PathBuf> {
    let mut candidates = vec![path.to_owned()];
    // TypeScript's convention: "./x.js" is written for what x.ts will become.
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("js") => candidates.push(path.with_extension("ts")),
        Some("mjs") => candidates.push(path.with_extension("mts")),
        _ => {}
    }
    if !is_module(path) {
        let longer = |extension| {
            let mut name = path.as_os_str().to_owned();
            name.push(".");
            name.push(extension);
            PathBuf::from(name)
        };
        candidates.extend(EXTENSIONS.map(longer));
        candidates.extend(EXTENSIONS.map(|extension| path.join("index").with_extension(extension)));
    }
    candidates
}

/// `path` without `.` and `..`, by its letters alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}
