//! `koksmat pause` and `koksmat resume`

use std::path::PathBuf;

use clap::ValueEnum;
use koksmat::control::{ClientError, Request};

use super::{Failure, say, target};

/// Pause or resume a source or a handler.
#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    /// Which of the two
    part: Part,
    /// Its name
    name: String,
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    Source,
    Handler,
}

impl Part {
    fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Handler => "handler",
        }
    }
}

impl Pause {
    pub(crate) async fn pause(self) -> Result<u8, Failure> {
        self.ask("/api/pause").await?;
        match self.part {
            Part::Source => say(format_args!("the source `{}` is paused: it takes nothing new until `koksmat resume`", self.name)),
            Part::Handler => {
                say(format_args!("the handler `{}` is paused: its events wait in the store until `koksmat resume`", self.name))
            }
        }
        Ok(0)
    }

    pub(crate) async fn resume(self) -> Result<u8, Failure> {
        let answer = self.ask("/api/resume").await?;
        let (word, name) = (self.part.word(), &self.name);
        match answer["resumed"] == true {
            true => say(format_args!("the {word} `{name}` goes on")),
            false => say(format_args!("the {word} `{name}` was not paused")),
        }
        Ok(0)
    }

    async fn ask(&self, call: &str) -> Result<serde_json::Value, Failure> {
        let client = target::client_or_store(&self.path).await?;
        let request = Request::post(call).query([(self.part.word(), self.name.clone())]);
        client.send(request).await.map_err(|error| match error {
            // There is nothing of this name, and what there is.
            ClientError::Refused { status: 404, detail } => Failure::usage(detail),
            error => target::failed(error),
        })
    }
}
