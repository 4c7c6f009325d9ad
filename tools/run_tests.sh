#!/usr/bin/env bash
# Every check of the house: ruff, mypy and pytest, in the repository's own environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage='usage: bash tools/run_tests.sh [arguments of pytest]
  Makes .venv, then runs ruff check, ruff format --check, mypy and pytest; exit code 1 if any of them fails. pytest runs
  two files at a time; JOBS says how many.'

[[ ${1:-} == --help || ${1:-} == -h ]] && { printf '%s\n' "$usage"; exit 0; }
cd "$root"
bash tools/make_env.sh || exit
python=.venv/bin/python
summary=()
failed=0

# check NAME COMMAND...: a failure is noted, and the checks after it still run.
check() {
    local name=$1 began=$SECONDS verdict=ok
    shift
    say "$name"
    "$@" || { verdict=FAILED; failed=1; }
    summary+=("$(printf '%-12s %-6s %4d s' "$name" "$verdict" $((SECONDS - began)))")
}

check 'ruff check' "$python" -m ruff check
check 'ruff format' "$python" -m ruff format --check
check 'mypy' "$python" -m mypy
# A file stays in one process, in the order of the folder: the long ones do not come last, alone.
export OMP_NUM_THREADS=1
check 'pytest' "$python" -m pytest -n "${JOBS:-2}" --dist loadfile --no-loadscope-reorder "$@"
printf '\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
