//! `koksmat plugins`, `koksmat rollback` and `koksmat promote`

use std::path::PathBuf;

use koksmat::{control::Request, reload::Plugin};

use super::{Failure, age, reload, say, status::time, target};

/// Show which versions of the handlers serve and served.
#[derive(Debug, clap::Args)]
pub(crate) struct Plugins {
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// One JSON document for each handler
    #[arg(long)]
    json: bool,
}

impl Plugins {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let client = target::running(&self.path).await?;
        let plugins = client.send(Request::get("/api/plugins")).await.map_err(target::failed)?;
        let plugins: Vec<Plugin> = serde_json::from_value(plugins).map_err(Failure::start)?;
        for plugin in plugins {
            if self.json {
                say(format_args!("{}", serde_json::to_string(&plugin).map_err(Failure::start)?));
            } else {
                show(&plugin);
            }
        }
        Ok(0)
    }
}

fn show(Plugin { handler, plugin, calls, errors, beside, history }: &Plugin) {
    say(format_args!("{handler} ({plugin})"));
    let serving = short(&history.serving);
    say(format_args!("  {serving} serves since {}: {calls} calls, {errors} failed", time(history.since)));
    if let Some(beside) = beside {
        let digest = short(&beside.digest);
        match &beside.compared {
            None => {
                say(format_args!("  {digest} beside it for {}: {} calls, {} failed", age(beside.since_ms), beside.calls, beside.errors))
            }
            Some(compared) => {
                let (for_, same, different) = (age(beside.since_ms), compared.same, compared.different);
                say(format_args!("  {digest} in its shadow for {for_}: {same} calls came to the same, {different} did not"));
                compared.differences.iter().for_each(|difference| say(format_args!("    {difference}")));
            }
        }
    }
    if let Some(rejected) = &history.rejected {
        say(format_args!("  {} was rolled back at {}: {}", short(&rejected.digest), time(rejected.at), rejected.why));
    }
    for earlier in &history.earlier {
        say(format_args!("  {} served from {} to {}", short(&earlier.digest), time(earlier.since), time(earlier.until)));
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Have an earlier version of a handler serve until its files say something else.
#[derive(Debug, clap::Args)]
pub(crate) struct Rollback {
    /// The handler
    handler: String,
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// To which version, by the beginning of its digest; else without the new code that stands beside, or to the last one that served before
    #[arg(long)]
    version: Option<String>,
}

impl Rollback {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let version = self.version.map(|version| ("version", version));
        ask(&self.path, &self.handler, "rollback", version).await
    }
}

/// Have the new version of a handler serve that stands beside the old one.
#[derive(Debug, clap::Args)]
pub(crate) struct Promote {
    /// The handler
    handler: String,
    /// A folder with a koksmat.toml, or a configuration file
    #[arg(default_value = ".")]
    path: PathBuf,
}

impl Promote {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        ask(&self.path, &self.handler, "promote", None).await
    }
}

async fn ask(path: &std::path::Path, handler: &str, what: &str, parameter: Option<(&str, String)>) -> Result<u8, Failure> {
    let client = target::running(path).await?;
    let handler: String = url::form_urlencoded::byte_serialize(handler.as_bytes()).collect();
    let request = Request::post(&format!("/api/plugins/{handler}/{what}")).query(parameter);
    reload::told(&reload::outcome(&client, request).await?)
}
