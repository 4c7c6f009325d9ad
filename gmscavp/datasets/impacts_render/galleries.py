"""IMPACTS galleries: which scenes are told apart from which, each fixed by its seed.

- semantic: all scenes differ in their set of (shape, colour), as long as there are new sets (Difficulty.object_sets);
- temporal: groups of 8 scenes with the same objects, place and ambience; only times and speeds of impacts differ;
- mixed of N: the first N - N // 2 semantic and the first N // 2 temporal scenes.
"""

import base64
import hashlib

import numpy as np

from gmscavp.datasets.impacts_render.scenes import Difficulty, Scene, draw_looks, draw_scene, object_set, redraw_times
from gmscavp.errors import UserError

GALLERIES = ('semantic', 'temporal', 'mixed')
SPLITS = ('train', 'test')
GROUP_SIZE = 8


def make_scenes(
    seed: int, clips: int, gallery: str, difficulty: Difficulty | None = None, *, split: str = 'test'
) -> list[Scene]:
    """Draw the scenes of a gallery: 'semantic', 'temporal' or 'mixed' (see above).

    A shorter gallery is the beginning of a longer one. The splits ('train', 'test') share no stream of random numbers.
    UserError: an unknown gallery or split, or a negative seed or number.
    """
    if gallery not in GALLERIES or split not in SPLITS:
        raise UserError(f'gallery must be one of {", ".join(GALLERIES)} and split train or test: {gallery}, {split}.')
    if seed < 0 or clips < 0:
        raise UserError(f'The seed and the number of clips must not be negative, got {seed} and {clips}.')
    difficulty = difficulty or Difficulty()
    if gallery == 'semantic':
        return _semantic_scenes(seed, clips, difficulty, split)
    if gallery == 'temporal':
        return _temporal_scenes(seed, clips, difficulty, split)
    semantic = _semantic_scenes(seed, clips - clips // 2, difficulty, split)
    return semantic + _temporal_scenes(seed, clips // 2, difficulty, split)


def _semantic_scenes(seed: int, clips: int, difficulty: Difficulty, split: str) -> list[Scene]:
    scenes: list[Scene] = []
    used: set[frozenset[tuple[str, str]]] = set()
    for index in range(clips):
        clip_id = _clip_id(seed, split, 'semantic', index)
        rng = _stream(seed, split, 'semantic', index)
        scenes.append(_new_scene(rng, difficulty, used, clip_id, split, 'semantic', None))
    return scenes


def _temporal_scenes(seed: int, clips: int, difficulty: Difficulty, split: str) -> list[Scene]:
    scenes: list[Scene] = []
    used: set[frozenset[tuple[str, str]]] = set()
    for group, start in enumerate(range(0, clips, GROUP_SIZE)):
        rng = _stream(seed, split, 'temporal', group)
        first = _new_scene(rng, difficulty, used, _clip_id(seed, split, 'temporal', start), split, 'temporal', group)
        members = [first]
        for index in range(start + 1, min(clips, start + GROUP_SIZE)):
            members.append(redraw_times(rng, first, _clip_id(seed, split, 'temporal', index), members))
        scenes += members
    return scenes


def _new_scene(
    rng: np.random.Generator,
    difficulty: Difficulty,
    used: set[frozenset[tuple[str, str]]],
    clip_id: str,
    split: str,
    gallery: str,
    group: int | None,
) -> Scene:
    """A scene whose set of objects is not in `used`, and is added to it; `used` starts anew when every set is in it."""
    if len(used) >= difficulty.object_sets:
        used.clear()
    looks = draw_looks(rng, difficulty)
    while object_set(looks) in used:
        looks = draw_looks(rng, difficulty)
    used.add(object_set(looks))
    return draw_scene(rng, difficulty, looks, clip_id=clip_id, split=split, gallery=gallery, group=group)


def _stream(seed: int, split: str, gallery: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), GALLERIES.index(gallery), index])


def _clip_id(seed: int, split: str, gallery: str, index: int) -> str:
    """The stem of a VGGSound file: eleven characters as in a video id, and the start in seconds as six digits."""
    digest = hashlib.sha256(f'impacts/{seed}/{split}/{gallery}/{index}'.encode()).digest()
    # A name that begins with '-' would look like an option to command-line tools.
    return base64.urlsafe_b64encode(digest).decode().lstrip('-')[:11] + '_000000'
