//! A Rust handler: a crate that is built for `wasm32-unknown-unknown` with the user's own toolchain.
//!
//! It never installs or downloads one: where the target is missing, the error names the command that adds it.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tokio::process::Command;

use super::{error::BuildError, process};

const TARGET: &str = "wasm32-unknown-unknown";
/// How long a build may take; a first one compiles all dependencies.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// How long a question to a tool may take.
const ASKING: Duration = Duration::from_secs(60);

/// The toolchain to build with.
#[derive(Debug, Clone)]
pub(super) struct Toolchain {
    cargo: OsString,
    rustc: OsString,
    /// Where rustc is told to find the standard library, when it is told.
    sysroot: Option<String>,
}

impl Toolchain {
    /// The one that cargo would use in this environment.
    pub(super) fn from_env() -> Self {
        Self {
            cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            rustc: env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
            sysroot: sysroot(&rustc_flags(|name| env::var(name).ok())),
        }
    }

    /// Build the crate in `folder` and return the path of its core module.
    pub(super) async fn build(&self, folder: &Path) -> Result<PathBuf, BuildError> {
        let library = self.library(folder).await?;
        self.check_target(folder).await?;
        let mut cargo = self.tool(&self.cargo);
        cargo.args(["build", "--release", "--target", TARGET, "--color", "never", "--package", &library.package, "--lib"]);
        process::run(cargo, folder, LIMIT).await?;
        let module = library.target_folder.join(TARGET).join("release").join(format!("{}.wasm", library.name.replace('-', "_")));
        if !module.is_file() {
            let reason = format!("cargo succeeded but made no {}", module.display());
            return Err(BuildError::Folder { folder: folder.to_owned(), reason });
        }
        Ok(module)
    }

    async fn library(&self, folder: &Path) -> Result<Library, BuildError> {
        let mut cargo = self.tool(&self.cargo);
        cargo.args(["metadata", "--no-deps", "--format-version", "1", "--color", "never"]);
        let json = process::capture(cargo, folder, ASKING).await?;
        let wrong = |reason: String| BuildError::Folder { folder: folder.to_owned(), reason };
        let metadata: Metadata = serde_json::from_slice(&json).map_err(|error| wrong(format!("cannot read `cargo metadata`: {error}")))?;
        let manifest =
            fs::canonicalize(folder.join("Cargo.toml")).map_err(|reason| BuildError::Read { path: folder.join("Cargo.toml"), reason })?;
        let is_it = |package: &Package| fs::canonicalize(&package.manifest_path).is_ok_and(|path| path == manifest);
        let Some(package) = metadata.packages.into_iter().find(is_it) else {
            return Err(wrong("its Cargo.toml is a workspace without a package: name the folder of the handler's crate".to_owned()));
        };
        let Some(target) = package.targets.into_iter().find(|target| target.crate_types.iter().any(|kind| kind == "cdylib")) else {
            return Err(wrong("its Cargo.toml makes no component: add `[lib]` with `crate-type = [\"cdylib\"]`".to_owned()));
        };
        Ok(Library { package: package.name, name: target.name, target_folder: metadata.target_directory })
    }

    /// The target is there when its standard library is.
    async fn check_target(&self, folder: &Path) -> Result<(), BuildError> {
        let mut rustc = self.tool(&self.rustc);
        rustc.args(["--print", "target-libdir", "--target", TARGET]);
        if let Some(sysroot) = &self.sysroot {
            rustc.args(["--sysroot", sysroot]);
        }
        let printed = process::capture(rustc, folder, ASKING).await?;
        let libraries = PathBuf::from(String::from_utf8_lossy(&printed).trim());
        if has_core(&libraries) {
            return Ok(());
        }
        let reason = format!(
            "the Rust target {TARGET} is not installed for `{}`: add it with `rustup target add {TARGET}`",
            self.rustc.to_string_lossy()
        );
        Err(BuildError::Folder { folder: folder.to_owned(), reason })
    }

    fn tool(&self, program: &OsString) -> Command {
        let mut command = Command::new(program);
        // A toolchain that rust-toolchain.toml names and that is not there is an error, not a download.
        command.env("RUSTUP_AUTO_INSTALL", "0");
        // The crate's own folder: another rustc would rebuild everything that stands in a shared one.
        command.env_remove("CARGO_TARGET_DIR");
        command
    }
}

/// The part of a crate that becomes a component.
struct Library {
    package: String,
    name: String,
    target_folder: PathBuf,
}

/// What `cargo metadata` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

