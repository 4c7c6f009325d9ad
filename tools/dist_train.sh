#!/usr/bin/env bash
# Trains with several processes, one per GPU; without GPUs they are CPU processes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage='usage: bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
  CONFIG  a config file        GPUS  processes on this node
  environment: PORT (default: a free one on a single node, 29500 on several), OMP_NUM_THREADS (default: cores / GPUS),
  and for several nodes NNODES, NODE_RANK and MASTER_ADDR (run the same command on each node).
  Processes that fail are started again, all of them, up to MAX_RESTARTS times (default 0); with NNODES=MIN:MAX nodes may
  come and go. Several nodes then meet at RDZV_ENDPOINT=HOST:PORT of one of them (default MASTER_ADDR:PORT) under RDZV_ID,
  the name of the run, and need no NODE_RANK. Such a run adds --resume by itself, at its first start too: it goes on from
  the newest checkpoint in its work directory, which all nodes must share.'

[[ ${1:-} == --help || ${1:-} == -h ]] && { printf '%s\n' "$usage"; exit 0; }
(($# >= 2)) || fail "$usage" 2
[[ -f $1 ]] || fail "there is no config file $1" 2
is_positive "$2" || fail "GPUS must be a positive number, and it is '$2'" 2

resume=()
if is_elastic && [[ " ${*:3} " != *' --resume'* ]]; then
    resume=(--resume)
fi
launch_processes "$2" "$root/tools/train.py" "$1" --launcher pytorch ${resume[@]+"${resume[@]}"} "${@:3}"
