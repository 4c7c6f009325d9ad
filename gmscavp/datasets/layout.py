"""How the pixels of a clip lie in memory: in planes, as models take them, or packed, as pictures are decoded and resized.

Either is a (T, 3, H, W) tensor of the same values. OpenCV turns one into the other in less than half of torch's time.
"""

import cv2
import numpy as np
import torch
from torch import Tensor


def packed(video: Tensor) -> Tensor:
    """With the three values of a pixel side by side; itself where it is so already."""
    if video.stride(1) == 1 and video.stride(3) == video.shape[1]:
        return video
    source = video.numpy()
    made = np.empty((len(source), *source.shape[2:], 3), source.dtype)
    for frame, into in zip(source, made, strict=True):
        _write(cv2.merge(list(frame), into), into)
    return torch.from_numpy(made).permute(0, 3, 1, 2)


def in_planes(video: Tensor) -> Tensor:
    """With a colour's whole picture side by side, contiguous; itself where it is so already."""
    if video.is_contiguous():
        return video
    if video.stride(1) != 1:
        return video.contiguous()
    source = video.permute(0, 2, 3, 1).numpy()
    made = np.empty(tuple(video.shape), source.dtype)
    for frame, into in zip(source, made, strict=True):
        for plane, slot in zip(cv2.split(frame, list(into)), into, strict=True):
            _write(plane, slot)
    return torch.from_numpy(made)


def _write(made: np.ndarray, into: np.ndarray) -> None:
    """OpenCV writes where it is told if it likes the place."""
    if not np.may_share_memory(made, into):
        into[...] = made
