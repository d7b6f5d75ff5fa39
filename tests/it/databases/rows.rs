//! What a handler gets, and query and condition mode.

use koksmat_tests::{
    TestHost, Witness,
    databases::{SERVERS, Server},
};

use super::{polling, writers::events};

const POSTGRES: &str = "CREATE TABLE types (
    id bigint PRIMARY KEY, price numeric(30, 10), whole numeric, huge bigint, small smallint, ratio double precision, real_ real,
    yes boolean, doc jsonb, raw json, ident uuid, at timestamptz, local timestamp, day date, clock time, bytes bytea,
    list integer[], words text[], span interval, address inet, text text, fixed char(3), nothing text);
    INSERT INTO types VALUES (
    9223372036854775807, 12345678901234567890.1234567890, 1e20, -9223372036854775808, -5, 0.1, 0.1,
    true, '{\"a\": [1, 2.50], \"b\": null}', '{\"z\":1,\"a\":12345678901234567890.5}', '0192f0c1-2b3c-7def-8123-456789abcdef',
    '2026-01-02 03:04:05.678901+02', '2026-01-02 03:04:05', '2026-01-02', '03:04:05.5', '\\x00ff10',
    '{1,2,NULL}', '{\"Å\",\"b c\"}', '1 day 2 hours', '10.0.0.1', E'Å \"q\"\\n', 'ab', NULL)";

const POSTGRES_ROW: &str = r#"{"address":"10.0.0.1","at":"2026-01-02T01:04:05.678901+00:00","bytes":"AP8Q","clock":"03:04:05.5","day":"2026-01-02","doc":{"a": [1, 2.50], "b": null},"fixed":"ab ","huge":-9223372036854775808,"id":9223372036854775807,"ident":"0192f0c1-2b3c-7def-8123-456789abcdef","list":[1,2,null],"local":"2026-01-02T03:04:05","nothing":null,"price":12345678901234567890.1234567890,"ratio":0.1,"raw":{"z":1,"a":12345678901234567890.5},"real_":0.1,"small":-5,"span":"1 day 02:00:00","text":"Å \"q\"\n","whole":100000000000000000000,"words":["Å","b c"],"yes":true}"#;

const MARIADB: &str = "CREATE TABLE types (
    id BIGINT PRIMARY KEY, price DECIMAL(30, 10), huge BIGINT UNSIGNED, small SMALLINT, ratio DOUBLE, real_ FLOAT,
    yes BOOLEAN, tiny TINYINT(1), bits BIT(12), doc JSON, ident UUID, at TIMESTAMP(6) NULL, local DATETIME, day DATE, clock TIME(1),
    yr YEAR, bytes BLOB, fixed BINARY(3), text TEXT, word ENUM('x', 'y'), words SET('x', 'y'), latin VARCHAR(9) CHARACTER SET latin1,
    nothing TEXT);
    SET time_zone = '+02:00';
    INSERT INTO types VALUES (
    -9223372036854775808, 12345678901234567890.1234567890, 18446744073709551615, -5, 0.1, 0.1,
    true, 7, b'100000000001', '{\"a\": [1, 2.50]}', '0192f0c1-2b3c-7def-8123-456789abcdef', '2026-01-02 03:04:05.678901',
    '2026-01-02 03:04:05', '2026-01-02', '-03:04:05.5', 2026, x'00ff10', x'00ff10', 'Å \"q\"', 'y', 'x,y', 'Å', NULL)";

