#!/usr/bin/env bash
# From a bare checkout to a pretrained, evaluated model and its report.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage='usage: bash tools/quickstart.sh [--fresh]
  Makes .venv, renders the Impacts data set, pretrains GMS-CAVP on it, evaluates retrieval both ways and writes
  work_dirs/quickstart/metrics.json and report.html. Stopped half-way, it goes on where it stopped when run again.
  --fresh  remove work_dirs/quickstart first and train from the beginning (the rendered data stay)'

config=configs/gmscavp_impacts.py
work_dir=work_dirs/quickstart
fresh=false
for argument in "$@"; do
    case $argument in
        --fresh) fresh=true ;;
        -h | --help) printf '%s\n' "$usage"; exit 0 ;;
        *) fail "unknown argument $argument; $usage" 2 ;;
    esac
done

cd "$root"
trap 'fail "interrupted; run the same command without --fresh to go on" 130' INT

# step TEXT COMMAND...
step() {
    local text=$1 code=0
    shift
    say "$text"
    "$@" || code=$?
    ((code == 0)) || fail "stopped at '$text'; mend what is said above and run it again: it goes on from there" "$code"
}

checkpoint_of() {
    local path
    [[ -f $1/last_checkpoint ]] || return 0
    path=$(<"$1/last_checkpoint")
    # The file holds the path of the time of training; the folder may have been moved since.
    [[ -f $path ]] || path=$1/$(basename "$path")
    [[ ! -f $path ]] || printf '%s\n' "$path"
}

step '1/4 environment' bash tools/make_env.sh
python=.venv/bin/python
if $fresh && [[ -e $work_dir ]]; then
    say "removing $work_dir (--fresh)"
    rm -rf "$work_dir"
fi
step '2/4 render Impacts' "$python" tools/prepare_data.py impacts --out data/impacts
resume=()
if [[ -n $(checkpoint_of "$work_dir") ]]; then
    say "going on from $(checkpoint_of "$work_dir") (--fresh begins anew)"
    resume=(--resume)
fi
step '3/4 pretrain' "$python" tools/train.py "$config" --work-dir "$work_dir" ${resume[@]+"${resume[@]}"}
checkpoint=$(checkpoint_of "$work_dir")
[[ -n $checkpoint ]] || fail "training left no checkpoint in $work_dir; begin anew with: bash tools/quickstart.sh --fresh"
step '4/4 evaluate' \
    "$python" tools/test.py "$config" "$checkpoint" --out "$work_dir/metrics.json" --report "$work_dir/report.html"
