#!/usr/bin/env bash
# From a bare checkout to a pretrained, evaluated model, clips with generated sound, and a report of both.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage='usage: bash tools/quickstart.sh [--fresh]
  Makes .venv, renders the Impacts data set, pretrains GMS-CAVP on it, trains a generator of sound on its video
  encoder, indexes the clips for search, evaluates retrieval both ways and writes work_dirs/quickstart/metrics.json and
  report.html, which ends with three clips that the generator gave a sound. Stopped half-way, it goes on where it stopped
  when run again.
  --fresh  remove work_dirs/quickstart first and train from the beginning (the rendered data stay)'

config=configs/gmscavp_impacts.py
generator=configs/v2a_frozen_impacts.py
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

# train CONFIG WORK_DIR [OPTION...]: from the beginning, or on from where it stopped
train() {
    local config=$1 folder=$2 resume=()
    shift 2
    if [[ -n $(checkpoint_of "$folder") ]]; then
        say "going on from $(checkpoint_of "$folder") (--fresh begins anew)"
        resume=(--resume)
    fi
    "$python" tools/train.py "$config" --work-dir "$folder" ${resume[@]+"${resume[@]}"} "$@"
}

step '1/6 environment' bash tools/make_env.sh
python=.venv/bin/python
if $fresh && [[ -e $work_dir ]]; then
    say "removing $work_dir (--fresh)"
    rm -rf "$work_dir"
fi
step '2/6 render Impacts' "$python" tools/prepare_data.py impacts --out data/impacts
step '3/6 pretrain' train "$config" "$work_dir"
checkpoint=$(checkpoint_of "$work_dir")
[[ -n $checkpoint ]] || fail "training left no checkpoint in $work_dir; begin anew with: bash tools/quickstart.sh --fresh"
step '4/6 train a generator of sound' train "$generator" "$work_dir/v2a" \
    --cfg-options max_epochs=6 "init.video_backbone=$checkpoint" "init.video_pyramid=$checkpoint"
step '5/6 index the clips for search' "$python" tools/search.py index data/impacts/video --model "$checkpoint" \
    --db "$work_dir/search"
step '6/6 evaluate' "$python" tools/test.py "$config" "$checkpoint" --generator "$generator" "$work_dir/v2a" \
    --out "$work_dir/metrics.json" --report "$work_dir/report.html"
say "search, generate and look in a browser: .venv/bin/python -m gmscavp.webapp --run $work_dir"
