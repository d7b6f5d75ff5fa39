//! Running a build tool: what it writes is shown while it runs, its time is bounded, and dropping the future ends it.

use std::{
    collections::VecDeque,
    path::Path,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

use super::error::BuildError;

/// Lines that a failure shows.
const LAST_LINES: usize = 40;
/// Longer lines are cut, in bytes.
const MAX_LINE: usize = 1024;
/// The most that is taken of an output that is parsed, in bytes.
const MAX_CAPTURED: u64 = 16 << 20;
/// How long to read on when the tool has ended: something it started may still hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Run a tool in `folder` to its end; what it writes becomes progress lines.
///
/// # Errors
/// It does not start, fails, or takes longer than `limit`; the error shows the last lines it wrote.
pub(super) async fn run(command: Command, folder: &Path, limit: Duration) -> Result<(), BuildError> {
    finish(command, folder, limit, None).await
}

/// Run a tool in `folder` and return what it wrote to standard output.
///
/// # Errors
/// As [`run`].
pub(super) async fn capture(command: Command, folder: &Path, limit: Duration) -> Result<Vec<u8>, BuildError> {
    let mut captured = Vec::new();
    finish(command, folder, limit, Some(&mut captured)).await?;
    Ok(captured)
}

async fn finish(mut command: Command, folder: &Path, limit: Duration, capture: Option<&mut Vec<u8>>) -> Result<(), BuildError> {
    let shown = shown(&command);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|reason| BuildError::Start { folder: folder.to_owned(), program: program_of(&command), reason })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());

    let progress = Progress::new(folder, capture.is_none());
    let reading = async {
        let output = async {
            match capture {
                Some(captured) => {
                    if let Some(stdout) = stdout {
                        // What is cut or unreadable does not parse, and that is said then.
                        let _ = stdout.take(MAX_CAPTURED).read_to_end(captured).await;
                    }
                }
                None => progress.follow(stdout).await,
            }
        };
        tokio::join!(output, progress.follow(stderr));
    };
    let ended = timeout(limit, async {
        tokio::pin!(reading);
        tokio::select! {
            status = child.wait() => {
                let _ = timeout(LAST_WORDS, reading).await;
                status
            }
            () = &mut reading => child.wait().await,
        }
    })
    .await;

    let (folder, output) = (folder.to_owned(), progress.last_lines());
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(BuildError::Failed { folder, command: shown, status, output }),
        Ok(Err(reason)) => Err(BuildError::Read { path: folder, reason }),
        Err(_) => Err(BuildError::TooSlow { folder, command: shown, after: limit, output }),
    }
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn program_of(command: &Command) -> String {
    command.as_std().get_program().to_string_lossy().into_owned()
}

/// What a tool has written so far.
struct Progress<'a> {
    folder: &'a Path,
    logged: bool,
    last: Mutex<VecDeque<String>>,
}

impl<'a> Progress<'a> {
    fn new(folder: &'a Path, logged: bool) -> Self {
        Self { folder, logged, last: Mutex::default() }
    }

    async fn follow(&self, output: Option<impl AsyncRead + Unpin>) {
        let Some(mut output) = output else { return };
        let mut line = Vec::new();
        let mut buffer = vec![0; 4096];
        loop {
            let count = match output.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            for &byte in &buffer[..count] {
                match byte {
                    b'\n' => self.line(&mut line),
                    byte if line.len() < MAX_LINE => line.push(byte),
                    _ => {}
                }
            }
        }
        self.line(&mut line);
    }

    fn line(&self, line: &mut Vec<u8>) {
        let text: String = String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect();
        line.clear();
        if text.trim().is_empty() {
            return;
        }
        if self.logged {
            tracing::info!(folder = %self.folder.display(), "{text}");
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(text);
    }

    fn last_lines(&self) -> String {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.make_contiguous().join("\n")
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_failure_shows_the_last_lines() {
        let error = run(shell("for i in $(seq 100); do echo line $i; done; echo why >&2; exit 3"), Path::new("/"), LONG).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("line 100") && text.contains("why"), "{text}");
        assert!(!text.contains("line 1\n"), "{text}");
    }

    #[tokio::test]
    async fn what_takes_too_long_is_stopped() {
        let error = run(shell("echo started; exec sleep 600"), Path::new("/"), Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, BuildError::TooSlow { .. }), "{error}");
    }

    #[tokio::test]
    async fn something_left_running_does_not_hold_the_build() {
        run(shell("sleep 60 & echo $!"), Path::new("/"), Duration::from_secs(20)).await.unwrap();
    }

    #[tokio::test]
    async fn a_long_line_is_cut() {
        let error = run(shell("head -c 1000000 /dev/zero | tr '\\0' x; exit 1"), Path::new("/"), LONG).await.unwrap_err();
        assert!(error.to_string().len() < 2 * MAX_LINE);
    }

    #[tokio::test]
    async fn output_is_captured_whole() {
        assert_eq!(capture(shell("echo one; echo two"), Path::new("/"), LONG).await.unwrap(), b"one\ntwo\n");
    }

    #[tokio::test]
    async fn a_tool_that_is_not_there_is_named() {
        let error = run(Command::new("no-such-tool-here"), Path::new("/"), LONG).await.unwrap_err();
        assert!(error.to_string().contains("cannot start `no-such-tool-here`"), "{error}");
    }
}
