"""Heat over frames: where in the picture something is, window by window."""

import cv2
import matplotlib
import numpy as np


def heat_overlay(
    frames: np.ndarray, heat: np.ndarray, limits: tuple[float, float] | None = None, strength: float = 0.6
) -> np.ndarray:
    """Frames under the heat of their moment: (T, H, W, 3) uint8, (L, g, g') -> (T, H, W, 3) uint8.

    Both cover the same time; between the middles of windows and of cells the heat runs evenly. limits: the values from
    which on colour shows and at which it is `strength` opaque; `overlay_limits` when None.
    """
    low, high = overlay_limits(heat) if limits is None else limits
    share = np.clip((np.nan_to_num(heat, nan=low) - low) / (high - low), 0.0, 1.0).astype(np.float32)
    height, width = frames.shape[1:3]
    out = np.empty_like(frames)
    colours = matplotlib.colormaps['turbo']
    for index, (frame, cells) in enumerate(zip(frames, _at_frames(share, len(frames)), strict=True)):
        smooth = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
        opacity = strength * smooth[..., None]
        mixed = (1 - opacity) * frame + opacity * 255 * colours(smooth)[..., :3]
        out[index] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return out


def overlay_limits(heat: np.ndarray) -> tuple[float, float]:
    """The median and the greatest value: half of the picture stays as it is, and silence stays dark."""
    finite = heat[np.isfinite(heat)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(np.median(finite)), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)


def _at_frames(windows: np.ndarray, frames: int) -> np.ndarray:
    """(L, g, g') -> (frames, g, g'): each frame between the two windows whose middles are nearest."""
    place = np.clip((np.arange(frames) + 0.5) / frames * len(windows) - 0.5, 0, len(windows) - 1)
    before = place.astype(int)
    after = np.minimum(before + 1, len(windows) - 1)
    weight = (place - before)[:, None, None].astype(np.float32)
    return (1 - weight) * windows[before] + weight * windows[after]
