"""Look: when, where and how well picture and sound of a video go together, as the model sees it."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch

from gmscavp.errors import UserError
from gmscavp.inference import Model
from gmscavp.inference.embedding import Embeddings
from gmscavp.pictures import film_strip, heat_overlay, heat_picture
from gmscavp.webapp.cards import empty, figure, lines, notice, picture, player, section
from gmscavp.webapp.controls import PROGRESS, Page, drop_zone
from gmscavp.webapp.limits import in_words, media_of
from gmscavp.webapp.moments import Moment, read_moment

NOTHING = 'Similarity over time, a matrix for every scale, where the sound is, and how late it is will be here.'
NO_HEAT = (
    'This model compares whole pictures and cannot say where in them the sound is. Train one that can with: python '
    'tools/train.py configs/dense_impacts.py, and start this page with --heat-map and its work directory.'
)
LOOKED_S = 20.0
"""So much of a video is looked at, from the second that is chosen."""

# The share of agreement that lies at one offset; below, it is a guess.
_SURE = 0.5


def add_look(page: Page) -> None:
    """The tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            file = drop_zone(page, 'Video with sound', page.examples)
            start = gr.Number(0, minimum=0, label='From second', info=f'{LOOKED_S:g} s from there on are looked at')
            button = gr.Button('Look', variant='primary')
        with gr.Column(scale=5, min_width=300):
            said = gr.HTML(elem_classes='said')
            seen = gr.HTML(empty(NOTHING), elem_id='seen')
    button.click(
        look_with(page),
        [file, start],
        [said, seen],
        api_name='look',
        show_progress_on=seen,
        concurrency_id='look',
        concurrency_limit=1,
    )


def look_with(page: Page) -> Any:
    """The handler: file, second -> what is said, the pictures as HTML."""

    @in_words(1)
    def look(file: str | None, start_s: float | None, progress: gr.Progress = PROGRESS) -> tuple[str, str]:
        info = media_of(file, page.limits, page.limits.max_s)
        source = Path(str(file))
        if info is None or not (info.has_video and info.has_audio):
            raise UserError(f'{source.name} has not both pictures and sound; choose a video with sound.')
        begin_s = float(start_s or 0)
        if not 0 <= begin_s < info.duration_s:
            raise UserError(f'{source.name} lasts {info.duration_s:.1f} s; choose a second from 0 to before that.')
        model = page.served.run
        progress(0.1, desc='Reading')
        moment = read_moment(source, begin_s, begin_s + LOOKED_S, model.clip.backend)
        progress(0.4, desc='Comparing')
        parts = [over_time(model, moment)]
        progress(0.7, desc='Looking where the sound is')
        parts.append(where(page, moment))
        return notice(lateness(model, moment)), ''.join(parts)

    return look


def lateness(model: Model, moment: Moment) -> str:
    """How late the sound is, as a sentence."""
    assert moment.pictures is not None
    try:
        found = model.synchronise(moment.pictures, moment.heard)
    except UserError as error:
        return f'How late the sound is cannot be told: {str(error).rstrip(".")}.'
    if found.confidence < _SURE:
        return (
            f'Picture and sound agree at no offset clearly enough to say which is late ({found.confidence:.0%} sure).'
        )
    step_ms = 1000 * model.clip.duration_s / model.model.video_pyramid.lengths[0]
    if abs(found.offset_ms) < step_ms / 4:
        return f'Picture and sound are together ({found.confidence:.0%} sure).'
    which = 'late' if found.offset_ms > 0 else 'early'
    return f'The sound is {abs(found.offset_ms):.0f} ms {which} ({found.confidence:.0%} sure).'


def over_time(model: Model, moment: Moment) -> str:
    """Film, mel and similarity on one axis of time, then a matrix for every scale."""
    mel = moment.mel(model)
    assert moment.pictures is not None
    assert moment.frames is not None
    assert moment.heard is not None
    assert mel is not None
    video, audio = model.embed(moment.pictures, 'video'), model.embed(moment.heard, 'audio')
    matrices = scale_matrices(video, audio, model.clip.duration_s, moment.lasts_s)
    strip = picture(film_strip(moment.frames, mel, columns=8), 'pictures above the mel of their sound')
    rows = {f'scale {s}': np.diagonal(matrix) for s, matrix in enumerate(matrices)}
    drawn = lines(rows, moment.lasts_s, 'similarity of picture and sound over time, a line for each scale')
    lasts_s = model.clip.duration_s
    lengths = model.model.video_pyramid.lengths
    cells = [
        figure(
            picture(heat_picture(matrix), f'similarity matrix of scale {s}', crisp=True),
            f'scale {s}: steps of {lasts_s / length:.3g} s, {matrix.min():.2f} to {matrix.max():.2f}',
        )
        for s, (matrix, length) in enumerate(zip(matrices, lengths, strict=True))
    ]
    return section('Over time', strip, drawn) + section(
        'Every moment with every other',
        '<p class="small">Pictures from top to bottom, sounds from left to right; bright: alike. Where both go together, '
        'the diagonal is bright.</p>',
        f'<div class="matrices">{"".join(cells)}</div>',
    )


def scale_matrices(video: Embeddings, audio: Embeddings, window_s: float, lasts_s: float) -> list[np.ndarray]:
    """Cosines of all steps with all others, (L, L) for every scale: of windows side by side, as far as both last."""
    matrices = []
    for v, a in zip(video.scales, audio.scales, strict=True):
        sides = []
        for embeddings, tokens in ((video, v), (audio, a)):
            # The last window may reach back over the one before.
            beside = (embeddings.start_s / window_s - (embeddings.start_s / window_s).round()).abs() < 1e-6
            sides.append(tokens[beside].flatten(0, 1))
        steps = max(1, round(lasts_s / window_s * v.shape[1]))
        count = min(*map(len, sides), steps)
        one, other = (side[:count] for side in sides)
        places = one.dim() > 2
        cosine = torch.einsum('ipd,jqd->ijpq', one, other).amax(dim=(2, 3)) if places else one @ other.T
        matrices.append(cosine.numpy())
    return matrices


def where(page: Page, moment: Moment) -> str:
    """The pictures under the heat of their sound, as a film; or why there is none."""
    model = page.served.heat_map
    if model is None or moment.pictures is None or moment.frames is None:
        return section('Where the sound is', empty(NO_HEAT))
    heat = model.localise(moment.pictures, moment.heard).heat
    assert heat is not None
    frames = square(moment.frames, model.clip.size)
    shown = Moment(heat_overlay(frames, heat.numpy()), moment.fps, moment.sound, moment.rate, moment.lasts_s)
    film = player(shown.write(page.workspace), 'your video under the heat of its sound')
    return section('Where the sound is', figure(film, 'red: where picture and sound are most alike'))


def square(frames: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """The middle of (T, H, W, 3), as the model sees it, even; all of it where a model takes pictures of a whole size."""
    if not isinstance(size, int):
        return frames
    height, width = frames.shape[1:3]
    side = min(height, width) // 2 * 2
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(frames[:, top : top + side, left : left + side])
