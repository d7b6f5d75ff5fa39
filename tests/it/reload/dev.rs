//! `koksmat dev`: what is saved serves, what is wrong is shown where it is, and the last event comes again when it is asked for.

use std::{process::Stdio, sync::Arc};

use koksmat_tests::{Folder, PATIENCE, process::binary, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};

use super::write;

struct Dev {
    process: Child,
    said: Arc<std::sync::Mutex<String>>,
}

impl Dev {
    fn start(folder: &Folder) -> Self {
        let mut process = Command::new(binary())
            .arg("dev")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = Arc::new(std::sync::Mutex::new(String::new()));
        let (mut lines, kept) = (BufReader::new(process.stderr.take().unwrap()).lines(), said.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut said = kept.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Self { process, said }
    }

    /// Everything that was said so far, once this was. What belongs to the same message may come a moment later.
    async fn says(&self, text: &str) -> String {
        let said = || self.said.lock().unwrap().clone();
        let says = until(text, async || said().contains(text).then(said));
        tokio::time::timeout(PATIENCE / 2, says).await.unwrap_or_else(|_| panic!("{text:?} is not in\n{}", said()))
    }

    async fn type_in(&mut self, line: &str) {
        self.process.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_day_of_a_developer() {
    let wrong = "export function handle(event) {\n  return event.id;;)\n}\n";
    // Here files are watched whatever the configuration says.
    let folder = Folder::new().host("watch = false").toml("[sources.hook]\nkind = \"webhook\"\npath = \"/hook\"\n");
    let folder = folder.script("greet", "greet.js", wrong, "on = { source = \"hook\" }\nretry = { attempts = 1 }");
    folder.write();
    let mut dev = Dev::start(&folder);
    dev.says("nothing runs yet").await;
    dev.says("2 |   return event.id;;)\n").await;

    let greet = |line: &str| format!("import {{ log }} from \"koksmat\";\nexport function handle(event) {{\n  {line}\n}}\n");
    write(folder.join("greet.js"), &greet("log.info(\"hello \" + event.text());"));
    let said = dev.says("koksmat runs").await;
    let listen = said.split("listen=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let reply = koksmat_tests::host::request(&format!("http://{listen}/hook"), "POST", &[], "world".into()).await;
    assert_eq!(reply.status, 202);
    dev.says("hello world").await;

    let file = folder.join("koksmat.toml");
    write(&file, &(std::fs::read_to_string(&file).unwrap() + "timeout = \"7s\"\n"));
    dev.says("handler `greet`: its settings hold from now on").await;
    write(folder.join("greet.js"), &greet("throw new Error(\"lost the \" + event.text());"));
    dev.says(" serves (was ").await;
    dev.type_in("r").await;
    dev.says("lost the world").await;
    dev.says("greet.js:3").await;
    dev.says("3 |   throw new Error(\"lost the \" + event.text());").await;

    write(folder.join("greet.js"), &greet("return (;"));
    dev.says("kept old: handlers.greet: greet.js:3:11: ").await;
    dev.says("3 |   return (;").await;
    dev.type_in("q").await;
    let status = dev.process.wait().await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", dev.said.lock().unwrap());
}
