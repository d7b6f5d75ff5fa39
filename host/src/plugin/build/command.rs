//! A folder with a build command of its own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

use super::{error::BuildError, process};

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Run `command` (program and arguments, no shell) in `folder` and return the path of its `output`.
pub(super) async fn build(folder: &Path, command: &[String], output: &Path) -> Result<PathBuf, BuildError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(BuildError::Folder { folder: folder.to_owned(), reason: "the build command is empty: name a program".to_owned() });
    };
    // `./build.sh` means the one in the folder, wherever the host was started.
    let program = if program.contains('/') { folder.join(program) } else { PathBuf::from(program) };
    let mut tool = Command::new(program);
    tool.args(arguments);
    process::run(tool, folder, LIMIT).await?;
    let output = folder.join(output);
    if !output.is_file() {
        let reason = format!("`{}` succeeded but made no {}", command.join(" "), output.display());
        return Err(BuildError::Folder { folder: folder.to_owned(), reason });
    }
    Ok(output)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn words(command: &[&str]) -> Vec<String> {
        command.iter().map(|&word| word.to_owned()).collect()
    }

    #[tokio::test]
    async fn it_runs_in_its_folder_and_its_output_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("in.txt"), "x").unwrap();
        let output = build(folder.path(), &words(&["cp", "in.txt", "out.wasm"]), Path::new("out.wasm")).await.unwrap();
        assert_eq!(std::fs::read(output).unwrap(), b"x");
    }

    #[tokio::test]
    async fn a_command_that_makes_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = build(folder.path(), &words(&["true"]), Path::new("out.wasm")).await.unwrap_err();
        assert!(error.to_string().contains("`true` succeeded but made no"), "{error}");
    }

    #[tokio::test]
    async fn an_empty_command_is_an_error() {
        assert!(build(Path::new("/"), &[], Path::new("out.wasm")).await.unwrap_err().to_string().contains("is empty"));
    }
}
