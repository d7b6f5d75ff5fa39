//! Koksmat
#![allow(missing_docs)]
pub mod channel;
pub mod config;
pub mod event;
pub mod health;
pub mod listener;
pub mod outcome;
pub mod receipt;
pub mod source;
pub mod store;
pub mod tenant;
