"""Clips and similarities as pixels: NumPy arrays in, pictures (H, W, 3) uint8 RGB out."""

import io
import itertools
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

MISSING = '#00b8d4'
"""The colour of a value that is not a number; it occurs in neither colour map."""
FILM = 18
"""Grey level between the frames of a strip: dark enough for both a light and a dark page."""
DPI = 100
PICTURE_CELLS = 400
"""A similarity picture has so many rows and columns at most; a larger matrix is averaged in blocks."""


def heat_picture(matrix: np.ndarray, limits: tuple[float, float] | None = None, most: int = 400) -> np.ndarray:
    """A matrix as colours without axes: (R, C) -> (min(R, most), min(C, most), 3) uint8.

    Larger matrices are averaged in blocks: the mean keeps a diagonal as far above the noise as it was, which the
    maximum of a block does not. `limits` are the darkest and the brightest value, `heat_limits` when None.
    """
    cells = _pooled(matrix, most)
    return _coloured(cells, 'viridis', heat_limits(cells) if limits is None else limits)


def heat_limits(matrix: np.ndarray, most: int = 400) -> tuple[float, float]:
    """The values of the darkest and the brightest colour of `heat_picture`: the lowest percent is all dark."""
    cells = _pooled(matrix, most)
    finite = cells[np.isfinite(cells)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(np.percentile(finite, 1)), float(finite.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def similarity_picture(
    matrix: np.ndarray, title: str, borders: Sequence[int] = (), clips: int | None = None
) -> np.ndarray:
    """Similarities of all videos (rows) to all audios (columns) with axes: (N, N) -> (560, 640, 3) uint8.

    The diagonal holds the right pairs. Values that are not numbers stand out in cyan. borders: between which clips lines
    are drawn, 3 for one before the fourth. clips: how many there are, where the matrix holds means of blocks of them.
    """
    figure = Figure(figsize=(6.4, 5.6), dpi=DPI, layout='constrained')
    axes = figure.add_subplot()
    axes.set_title(plain(title), parse_math=False, fontsize=11, pad=10)
    axes.set_xlabel('audio')
    axes.set_ylabel('video')
    rows, columns = matrix.shape if clips is None else (clips, clips)
    if matrix.size == 0:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, 'no clips', ha='center', va='center', transform=axes.transAxes)
        return rendered(figure)
    axes.set_xlabel(f'audio ({columns}); right pairs on the diagonal')
    axes.set_ylabel(f'video ({rows})')
    cells = _pooled(matrix, PICTURE_CELLS)
    low, high = heat_limits(cells)
    colours = matplotlib.colormaps['viridis'].with_extremes(bad=MISSING)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    image = axes.imshow(cells, colours, vmin=low, vmax=high, interpolation='nearest', extent=extent)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    axes.tick_params(labelsize=9)
    for border in borders:
        axes.axhline(border - 0.5, color='white', linewidth=0.5, alpha=0.6)
        axes.axvline(border - 0.5, color='white', linewidth=0.5, alpha=0.6)
    pooled = '' if cells.shape == (rows, columns) else ' (mean of neighbours)'
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label(f'similarity{pooled}')
    bar.ax.tick_params(labelsize=9)
    return rendered(figure)


def mel_picture(mel: np.ndarray, height: int | None = None, width: int | None = None) -> np.ndarray:
    """A mel as colours, low frequencies at the bottom: (F, M) in [0, 1] -> (height, width, 3) uint8.

    Time runs to the right; the scale is always 0 to 1, so that two pictures can be compared. Without a size, one
    pixel per bin: (M, F, 3).
    """
    upright = _resized(mel.T[::-1].astype(np.float32), height or mel.shape[1], width or mel.shape[0])
    return _coloured(upright, 'magma', (0.0, 1.0))


def film_strip(frames: np.ndarray, mel: np.ndarray, columns: int = 8, width: int = 768) -> np.ndarray:
    """Frames in time order above the mel, on one time axis: (T, H, W, 3) uint8, (F, M) -> (H', width, 3) uint8.

    The width is the clip: column c shows the frame in the middle of its share of the time, above the mel of that
    share. A clip with fewer frames than `columns` has a column for each.
    """
    total = len(frames)
    columns = min(columns, total, width // 8)
    edges = np.linspace(0, width, columns + 1).round().astype(int)
    height = max(24, round(width / columns * frames.shape[1] / frames.shape[2]))
    gap = 2
    film = np.full((height, width, 3), FILM, np.uint8)
    for column, (left, right) in enumerate(itertools.pairwise(edges)):
        frame = frames[int((column + 0.5) * total / columns)]
        film[:, left + 1 : right - 1] = _resized(frame, height, right - left - 2)
    return np.concatenate([film, np.full((gap, width, 3), FILM, np.uint8), mel_picture(mel, width // 8, width)])


def contact_sheet(strips: Sequence[np.ndarray], captions: Sequence[str], columns: int = 2) -> np.ndarray:
    """Pictures in a grid, read row by row, each under its caption: [(H, W, 3)] uint8 -> (H', W', 3) uint8."""
    if len(strips) != len(captions):
        raise ValueError(f'{len(strips)} strips and {len(captions)} captions: give one caption per strip.')
    if not strips:
        return _caption('no clips', 320)
    margin, width = 16, max(strip.shape[1] for strip in strips)
    cells = [
        np.concatenate([_caption(caption, width), _padded(strip, strip.shape[0], width)])
        for strip, caption in zip(strips, captions, strict=True)
    ]
    rows = []
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        height = max(cell.shape[0] for cell in row)
        row += [np.zeros((0, width, 3), np.uint8)] * (min(columns, len(cells)) - len(row))
        rows.append(np.concatenate([_padded(cell, height + margin, width + margin) for cell in row], axis=1))
    sheet = np.concatenate(rows)
    return np.pad(sheet, ((margin, 0), (margin, 0), (0, 0)), constant_values=255)


def png_bytes(picture: np.ndarray) -> bytes:
    """A picture as a PNG file, without loss."""
    return _encoded(picture, '.png', [])


def jpeg_bytes(picture: np.ndarray, quality: int = 88) -> bytes:
    """A picture as a JPEG file: a film strip takes about a fifth of its PNG."""
    return _encoded(picture, '.jpg', [cv2.IMWRITE_JPEG_QUALITY, quality])


def gif_bytes(frames: np.ndarray, fps: float) -> bytes:
    """(T, H, W, 3) uint8 as an animated picture that begins again when it has ended; one palette of 256 colours a frame."""
    pictures = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    # GIF counts hundredths of a second; players take less than two of them for ten.
    duration_ms = 10 * max(2, round(100 / fps))
    pictures[0].save(file, 'GIF', save_all=True, append_images=pictures[1:], duration=duration_ms, loop=0)
    return file.getvalue()


def _pooled(matrix: np.ndarray, most: int) -> np.ndarray:
    """Means of blocks, at most (most, most) of them; values that are not numbers do not count."""
    if matrix.ndim != 2:
        raise ValueError(f'a matrix has two axes, not the shape {matrix.shape}.')
    if max(matrix.shape) <= most:
        return matrix
    rows, columns = (np.linspace(0, size, min(size, most) + 1).astype(int) for size in matrix.shape)
    cells = np.empty((len(rows) - 1, len(columns) - 1))
    for row, (start, end) in enumerate(itertools.pairwise(rows)):
        block = matrix[start:end].astype(np.float64)
        finite = np.isfinite(block)
        block[~finite] = 0.0
        count = np.add.reduceat(finite.sum(axis=0), columns[:-1])
        total = np.add.reduceat(block.sum(axis=0), columns[:-1])
        cells[row] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return cells


def _coloured(values: np.ndarray, colour_map: str, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    share = np.where(np.isfinite(values), np.clip((values - low) / (high - low), 0.0, 1.0), np.nan)
    return matplotlib.colormaps[colour_map].with_extremes(bad=MISSING)(share, bytes=True)[..., :3]


def _resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages where it shrinks, repeats where it grows, each axis by itself: no value leaves its share of the axis."""
    picture = np.ascontiguousarray(picture)
    for size, axis in ((width, 1), (height, 0)):
        shape = (size, picture.shape[0]) if axis else (picture.shape[1], size)
        way = cv2.INTER_AREA if size < picture.shape[axis] else cv2.INTER_NEAREST_EXACT
        picture = cv2.resize(picture, shape, interpolation=way)
    return picture


def _padded(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    below, right = height - picture.shape[0], width - picture.shape[1]
    return np.pad(picture, ((0, below), (0, right), (0, 0)), constant_values=255)


def _caption(text: str, width: int) -> np.ndarray:
    """One line of text on white, (24, width, 3); what does not fit ends in an ellipsis."""
    text, room = plain(text), max(4, int(width / 7))
    text = text if len(text) <= room else text[: room - 1] + '…'
    figure = Figure(figsize=(width / DPI, 0.24), dpi=DPI)
    figure.text(0, 0.5, text, va='center', fontsize=8, color='#222222', parse_math=False)
    return rendered(figure)


def rendered(figure: Figure) -> np.ndarray:
    """A figure as a picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _encoded(picture: np.ndarray, ending: str, options: list[int]) -> bytes:
    done, encoded = cv2.imencode(ending, cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f'a picture of shape {picture.shape} cannot be written as {ending}.')
    return encoded.tobytes()


def plain(text: str) -> str:
    """Without control characters and halves of characters, on which the text engine fails."""
    return ''.join(character if character.isprintable() else '?' for character in text)
