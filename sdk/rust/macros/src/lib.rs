//! The `#[handler]` attribute of `koksmat-sdk`.
//!
//! It leaves the function as it is and adds one macro call behind it, so a look at the function's name is all the parsing there is.

use proc_macro::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};

/// Makes a function the handler of this component.
///
/// The function takes the [`Event`] and, if it wants, the [`Context`], and returns a [`Result`] of anything that can be a [`Response`].
/// One function in a crate can be the handler.
///
/// ```ignore
/// use koksmat_sdk::prelude::*;
///
/// #[handler]
/// fn handle(event: Event, ctx: Context) -> Result<Response> {
///     let name: String = event.json()?;
///     Ok(Response::text(format!("hello {name}, attempt {}", ctx.attempt)))
/// }
/// ```
///
/// [`Event`]: https://docs.rs/koksmat-sdk/latest/koksmat_sdk/struct.Event.html
/// [`Context`]: https://docs.rs/koksmat-sdk/latest/koksmat_sdk/struct.Context.html
/// [`Response`]: https://docs.rs/koksmat-sdk/latest/koksmat_sdk/struct.Response.html
/// [`Result`]: https://docs.rs/koksmat-sdk/latest/koksmat_sdk/type.Result.html
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let added = match arguments.into_iter().next() {
        Some(argument) => error(argument.span(), "`#[handler]` takes no arguments"),
        None => match function_name(&item) {
            Ok(name) => export(name),
            Err((span, message)) => error(span, message),
        },
    };
    let mut output = item;
    output.extend(added);
    output
}

/// The name after `fn`, as long as what precedes it is no `async`.
fn function_name(item: &TokenStream) -> Result<Ident, (Span, &'static str)> {
    let mut tokens = item.clone().into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = token else { continue };
        match word.to_string().as_str() {
            "async" => return Err((word.span(), "a handler is not `async`: calls to the host block this instance and nobody else")),
            "fn" => match tokens.next() {
                Some(TokenTree::Ident(name)) => return Ok(name),
                _ => return Err((word.span(), "`fn` without a name")),
            },
            "struct" | "enum" | "mod" | "impl" | "trait" | "static" | "use" => break,
            _ => {}
        }
    }
    Err((Span::call_site(), "`#[handler]` goes on a function"))
}

/// `::koksmat_sdk::__export_handler! { NAME }`, with the name's own place in the source so that type errors point at the function.
fn export(name: Ident) -> TokenStream {
    call("::koksmat_sdk::__export_handler!", TokenTree::Ident(name))
}

fn error(span: Span, message: &str) -> TokenStream {
    let mut text = proc_macro::Literal::string(message);
    text.set_span(span);
    let mut error = call("::core::compile_error!", TokenTree::Literal(text));
    error = error
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect();
    error
}

fn call(macro_path: &str, argument: TokenTree) -> TokenStream {
    let mut tokens: TokenStream = macro_path.parse().expect("a path is tokens");
    tokens.extend([TokenTree::Group(Group::new(Delimiter::Brace, argument.into()))]);
    tokens
}
