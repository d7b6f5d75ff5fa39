//! Somebody who writes into a table while it is polled.

use std::{collections::BTreeSet, time::Duration};

use koksmat_tests::{
    databases::{Connection, Database, Server},
    within,
};

pub(super) const WRITERS: u64 = 6;
const TRANSACTIONS: u64 = 60;

/// A table `events` with numbers that the database gives.
pub(super) async fn events(database: &Database) -> Connection {
    let mut connection = database.connect().await;
    let columns = match database.server {
        Server::Postgres => "id bigserial PRIMARY KEY, note text, state text DEFAULT 'new', xid xid8 NOT NULL DEFAULT pg_current_xact_id()",
        Server::MariaDb => "id BIGINT AUTO_INCREMENT PRIMARY KEY, note TEXT, state VARCHAR(20) DEFAULT 'new'",
    };
    connection.execute(&format!("CREATE TABLE events ({columns})")).await;
    if database.server == Server::Postgres {
        connection.execute("CREATE INDEX ON events (xid, id)").await;
    }
    connection
}

/// Writers side by side, whose transactions are short or long, and of which one in six is rolled back. The ids that were committed.
pub(super) async fn write_side_by_side(database: &Database) -> BTreeSet<String> {
    let writers = (0..WRITERS).map(|writer| {
        let database = database.clone();
        tokio::spawn(async move {
            let mut connection = database.connect().await;
            for n in 0..TRANSACTIONS {
                let dice = (writer * TRANSACTIONS + n) * 2_654_435_761 % 4_294_967_296;
                let note = if dice.is_multiple_of(6) { "rolled back" } else { "committed" };
                connection.execute(&format!("BEGIN; INSERT INTO events (note) VALUES ('{note}'), ('{note}')")).await;
                if dice.is_multiple_of(4) {
                    tokio::time::sleep(Duration::from_millis(1 + dice % 80)).await;
                }
                connection.execute(if dice.is_multiple_of(6) { "ROLLBACK" } else { "COMMIT" }).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        within("a writer", writer).await.unwrap();
    }
    database.connect().await.texts("SELECT id FROM events WHERE note = 'committed'").await.into_iter().collect()
}
