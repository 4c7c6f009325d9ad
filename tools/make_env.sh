#!/usr/bin/env bash
# Makes the environment .venv in the repository root, or completes it; one that is up to date is left as it is.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage='usage: bash tools/make_env.sh
  environment: PYTHON (the interpreter to use, 3.11 or newer; default: the first suitable one on PATH).
  To begin again from nothing, remove the folder .venv first.'

venv=$root/.venv
stamp=$venv/gmscavp.stamp
log=$venv/install.log

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# What must stay the same for the environment to be reused. The place counts: the package is installed as a link to it.
fingerprint() {
    "$1" - "$root" <<'PY'
import hashlib
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
wanted = b''.join((root / name).read_bytes() for name in ('setup.cfg', 'requirements/constraints.txt'))
print('python %d.%d' % sys.version_info[:2], hashlib.sha256(wanted).hexdigest(), root)
PY
}

find_base_python() {
    local names=(python3.11 python3.12 python3.13 python3 python) name version seen=
    [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
    for name in "${names[@]}"; do
        # Asked, not looked up: a name on PATH may be a stub for a version that is not installed.
        version=$(version_of "$name") || continue
        if is_new_enough "$name"; then
            printf '%s\n' "$name"
            return
        fi
        seen="$seen${seen:+, }$name is $version"
    done
    [[ -z ${PYTHON:-} ]] || fail "PYTHON must name a Python 3.11 or newer, and ${seen:-$PYTHON does not run}"
    fail "Python 3.11 or newer is needed (${seen:-none was found}); install it with: apt-get install -y python3.11 python3.11-venv"
}

is_up_to_date() {
    [[ -f $stamp ]] && is_new_enough "$venv/bin/python" && [[ $(<"$stamp") == "$(fingerprint "$venv/bin/python")" ]] \
        && [[ -z ${PYTHON:-} || $(version_of "$PYTHON") == "$(version_of "$venv/bin/python")" ]]
}

# Prints why .venv cannot be completed by pip alone, or nothing.
reason_to_begin_anew() {
    local package
    [[ -e $venv ]] || return 0
    if ! is_new_enough "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        printf 'the one there does not work or was never finished\n'
    elif [[ -n ${PYTHON:-} && $(version_of "$PYTHON") != "$(version_of "$venv/bin/python")" ]]; then
        printf 'the one there is Python %s\n' "$(version_of "$venv/bin/python")"
    elif [[ -f $stamp && $(<"$stamp") != *" $root" ]]; then
        printf 'the one there was made in another folder\n'
    else
        for package in "$venv"/lib/python*/site-packages/*.dist-info; do
            # pip writes INSTALLER after the last file of a package, and takes a package without it for complete.
            if [[ -d $package && ! -f $package/INSTALLER ]]; then
                printf 'the installation of %s was cut off\n' "$(basename "$package" .dist-info)"
                return
            fi
        done
    fi
}

make_venv() {
    local base reason error
    reason=$(reason_to_begin_anew)
    [[ -e $venv && -z $reason ]] && return
    base=$(find_base_python)
    [[ ! -e $venv/bin || -f $venv/pyvenv.cfg ]] || fail "$venv is not a virtual environment: move it away and run this again"
    "$base" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "Python's venv module is missing; install it with: apt-get install -y python$(version_of "$base")-venv"
    say "making .venv with Python $(version_of "$base")${reason:+ (anew: $reason)}"
    if ! error=$("$base" -m venv --clear "$venv" 2>&1); then
        printf '%s\n' "$error" | tail -n 5 >&2
        fail "could not make $venv; what Python said is above"
    fi
}

# install TEXT PIP_ARGS...: pip with the constraints. Large downloads are shown, everything is kept in the log.
install() {
    local text=$1 line
    shift
    say "installing $text"
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        -c requirements/constraints.txt "$@" 2>&1 | while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        [[ ! $line =~ Downloading\ (.*[0-9]\ [MG]B\)) ]] || say "  downloading ${BASH_REMATCH[1]}"
    done; then
        tail -n 15 "$log" >&2
        if grep -q 'No space left on device' "$log"; then
            fail "the disk is full: about 2 GB are needed, 10 GB with CUDA; make room and run this again"
        fi
        fail "pip could not install $text; its last lines are above, all of them in $log"
    fi
}

check_opencv() {
    local error
    error=$("$venv/bin/python" -c 'import cv2' 2>&1) && return
    case $error in
        *libGL.so*) fail 'OpenCV needs the system library libGL; install it with: apt-get install -y libgl1' ;;
        *libgthread* | *libglib*) fail 'OpenCV needs the system library GLib; install it with: apt-get install -y libglib2.0-0' ;;
        *) fail "OpenCV does not import (${error##*$'\n'}); remove .venv and run this again" ;;
    esac
}

[[ ${1:-} == --help || ${1:-} == -h ]] && { printf '%s\n' "$usage"; exit 0; }
(($# == 0)) || fail "unknown argument $1; $usage" 2
cd "$root"

# Two runs at once would write over each other; the lock ends with the process that holds it.
if command -v flock >/dev/null; then
    exec 9<"$root"
    flock -n 9 || { say 'another run is making the environment: waiting for it'; flock 9; }
fi

if is_up_to_date; then
    say 'the environment .venv is up to date'
    exit 0
fi
make_venv
rm -f "$stamp" "$log"
# By itself first: with the version alone to go by, pip takes a build for the CPU where one is offered.
install 'torch' torch
install 'gmscavp and what it needs' -e '.[test]'
check_opencv
fingerprint "$venv/bin/python" >"$stamp"
say 'the environment .venv is ready'
