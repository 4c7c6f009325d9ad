#!/usr/bin/env bash
# Trains on a Slurm cluster: one task per GPU, started by srun.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage='usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
  environment: GPUS (all together, default 8), GPUS_PER_NODE (default: GPUS, at most 8), CPUS_PER_TASK (default 5),
  SRUN_ARGS (further options for srun, parted by spaces), PORT (default 29500; set it when two jobs share a node).'

[[ ${1:-} == --help || ${1:-} == -h ]] && { printf '%s\n' "$usage"; exit 0; }
(($# >= 3)) || fail "$usage" 2
[[ -f $3 ]] || fail "there is no config file $3" 2

gpus=${GPUS:-8}
is_positive "$gpus" || fail "GPUS must be a positive number, and it is '$gpus'" 2
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
is_positive "$per_node" || fail "GPUS_PER_NODE must be a positive number, and it is '$per_node'" 2
((per_node <= gpus)) || fail "GPUS_PER_NODE is $per_node, more than GPUS, which is $gpus" 2
cpus=${CPUS_PER_TASK:-5}
is_positive "$cpus" || fail "CPUS_PER_TASK must be a positive number, and it is '$cpus'" 2
port=${PORT:-29500}
is_positive "$port" && ((port < 65536)) || fail "PORT must be a number from 1 to 65535, and it is '$port'" 2
command -v srun >/dev/null || fail 'srun is not on this machine: run this on a login node of a Slurm cluster, or use tools/dist_train.sh'

python=$(find_python)
read -r -a srun_args <<<"${SRUN_ARGS:-}"
export MASTER_PORT=$port
exec srun --partition "$1" --job-name "$2" --gres "gpu:$per_node" --ntasks "$gpus" --ntasks-per-node "$per_node" \
    --cpus-per-task "$cpus" --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} \
    "$python" -u "$root/tools/train.py" "$3" --launcher slurm "${@:4}"
