# Apache Kafka in KRaft mode, from its Maven artifacts.
#
# PLAIN is for everybody. BEHIND tells its clients to come by the port 29292, where a test puts a proxy that it can close: a broker that
# is gone. TLS and SCRAM (SCRAM-SHA-512 over TLS, user `koksmat`) are what their names say.

need_kafka() {
    need java default-jre-headless
    local jars="$repository/target/services/kafka"
    cmp -s "$here/kafka/pom.xml" "$jars/pom.xml" && return
    need mvn maven
    say "fetching Apache Kafka"
    rm -rf "$jars"
    mkdir -p "$jars"
    mvn -q -B -f "$here/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$jars" || fail "Maven could not fetch Apache Kafka"
    cp "$here/kafka/pom.xml" "$jars/pom.xml"
}

start_kafka() {
    local data="$state/kafka" jars="$repository/target/services/kafka"
    rm -rf "$data"
    mkdir -p "$data"
    cat >"$data/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:29099
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
listeners=PLAIN://127.0.0.1:29092,BEHIND://127.0.0.1:29192,TLS://127.0.0.1:29093,SCRAM://127.0.0.1:29094,CONTROLLER://127.0.0.1:29099
advertised.listeners=PLAIN://127.0.0.1:29092,BEHIND://127.0.0.1:29292,TLS://127.0.0.1:29093,SCRAM://127.0.0.1:29094
listener.security.protocol.map=PLAIN:PLAINTEXT,BEHIND:PLAINTEXT,TLS:SSL,SCRAM:SASL_SSL,CONTROLLER:PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=$state/certificates/kafka.pem
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs=$data/logs
num.partitions=1
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=10000
group.consumer.min.session.timeout.ms=3000
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.heartbeat.interval.ms=500
PROPERTIES
    local java=(java -Xmx512m -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$jars/*")
    "${java[@]}" kafka.tools.StorageTool format --cluster-id koksmatkoksmatkoksmat0 --config "$data/server.properties" \
        --add-scram 'SCRAM-SHA-512=[name=koksmat,password=test-secret]' >"$state/kafka-format.log" 2>&1 ||
        fail "Kafka's storage cannot be made: $(tail -n 5 "$state/kafka-format.log")"
    launch kafka "${java[@]}" kafka.Kafka "$data/server.properties"
    answers kafka bash -c '</dev/tcp/127.0.0.1/29094'
}

stop_kafka() { stop kafka; }