fn has_core(libraries: &Path) -> bool {
    let Ok(entries) = fs::read_dir(libraries) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

/// The flags that cargo gives to rustc for the target, from the first variable that is set.
/// <https://doc.rust-lang.org/cargo/reference/config.html#buildrustflags>
fn rustc_flags(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    if let Some(flags) = variable("CARGO_ENCODED_RUSTFLAGS") {
        return flags.split('\x1f').map(str::to_owned).collect();
    }
    let flags = variable("RUSTFLAGS").or_else(|| variable("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS")).unwrap_or_default();
    flags.split_whitespace().map(str::to_owned).collect()
}

fn sysroot(flags: &[String]) -> Option<String> {
    flags.iter().enumerate().find_map(|(index, flag)| match flag.strip_prefix("--sysroot") {
        Some("") => flags.get(index + 1).cloned(),
        Some(rest) => rest.strip_prefix('=').map(str::to_owned),
        None => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A crate and a toolchain whose rustc answers every question with `libraries`.
    fn crate_and_toolchain(manifest: &str, libraries: &str) -> (tempfile::TempDir, Toolchain) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("src")).unwrap();
        fs::write(folder.path().join("src/lib.rs"), "").unwrap();
        fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
        let rustc = folder.path().join("fake-rustc");
        fs::write(&rustc, format!("#!/bin/sh\necho {libraries}\n")).unwrap();
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
        let toolchain = Toolchain { rustc: rustc.into(), sysroot: None, ..Toolchain::from_env() };
        (folder, toolchain)
    }

    const HANDLER: &str =
        "[package]\nname = \"my-handler\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n";

    #[tokio::test]
    async fn a_missing_target_names_the_command_that_adds_it() {
        let (folder, toolchain) = crate_and_toolchain(HANDLER, "/nowhere/lib");
        let error = toolchain.build(folder.path()).await.unwrap_err();
        let rustc = folder.path().join("fake-rustc");
        assert_eq!(
            error.to_string(),
            format!(
                "{}: the Rust target wasm32-unknown-unknown is not installed for `{}`: add it with `rustup target add wasm32-unknown-unknown`",
                folder.path().display(),
                rustc.display()
            )
        );
    }

    #[tokio::test]
    async fn a_target_is_there_when_its_core_library_is() {
        let libraries = tempfile::tempdir().unwrap();
        let (folder, toolchain) = crate_and_toolchain(HANDLER, libraries.path().to_str().unwrap());
        assert!(toolchain.check_target(folder.path()).await.is_err());
        fs::write(libraries.path().join("libcore-0123456789abcdef.rlib"), "").unwrap();
        toolchain.check_target(folder.path()).await.unwrap();
    }

    #[tokio::test]
    async fn the_cdylib_of_the_folders_own_package_is_found() {
        let (folder, toolchain) = crate_and_toolchain(HANDLER, "");
        let library = toolchain.library(folder.path()).await.unwrap();
        assert_eq!((library.package.as_str(), library.name.as_str()), ("my-handler", "my_handler"));
        assert!(library.target_folder.ends_with("target"));
    }

    #[tokio::test]
    async fn the_module_that_cargo_made_is_found() {
        let libraries = tempfile::tempdir().unwrap();
        fs::write(libraries.path().join("libcore-0123456789abcdef.rlib"), "").unwrap();
        let (folder, mut toolchain) = crate_and_toolchain(HANDLER, libraries.path().to_str().unwrap());
        let real = Path::new(&toolchain.cargo).display().to_string();
        let made = "target/wasm32-unknown-unknown/release";
        let script = format!("#!/bin/sh\n[ $1 = build ] || exec {real} \"$@\"\nmkdir -p {made} && echo \"$@\" > {made}/my_handler.wasm\n");
        let cargo = folder.path().join("fake-cargo");
        fs::write(&cargo, script).unwrap();
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
        toolchain.cargo = cargo.into();
        let module = toolchain.build(folder.path()).await.unwrap();
        let arguments = fs::read_to_string(module).unwrap();
        assert!(arguments.starts_with("build --release --target wasm32-unknown-unknown "), "{arguments}");
    }

    #[tokio::test]
    async fn a_crate_that_makes_no_cdylib_is_told_what_to_add() {
        let (folder, toolchain) = crate_and_toolchain("[package]\nname = \"plain\"\n[workspace]\n", "");
        let error = toolchain.library(folder.path()).await.err().unwrap();
        assert!(error.to_string().contains("crate-type = [\"cdylib\"]"), "{error}");
    }

    #[tokio::test]
    async fn cargos_own_complaint_about_the_manifest_is_shown() {
        let (folder, toolchain) = crate_and_toolchain("[package]\nnam = 1\n", "");
        let error = toolchain.library(folder.path()).await.err().unwrap();
        assert!(matches!(&error, BuildError::Failed { output, .. } if output.contains("Cargo.toml")), "{error}");
    }

    #[test]
    fn the_sysroot_is_found_in_the_flags_that_cargo_uses() {
        let flags = |pairs: &'static [(&str, &str)]| {
            sysroot(&rustc_flags(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())))
        };
        assert_eq!(flags(&[("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Ca=b --sysroot=/s")]).as_deref(), Some("/s"));
        assert_eq!(
            flags(&[("RUSTFLAGS", "--sysroot /t"), ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "--sysroot=/s")]).as_deref(),
            Some("/t")
        );
        assert_eq!(
            flags(&[("CARGO_ENCODED_RUSTFLAGS", "--sysroot=/with space\x1f-Ca"), ("RUSTFLAGS", "--sysroot /t")]).as_deref(),
            Some("/with space")
        );
        assert_eq!(flags(&[]), None);
    }
}
