"""A stand-in generator: what it makes is a plain function of what it is given, so that a test can tell what it saw."""

import torch
from mmengine.model import BaseModel

from gmscavp.models import ClipPreprocessor, Sampling
from gmscavp.models.samplers import Euler
from gmscavp.registry import MODELS

RATE, HOP, BANDS = 16_000, 250, 8
CLIP = dict(duration_s=4.0, fps=4, size=16, sample_rate=RATE)


@MODELS.register_module(force=True)
class StandInGenerator(BaseModel):
    """v2a: sound as loud as the picture is bright, moment by moment, over a whisper drawn from the seed.

    a2v: a picture as bright as the mel, with one pixel drawn from the seed. `seen` keeps the shapes that were given.
    """

    def __init__(self, direction='v2a', window_s=4.0):
        super().__init__(ClipPreprocessor(sample_rate=RATE, hop=HOP, bands=BANDS))
        self.direction, self.window_s = direction, window_s
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.sampling = Sampling(steps=3)
        self.sampler = Euler()
        self.seen = []

    def forward(self):
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, signal, settings, noise=None, progress=None, samples=1):
        self.seen.append((tuple(signal.shape), settings))
        for step in range(settings.steps):
            if progress:
                progress(step + 1, settings.steps)
        draws = [torch.Generator().manual_seed(settings.seed + k) for k in range(samples)]
        if self.direction == 'v2a':
            assert signal.shape[2] >= self.window_s * CLIP['fps']
            bright = (signal.mean(dim=(1, 3, 4)) + 1) / 2
            mel = bright.repeat(samples, 1).repeat_interleave(RATE // CLIP['fps'] // HOP, dim=1)
            return self.scale * mel[:, None, :, None].expand(-1, -1, -1, BANDS) + 0 * settings.guidance
        assert signal.shape[2] >= self.window_s * RATE / HOP
        per_frame = RATE // CLIP['fps'] // HOP
        bright = signal.mean(dim=(1, 3)).unflatten(1, (-1, per_frame)).mean(2) * 2 - 1
        video = bright[:, None, :, None, None].repeat(samples, 3, 1, CLIP['size'], CLIP['size'])
        for one, draw in zip(video, draws, strict=True):
            one[..., 0, 0] = torch.rand(1, generator=draw)
        return video

    def solver(self, settings):
        return self.sampler

    def sound(self, mel):
        # At random, as a vocoder may begin: only the caller's seed makes it repeatable.
        whisper = 0.01 * torch.rand(len(mel), mel.shape[2] * HOP)
        loudness = 0.8 * mel[:, 0, :, 0].repeat_interleave(HOP, dim=1)
        return loudness * torch.sin(2 * torch.pi * 1000 / RATE * torch.arange(loudness.shape[1])) + whisper


def write_run(folder, direction='v2a', name='run', clip=CLIP):
    """A config and a checkpoint of the stand-in: their two paths."""
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    crop = "[dict(type='CentreCrop', size=16)]"
    config.write_text(
        f"model = dict(type='StandInGenerator', direction='{direction}')\n"
        f"test_dataloader = dict(dataset=dict(type='VideoFolder', data_root='x', clip={clip},\n"
        f"    window=dict(type='CentreWindow'), transforms={crop}))\n"
    )
    torch.save({'state_dict': StandInGenerator(direction).state_dict()}, checkpoint)
    return config, checkpoint
