//! Messages for the people who run the handler. Needs no grant.
//!
//! ```no_run
//! # use koksmat_sdk::log;
//! # let (sku, left) = ("tea", 2);
//! log::info!("{left} of {sku} left");
//! log::warn!("running low");
//! ```

pub use crate::bindings::wasi::logging::logging::Level;
pub use crate::{__debug as debug, __error as error, __info as info, __trace as trace, __warn as warn};

/// Writes one message. `context` says which part of the handler speaks; it may be empty.
pub fn write(level: Level, context: &str, message: &str) {
    crate::bindings::wasi::logging::logging::log(level, context, message);
}

/// Logs at trace level; arguments as for `format!`.
#[macro_export]
#[doc(hidden)]
macro_rules! __trace {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Trace, "", &::std::format!($($message)+))
    };
}

/// Logs at debug level; arguments as for `format!`.
#[macro_export]
#[doc(hidden)]
macro_rules! __debug {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Debug, "", &::std::format!($($message)+))
    };
}

/// Logs at info level; arguments as for `format!`.
#[macro_export]
#[doc(hidden)]
macro_rules! __info {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Info, "", &::std::format!($($message)+))
    };
}

/// Logs at warn level; arguments as for `format!`.
#[macro_export]
#[doc(hidden)]
macro_rules! __warn {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Warn, "", &::std::format!($($message)+))
    };
}

/// Logs at error level; arguments as for `format!`.
#[macro_export]
#[doc(hidden)]
macro_rules! __error {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Error, "", &::std::format!($($message)+))
    };
}
