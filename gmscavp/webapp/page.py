"""The page: three tabs, one look."""

from pathlib import Path
from typing import Any

import gradio as gr

from gmscavp.webapp.controls import Page
from gmscavp.webapp.generate_tab import add_generate
from gmscavp.webapp.look_tab import add_look
from gmscavp.webapp.search_tab import add_search

CSS = Path(__file__).with_name('page.css')
# Uploads are looked through once in ten minutes and removed when they are an hour old, seconds.
_SWEEP = (600, 3600)


def build(page: Page) -> Any:
    """The page as Gradio's Blocks."""
    with gr.Blocks(title='gmscavp', analytics_enabled=False, delete_cache=_SWEEP) as blocks:
        gr.HTML('<h1>gmscavp</h1><p>Sound that fits a picture, pictures that fit a sound.</p>', elem_id='head')
        with gr.Tabs():
            for name, add in (('Search', add_search), ('Generate', add_generate), ('Look', add_look)):
                with gr.Tab(name):
                    add(page)

        def left(request: gr.Request) -> None:
            page.stops.ask(str(request.session_hash))

        # What a person who has gone waits for need not be made.
        blocks.unload(left)
    blocks.queue(max_size=page.limits.queue, default_concurrency_limit=page.at_once)
    return blocks


def theme() -> Any:
    """Fonts of the machine that shows it: nothing is fetched from elsewhere."""
    fonts = ['system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'sans-serif']
    return gr.themes.Default(
        primary_hue='blue', neutral_hue='slate', font=fonts, font_mono=['ui-monospace', 'Consolas', 'monospace']
    )
