//! Every example, run as its README says: what stands there is typed, and what it promises is looked for.
//!
//! In a README's fences `sh` is typed into one shell, `sql` is run in the polled database, and what follows is compared: `text` with what the
//! commands before it printed, `log` line by line with the log of the host, `json` with the ledger after the stop. `…` matches anything.

use std::{path::Path, process::Stdio, time::Duration};

use koksmat_tests::{
    Folder, Process, guests,
    kafka::{self, Topic},
    process, rabbitmq, repository, until, within,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A fenced block of a README.
#[derive(Debug)]
struct Block {
    language: String,
    text: String,
}

fn blocks(example: &str) -> Vec<Block> {
    let readme = std::fs::read_to_string(repository().join("examples").join(example).join("README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in readme.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some(Block { language: language.to_owned(), text: String::new() }),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence of {example}/README.md is not closed");
    blocks
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.is_empty()
}

#[test]
fn dots_stand_for_anything() {
    assert!(fits("a … b … c", "a 1 b 2 b c"));
    assert!(fits("…", ""));
    for other in ["a b", "x a 1 b", "a 1 c"] {
        assert!(!fits("a … b", other), "{other}");
    }
    assert!(!fits("a", "ab"));
}

/// The shell of a reader, in a folder that looks like the root of the repository.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// What the README writes, and what has to be typed here.
    replace: Vec<(&'static str, String)>,
}

const MARK: &str = "=== typed ===";

impl Shell {
    fn open(root: &Path, replace: Vec<(&'static str, String)>) -> Self {
        let binaries = process::binary().parent().unwrap().to_owned();
        let path = std::env::join_paths([binaries].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))).unwrap();
        let mut command = Command::new("bash");
        command.args(["-eu", "-o", "pipefail"]).current_dir(root).env("PATH", path).env("RUST_LOG", "error");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output, replace }
    }

    /// Type commands and wait for what they print.
    async fn type_in(&mut self, commands: &str) -> String {
        let mut commands = commands.to_owned();
        for (written, typed) in &self.replace {
            commands = commands.replace(written, typed);
        }
        // Commands must not read what is typed after them.
        let typed = format!("{{\n{commands}\n}} </dev/null\nprintf '\\n%s\\n' '{MARK}'\n");
        self.input.write_all(typed.as_bytes()).await.unwrap();
        let mut printed = String::new();
        within(&format!("the end of {commands}"), async {
            loop {
                match self.output.next_line().await.unwrap() {
                    Some(line) if line == MARK => return,
                    Some(line) => printed.push_str(&format!("{line}\n")),
                    None => panic!("failed ({:?}): {commands}\n{printed}", self.child.wait().await),
                }
            }
        })
        .await;
        printed.replace("\r\n", "\n").trim().to_owned()
    }
}

/// A copy of an example on free ports, with nothing of an earlier run in it.
fn copy(example: &str) -> Folder {
    copy_with(example, &[])
}

/// The same with some of its words replaced: the README has usual ports and names, and the services of the tests have others.
fn copy_with(example: &str, replace: &[(&'static str, String)]) -> Folder {
    let from = repository().join("examples").join(example);
    let mut folder = Folder::new();
    let mut folders = vec![from.clone()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                if name != "data" && name != "target" {
                    folders.push(path);
                }
            } else if name != "koksmat.toml" {
                folder = folder.file(path.strip_prefix(&from).unwrap().to_str().unwrap(), std::fs::read(&path).unwrap());
            }
        }
    }
    let configuration = std::fs::read_to_string(from.join("koksmat.toml")).unwrap();
    let of_the_host = |line: &&str| {
        *line == "[host]" || line.starts_with("listen = \"127.0.0.1:8080\"") || line.starts_with("admin = \"127.0.0.1:8081\"")
    };
    let rest: String = configuration.lines().filter(|line| !of_the_host(line)).map(|line| format!("{line}\n")).collect();
    folder.toml(&replace.iter().fold(rest, |text, (written, meant)| text.replace(written, meant)))
}

/// Run an example and do all that its README says.
async fn follow(example: &str, folder: Folder, environment: &[(&str, &str)]) {
    follow_with(example, folder, environment, Vec::new()).await;
}

async fn follow_with(example: &str, folder: Folder, environment: &[(&str, &str)], replace: Vec<(&'static str, String)>) {
    let mut blocks = blocks(example).into_iter();
    let first = blocks.next().unwrap();
    assert_eq!((first.language.as_str(), first.text.trim()), ("sh", format!("cargo run -p koksmat -- run examples/{example}").as_str()));

    let mut host = Process::start_with(&folder, environment).await;
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("examples")).unwrap();
    std::os::unix::fs::symlink(folder.path(), root.path().join("examples").join(example)).unwrap();
    let ports = vec![("127.0.0.1:8080", host.listen.clone()), ("127.0.0.1:8081", host.admin.clone())];
    let mut shell = Shell::open(root.path(), [ports, replace].concat());
    let mut printed = String::new();
    let mut ledger = None;
    for block in blocks {
        let text = block.text.trim();
        match block.language.as_str() {
            "sh" => {
                idle(&folder).await;
                printed = shell.type_in(text).await;
            }
            "text" => assert!(fits(text, &printed), "the README says\n{text}\n\nand it was\n{printed}\n\n{}", host.log().join("\n")),
            "log" => {
                for line in text.lines() {
                    logged(&mut host, line).await;
                }
            }
            "sql" => run_sql(&folder, text),
            "json" => ledger = Some(text.to_owned()),
            other => panic!("a fence of {example}/README.md is in {other:?}, which nobody checks"),
        }
    }
    host.signal("INT").await;
    let ended = host.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.log.join("\n"));
    assert_eq!(ended.ledger()["ledger"]["balanced"], true);
    if let Some(ledger) = ledger {
        assert!(fits(&ledger, ended.stdout.trim()), "the README says\n{ledger}\n\nand it was\n{}", ended.stdout);
    }
}

