"""The one error for files and windows that cannot be read."""

from gmscavp.errors import UserError
from gmscavp.readers import CRASHED, KILLED, TIMED_OUT

CAUSES = (
    'missing file',
    'empty file',
    'not a media file',
    'no video track',
    'no audio track',
    'too short',
    'damaged',
    'truncated audio',
    'odd shape',
    'unsupported',
    # Of clips that ended the process that read them.
    TIMED_OUT,
    CRASHED,
    KILLED,
)
"""All that can be wrong with a file: `ClipError.cause` is one of these."""


class ClipError(UserError):
    """A file, or a window of it, that cannot be had.

    file: its path. cause: one of CAUSES. detail: what was seen, '' when the cause says it all.
    """

    def __init__(self, file: str, cause: str, detail: str = '') -> None:
        if cause not in CAUSES:
            raise ValueError(f'{cause!r} is none of the causes {CAUSES}')
        super().__init__(f'{file}: {cause}' + (f' ({detail})' if detail else ''))
        self.file, self.cause, self.detail = file, cause, detail

    def __reduce__(self) -> tuple[type['ClipError'], tuple[str, str, str]]:
        return type(self), (self.file, self.cause, self.detail)
