"""Errors that a user can cause and mend. The tools print them as one sentence, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong and what to do about it, in one sentence in the user's words."""


def near_names(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' Did you mean X?' for the known names closest to `name`, or '' when none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=cutoff)
    return f' Did you mean {" or ".join(near)}?' if near else ''
