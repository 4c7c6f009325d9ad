#!/usr/bin/env bash
# Evaluates a checkpoint with several processes, one per GPU; without GPUs they are CPU processes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage='usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
  CONFIG  a config file        CHECKPOINT  a file written by training, or its folder        GPUS  processes on this node
  environment: PORT, OMP_NUM_THREADS, NNODES, NODE_RANK and MASTER_ADDR as in tools/dist_train.sh.'

[[ ${1:-} == --help || ${1:-} == -h ]] && { printf '%s\n' "$usage"; exit 0; }
(($# >= 3)) || fail "$usage" 2
[[ -f $1 ]] || fail "there is no config file $1" 2
[[ -f $2 || -f $2/last_checkpoint || -f $2/contents.json ]] || fail "there is no checkpoint $2" 2
is_positive "$3" || fail "GPUS must be a positive number, and it is '$3'" 2

launch_processes "$3" "$root/tools/test.py" "$1" "$2" --launcher pytorch "${@:4}"
