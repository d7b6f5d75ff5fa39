//! The real binary, as a process of its own.

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
};

use crate::Folder;

/// `koksmat run FOLDER`
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    lines: watch::Receiver<usize>,
    pub listen: String,
    pub admin: String,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub log: Vec<String>,
}

impl Ended {
    /// Whatever happens, nothing panics.
    fn without_a_panic(self) -> Self {
        assert!(!self.log.iter().any(|line| line.contains("panicked")), "{}", self.log.join("\n"));
        self
    }

    /// What it said on standard error.
    pub fn said(&self) -> String {
        self.log.join("\n")
    }

    /// The ledger line, which must be the only one on standard output.
    pub fn ledger(&self) -> serde_json::Value {
        assert_eq!(self.stdout.lines().count(), 1, "standard output holds one line: {:?}\n{}", self.stdout, self.log.join("\n"));
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// The binary under test; `KOKSMAT_BIN` names another one.
pub fn binary() -> std::path::PathBuf {
    if let Some(binary) = std::env::var_os("KOKSMAT_BIN") {
        return binary.into();
    }
    let tests = std::env::current_exe().unwrap();
    let binary = tests.parent().and_then(Path::parent).unwrap().join("koksmat");
    assert!(binary.is_file(), "{} is not there: `cargo build -p koksmat` makes it (tests/run.sh does)", binary.display());
    binary
}

/// `koksmat ARGUMENTS`, to its end.
pub async fn koksmat(folder: &Path, arguments: &[&str]) -> Ended {
    koksmat_with(folder, arguments, &[], crate::PATIENCE).await
}

/// The same with these environment variables, for a command that may take so long.
pub async fn koksmat_with(folder: &Path, arguments: &[&str], environment: &[(&str, &str)], patience: Duration) -> Ended {
    let mut command = Command::new(binary());
    let output = command.args(arguments).envs(environment.iter().copied()).current_dir(folder).kill_on_drop(true).output();
    let what = arguments.join(" ");
    let output = tokio::time::timeout(patience, output).await.unwrap_or_else(|_| panic!("koksmat {what} took longer than {patience:?}"));
    let output = output.unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        log: String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect(),
    }
    .without_a_panic()
}

impl Process {
    /// Start it and wait until its sources take events.
    pub async fn start(folder: &Folder) -> Self {
        Self::start_with(folder, &[]).await
    }

    /// The same with these environment variables.
    pub async fn start_with(folder: &Folder, environment: &[(&str, &str)]) -> Self {
        let mut process = Self::spawn(folder, environment);
        process.listens().await;
        process.ready().await;
        process
    }

    /// Wait until it listens, be its sources ready or not.
    pub async fn listens(&mut self) {
        let line = self.line("runs listen=").await;
        let field = |name: &str| line.split(&format!("{name}=")).nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        (self.listen, self.admin) = (field("listen"), field("admin"));
    }

    /// Wait until its sources take events.
    pub async fn ready(&self) {
        crate::until("readiness", || async { (self.admin("/readyz").await.status == 200).then_some(()) }).await;
    }

    /// Start it and wait for nothing.
    pub fn spawn(folder: &Folder, environment: &[(&str, &str)]) -> Self {
        Self::spawn_by(&[], folder, environment)
    }

    /// The same by a command that takes what it is to run as its arguments.
    pub fn spawn_by(by: &[&str], folder: &Folder, environment: &[(&str, &str)]) -> Self {
        folder.write();
        let binary = binary();
        let mut words = by.iter().map(std::ffi::OsStr::new).chain([binary.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("run").arg(folder.path()).envs(environment.iter().copied()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (count, lines) = watch::channel(0);
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let writer = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                writer.lock().unwrap().push(line);
                count.send_modify(|n| *n += 1);
            }
        });
        Self { child, log, lines, listen: String::new(), admin: String::new() }
    }

    /// Wait for a line of the log that contains `text`.
    pub async fn line(&mut self, text: &str) -> String {
        crate::within(&format!("a log line with `{text}`"), async {
            loop {
                if let Some(line) = self.log().into_iter().find(|line| line.contains(text)) {
                    return line;
                }
                if self.lines.changed().await.is_err() {
                    panic!("the process ended without a line with `{text}`:\n{}", self.log().join("\n"));
                }
            }
        })
        .await
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Send a signal: `TERM`, `INT`, `KILL`, `STOP`.
    pub async fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().await.unwrap();
        assert!(status.success());
    }

    /// Wait until SIGTERM and SIGINT no longer end the process by themselves: before that it has done nothing.
    pub async fn arms_its_signals(&self) {
        const BOTH: u64 = 1 << (15 - 1) | 1 << (2 - 1);
        let status = format!("/proc/{}/status", self.pid());
        crate::until("the signals to be armed", || async {
            let status = std::fs::read_to_string(&status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            (u64::from_str_radix(caught.trim(), 16).unwrap() & BOTH == BOTH).then_some(())
        })
        .await;
    }

    /// Nobody reads its standard output any more.
    pub fn close_stdout(&mut self) {
        self.child.stdout = None;
    }

    /// SIGTERM, and wait for the end.
    pub async fn stop(self) -> Ended {
        self.signal("TERM").await;
        self.ended().await
    }

    /// SIGTERM, and see that it ends well with its ledger in balance. The ledger.
    pub async fn stops_well(self) -> serde_json::Value {
        let ended = self.stop().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
        // What a failing test needs to be understood.
        ended.log.iter().filter(|line| line.contains("WARN")).for_each(|line| println!("{line}"));
        let ledger = ended.ledger()["ledger"].clone();
        assert_eq!(ledger["balanced"], true, "{ledger}");
        ledger
    }

    /// Wait for the end.
    pub async fn ended(mut self) -> Ended {
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take();
        let end = async {
            if let Some(pipe) = &mut pipe {
                pipe.read_to_string(&mut stdout).await.unwrap();
            }
            self.child.wait().await.unwrap()
        };
        let Ok(status) = tokio::time::timeout(crate::PATIENCE, end).await else {
            panic!("waited {:?} in vain for the process to end:\n{}", crate::PATIENCE, self.log().join("\n"));
        };
        while self.lines.changed().await.is_ok() {}
        Ended { code: status.code(), stdout, log: self.log() }.without_a_panic()
    }

    /// GET from the admin address.
    pub async fn admin(&self, path: &str) -> crate::host::Reply {
        crate::host::request(&format!("http://{}{path}", self.admin), "GET", &[], Default::default()).await
    }

    /// POST to the listener.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<hyper::body::Bytes>) -> crate::host::Reply {
        crate::host::request(&format!("http://{}{path}", self.listen), "POST", headers, body.into()).await
    }
}
