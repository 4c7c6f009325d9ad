"""Search: a video, a sound or a picture in, ranked moments of the library out."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from gmscavp.errors import UserError
from gmscavp.inference import Model, Side
from gmscavp.pictures import mel_picture
from gmscavp.search import Answer, Store, find
from gmscavp.webapp.cards import empty, figure, grid, lines, notice, picture, player
from gmscavp.webapp.controls import PROGRESS, Page, drop_zone
from gmscavp.webapp.limits import in_words, media_of
from gmscavp.webapp.moments import Moment, read_moment

MISSING = (
    'There is no library to search yet. Index a folder with: python tools/search.py index FOLDER --model RUN --db '
    'RUN/search, then start this page again.'
)
ASK_BY = {'What fits its pictures': 'video', 'What fits its sound': 'audio'}
NOTHING = 'Moments of the library will be here, the best first. Drop a file, or click an example.'

# Of a long query or answer so much is shown and drawn.
_SHOWN_S = 12.0
_MOST = 12


def add_search(page: Page) -> None:
    """The tab."""
    if page.served.store is None:
        gr.HTML(empty(MISSING))
        return
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            file = drop_zone(page, 'Video, sound or picture', page.examples)
            by = gr.Radio(list(ASK_BY), value=next(iter(ASK_BY)), label='Search for')
            count = gr.Slider(1, _MOST, value=6, step=1, label='Answers')
            button = gr.Button('Search', variant='primary')
        with gr.Column(scale=5, min_width=300):
            said = gr.HTML(elem_classes='said')
            answers = gr.HTML(empty(NOTHING), elem_id='answers')
    button.click(
        search_with(page, page.served.store, page.served.root or Path()),
        [file, by, count],
        [said, answers],
        api_name='search',
        show_progress_on=answers,
        concurrency_id='search',
        concurrency_limit=page.at_once,
    )


def search_with(page: Page, store: Store, root: Path) -> Any:
    """The handler: file, what to search by, how many -> what is said, the answers as HTML."""

    @in_words(1, root)
    def search(file: str | None, by: str, count: float, progress: gr.Progress = PROGRESS) -> tuple[str, str]:
        info = media_of(file, page.limits, page.limits.max_s)
        side = _side(by, has_video=info is None or info.has_video, has_audio=info is not None and info.has_audio)
        asked = Path(str(file))
        progress(0.1, desc='Listening' if side == 'audio' else 'Watching')
        model = page.served.run
        found = find(store, model, asked, side, limit=max(1, min(_MOST, int(count))))
        if not found:
            return notice('Nothing in the library answers that.'), ''
        query = read_moment(asked, 0.0, _SHOWN_S, model.clip.backend)
        cards = []
        for number, answer in enumerate(found):
            progress((number + 1, len(found) + 1), desc='Cutting moments', unit='moments')
            cards.append(card(page, root, answer, number + 1, query, side))
        what = 'sounds' if found[0].modality == 'audio' else 'pictures'
        return notice(f'{len(found)} moments whose {what} fit {asked.name}, the best first.'), grid(cards)

    return search


def card(page: Page, root: Path, answer: Answer, rank: int, query: Moment, side: Side) -> str:
    """An answer: the moment as it plays, its mel, and how well the query fits over time."""
    label = f'<h3><span class="rank">{rank}</span><span class="name">{escape(answer.file)}</span></h3>'
    times = f'{_clock(answer.start_s)} to {_clock(answer.end_s)}'
    facts = f'<p class="facts">{times} · score {answer.score:.2f}'
    facts += f' · {escape(answer.label)}</p>' if answer.label else '</p>'
    model = page.served.run
    try:
        end_s = min(answer.end_s, answer.start_s + _SHOWN_S)
        moment = read_moment(inside(root, answer.file), answer.start_s, end_s, model.clip.backend)
        parts = [player(moment.write(page.workspace), f'{answer.file} from {times}', thumbnail=True)]
    # The library may have changed since it was indexed.
    except UserError as error:
        return label + facts + empty(f'Cannot be played: {str(error).rpartition(": ")[2]}; index the library again.')
    mel = moment.mel(model)
    if mel is not None:
        parts.append(figure(picture(mel_picture(mel, 64, 320), 'mel of the moment'), 'mel'))
    cosine = fit(model, query, moment, side, answer.modality)
    if cosine is not None:
        drawn = lines({'similarity': cosine}, moment.lasts_s, 'similarity of your file and this moment over time')
        parts.append(f'<p class="small">similarity over time</p>{drawn}')
    return label + facts + ''.join(parts)


def fit(model: Model, query: Moment, moment: Moment, side: Side, target: str) -> np.ndarray | None:
    """Cosine (L,) of query and moment, step by step; None where they are of the same side."""
    if side == target:
        return None
    pictures, heard = (query.pictures, moment.heard) if side == 'video' else (moment.pictures, query.heard)
    if pictures is None or heard is None:
        return None
    return model.localise(pictures, heard).similarity.numpy()


def inside(root: Path, name: str) -> Path:
    """A file of the library. UserError: its name leads out of it, which indexing never writes."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UserError('it lies outside of the library')
    return path


def _side(by: str, has_video: bool, has_audio: bool) -> Side:
    side: Any = ASK_BY.get(by, 'video')
    if side == 'video' and not has_video:
        raise UserError('This file has no pictures; choose "What fits its sound".')
    if side == 'audio' and not has_audio:
        raise UserError('This file has no sound; choose "What fits its pictures".')
    return side


def _clock(seconds: float) -> str:
    return f'{int(seconds // 60)}:{seconds % 60:05.2f}'
