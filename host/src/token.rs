//! The token for publishing and administration: made at first start, kept in a file beside the store that only its owner reads.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rand::RngCore;

use crate::config::{Secret, StoreConfig};

/// The token and where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    secret: Secret,
}

impl Token {
    /// The file that holds the token of a host with this store; none: it is made anew for each process and kept nowhere.
    pub(crate) fn file(store: &StoreConfig) -> Option<PathBuf> {
        Some(store.folder()?.join("token"))
    }

    /// Read the token, or make it.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub(crate) fn open(store: &StoreConfig) -> anyhow::Result<Self> {
        let Some(file) = Self::file(store) else {
            return Ok(Self { secret: Secret::new(new_token(), "memory") });
        };
        let reference = format!("file:{}", file.display());
        match std::fs::read_to_string(&file) {
            Ok(text) if text.trim().len() >= 32 => Ok(Self { secret: Secret::new(text.trim(), reference) }),
            Ok(_) => anyhow::bail!("{} holds no token: delete it and a new one is made", file.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let token = new_token();
                write_private(&file, &token).with_context(|| format!("cannot write the token to {}", file.display()))?;
                tracing::info!(file = %file.display(), "made a token for publishing and administration");
                Ok(Self { secret: Secret::new(token, reference) })
            }
            Err(error) => Err(error).with_context(|| format!("cannot read the token in {}", file.display())),
        }
    }

    /// The token.
    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }
}

fn new_token() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

fn write_private(file: &Path, token: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    writeln!(file, "{token}")?;
    file.sync_all()
}
