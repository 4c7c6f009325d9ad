"""Draw the pictures of docs/concepts.md as SVG: python docs/scripts/draw_concepts.py

Plain shapes and text, a font of the reader's, no colours that light or dark pages would swallow.
"""

from collections.abc import Sequence
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / 'assets'
VIDEO, AUDIO, PART, RIGHT = '#3f7cac', '#c8553d', '#6b7280', '#2f855a'
LENGTHS = (16, 8, 4, 2, 1)


def box(
    x: float, y: float, width: float, height: float, text: str = '', colour: str = PART, small: bool = False
) -> str:
    """A rounded box with its text in the middle; lines are separated by '|'."""
    lines = text.split('|') if text else []
    size = 11 if small else 14
    first = y + height / 2 + size * 0.35 - (len(lines) - 1) * size * 0.6
    words = ''.join(
        f'<text x="{x + width / 2:g}" y="{first + i * size * 1.2:g}" font-size="{size}" fill="#fff" '
        f'text-anchor="middle">{line}</text>'
        for i, line in enumerate(lines)
    )
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{colour}"/>{words}'


def label(x: float, y: float, text: str, anchor: str = 'start', size: int = 13) -> str:
    """Text beside the boxes."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="#777" text-anchor="{anchor}">{text}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a head."""
    ends = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {ends} stroke="#888" stroke-width="1.6" marker-end="url(#head)"/>'


def picture(width: int, height: int, title: str, *parts: str) -> str:
    """The whole file."""
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#888"/></marker></defs>'
    )
    lines = '\n'.join((f'<title>{title}</title>', head, *parts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" role="img">\n{lines}\n</svg>\n'
    )


def chain(y: float, names: Sequence[str], colours: Sequence[str], x: float = 10, width: float = 105) -> str:
    """Boxes from left to right with arrows between them."""
    step = width + 30
    boxes = [
        box(x + i * step, y, width, 44, name, colour)
        for i, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]
    arrows = [arrow(x + i * step + width + 3, y + 22, x + (i + 1) * step - 3, y + 22) for i in range(len(names) - 1)]
    return ''.join(boxes + arrows)


def clip() -> str:
    """A window of a file."""
    frames = [box(110 + 25 * i, 40, 22, 40, colour=VIDEO) for i in range(16)]
    mel = [box(110 + 6.25 * i, 96, 4.6, 40, colour=AUDIO) for i in range(64)]
    return picture(
        640, 190, 'A clip', box(10, 24, 620, 128, colour='#8882'), *frames, *mel,
        label(20, 65, 'video'), label(20, 121, 'log-mel'), label(520, 65, '16 frames'), label(520, 121, '256 frames'),
        label(110, 172, '0 s'), label(510, 172, '4 s', 'end'), label(20, 16, 'file'),
    )  # fmt: skip


def model() -> str:
    """Both sides on their way to tokens."""
    names = ('video|3 x 16 x 224 x 224', 'backbone', 'features|T x P x C', 'pyramid', 'tokens')
    sides = [
        chain(y, (first, *names[1:]), (colour, PART, colour, PART, colour), width=112)
        for y, first, colour in ((30, 'video|frames', VIDEO), (150, 'log-mel|frames', AUDIO))
    ]
    head = [box(720, 90, 70, 44, 'head', RIGHT), arrow(694, 60, 722, 86), arrow(694, 164, 722, 138)]
    return picture(810, 220, 'From a clip to tokens', *sides, *head)


def scales() -> str:
    """Tokens of every scale over one axis of time."""
    rows = []
    for s, length in enumerate(LENGTHS):
        width = 480 / length
        rows += [box(110 + i * width + 1, 14 + 30 * s, width - 2, 24, colour=VIDEO) for i in range(length)]
        rows.append(label(10, 31 + 30 * s, f'scale {s}: {length}'))
    return picture(610, 195, 'Scales', *rows, label(110, 185, '0 s'), label(590, 185, '4 s', 'end'))


def matrix(x: float, names: Sequence[str]) -> str:
    """A square of similarities with its diagonal marked."""
    n, cell = len(names), 28
    cells = [
        box(x + 34 + cell * j, 48 + cell * i, cell - 2, cell - 2, colour=RIGHT if i == j else '#8884')
        for i in range(n)
        for j in range(n)
    ]
    words = [label(x + 28, 66 + cell * i, name, 'end') for i, name in enumerate(names)]
    words += [label(x + 46 + cell * j, 42, name, 'middle') for j, name in enumerate(names)]
    return ''.join(cells + words)


def contrast() -> str:
    """What is told from what."""
    return picture(
        560, 240, 'Contrast',
        label(10, 18, 'semantic: clips of the batch'), matrix(10, ('a', 'b', 'c', 'd', 'e', 'f')),
        label(300, 18, 'temporal: moments of one clip'), matrix(300, ('1', '2', '3', '4', '5', '6')),
        label(44, 232, 'green: what belongs together; rows video, columns sound'),
    )  # fmt: skip


def diffusion() -> str:
    """One side denoised given the other."""
    return picture(
        640, 190, 'Diffusion as an objective',
        chain(30, ('sound|x0', 'noisy sound|x_t', 'denoiser', 'restored|x0'), (AUDIO, AUDIO, PART, AUDIO)),
        label(82, 98, '+ noise, level t', 'middle'),
        box(280, 130, 105, 44, 'video|tokens', VIDEO), arrow(332, 128, 332, 78),
        label(400, 157, 'learn from the error too'),
        arrow(518, 52, 552, 52), label(560, 57, 'error to x0'),
    )  # fmt: skip


def generation() -> str:
    """From noise to sound."""
    names = ('noise', 'sampler|steps', 'latents', 'codec', 'log-mel', 'vocoder')
    colours = ('#9ca3af', PART, AUDIO, PART, AUDIO, PART)
    return picture(
        900, 190, 'Generation', chain(30, names, colours), arrow(793, 52, 828, 52), label(836, 57, 'sound'),
        box(145, 130, 105, 44, 'denoiser', PART), arrow(185, 128, 185, 78), arrow(210, 76, 210, 126),
        box(10, 130, 105, 44, 'video|tokens', VIDEO), arrow(118, 152, 142, 152),
        label(262, 157, 'guidance: against the null condition'),
    )  # fmt: skip


def step() -> str:
    """The life of a batch."""
    names = ('ClipDataset', 'collate', 'preprocessor', 'model.loss', 'optimiser')
    where = ('datasets/', 'torch', 'models/preprocessor.py', 'models/gmscavp.py', 'engine/optim.py')
    words = [label(72 + 150 * i, 98, text, 'middle', 11) for i, text in enumerate(where)]
    inner = chain(120, ('backbones', 'pyramids', 'head', 'diffusion'), (PART, PART, RIGHT, PART), x=210)
    return picture(
        750, 180, 'A training step', chain(30, names, (VIDEO, PART, PART, PART, PART), width=120), *words, inner
    )


PICTURES = dict(
    clip=clip, model=model, scales=scales, contrast=contrast, diffusion=diffusion, generation=generation, step=step
)


if __name__ == '__main__':
    for name, draw in PICTURES.items():
        (ASSETS / f'{name}.svg').write_text(draw(), encoding='utf-8')
