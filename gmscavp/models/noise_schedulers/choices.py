"""A choice by name, checked where it is made."""

from collections.abc import Sequence

from gmscavp.errors import UserError


def unknown_choice(setting: str, given: str, known: Sequence[str]) -> UserError:
    """The error for a name that is none of the known ones."""
    return UserError(f"{setting} must be one of {', '.join(known)}, not '{given}'.")


def check_choice(setting: str, given: str, known: Sequence[str]) -> str:
    """`given`, where it is one of the known names; UserError otherwise."""
    if given not in known:
        raise unknown_choice(setting, given, known)
    return given
