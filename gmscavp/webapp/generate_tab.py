"""Generate: a video in, the same video with a sound made for it out."""

import math
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from gmscavp.datasets.video_folder import VIDEO_ENDINGS
from gmscavp.errors import UserError
from gmscavp.inference import Model, write_sound
from gmscavp.webapp.cards import address, empty, figure, notice, player
from gmscavp.webapp.controls import PROGRESS, Page, drop_zone
from gmscavp.webapp.limits import in_words, media_of

MISSING = (
    'There is no model here that makes sound. Train one with: python tools/train.py configs/v2a_frozen_impacts.py, then '
    'start this page with --generator and its work directory.'
)
NOTHING = 'The video with its new sound will be here, beside yours.'
STOPPED = 'Stopped; nothing was made.'

MOST_STEPS, MOST_GUIDANCE = 100, 10.0


def add_generate(page: Page) -> None:
    """The tab."""
    maker = page.served.generator
    if maker is None:
        gr.HTML(empty(MISSING))
        return
    chosen = maker.sampling
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            file = drop_zone(page, 'Video', _videos(page.examples), page.limits.max_generate_s)
            steps = gr.Slider(1, MOST_STEPS, value=chosen.steps, step=1, label='Steps', info='More: finer, and longer')
            guidance = gr.Slider(
                0, MOST_GUIDANCE, value=chosen.guidance, step=0.1, label='Guidance', info='How closely to follow it'
            )
            seed = gr.Number(0, precision=0, minimum=0, label='Seed', info='The same seed makes the same sound')
            with gr.Row():
                button = gr.Button('Generate', variant='primary')
                stop = gr.Button('Stop')
        with gr.Column(scale=5, min_width=300):
            said = gr.HTML(elem_classes='said')
            result = gr.HTML(empty(NOTHING), elem_id='result')
    made = button.click(
        generate_with(page, maker),
        [file, steps, guidance, seed],
        [said, result],
        api_name='generate',
        show_progress_on=result,
        concurrency_id='generate',
        concurrency_limit=1,
    )

    def stopped(request: gr.Request) -> str:
        page.stops.ask(str(request.session_hash))
        return notice(STOPPED)

    # Cancelled where it still waits; where it runs, it stops at its next step.
    stop.click(stopped, None, said, cancels=[made], queue=False, api_visibility='private', show_progress='hidden')


def generate_with(page: Page, maker: Model) -> Any:
    """The handler: file, steps, guidance, seed -> what is said, the films as HTML."""

    @in_words(1)
    def generate(
        file: str | None,
        steps: float,
        guidance: float,
        seed: float,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[str, str]:
        info = media_of(file, page.limits, page.limits.max_generate_s)
        source = Path(str(file))
        if info is None or not info.has_video:
            raise UserError(f'{source.name} is no video; choose one to make a sound for.')
        sampling = replace(maker.sampling, **_settings(steps, guidance, seed))
        person = str(request.session_hash)
        try:
            with page.stops.work(person) as stopped:
                made = maker.generate_sound(source, sampling, progress=_progress(stopped.is_set, progress))
        except _Stopped:
            return notice(STOPPED), empty(NOTHING)
        target = page.workspace.new(f'{source.stem}_with_sound.mp4')
        notes = write_sound(source, target, made.waveforms[0], made.sample_rate, comment=maker.provenance(sampling))
        return notice(''.join(f'{note[:1].upper()}{note[1:]}. ' for note in notes)), films(source, target, sampling)

    return generate


def films(source: Path, target: Path, sampling: Any) -> str:
    """Both films beside each other, and the way to keep the new one."""
    settings = f'{sampling.steps} steps, guidance {sampling.guidance:g}, seed {sampling.seed}'
    pair = figure(player(target, 'with the new sound'), f'With the new sound ({settings})')
    pair += figure(player(source, 'as it came'), 'As it came')
    link = f'<a class="keep" href="{escape(address(target))}" download="{escape(target.name)}">Download</a>'
    remark = '<p class="small">The sound was made by a model, not recorded; the file says so, with its settings.</p>'
    return f'<div class="pair">{pair}</div>{link}{remark}'


class _Stopped(Exception):
    """The person does not want it any more."""


def _progress(stopped: Callable[[], bool], progress: gr.Progress) -> Callable[[int, int], None]:
    def told(done: int, total: int) -> None:
        if stopped():
            raise _Stopped
        progress((done, total), desc='Making the sound', unit='steps')

    return told


def _settings(steps: float | None, guidance: float | None, seed: float | None) -> dict[str, Any]:
    """As Sampling takes them. UserError: out of what the page offers; requests can hold anything."""
    values = (steps, guidance, seed)
    if any(not isinstance(x, int | float) or not math.isfinite(x) for x in values):
        raise UserError('Give numbers for steps, guidance and seed.')
    whole = int(steps or 0), float(guidance or 0), int(seed or 0)
    if not 1 <= whole[0] <= MOST_STEPS or not 0 <= whole[1] <= MOST_GUIDANCE or not 0 <= whole[2] < 2**53:
        raise UserError(
            f'Choose 1 to {MOST_STEPS} steps, guidance 0 to {MOST_GUIDANCE:g}, and a seed from 0 to {2**53 - 1}.'
        )
    return dict(steps=whole[0], guidance=whole[1], seed=whole[2])


def _videos(examples: list[Path]) -> list[Path]:
    return [path for path in examples if path.suffix.lower() in VIDEO_ENDINGS]
