//! Polled databases on servers, the real ones: each committed row once, whoever writes, dies or goes away meanwhile.

mod claims;
mod cursor;
mod errors;
mod rows;
mod writers;

use koksmat_tests::{Folder, Witness, databases::Database};

/// A folder whose source `rows` polls a database, and whose handler tells the witness `tell`, an expression of JavaScript.
fn polling(database: &Database, settings: &str, witness: &Witness, tell: &str) -> Folder {
    polling_at(&database.url(), settings, witness, tell)
}

fn polling_at(url: &str, settings: &str, witness: &Witness, tell: &str) -> Folder {
    let handler = format!("on = {{ source = \"rows\" }}\ntimeout = \"30s\"\ngrants = {{ http = [\"{}\"] }}", witness.address());
    Folder::new()
        .file("database-url", url)
        .toml(&format!("[sources.rows]\nkind = \"poller\"\ndatabase = \"file:database-url\"\n{settings}\n"))
        .script("tells", "tells.js", &witness.script(tell), &handler)
}
