//! `koksmat test`

use std::{collections::BTreeMap, path::PathBuf};

use koksmat::{
    Config,
    config::{HandlerConfig, PluginRef},
    letters::Exported,
};

use super::{Failure, say, trial};

/// Run a handler on an event that failed, as `koksmat dead-letters export` wrote it. Its host calls are answered from the recording, what it
/// writes and emits is thrown away, and nothing leaves the machine. The exit status is 0 when the handler is done with it, else 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    /// The exported dead letter, or a CloudEvent in JSON: then no key has a value and no request an answer
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
    /// The code: a `.wasm`, `.js` or `.ts` file, or the folder of a Rust crate. Set up as the recorded handler was
    #[arg(long, value_name = "PATH", conflicts_with = "handler")]
    plugin: Option<PathBuf>,
    /// A handler of the configuration as it is now; by default the one that failed
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// What `wasi:config` shows: values from the environment are not in a recording
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
    /// JSON, one document
    #[arg(long)]
    json: bool,
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(long = "in", value_name = "PATH", default_value = ".")]
    path: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Test {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let file = self.event.display();
        let json = std::fs::read(&self.event).map_err(|error| Failure::usage(format!("cannot read {file}: {error}")))?;
        let exported = Exported::read(&json).map_err(|error| Failure::usage(format!("{file}: {error}")))?;
        let (handler, cache) = self.handler(&exported)?;
        let config: BTreeMap<_, _> = self.config.iter().cloned().collect();
        let run = exported.run(handler, config, &cache).await.map_err(|error| Failure::usage(format!("{error:#}")))?;
        let trial = serde_json::to_value(&run).map_err(Failure::start)?;
        if self.json {
            say(format_args!("{trial}"));
        } else {
            say(format_args!("{}", trial::text(&trial)));
            if exported.host_calls.is_none() {
                say(format_args!("  (there is no recording: no key had a value, and no request an answer)"));
            }
        }
        Ok(trial::code([&trial]))
    }

    /// What is to run, and where what is built for it is kept.
    fn handler(&self, exported: &Exported) -> Result<(HandlerConfig, PathBuf), Failure> {
        if let Some(path) = &self.plugin {
            let plugin = PluginRef::of(path).map_err(Failure::usage)?;
            // Beside the store of the configuration here, if there is one.
            let cache = Config::load(&self.path).unwrap_or_default().cache_dir();
            return Ok((exported.handler(plugin), cache));
        }
        let name = self.handler.as_ref().or(exported.call.handler.as_ref());
        let name = name.ok_or_else(|| Failure::usage("say what is to run: --plugin PATH, or --handler NAME"))?;
        let config = Config::load(&self.path)?;
        let handler = config.handlers.iter().find(|handler| handler.name == *name);
        let handler = handler.ok_or_else(|| Failure::usage(format!("there is no handler `{name}` in {}", config.file.display())))?;
        Ok((handler.clone(), config.cache_dir()))
    }
}
