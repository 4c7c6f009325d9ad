"""What search needs of a model. gmscavp.inference.Model has it."""

from collections.abc import Iterator
from typing import Protocol

from gmscavp.datasets.base import ClipFormat
from gmscavp.inference.reading import File
from gmscavp.inference.windows import Side, Windows


class Embedder(Protocol):
    """Embeds windows of files."""

    @property
    def identity(self) -> str:
        """Tells models apart, also those of one config."""
        ...

    @property
    def clip(self) -> ClipFormat:
        """What a window looks like."""
        ...

    def iter_windows(
        self, file: File, side: Side, stride_s: float | None = None, start_s: float = 0, end_s: float | None = None
    ) -> Iterator[Windows]:
        """Windows of one side of a file, or of a part of it, every `stride_s`, some at a time from front to back."""
        ...

    def windows(
        self, file: File, side: Side, stride_s: float | None = None, start_s: float = 0, end_s: float | None = None
    ) -> Windows:
        """All of them at once."""
        ...
