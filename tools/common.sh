# Shared by the scripts beside it; to be sourced, not run.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# fail SENTENCE [EXIT_CODE]: what is wrong and what mends it.
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit "${2:-1}"
}

# say TEXT: one line of progress, with the seconds since the script began.
say() {
    printf '[%s %4d s] %s\n' "$(basename "$0" .sh)" "$SECONDS" "$1"
}

# The interpreter of the repository's environment where there is one, else the one on PATH.
find_python() {
    local name
    for name in "$root/.venv/bin/python" python python3; do
        if "$name" -c '' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail 'no Python found; make the environment with: bash tools/make_env.sh'
}

is_positive() {
    [[ $1 =~ ^[1-9][0-9]*$ ]]
}

is_number() {
    [[ $1 =~ ^(0|[1-9][0-9]*)$ ]]
}

# Whether nodes may come and go, or processes are started again (see dist_train.sh for the environment variables).
is_elastic() {
    [[ ${NNODES:-1} == *:* || ${MAX_RESTARTS:-0} != 0 ]]
}

# elastic_rendezvous: sets the array `rendezvous` for nodes that find each other, and again after every restart.
elastic_rendezvous() {
    local nodes=${NNODES:-1} restarts=${MAX_RESTARTS:-0} least most endpoint=${RDZV_ENDPOINT:-}
    least=${nodes%%:*} most=${nodes##*:}
    is_positive "$least" && is_positive "$most" && ((least <= most)) || fail "NNODES must be a number or MIN:MAX, and it is '$nodes'" 2
    is_number "$restarts" || fail "MAX_RESTARTS must be a number, and it is '$restarts'" 2
    if ((most == 1)); then
        rendezvous=(--standalone --local_addr 127.0.0.1)
    else
        [[ -n $endpoint || -z ${MASTER_ADDR:-} ]] || endpoint=$MASTER_ADDR:${PORT:-29500}
        [[ $endpoint =~ ^[^:]+:[0-9]+$ ]] || fail "set RDZV_ENDPOINT to HOST:PORT of one of the nodes, the same on every node (it is '$endpoint')" 2
        rendezvous=(--nnodes "$nodes" --rdzv_backend c10d --rdzv_endpoint "$endpoint" --rdzv_id "${RDZV_ID:-gmscavp}")
        # On one machine its own name need not resolve.
        [[ $endpoint != 127.0.0.1:* ]] || rendezvous+=(--local_addr 127.0.0.1)
    fi
    rendezvous+=(--max_restarts "$restarts")
    # Processes meet anew at every start. In the store that agents share, torch tells starts apart by each node's own count
    # of restarts, and a node whose processes were well counts fewer than the one where they failed.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
}

# fixed_rendezvous PYTHON: sets the array `rendezvous` for nodes that are known and counted.
fixed_rendezvous() {
    local python=$1 nodes=${NNODES:-1} rank=${NODE_RANK:-0} address=${MASTER_ADDR:-127.0.0.1} port=${PORT:-}
    is_positive "$nodes" || fail "NNODES must be a positive number, and it is '$nodes'" 2
    [[ $rank =~ ^[0-9]+$ ]] && ((rank < nodes)) || fail "NODE_RANK must be a number from 0 to NNODES - 1 = $((nodes - 1)), and it is '$rank'" 2
    ((nodes == 1)) || [[ -n ${MASTER_ADDR:-} ]] || fail 'with NNODES > 1 set MASTER_ADDR to the address of node 0, the same on every node' 2

    if [[ -z $port ]] && ((nodes == 1)); then
        # --standalone takes a free port; the local address is given because the host's own name need not resolve.
        rendezvous=(--standalone --local_addr 127.0.0.1)
    else
        port=${port:-29500}
        is_positive "$port" && ((port < 65536)) || fail "PORT must be a number from 1 to 65535, and it is '$port'" 2
        # Only node 0 listens; on the other nodes this port may be in use for something else.
        ((rank > 0)) || port_is_free "$python" "$port" || fail "port $port is busy; set PORT to a free one, or leave PORT out on a single node"
        rendezvous=(--nnodes "$nodes" --node_rank "$rank" --master_addr "$address" --master_port "$port")
    fi
}

# launch_processes PROCESSES SCRIPT [ARGS]: torchrun, once on every node (see dist_train.sh for the environment variables).
launch_processes() {
    local processes=$1 script=$2
    shift 2
    local python rendezvous
    python=$(find_python)
    if is_elastic; then
        elastic_rendezvous
    else
        fixed_rendezvous "$python"
    fi

    if [[ -z ${OMP_NUM_THREADS:-} ]]; then
        local cores
        cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
        export OMP_NUM_THREADS=$((cores > processes ? cores / processes : 1))
    fi
    exec "$python" "$root/tools/torchrun.py" "${rendezvous[@]}" --nproc_per_node "$processes" "$script" "$@"
}

port_is_free() {
    "$1" - "$2" <<'PY'
import socket
import sys

with socket.socket() as listener:
    # A port that a finished run just left is free for a new listener.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(('', int(sys.argv[1])))
    except OSError:
        sys.exit(1)
PY
}
