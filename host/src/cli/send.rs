//! `koksmat send`

use std::{io::Read, path::PathBuf};

use koksmat::{config::SourceKind, control::Request};

use super::{Failure, say, target};

/// Send an event to an embedded queue of a running host.
#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The queue; may be left out when there is one only
    #[arg(long, short)]
    source: Option<String>,
    /// The CloudEvents type
    #[arg(long, short = 't')]
    r#type: Option<String>,
    /// The CloudEvents subject
    #[arg(long)]
    subject: Option<String>,
    /// The CloudEvents id: an event with the same id is accepted once
    #[arg(long)]
    id: Option<String>,
    /// The data: text, `@FILE`, or `-` for standard input
    #[arg(long, short, default_value = "")]
    data: String,
    /// The media type of the data; by default application/json when it is JSON, else text/plain
    #[arg(long)]
    content_type: Option<String>,
    /// Hold it back: `5s`, `10m`
    #[arg(long)]
    after: Option<String>,
}

impl Send {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let (config, client) = target::client(&self.path)?;
        let queues: Vec<&str> =
            config.sources.iter().filter(|s| matches!(s.kind, SourceKind::Embedded(_))).map(|s| s.name.as_str()).collect();
        let queue = match (&self.source, queues.as_slice()) {
            (Some(name), queues) if queues.contains(&name.as_str()) => name.clone(),
            (Some(name), queues) => {
                return Err(Failure::usage(format!("there is no embedded queue `{name}`; there is: {}", queues.join(", "))));
            }
            (None, [only]) => (*only).to_owned(),
            (None, queues) => return Err(Failure::usage(format!("say which queue with --source: {}", queues.join(", ")))),
        };
        let data = self.data()?;
        let content_type = self.content_type.clone().unwrap_or_else(|| {
            let json = serde_json::from_slice::<serde::de::IgnoredAny>(&data).is_ok();
            if json { "application/json".into() } else { "text/plain; charset=utf-8".into() }
        });
        let query = [("type", &self.r#type), ("subject", &self.subject), ("id", &self.id), ("after", &self.after)];
        let query = query.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        let request = Request::post(&format!("/api/queues/{queue}")).query(query).body(&content_type, data);
        let answer = client.send(request).await.map_err(target::failed)?;
        say(format_args!("{}", answer["id"].as_str().unwrap_or_default()));
        Ok(0)
    }

    fn data(&self) -> Result<Vec<u8>, Failure> {
        match self.data.as_str() {
            "-" => {
                let mut data = Vec::new();
                std::io::stdin().read_to_end(&mut data).map_err(|e| Failure::usage(format!("cannot read standard input: {e}")))?;
                Ok(data)
            }
            text => match text.strip_prefix('@') {
                Some(file) => std::fs::read(file).map_err(|e| Failure::usage(format!("cannot read {file}: {e}"))),
                None => Ok(text.as_bytes().to_vec()),
            },
        }
    }
}