/// Wait until the host has nothing to do: a reader is slower than it is.
async fn idle(folder: &Folder) {
    until("the host to have nothing to do", || async {
        let status = process::koksmat(folder.path(), &["status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_else(|error| panic!("{error}: {status:?}"));
        (status["running"] == 0 && status["waiting"] == 0 && status["queues"] == serde_json::json!([])).then_some(())
    })
    .await;
}

async fn logged(host: &mut Process, line: &str) {
    // A timer may take its full minute.
    let found = tokio::time::timeout(Duration::from_secs(90), async {
        while !host.log().iter().any(|logged| fits(line, logged)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(found.await.is_ok(), "the README says that the log has\n{line}\n\nand it was\n{}", host.log().join("\n"));
}

fn run_sql(folder: &Folder, sql: &str) {
    let database = rusqlite::Connection::open(folder.join("data/billing.db")).unwrap();
    database.busy_timeout(Duration::from_secs(5)).unwrap();
    database.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn the_quickstart_does_what_its_readme_says() {
    follow("quickstart", copy("quickstart"), &[]).await;
}

#[tokio::test]
async fn every_signature_scheme_does_what_its_readme_says() {
    follow("webhooks", copy("webhooks"), &[]).await;
}

#[tokio::test]
async fn orders_from_kafka_do_what_the_readme_says() {
    let (orders, reserved) = (Topic::create("shop.orders", 1).await, Topic::create("shop.reserved", 1).await);
    let replace = vec![
        ("127.0.0.1:9092", kafka::BROKERS.to_owned()),
        ("shop.orders", orders.name),
        ("shop.reserved", reserved.name),
        ("koksmat-shop", kafka::unique("koksmat-shop")),
    ];
    follow_with("kafka-orders", copy_with("kafka-orders", &replace), &[], replace).await;
}

#[tokio::test]
async fn tasks_from_rabbitmq_do_what_the_readme_says() {
    let replace = vec![("127.0.0.1:5672", rabbitmq::ADDRESS.to_owned()), ("photo-tasks", kafka::unique("photo-tasks"))];
    follow_with("rabbitmq-tasks", copy_with("rabbitmq-tasks", &replace), &[], replace).await;
}

#[tokio::test]
async fn an_outbox_in_postgresql_does_what_the_readme_says() {
    let url = "postgres://koksmat:test-secret@127.0.0.1:25432/koksmat";
    let replace = vec![("shop_outbox", kafka::unique("shop_outbox").replace('-', "_"))];
    let schema = std::fs::read_to_string(repository().join("examples/postgres-outbox/schema.sql")).unwrap();
    let schema = schema.replace("shop_outbox", &replace[0].1);
    let made = Command::new("psql").args(["-q", url, "-v", "ON_ERROR_STOP=1", "-c", &schema]).status().await.unwrap();
    assert!(made.success());
    let folder = copy_with("postgres-outbox", &replace).file("secrets/database.txt", format!("{url}\n"));
    follow_with("postgres-outbox", folder, &[], replace).await;
}

#[tokio::test]
async fn the_rust_handler_does_what_its_readme_says() {
    let toolchain = guests::toolchain();
    let environment: Vec<(&str, &str)> = toolchain.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let sdk = repository().join("sdk/rust");
    let manifest = std::fs::read_to_string(repository().join("examples/rust-handler/Cargo.toml")).unwrap();
    assert!(manifest.contains("../../sdk/rust"));
    let folder = copy("rust-handler").file("Cargo.toml", manifest.replace("../../sdk/rust", sdk.to_str().unwrap()));
    // What it depends on is compiled once.
    let target = repository().join("target/test-rust-handler");
    std::fs::create_dir_all(&target).unwrap();
    std::os::unix::fs::symlink(target, folder.join("target")).unwrap();
    // The first time takes longer than a test waits for anything.
    folder.write();
    let build = Command::new(process::binary()).arg("build").arg(folder.path()).envs(environment.iter().copied()).output().await.unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    follow("rust-handler", folder, &environment).await;
}

#[tokio::test]
async fn the_embedding_program_does_what_its_readme_says() {
    let blocks = blocks("embedding");
    let [Block { text: typed, .. }, Block { text: promised, .. }] = blocks.as_slice() else { panic!("{blocks:?}") };
    let root = tempfile::tempdir().unwrap();
    let mut shell = Shell::open(root.path(), vec![("cargo run -p embedding", "embedding".to_owned())]);
    let printed = shell.type_in(typed).await;
    assert!(fits(promised.trim(), &printed), "{printed}");
}
