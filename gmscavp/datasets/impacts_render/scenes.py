"""IMPACTS scenes: which objects there are, and when and how hard each of them hits the floor.

A scene is plain numbers, drawn from a seed. signals.py makes picture and sound of it.
Lengths are in pixels of the 64 x 64 picture (y points down), times in seconds, speeds in pixels per second.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import comb, sqrt

import numpy as np

from gmscavp.errors import UserError

SIDE = 64
FPS = 16
SAMPLE_RATE = 16_000
DURATION_S = 4.0
FRAMES = int(DURATION_S * FPS)
SAMPLES = int(DURATION_S * SAMPLE_RATE)

SHAPES = ('disc', 'square', 'triangle', 'diamond', 'ring')
COLOURS = ('red', 'yellow', 'green', 'cyan', 'blue', 'magenta')
BACKGROUNDS = ('plain', 'dusk', 'sand', 'brick', 'grass')

FLOOR_Y = 56.0
MIN_PATTERN_DISTANCE_S = 0.1
SIZE_RANGE = (5.5, 9.5)
GRAVITY_RANGE = (90.0, 260.0)
DROP_RANGE = (6.0, 34.0)
MAX_SPEED = sqrt(2 * GRAVITY_RANGE[1] * DROP_RANGE[1])


@dataclass(frozen=True)
class Difficulty:
    """How hard it is to tell the clips apart.

    objects: one to so many bounce in a scene. shapes, colours, backgrounds: how many of the known ones are used.
    silent_movers: objects that glide through the air without a sound. off_screen_sounds: impacts without a picture.
    ambient_db: level (RMS) of the ambient noise against full scale. camera_shake: RMS in pixels. pixel_noise:
    standard deviation in 8-bit steps. UserError: a value is out of range.
    """

    objects: int = 3
    shapes: int = len(SHAPES)
    colours: int = len(COLOURS)
    backgrounds: int = len(BACKGROUNDS)
    silent_movers: int = 1
    off_screen_sounds: int = 3
    ambient_db: float = -40.0
    camera_shake: float = 0.5
    pixel_noise: float = 2.0

    def __post_init__(self) -> None:
        ranges = {
            'objects': (1, 3),
            'shapes': (1, len(SHAPES)),
            'colours': (1, len(COLOURS)),
            'backgrounds': (1, len(BACKGROUNDS)),
            'silent_movers': (0, 8),
            'off_screen_sounds': (0, 16),
            'ambient_db': (-120, -30),
            'camera_shake': (0, 2),
            'pixel_noise': (0, 40),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f'Difficulty.{name} must be from {low} to {high}, got {getattr(self, name)}.')
        if self.objects > self.colours:
            raise UserError(
                f'Difficulty.colours={self.colours} is too few for {self.objects} objects: the objects of a scene '
                'differ in colour, so that each has its own pitch.'
            )

    @property
    def object_sets(self) -> int:
        """How many different sets of (shape, colour) a scene can hold."""
        return sum(comb(self.colours, n) * self.shapes**n for n in range(1, self.objects + 1))


@dataclass(frozen=True)
class Look:
    """shape sets the timbre, colour the pitch, size (half the height, pixels) the decay of an impact."""

    shape: str
    colour: str
    size: float


@dataclass(frozen=True)
class Impact:
    """A meeting with the floor: when, and how fast."""

    time_s: float
    speed: float


@dataclass(frozen=True)
class Bouncer:
    """An object that jumps up and down at x under gravity.

    flights: (start, upward speed) in time order, each ending where the next begins; the first starts before 0 s.
    """

    look: Look
    x: float
    gravity: float
    restitution: float
    flights: tuple[tuple[float, float], ...]

    @property
    def impacts(self) -> tuple[Impact, ...]:
        """The meetings with the floor within the clip. A flight lands as fast as it left."""
        landings = [Impact(after[0], before[1]) for before, after in zip(self.flights, self.flights[1:], strict=False)]
        return tuple(impact for impact in landings if 0 <= impact.time_s < DURATION_S)

    def height(self, times: np.ndarray) -> np.ndarray:
        """(N,) seconds -> (N,) pixels between the floor and the lowest point of the object."""
        starts, speeds = np.array(self.flights).T
        flight = np.searchsorted(starts, times, side='right') - 1
        elapsed = times - starts[flight]
        return np.maximum(0.0, speeds[flight] * elapsed - self.gravity / 2 * elapsed**2)


@dataclass(frozen=True)
class SilentMover:
    """An object that glides on a smooth closed path in the air: centre + swing * sin(2 pi rate_hz t + phase)."""

    look: Look
    centre: tuple[float, float]
    swing: tuple[float, float]
    rate_hz: tuple[float, float]
    phase: tuple[float, float]

    def position(self, times: np.ndarray) -> np.ndarray:
        """(N,) seconds -> (N, 2) x, y of the middle in pixels."""
        angle = 2 * np.pi * np.outer(times, self.rate_hz) + np.array(self.phase)
        return np.array(self.centre) + np.array(self.swing) * np.sin(angle)


@dataclass(frozen=True)
class OffScreenSound:
    """An impact that is heard and not seen: the sound that an object of this look would make."""

    look: Look
    time_s: float
    speed: float


@dataclass(frozen=True)
class Scene:
    """One clip as numbers. group: index of the temporal group within its split, None in semantic scenes.

    Within a temporal group everything is the same but flights, times of off-screen sounds and noise_seed.
    """

    clip_id: str
    split: str
    gallery: str
    group: int | None
    background: str
    bouncers: tuple[Bouncer, ...]
    movers: tuple[SilentMover, ...]
    off_screen: tuple[OffScreenSound, ...]
    ambient_db: float
    camera_shake: float
    pixel_noise: float
    noise_seed: int


def object_set(looks: Iterable[Look]) -> frozenset[tuple[str, str]]:
    """The (shape, colour) of every look: what tells semantic scenes apart."""
    return frozenset((look.shape, look.colour) for look in looks)


def pattern_distance(first: Sequence[Bouncer], second: Sequence[Bouncer]) -> float:
    """Seconds from an impact to the nearest one of the same object in the other scene, mean over both directions."""
    gaps = []
    for one, other in zip(first, second, strict=True):
        a = np.array([impact.time_s for impact in one.impacts])
        b = np.array([impact.time_s for impact in other.impacts])
        apart = np.abs(a[:, None] - b[None, :])
        gaps += [*apart.min(axis=1), *apart.min(axis=0)]
    return float(np.mean(gaps))


def draw_looks(rng: np.random.Generator, difficulty: Difficulty) -> tuple[Look, ...]:
    """One to `objects` looks of different colours, in random order."""
    colours = rng.permutation(difficulty.colours)[: rng.integers(1, difficulty.objects + 1)]
    return tuple(replace(_draw_look(rng, difficulty), colour=COLOURS[colour]) for colour in colours)


def draw_scene(
    rng: np.random.Generator,
    difficulty: Difficulty,
    looks: Sequence[Look],
    *,
    clip_id: str,
    split: str,
    gallery: str,
    group: int | None,
) -> Scene:
    """A scene with objects of these looks, from left to right, and everything else drawn at random."""
    cell = (SIDE - 4) / len(looks)
    bouncers = []
    for index, look in enumerate(looks):
        slack = max(0.0, cell / 2 - look.size)
        x = 2 + cell * (index + 0.5) + rng.uniform(-slack, slack)
        gravity, restitution = rng.uniform(*GRAVITY_RANGE), rng.uniform(0.55, 0.85)
        bouncers.append(Bouncer(look, float(x), gravity, restitution, _draw_flights(rng, gravity, restitution)))
    return Scene(
        clip_id=clip_id,
        split=split,
        gallery=gallery,
        group=group,
        background=BACKGROUNDS[rng.integers(difficulty.backgrounds)],
        bouncers=tuple(bouncers),
        movers=tuple(_draw_mover(rng, difficulty) for _ in range(difficulty.silent_movers)),
        off_screen=tuple(
            _draw_off_screen(rng, _draw_look(rng, difficulty)) for _ in range(difficulty.off_screen_sounds)
        ),
        ambient_db=difficulty.ambient_db,
        camera_shake=difficulty.camera_shake,
        pixel_noise=difficulty.pixel_noise,
        noise_seed=int(rng.integers(2**62)),
    )


def redraw_times(rng: np.random.Generator, scene: Scene, clip_id: str, others: Sequence[Scene]) -> Scene:
    """The same scene under another name with impacts at other times, MIN_PATTERN_DISTANCE_S or more from `others`."""
    for _ in range(1000):
        bouncers = tuple(
            replace(bouncer, flights=_draw_flights(rng, bouncer.gravity, bouncer.restitution))
            for bouncer in scene.bouncers
        )
        if all(pattern_distance(bouncers, other.bouncers) >= MIN_PATTERN_DISTANCE_S for other in others):
            break
    else:
        raise RuntimeError(f'no impact pattern far enough from {len(others)} others in 1000 draws')
    off_screen = tuple(_draw_off_screen(rng, sound.look) for sound in scene.off_screen)
    noise_seed = int(rng.integers(2**62))
    return replace(scene, clip_id=clip_id, bouncers=bouncers, off_screen=off_screen, noise_seed=noise_seed)


def _draw_look(rng: np.random.Generator, difficulty: Difficulty) -> Look:
    shape, colour = SHAPES[rng.integers(difficulty.shapes)], COLOURS[rng.integers(difficulty.colours)]
    return Look(shape, colour, float(rng.uniform(*SIZE_RANGE)))


def _draw_flights(rng: np.random.Generator, gravity: float, restitution: float) -> tuple[tuple[float, float], ...]:
    """Flights from before 0 s to past the end: each lower than the last, until the object is kicked up again."""
    lowest = sqrt(2 * gravity * DROP_RANGE[0])

    def kick() -> float:
        return sqrt(2 * gravity * rng.uniform(*DROP_RANGE))

    speed = kick()
    start = -rng.uniform() * 2 * speed / gravity
    flights = [(start, speed)]
    while start < DURATION_S:
        start += 2 * speed / gravity
        speed *= restitution
        # A kick now and then before the object has come to rest keeps the rhythm from being guessed.
        if speed < lowest or rng.uniform() < 0.2:
            speed = kick()
        flights.append((start, speed))
    return tuple(flights)


def _draw_mover(rng: np.random.Generator, difficulty: Difficulty) -> SilentMover:
    """A glide that stays in the picture and at least 4 pixels above the floor."""
    look = _draw_look(rng, difficulty)
    highest, lowest = look.size + 2, FLOOR_Y - look.size - 4
    swing = (rng.uniform(6, 18), rng.uniform(3, (lowest - highest) / 2))
    x = rng.uniform(look.size + swing[0], SIDE - look.size - swing[0])
    y = rng.uniform(highest + swing[1], lowest - swing[1])
    rate_hz = (rng.uniform(0.15, 0.45), rng.uniform(0.2, 0.7))
    phase = (rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi))
    return SilentMover(look, (x, y), swing, rate_hz, phase)


def _draw_off_screen(rng: np.random.Generator, look: Look) -> OffScreenSound:
    speed = rng.uniform(0.3, 1.0) * MAX_SPEED
    return OffScreenSound(look, float(rng.uniform(0, DURATION_S - 0.1)), float(speed))
