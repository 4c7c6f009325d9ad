"""What a person may ask of the page, and in which words it says no."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from gmscavp.datasets.decoding import MediaInfo, probe
from gmscavp.datasets.decoding.media import MAX_PIXELS, MAX_SIDE
from gmscavp.datasets.video_folder import VIDEO_ENDINGS
from gmscavp.errors import UserError
from gmscavp.inference.files import AUDIO_ENDINGS
from gmscavp.inference.sources import STILLS
from gmscavp.webapp.cards import notice

ENDINGS = (*VIDEO_ENDINGS, *AUDIO_ENDINGS, *STILLS)
"""Of files that the page takes."""

BROKEN = 'Something went wrong here, which is not your fault; the log of the page says what.'

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """max_mb: size of a file. max_s, max_generate_s: its duration, in general and to make sound for. queue: who waits.

    UserError: one of them allows nothing.
    """

    max_mb: int = 200
    max_s: float = 600.0
    max_generate_s: float = 60.0
    queue: int = 40

    def __post_init__(self) -> None:
        if min(self.max_mb, self.queue) < 1 or not min(self.max_s, self.max_generate_s) > 0:
            raise UserError('limits must be above 0: --max-mb, --max-seconds, --max-generate-seconds, --queue.')


def media_of(file: str | None, limits: Limits, most_s: float) -> MediaInfo | None:
    """What a person's file holds, by its header and first picture alone; None for a still picture.

    UserError: there is none, it is no media file, too large, or too long: said before any of it is decoded.
    """
    if not file:
        raise UserError('Choose a file first, or click one of the examples.')
    path = Path(file)
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f'{path.name} is no video, sound or picture that is known here, by its ending.')
    if path.is_symlink() or not path.is_file():
        raise UserError(f'{path.name} is no longer here; choose it again.')
    if os.path.getsize(path) > limits.max_mb * 2**20:
        raise UserError(f'{path.name} is larger than {limits.max_mb} MB; cut it, or make it smaller.')
    if path.suffix.lower() in STILLS:
        return None
    info = probe(path)
    large = max(info.width, info.height) > MAX_SIDE or info.width * info.height > MAX_PIXELS
    if info.has_video and (large or min(info.width, info.height) < 1):
        raise UserError(f'{path.name} has pictures of {info.width} x {info.height} pixels, which cannot be read here.')
    if info.duration_s > most_s:
        raise UserError(f'{path.name} lasts {info.duration_s:.0f} s; choose one of at most {most_s:g} s.')
    return info


def in_words(blanks: int, root: Path | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A handler of the page whose first argument is a file and whose first output says what is wrong, if anything is.

    blanks: how many other outputs there are, which an error empties. root: of the library, of which no path is shown.
    """

    def wrap(handler: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(handler)
        def handled(file: str | None, *others: Any) -> Any:
            try:
                return handler(file, *others)
            except UserError as error:
                sentence = shown(str(error), file, root)
            # Whatever a file does to a decoder or a model, others go on using the page.
            except Exception:
                _LOG.exception('the page failed with %s', file)
                sentence = BROKEN
            said = notice(sentence, wrong=True)
            return (said, *[''] * blanks) if blanks else said

        return handled

    return wrap


def shown(sentence: str, file: str | None, root: Path | None) -> str:
    """A sentence without the places of files on this machine."""
    for folder in (Path(file).parent if file else None, root):
        if folder is not None:
            sentence = sentence.replace(f'{folder}{os.sep}', '')
    begins_with_name = bool(file) and sentence.startswith(Path(str(file)).name)
    return sentence if begins_with_name else sentence[:1].upper() + sentence[1:]
