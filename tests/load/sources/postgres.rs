//! PostgreSQL: rows of a table that are claimed with `SKIP LOCKED` and completed in batches.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use koksmat_tests::databases::Server;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{Floor, ROUNDS, Rounds, WARM, handle, host, order};

const BATCH: i64 = 256;
const ROWS: usize = 30_000;
/// A row is an order, as JSON 1 KiB.
const TABLE: &str =
    "CREATE TABLE orders (id text PRIMARY KEY, sku text, name text, warehouse text, quantity bigint, price float8, tags jsonb,
    note text, claimed_until timestamptz NOT NULL DEFAULT '-infinity')";
const FILL: &str = "INSERT INTO orders SELECT lpad(n::text, 13, '0'), o.sku, o.name, o.warehouse, o.quantity, o.price, o.tags, o.note
    FROM generate_series(1, $2) AS n,
    json_to_record($1::json) AS o(sku text, name text, warehouse text, quantity bigint, price float8, tags jsonb, note text)";

pub(super) async fn compare() {
    compare_on(true).await;
    compare_on(false).await;
}

async fn compare_on(component: bool) {
    let database = Server::Postgres.database("bench").await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&mut connection).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("database.txt");
    std::fs::write(&secret, database.url()).unwrap();
    let floor = component.then(Floor::new);
    let mut rounds = Rounds::new("PostgreSQL", component, ROWS);
    for _ in 0..ROUNDS {
        fill(&mut connection).await;
        let bare = bare_loop(&mut connection, floor.as_ref()).await;
        fill(&mut connection).await;
        let hosted = host(&source(&secret), ROWS, component).await;
        rounds.add(bare, hosted);
    }
    rounds.end();
}

fn source(secret: &Path) -> String {
    format!(
        "kind = \"poller\"\ndatabase = \"file:{}\"\nevery = \"1s\"\nin-flight = 1024\nclaim = {{ table = \"orders\", key = \"id\", done = \"delete\" }}",
        secret.display()
    )
}

async fn fill(connection: &mut PgConnection) {
    sqlx::query(FILL).bind(order()).bind(i64::try_from(ROWS).unwrap()).execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("VACUUM ANALYZE orders").execute(connection).await.unwrap();
}

async fn bare_loop(connection: &mut PgConnection, floor: Option<&Floor>) -> Duration {
    const CLAIM: &str = "UPDATE orders SET claimed_until = now() + interval '30 seconds'
        WHERE id = ANY(ARRAY(SELECT id FROM orders WHERE claimed_until < now() ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
        RETURNING id, row_to_json(orders)::text";
    let mut began = Instant::now();
    let mut handled = 0;
    while handled < ROWS {
        let claimed = sqlx::query(CLAIM).bind(BATCH).fetch_all(&mut *connection).await.unwrap();
        for row in &claimed {
            handle(floor, row.get::<&str, _>(1).as_bytes()).await;
        }
        let ids: Vec<String> = claimed.iter().map(|row| row.get(0)).collect();
        sqlx::query("DELETE FROM orders WHERE id = ANY($1)").bind(ids).execute(&mut *connection).await.unwrap();
        let before = handled;
        handled += claimed.len();
        if before < WARM && handled >= WARM {
            began = Instant::now();
        }
    }
    began.elapsed()
}
