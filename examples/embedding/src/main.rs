//! A program that uses Koksmat as a library, with a source of its own: each line of standard input is an event.
//!
//! ```sh
//! printf 'one two\nthree\n' | cargo run -p embedding
//! ```

use std::{future::Future, path::Path, pin::Pin, process::ExitCode, sync::Arc};

use koksmat::{Answer, Config, Event, Host, Source, SourceContext, SourceError};
use tokio::sync::{Notify, mpsc};

/// Makes an event of each line, and waits for what became of it before it takes the next.
struct Lines {
    ended: Arc<Notify>,
}

impl Source for Lines {
    fn kind(&self) -> &str {
        "lines"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(async move {
            let mut lines = standard_input();
            ctx.ready();
            while let Some(Some(line)) = ctx.stopping().run_until_cancelled(lines.recv()).await {
                let credit = ctx.credits().acquire().await;
                match ctx.send(Event::new("line", line), None, credit).await.answer().await {
                    Answer::Done { response: Some(response) } => println!("{}", String::from_utf8_lossy(&response.body)),
                    other => eprintln!("not handled: {other:?}"),
                }
            }
            // A source that returns is started again: this one has nothing more to do until the host stops.
            self.ended.notify_one();
            ctx.stopping().cancelled().await;
            Ok(())
        })
    }
}

/// The lines of standard input, read by a thread because reading blocks.
fn standard_input() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.blocking_send(line)));
    receiver
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    koksmat::telemetry::init_logs();
    let config = Config::load_with_sources(Path::new(env!("CARGO_MANIFEST_DIR")), &["lines"])?;
    let ended = Arc::new(Notify::new());
    let host = Host::builder().config(config).source("lines", 1, Lines { ended: ended.clone() }).build().await?;
    tokio::select! {
        () = ended.notified() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let stopped = host.shutdown().await;
    println!("{}", stopped.line());
    Ok(ExitCode::from(stopped.exit_code()))
}
