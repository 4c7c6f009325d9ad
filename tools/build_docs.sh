#!/usr/bin/env bash
# Builds the site of docs/, warnings as errors; it needs no network, neither to be built nor to be read.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage='usage: bash tools/build_docs.sh [arguments of mkdocs build]
  Makes .venv where it is missing and writes the site to work_dirs/site: open index.html there, or, for the search box,
  python -m http.server -d work_dirs/site.'

[[ ${1:-} == --help || ${1:-} == -h ]] && { printf '%s\n' "$usage"; exit 0; }
cd "$root"
bash tools/make_env.sh || exit
NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict "$@"
say 'the site is work_dirs/site/index.html'
