//! Transfers between accounts, for tests that look for what was lost or done twice.
//!
//! `{"id": "t1", "debit": "a", "credit": "b", "amount": 5}` moves 5 from `account/a` to `account/b`, adds 1 to `done/t1` and posts the id to the
//! configured `witness`. With `reads = "yes"` it reads the accounts first, so that two transfers at once are in each other's way. An atomic call
//! writes the next line of a book: its fencing token as `book/N`, where N is one more than the line before.

use koksmat_sdk::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Transfer {
    id: String,
    debit: String,
    credit: String,
    amount: i64,
}

#[handler]
fn handle(event: Event, ctx: Context) -> Result<Response> {
    let transfer: Transfer = event.json()?;
    let reads = config::get("reads")?.is_some();
    book(&transfer.debit, -transfer.amount, reads)?;
    book(&transfer.credit, transfer.amount, reads)?;
    keyvalue::add(&format!("done/{}", transfer.id), 1)?;
    if let Some(token) = ctx.fencing_token {
        let line = keyvalue::get::<u64>("lines")?.unwrap_or(0) + 1;
        keyvalue::set("lines", &line)?;
        keyvalue::set(&format!("book/{line:09}"), &token)?;
    }
    if let Some(witness) = config::get("witness")? {
        let heard = http::Request::new("POST", witness).text(transfer.id).send()?;
        if !heard.ok() {
            return Err(retry(format!("the witness answers {}", heard.status)));
        }
    }
    Ok(Response::empty())
}

fn book(account: &str, amount: i64, reads: bool) -> Result<()> {
    let key = format!("account/{account}");
    if !reads {
        return keyvalue::add(&key, amount);
    }
    let balance: i64 = keyvalue::get(&key)?.unwrap_or(0);
    keyvalue::set(&key, &(balance + amount))
}
