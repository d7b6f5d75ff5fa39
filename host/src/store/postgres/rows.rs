//! Between rows and what travels.

use std::borrow::Cow;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    event::Event,
    store::{StoreError, json::from_json},
};

/// The event of the columns `header` and `data`.
pub(super) fn event(row: &PgRow, header: usize, data: usize) -> Result<Event, StoreError> {
    let mut event: Event = from_json(row.try_get(header)?)?;
    event.data = Bytes::from(row.try_get::<Vec<u8>, _>(data)?);
    Ok(event)
}

/// A number that is never negative nor large.
pub(super) fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What stands for a character that the server's text cannot hold, and for itself.
const ESCAPE: char = '\u{10FFFF}';

/// A text as it is stored: the server's text holds no NUL. Two that differ are stored as two that differ.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => stored.extend([ESCAPE, '0']),
            ESCAPE => stored.extend([ESCAPE, '1']),
            c => stored.push(c),
        }
    }
    Cow::Owned(stored)
}

/// The longest key that is stored as it is, in bytes: an index of the server holds no row of more than a third of a page.
const LONGEST_KEY: usize = 1000;
/// What a longer one ends with, before its digest.
const DIGEST: &str = "\u{10FFFF}2";

/// A key as it is stored: of a long one the beginning, and a digest of all of it. One that comes from the store is stored as it is.
pub(super) fn key(key: &str) -> Cow<'_, str> {
    if key.len() <= LONGEST_KEY {
        return if key.contains(DIGEST) { Cow::Borrowed(key) } else { text(key) };
    }
    let beginning: String = key.chars().take(64).filter(|c| !matches!(*c, '\0' | ESCAPE)).collect();
    Cow::Owned(format!("{beginning}{DIGEST}{}", hex::encode(Sha256::digest(key))))
}

/// A text as it was before it was stored; of a long key what it was stored as.
pub(super) fn unstored(stored: String) -> String {
    if !stored.contains(ESCAPE) || stored.contains(DIGEST) {
        return stored;
    }
    let mut text = String::with_capacity(stored.len());
    let mut chars = stored.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            ESCAPE => match chars.next() {
                Some('0') => '\0',
                _ => ESCAPE,
            },
            c => c,
        });
    }
    text
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn every_text_can_be_stored_and_comes_back() {
        for plain in ["", "order 7", "a\0b\0", "\u{10FFFF}", "\u{10FFFF}0\0\u{10FFFF}1", "é\0"] {
            let stored = text(plain);
            assert!(!stored.contains('\0'));
            assert_eq!(unstored(stored.into_owned()), plain);
        }
    }

    #[test]
    fn a_long_key_is_stored_short_and_found_by_what_comes_back() {
        let (one, other) = ("x".repeat(5000), format!("{}y", "x".repeat(4999)));
        let stored = key(&one).into_owned();
        assert!(stored.len() < 300 && stored != key(&other));
        let back = unstored(stored.clone());
        assert_eq!(key(&back), stored);
    }
}
