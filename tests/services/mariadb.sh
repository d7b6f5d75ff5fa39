# MariaDB, with TLS and a password.

need_mariadb() { need mariadbd mariadb-server; }

start_mariadb() {
    local data="$state/mariadb"
    rm -rf "$data"
    mkdir -p "$data"
    local user=()
    [ "$(id -u)" != 0 ] || { chown mysql "$data" && user=(--user=mysql); }
    mariadb-install-db --no-defaults --datadir="$data" --auth-root-authentication-method=normal --skip-test-db ${user[@]+"${user[@]}"} \
        >"$state/mariadb-install.log" 2>&1 || fail "mariadb-install-db failed: $(tail -n 5 "$state/mariadb-install.log")"
    cat >"$data/init.sql" <<'SQL'
CREATE DATABASE koksmat CHARACTER SET utf8mb4;
CREATE USER 'koksmat'@'127.0.0.1' IDENTIFIED BY 'test-secret';
CREATE USER 'koksmat'@'localhost' IDENTIFIED BY 'test-secret';
GRANT ALL ON *.* TO 'koksmat'@'127.0.0.1';
GRANT ALL ON *.* TO 'koksmat'@'localhost';
SQL
    chmod 644 "$data/init.sql"
    launch mariadb mariadbd --no-defaults ${user[@]+"${user[@]}"} --datadir="$data" --bind-address=127.0.0.1 --port=23306 \
        --socket="$data/mariadb.sock" --pid-file="$data/mariadb.pid" --init-file="$data/init.sql" --innodb-buffer-pool-size=64M \
        --ssl-ca="$state/certificates/ca.pem" --ssl-cert="$state/certificates/server.pem" --ssl-key="$state/certificates/server.key"
    answers mariadb mariadb --no-defaults -h 127.0.0.1 -P 23306 -u koksmat -ptest-secret -e 'select 1' koksmat
}

stop_mariadb() { stop mariadb; }
