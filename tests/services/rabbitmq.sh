# RabbitMQ with its management plugin, from the distribution's package, run as whoever runs this.

need_rabbitmq() { need rabbitmqctl rabbitmq-server; }

rabbitmq_environment() {
    export HOME="$state/rabbitmq"
    export RABBITMQ_NODENAME=koksmat-test@localhost RABBITMQ_USE_LONGNAME=false
    export RABBITMQ_CONFIG_FILE="$HOME/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$HOME/enabled_plugins"
    export RABBITMQ_MNESIA_BASE="$HOME/data" RABBITMQ_LOG_BASE="$HOME/log" RABBITMQ_PID_FILE="$HOME/pid"
    export RABBITMQ_DIST_PORT=25674 ERL_EPMD_PORT=25675 ERL_EPMD_ADDRESS=127.0.0.1
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
    export RABBITMQ_CTL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
}

start_rabbitmq() {
    rabbitmq_environment
    rm -rf "$HOME"
    mkdir -p "$HOME"
    cat >"$RABBITMQ_CONFIG_FILE" <<CONF
listeners.tcp.1 = 127.0.0.1:25673
listeners.ssl.1 = 127.0.0.1:25671
ssl_options.cacertfile = $state/certificates/ca.pem
ssl_options.certfile = $state/certificates/server.pem
ssl_options.keyfile = $state/certificates/server.key
ssl_options.verify = verify_none
management.tcp.ip = 127.0.0.1
management.tcp.port = 25680
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 100MB
CONF
    echo '[rabbitmq_management].' >"$RABBITMQ_ENABLED_PLUGINS_FILE"
    # The wrapper in the PATH insists on a user of its own; the program behind it does not.
    local server=/usr/lib/rabbitmq/bin/rabbitmq-server
    [ -x "$server" ] || server=rabbitmq-server
    launch rabbitmq "$server"
    answers rabbitmq bash -c '</dev/tcp/127.0.0.1/25671 && </dev/tcp/127.0.0.1/25673 && </dev/tcp/127.0.0.1/25680'
}

stop_rabbitmq() {
    stop rabbitmq
    # The port mapper was started with it and for it: its port is ours alone.
    command -v epmd >/dev/null && ERL_EPMD_PORT=25675 epmd -kill >/dev/null 2>&1 || true
}
