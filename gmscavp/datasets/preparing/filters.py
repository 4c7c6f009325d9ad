"""Which clips are of no use for learning what sound belongs to what picture."""

from dataclasses import dataclass

from gmscavp.datasets.preparing.probing import Measures, Trouble


@dataclass(frozen=True)
class Limits:
    """What a clip must have; each limit can be turned off with None.

    min_duration_s, max_duration_s: seconds. silent: least loudness, RMS in dB of full scale. still: least motion, grey
    levels. min_side: pixels of the shorter side.
    """

    min_duration_s: float | None = 4.0
    max_duration_s: float | None = None
    silent: float | None = -60.0
    still: float | None = 1.0
    min_side: int | None = None

    def cause(self, measured: Measures | Trouble) -> str | None:
        """Why a clip is dropped: 'silent', 'still', ... or what its file suffers from. None for a clip that is kept."""
        if isinstance(measured, Trouble):
            return measured.cause
        lasting_s = measured.duration_s
        # Frames do not end at whole seconds: a clip of 10 s may last 9.98.
        tests = (
            ('too short', self.min_duration_s is not None and lasting_s < self.min_duration_s - 0.1),
            ('too long', self.max_duration_s is not None and lasting_s > self.max_duration_s + 0.1),
            ('too small', self.min_side is not None and min(measured.width, measured.height) < self.min_side),
            ('silent', self.silent is not None and measured.loudness < self.silent),
            ('still', self.still is not None and measured.motion < self.still),
        )
        return next((cause for cause, is_so in tests if is_so), None)
