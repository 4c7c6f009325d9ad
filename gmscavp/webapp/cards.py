"""The page's own HTML. Names of files and labels are text of strangers: everything that comes in is escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from gmscavp.inference.files import AUDIO_ENDINGS
from gmscavp.pictures import jpeg_bytes, png_bytes
from gmscavp.pictures.curves import LINE_COLOURS

_WIDTH, _HEIGHT = 320, 64


def notice(sentence: str, wrong: bool = False) -> str:
    """A sentence to the person: an error, which screen readers say at once, or a remark."""
    if wrong:
        return f'<p class="notice wrong" role="alert">{escape(sentence)}</p>'
    return f'<p class="notice" role="status">{escape(sentence)}</p>' if sentence else ''


def address(file: Path) -> str:
    """Where the browser gets a file that this page made or was given."""
    return f'/gradio_api/file={quote(str(file))}'


def player(file: Path, label: str, thumbnail: bool = False) -> str:
    """A video or a sound that plays; a thumbnail begins by itself, without sound, over and over."""
    kind = 'audio' if file.suffix.lower() in AUDIO_ENDINGS else 'video'
    how = ' autoplay muted loop' if thumbnail and kind == 'video' else ''
    return (
        f'<{kind} class="player" src="{escape(address(file))}" aria-label="{escape(label)}" controls playsinline'
        f' preload="metadata"{how}></{kind}>'
    )


def picture(pixels: np.ndarray, label: str, crisp: bool = False) -> str:
    """(H, W, 3) uint8 inside the page; crisp: cells that stay cells when enlarged."""
    kind, data = ('png', png_bytes(pixels)) if crisp else ('jpeg', jpeg_bytes(pixels))
    text = base64.b64encode(data).decode()
    return f'<img class="{"crisp" if crisp else ""}" src="data:image/{kind};base64,{text}" alt="{escape(label)}">'


def lines(rows: Mapping[str, np.ndarray], lasts_s: float, label: str) -> str:
    """Cosines (L,) of equal steps over the same time, a line each, as SVG in the colours of the page around it."""
    finite = np.concatenate([values[np.isfinite(values)] for values in rows.values()] or [np.zeros(1)])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    room = max(high - low, 0.05)
    paths = []
    for number, values in enumerate(rows.values()):
        x = np.linspace(0, _WIDTH, len(values) + 1)
        y = 4 + (_HEIGHT - 8) * (1 - (np.nan_to_num(values, nan=low) - low) / room)
        points = ' '.join(f'{a:.1f},{c:.1f} {b:.1f},{c:.1f}' for a, b, c in zip(x[:-1], x[1:], y, strict=True))
        paths.append(f'<polyline points="{points}" fill="none" stroke-width="2" stroke="{LINE_COLOURS[number]}"/>')
    keys = ''.join(
        f'<span><i style="background:{LINE_COLOURS[number]}"></i>{escape(name)}</span>'
        for number, name in enumerate(rows)
        if len(rows) > 1
    )
    return (
        f'<figure class="lines"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{"".join(paths)}</svg><figcaption><span>{low:.2f} to {high:.2f}</span>{keys}'
        f'<span class="end">{lasts_s:.1f} s</span></figcaption></figure>'
    )


def figure(body: str, caption: str) -> str:
    """Something with what it is below it."""
    return f'<figure>{body}<figcaption>{escape(caption)}</figcaption></figure>'


def section(title: str, *parts: str) -> str:
    """Parts under a heading."""
    return f'<section class="part"><h3>{escape(title)}</h3>{"".join(parts)}</section>'


def grid(cards: Sequence[str]) -> str:
    """Cards beside each other, as many as there is room for."""
    return f'<ol class="grid">{"".join(f"<li>{card}</li>" for card in cards)}</ol>'


def empty(sentence: str) -> str:
    """What stands where something will be."""
    return f'<p class="empty">{escape(sentence)}</p>'
