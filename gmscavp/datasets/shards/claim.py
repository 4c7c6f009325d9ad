"""Making a folder the home of one set of shards: going on with it, refusing or clearing another."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gmscavp.datasets.shards.finding import LISTING
from gmscavp.errors import UserError

_SHARD = re.compile(r'.+-\d{6}\.(tar|idx)')
_UNFINISHED = re.compile(r'\.(.+-\d{6}\.(tar|idx)|shards\.json)\.\d+\.part')


def claim_folder(out: Path, settings: Mapping[str, Any], *, force: bool) -> None:
    """Make `out` the folder of the shards with these settings, and note so in its shards.json.

    UserError: it holds shards of another manifest or other settings (unless force, which deletes those), or tars of
    unknown origin. OSError: the disk refuses.
    """
    out.mkdir(parents=True, exist_ok=True)
    listing = out / LISTING
    if listing.exists():
        found = _settings_of(listing)
        if found != settings and not force:
            raise UserError(
                f'{out} holds shards with other settings ({_differences(found, settings)}): give another folder, or '
                '--force to replace them.'
            )
        if found == settings:
            _clear(out, _UNFINISHED)
            return
        _clear(out, _UNFINISHED)
        _clear(out, _SHARD)
    elif any(out.glob('*.tar')):
        raise UserError(f'{out} holds tar files of unknown origin (there is no {LISTING}): give another folder.')
    replace_text(listing, json.dumps({'complete': False, 'settings': settings, 'shards': {}}, indent=1) + '\n')


def replace_text(file: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    part = file.with_name(f'.{file.name}.{os.getpid()}.part')
    try:
        with part.open('w', encoding='utf-8') as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _settings_of(listing: Path) -> dict[str, Any]:
    """The settings in a shards.json, none where it cannot be read."""
    try:
        found = json.loads(listing.read_text(encoding='utf-8'))['settings']
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if not found:
        return f'its {LISTING} cannot be read'
    names = [name for name in wanted if found.get(name) != wanted[name]]
    values = (f'{name} {found.get(name)} instead of {wanted[name]}' for name in names if name != 'manifest')
    return ', '.join([*(['the manifest has changed'] if 'manifest' in names else []), *values]) or 'of another version'


def _clear(out: Path, names: re.Pattern[str]) -> None:
    """Delete the files of these names, and nothing else that lies in the folder."""
    for file in list(out.iterdir()):
        if names.fullmatch(file.name):
            file.unlink(missing_ok=True)
