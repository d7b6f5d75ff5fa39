//! What goes wrong is said once, in one line, in the database's own words and without the password.

use koksmat_tests::{
    Folder, Process, TestHost, Witness,
    databases::{Database, SERVERS, Server},
    services,
};

use super::{polling_at, writers::events};

const CLAIM: &str = "every = \"20ms\"\nclaim = { table = \"events\", key = \"id\" }";

/// What a host says of a source that cannot poll.
async fn complaint(folder: &Folder) -> String {
    let mut process = Process::spawn(folder, &[]);
    let line = process.line("source=rows").await;
    process.listens().await;
    let ready = process.admin("/readyz").await.text();
    let ended = process.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert!(!ended.said().contains("test-secret") && !ended.said().contains("://koksmat"), "{}", ended.said());
    assert!(!ready.contains("test-secret") && !ready.contains("://koksmat"), "{ready}");
    line
}

fn tls(database: &Database, ca: &std::path::Path) -> String {
    let ca = ca.display();
    match database.server {
        Server::Postgres => format!("{}?sslmode=verify-full&sslrootcert={ca}", database.url()),
        Server::MariaDb => format!("{}?ssl-mode=VERIFY_IDENTITY&ssl-ca={ca}", database.url()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_right_authority_tls_works_and_with_another_it_is_said() {
    for server in SERVERS {
        let database = server.database("tls").await;
        let mut connection = events(&database).await;
        connection.execute("INSERT INTO events (note) VALUES ('a')").await;
        let witness = Witness::start().await;
        let wrong = polling_at(&tls(&database, &services::other_ca()), CLAIM, &witness, "event.id");
        let said = complaint(&wrong).await;
        println!("{said}");
        assert!(said.contains("cannot connect to the database of file:database-url") && said.contains("certificate"), "{said}");
        assert_eq!(witness.count(), 0);

        let host = TestHost::start(polling_at(&tls(&database, &services::ca()), CLAIM, &witness, "event.id")).await;
        witness.hears(1).await;
        if server == Server::Postgres {
            let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND datname = current_database() AND application_name = 'koksmat'";
            assert_eq!(connection.count(encrypted).await, 1);
        }
        host.stop().await;
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_missing_table_are_said_in_the_databases_words() {
    for server in SERVERS {
        let database = server.database("errors").await;
        let witness = Witness::start().await;
        let said = complaint(&polling_at(&database.url_with("hunter2"), CLAIM, &witness, "event.id")).await;
        println!("{said}");
        let words = if server == Server::Postgres { "password authentication failed for user" } else { "Access denied for user" };
        assert!(said.contains(words) && !said.contains("hunter2"), "{said}");

        let said = complaint(&polling_at(&database.url(), CLAIM, &witness, "event.id")).await;
        println!("{said}");
        let words = if server == Server::Postgres { "events\\\" does not exist" } else { "events' doesn't exist" };
        assert!(said.contains("in the database of file:database-url") && said.contains(words), "{said}");

        let query = "every = \"20ms\"\nquery = \"delete from events\"\nkey = \"id\"";
        let mut connection = events(&database).await;
        connection.execute("INSERT INTO events (note) VALUES ('a')").await;
        println!("{}", complaint(&polling_at(&database.url(), query, &witness, "event.id")).await);
        assert_eq!(connection.count("SELECT count(*) FROM events").await, 1, "a query changes nothing");
        database.drop().await;
    }
}

// On MariaDB the user of the tests may give nobody rights.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_table_of_claims_cannot_be_made_the_sql_is_shown_and_somebody_elses_will_do() {
    let database = Server::Postgres.database("setup").await;
    let mut connection = events(&database).await;
    connection.execute("INSERT INTO events (note) VALUES ('a'); DROP ROLE IF EXISTS koksmat_poor").await;
    let rights = "CREATE ROLE koksmat_poor LOGIN PASSWORD 'poor-secret'; REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
                  GRANT SELECT, UPDATE ON events TO koksmat_poor";
    connection.execute(rights).await;
    let url = database.url_with("poor-secret").replace("//koksmat:", "//koksmat_poor:");
    let witness = Witness::start().await;
    let folder = polling_at(&url, CLAIM, &witness, "event.id");
    let mut process = Process::spawn(&folder, &[]);
    let said = process.line("source=rows").await;
    let sql = said.split("have somebody who may run there: ").nth(1).unwrap_or_else(|| panic!("{said}"));
    assert!(said.contains("cannot prepare the database of file:database-url") && said.contains("permission denied"), "{said}");
    assert!(!said.contains("poor-secret"), "{said}");

    // As it is shown, but for what the line of the log puts around it.
    connection.execute(&sql.trim_end_matches('"').replace("\\\"", "\"").replace("\\n", "\n")).await;
    connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON koksmat_claims TO koksmat_poor").await;
    witness.hears(1).await;
    assert_eq!(process.stop().await.code, Some(0));
    connection.execute("DROP OWNED BY koksmat_poor; DROP ROLE koksmat_poor").await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_connections_and_never_says_a_word_is_noticed() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            taken.push(connection);
        }
    });
    for scheme in ["postgres", "mariadb"] {
        let witness = Witness::start().await;
        let folder = polling_at(&format!("{scheme}://koksmat:test-secret@{address}/koksmat"), CLAIM, &witness, "event.id");
        let said = complaint(&folder).await;
        assert!(said.contains("cannot connect to the database of file:database-url: no answer within 10s"), "{said}");
    }
}