// MariaDB has no type for JSON: its columns are text.
const MARIADB_ROW: &str = r#"{"at":"2026-01-02T01:04:05.678901Z","bits":2049,"bytes":"AP8Q","clock":"-03:04:05.500000","day":"2026-01-02","doc":"{\"a\": [1, 2.50]}","fixed":"AP8Q","huge":18446744073709551615,"id":-9223372036854775808,"ident":"0192f0c1-2b3c-7def-8123-456789abcdef","latin":"Å","local":"2026-01-02T03:04:05","nothing":null,"price":12345678901234567890.1234567890,"ratio":0.1,"real_":0.1,"small":-5,"text":"Å \"q\"","tiny":7,"word":"y","words":"x,y","yes":true,"yr":2026}"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_type_has_a_form_in_json_that_loses_nothing() {
    for server in SERVERS {
        let database = server.database("types").await;
        let (table, row) = if server == Server::Postgres { (POSTGRES, POSTGRES_ROW) } else { (MARIADB, MARIADB_ROW) };
        database.connect().await.execute(table).await;
        for mode in ["claim = { table = \"types\", key = \"id\" }", "query = \"select * from types -- all of it\"\nkey = \"id\""] {
            let witness = Witness::start().await;
            let host = TestHost::start(polling(&database, &format!("every = \"10ms\"\n{mode}"), &witness, "event.text()")).await;
            witness.hears(1).await;
            host.stop().await;
            assert_eq!(witness.heard(), [row], "{server:?} {mode}");
        }
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_of_a_row_that_a_query_gives_is_an_event_once() {
    for server in SERVERS {
        let database = server.database("query").await;
        let mut connection = events(&database).await;
        connection.execute("INSERT INTO events (note) VALUES ('a'), ('b'), ('c')").await;
        let witness = Witness::start().await;
        let settings = "every = \"10ms\"\nquery = \"with e as (select * from events) select id, note, state from e order by id;\"\nkey = \"id\"\nversion = \"state\"";
        let host = TestHost::start(polling(&database, settings, &witness, "`${event.id} ${event.json().state}`")).await;
        witness.hears(3).await;
        let (folder, _) = host.stop().await;
        connection.execute("UPDATE events SET state = 'sent' WHERE id = 2; UPDATE events SET note = 'z' WHERE id = 1").await;
        let host = TestHost::start(folder).await;
        connection.execute("INSERT INTO events (note) VALUES ('d')").await;
        witness.hears(5).await;
        host.stop().await;
        let mut heard = witness.heard();
        heard.sort();
        assert_eq!(heard, ["1 new", "2 new", "2 sent", "3 new", "4 new"], "{server:?}");
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_fires_when_it_becomes_true_or_its_value_changes() {
    for server in SERVERS {
        let database = server.database("condition").await;
        let mut connection = events(&database).await;
        let witness = Witness::start().await;
        let settings = "every = \"10ms\"\ncondition = \"select count(*) > 1 from events\"";
        let exact = format!(
            "[sources.sum]\nkind = \"poller\"\ndatabase = \"file:database-url\"\nevery = \"10ms\"\non = \"change\"\ncondition = \"{}\"",
            "select 1234567890123456789.5 + count(*) from events"
        );
        let script = witness.script("event.text()");
        let handler = format!("on = {{ source = \"sum\" }}\ngrants = {{ http = [\"{}\"] }}", witness.address());
        let folder = polling(&database, settings, &witness, "event.text()").toml(&exact).script("sums", "sums.js", &script, &handler);
        let host = TestHost::start(folder).await;
        until_value(&host, "1234567890123456789.5").await;
        connection.execute("INSERT INTO events (note) VALUES ('a')").await;
        witness.hears(1).await;
        connection.execute("INSERT INTO events (note) VALUES ('b')").await;
        witness.hears(3).await;
        host.stop().await;
        let mut heard = witness.heard();
        heard.sort();
        let (before, after) = if server == Server::Postgres { ("false", "true") } else { ("0", "1") };
        let mut expected = [
            r#"{"previous":1234567890123456789.5,"value":1234567890123456790.5}"#.to_owned(),
            r#"{"previous":1234567890123456790.5,"value":1234567890123456791.5}"#.to_owned(),
            format!("{{\"previous\":{before},\"value\":{after}}}"),
        ];
        expected.sort();
        assert_eq!(heard, expected, "{server:?}");
        database.drop().await;
    }
}

/// Wait until the store has seen this value.
async fn until_value(host: &TestHost, value: &str) {
    let seen = format!("select count(*) from source_state where cast(value as text) like '%{value}%'");
    koksmat_tests::until("the first value", || async { (host.folder.count(&seen) == 1).then_some(()) }).await;
}
