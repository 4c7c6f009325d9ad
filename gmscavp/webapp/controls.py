"""What all tabs share: the page's settings, and the place where a file is dropped."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from gmscavp.webapp.cards import address, player
from gmscavp.webapp.limits import ENDINGS, Limits, in_words, media_of
from gmscavp.webapp.moments import Workspace
from gmscavp.webapp.served import Served

PROGRESS = gr.Progress()
"""Default of handlers that tell of their progress; Gradio gives each its own."""


class Stops:
    """Who has asked that their work stops."""

    def __init__(self) -> None:
        self._running: dict[str, list[threading.Event]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def work(self, person: str) -> Iterator[threading.Event]:
        """While this work lasts: an event that is set when they ask. Work asked to stop may still be at its last step."""
        event = threading.Event()
        with self._lock:
            self._running.setdefault(person, []).append(event)
        try:
            yield event
        finally:
            with self._lock:
                self._running[person].remove(event)
                if not self._running[person]:
                    del self._running[person]

    def ask(self, person: str) -> None:
        """Stop what runs for them now; what they begin later goes on."""
        with self._lock:
            for event in self._running.get(person, ()):
                event.set()


@dataclass(frozen=True)
class Page:
    """All that the tabs need. at_once: how many people are answered side by side."""

    served: Served
    limits: Limits
    workspace: Workspace
    examples: list[Path]
    at_once: int = 1
    stops: Stops = field(default_factory=Stops)


def drop_zone(page: Page, label: str, examples: list[Path], most_s: float | None = None) -> Any:
    """A place for one file, what it looks like once it is there, and examples to click. Gives the component."""
    file = gr.File(label=label, file_types=list(ENDINGS), height=170, elem_classes='drop')
    _refuse_addresses(file)
    seen = gr.HTML(elem_classes='seen')

    @in_words(0)
    def look_at(given: str | None) -> str:
        if not given:
            return ''
        info = media_of(given, page.limits, most_s or page.limits.max_s)
        path = Path(given)
        if info is None:
            return f'<img class="player" src="{escape(address(path))}" alt="your picture">'
        return player(path, f'your file {path.name}')

    # Not by the queue, in which it would wait for others' work.
    file.change(look_at, file, seen, api_visibility='private', show_progress='hidden', queue=False)
    if examples:
        gr.Examples([[str(path)] for path in examples], [file], label='Examples')
    return file


def _refuse_addresses(file: Any) -> None:
    """Only what was uploaded: by itself Gradio also fetches what a request names by a URL."""
    keep = file.async_move_resource_to_block_cache

    async def kept(named: str | Path | None) -> str | None:
        if named is not None and '://' in str(named):
            raise gr.Error('Only files that were uploaded here can be used.', print_exception=False)
        return await keep(named)

    file.async_move_resource_to_block_cache = kept
