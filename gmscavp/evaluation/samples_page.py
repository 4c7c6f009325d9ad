"""One HTML page of generated clips to look at and listen to, each beside the real one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gmscavp.evaluation.generation.truth import ClipTruth
from gmscavp.evaluation.generation_tables import counted_words, generation_table, label_of, plain_names, shown
from gmscavp.evaluation.pages import data_uri, write_page
from gmscavp.pictures import film_strip, jpeg_bytes

# Height of the strip of marks in pixels, and what is drawn in it.
STRIP = 14
GROUND, SEEN, UNSEEN = (24, 26, 30), (255, 255, 255), (238, 141, 84)
SIDES = ('generated', 'real')


@dataclass(frozen=True)
class SampleSide:
    """A clip as generated, or as it is: an mp4 file, its frames (T, H, W, 3) uint8 and its log-mel (F, M) in [0, 1]."""

    movie: bytes
    frames: np.ndarray
    mel: np.ndarray


@dataclass(frozen=True)
class SampleCard:
    """One clip of the page. sides: 'generated' and 'real'. truth: whose impacts are marked. figures: of this clip alone.

    why_not: why there is nothing to show, where the clip cannot be read again.
    """

    clip_id: str
    sides: Mapping[str, SampleSide] = field(default_factory=dict)
    duration_s: float = 0.0
    truth: ClipTruth | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    why_not: str = ''


@dataclass(frozen=True)
class SamplesData:
    """Everything the page shows. metrics: 'generation/...'. facts: as run_facts gives them."""

    title: str
    metrics: Mapping[str, float]
    cards: Sequence[SampleCard]
    facts: Mapping[str, str]


def write_samples(file: Path, data: SamplesData) -> None:
    """Write the page as one self-contained HTML file, under a temporary name first."""
    plain = plain_names(data.metrics)
    values = dict(
        title=data.title,
        counted=counted_words(plain),
        table=generation_table(plain),
        **sample_values(data.cards),
        facts=data.facts,
        metrics={name: f'{value:.6g}' for name, value in data.metrics.items()},
    )
    write_page(file, 'samples.html.j2', values)


def sample_values(cards: Sequence[SampleCard]) -> dict[str, object]:
    """What samples_list.html.j2 shows."""
    return dict(cards=[_card(card) for card in cards], marked=any(card.truth for card in cards))


def marked(picture: np.ndarray, truth: ClipTruth, duration_s: float) -> np.ndarray:
    """A picture whose width is the clip above a strip with a mark at every impact: (H, W, 3) -> (H + STRIP, W, 3) uint8.

    Impacts that are seen are white, those off the screen orange and half as high.
    """
    width = picture.shape[1]
    strip = np.full((STRIP, width, 3), GROUND, np.uint8)
    for event in truth.events:
        column = int(np.clip(event.time_s / duration_s * width, 1, width - 2))
        strip[2 if event.on_screen else STRIP // 2 :, column - 1 : column + 1] = SEEN if event.on_screen else UNSEEN
    return np.concatenate([picture, strip])


def _card(card: SampleCard) -> dict[str, object]:
    sides = []
    for name in SIDES if card.sides else ():
        side = card.sides[name]
        picture = film_strip(side.frames, np.nan_to_num(side.mel))
        if card.truth:
            picture = marked(picture, card.truth, card.duration_s)
        movie = data_uri(side.movie, 'video/mp4')
        sides.append({'name': name, 'movie': movie, 'picture': data_uri(jpeg_bytes(picture), 'image/jpeg')})
    figures = [
        (label_of(name), shown(value)) for name, value in card.figures.items() if not name.startswith('shuffled_')
    ]
    return {'clip_id': card.clip_id, 'sides': sides, 'figures': figures, 'why_not': card.why_not}
