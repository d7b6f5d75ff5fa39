//! From the exported function to the one the user wrote.

use crate::bindings::koksmat::plugin::types::Failure;
use crate::{Context, Error, Event, Response, log};
use std::sync::Once;

/// A function that `#[handler]` can go on: `fn(Event) -> Result<…>` or `fn(Event, Context) -> Result<…>`.
#[diagnostic::on_unimplemented(
    message = "this function cannot be a handler",
    label = "expected `fn(Event, Context) -> Result<Response>` or `fn(Event) -> Result<Response>`",
    note = "instead of `Response`: `()`, `&'static str`, `String`, `serde_json::Value`, or whatever else is `Into<Response>`"
)]
pub trait Handler<Arguments> {
    /// Calls it.
    fn call(self, event: Event, ctx: Context) -> Result<Response, Error>;
}

impl<F: FnOnce(Event, Context) -> R, R: Outcome> Handler<(Event, Context)> for F {
    fn call(self, event: Event, ctx: Context) -> Result<Response, Error> {
        self(event, ctx).into_result()
    }
}

impl<F: FnOnce(Event) -> R, R: Outcome> Handler<(Event,)> for F {
    fn call(self, event: Event, _: Context) -> Result<Response, Error> {
        self(event).into_result()
    }
}

/// What a handler may return.
pub trait Outcome {
    /// As the host takes it.
    fn into_result(self) -> Result<Response, Error>;
}

impl<T: Into<Response>, E: Into<Error>> Outcome for Result<T, E> {
    fn into_result(self) -> Result<Response, Error> {
        self.map(Into::into).map_err(Into::into)
    }
}

/// The body of the exported function.
pub fn call<Arguments>(handler: impl Handler<Arguments>, event: Event, ctx: Context) -> Result<Response, Failure> {
    // A panic is a bare trap on this target; without this nobody would learn why.
    static PANICS: Once = Once::new();
    PANICS.call_once(|| std::panic::set_hook(Box::new(|panic| log::write(log::Level::Error, "panic", &panic.to_string()))));
    handler.call(event, ctx).map_err(Failure::from)
}

/// Exports a function as the component's handler. `#[handler]` expands to it.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_handler {
    ($handler:path) => {
        const _: () = {
            #[allow(dead_code, reason = "it only carries the implementation")]
            struct Component;

            impl $crate::bindings::exports::koksmat::plugin::handler::Guest for Component {
                fn handle(
                    event: $crate::Event,
                    ctx: $crate::Context,
                ) -> ::core::result::Result<$crate::Response, $crate::bindings::koksmat::plugin::types::Failure> {
                    $crate::__private::call($handler, event, ctx)
                }
            }

            // Elsewhere the exported names mean nothing to the linker, and a handler's own tests need none.
            #[cfg(target_arch = "wasm32")]
            $crate::bindings::export_handler! { Component with_types_in $crate::bindings }
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    fn answer<Arguments>(handler: impl Handler<Arguments>) -> Result<Response> {
        handler.call(Event { data: b"\"tea\"".to_vec(), ..Event::default() }, Context { attempt: 2, ..Context::default() })
    }

    #[test]
    fn one_or_two_arguments() {
        fn both(event: Event, ctx: Context) -> Result<Response> {
            let name: String = event.json()?;
            Ok(Response::text(format!("{name} {}", ctx.attempt)))
        }
        fn one(event: Event) -> Result<String> {
            event.json()
        }
        assert_eq!(answer(both).unwrap().body, b"tea 2");
        assert_eq!(answer(one).unwrap().body, b"tea");
    }

    #[test]
    fn other_results() {
        fn nothing(_: Event) -> Result<()> {
            Ok(())
        }
        fn foreign(_: Event) -> Result<Value, std::num::ParseIntError> {
            Ok(json!({ "number": "x".parse::<u8>()? }))
        }
        assert_eq!(answer(nothing).unwrap(), Response::empty());
        assert!(!answer(foreign).unwrap_err().is_reject());
    }
}
