"""Windows lie inside the file; crops, flips and gains do what they say; masks stay in their bounds."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gmscavp.datasets.layout import in_planes, packed
from gmscavp.datasets.transforms import (
    CentreCrop,
    CentreWindow,
    EvenWindows,
    Flip,
    Gain,
    RandomWindow,
    ResizedCrop,
    SegmentWindows,
    SpecMask,
)
from gmscavp.errors import UserError
from gmscavp.structures import Clip


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def clip(height=20, width=30):
    ramp = torch.arange(width, dtype=torch.float32).expand(4, 3, height, width) * 255 / (width - 1)
    return Clip(ramp.round().to(torch.uint8), torch.linspace(-0.5, 0.5, 100))


def test_windows_lie_inside_and_cover_the_file(rng):
    starts = [RandomWindow()(2.0, 6.0, rng) for _ in range(500)]
    assert min(starts) >= 2
    assert max(starts) <= 6
    assert min(starts) < 2.1
    assert max(starts) > 5.9
    assert RandomWindow()(2.0, 2.0, rng) == 2.0
    assert CentreWindow()(2.0, 6.0, rng) == 4.0


def test_segments_are_drawn_as_cavp_draws_them(rng):
    """Of 10 s, three windows of 4 s at 4 frames/s start in [0, 8], [s_1 + 8, 16], [s_2 + 8, 24] frames, evenly."""
    drawn = np.array([SegmentWindows(3, fps=4)(0.0, 6.0, rng) for _ in range(6000)]) * 4
    assert (drawn == drawn.round()).all()
    first, second, third = drawn.T
    counts = np.bincount(first.astype(int), minlength=9)
    assert len(counts) == 9
    assert np.abs(counts / 6000 - 1 / 9).max() < 0.02
    for s in range(9):
        chosen = second[first == s]
        assert (chosen.min(), chosen.max()) == (s + 8, 16)
        assert np.abs(np.bincount(chosen.astype(int))[s + 8 :] / len(chosen) - 1 / (9 - s)).max() < 0.08
    for s in range(8, 17):
        chosen = third[second == s]
        assert (chosen.min(), chosen.max()) == (s + 8, 24)


def test_segments_keep_their_gap_wherever_the_file_begins(rng):
    for _ in range(200):
        starts = SegmentWindows(4, fps=8)(2.5, 2.5 + 4.1, rng)
        assert starts[0] >= 2.5
        assert starts[-1] <= 6.6
        # 32 whole frames of latest start, so a gap of 8 of them, one second.
        assert np.diff(starts).min() >= 1.0
    # 6 s that rounding made a little less are still 24 frames.
    assert max(SegmentWindows(3, 4)(0.1, 0.1 + 0.6 * 10, rng)[2] for _ in range(500)) == pytest.approx(6.1)


def test_even_windows_reach_from_end_to_end(rng):
    assert EvenWindows(4)(1.0, 7.0, rng) == [1, 3, 5, 7]
    assert EvenWindows(1)(1.0, 7.0, rng) == CentreWindow()(1.0, 7.0, rng) * np.ones(1)
    assert EvenWindows(3)(2.0, 2.0, rng) == [2, 2, 2]
    assert SegmentWindows(3)(2.0, 2.0, rng) == [2, 2, 2]
    for kind in (EvenWindows, SegmentWindows):
        with pytest.raises(UserError, match='segments'):
            kind(0)


def test_centre_crop_is_the_middle_square(rng):
    source = clip()
    cropped = CentreCrop(20)(clip(), rng).video
    torch.testing.assert_close(cropped, source.video[..., 5:25])


def test_resized_crop_gives_the_size_and_the_same_part_in_every_frame(rng):
    for _ in range(20):
        video = ResizedCrop(16)(clip(), rng).video
        assert video.shape == (4, 3, 16, 16)
        assert (video == video[:1]).all()
        assert video.dtype == torch.uint8


@pytest.mark.parametrize('layout', ['planes', 'packed', 'a part of packed pixels', 'columns first'])
@pytest.mark.parametrize('side', [16, 20, 48])
def test_a_crop_is_torchs_resizing_however_the_pixels_lie(side, layout):
    noise = torch.randint(256, (3, 3, 20, 30), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    video = laid_out(noise, layout)
    torch.testing.assert_close(video, noise)
    found = CentreCrop(side)(Clip(video, torch.zeros(1)), np.random.default_rng(0)).video
    assert found.is_contiguous()
    middle = noise[..., 5:25].contiguous()
    torch.testing.assert_close(
        found, F.interpolate(middle, (side, side), mode='bilinear', antialias=True), rtol=0, atol=0
    )


@pytest.mark.parametrize('layout', ['planes', 'packed', 'a part of packed pixels', 'columns first'])
@pytest.mark.parametrize('size', [(20, 30), (1, 1), (3, 1), (1, 3), (7, 3)])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_pixels_are_the_same_packed_and_in_planes(size, layout, dtype):
    noise = torch.randint(256, (3, 3, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    video = laid_out(noise, layout)
    for made in (packed(video), in_planes(video), in_planes(packed(video)), packed(in_planes(video))):
        torch.testing.assert_close(made, noise, rtol=0, atol=0)
    assert in_planes(video).is_contiguous()
    assert packed(video).permute(0, 2, 3, 1).flatten(-2).stride(-1) == 1
    torch.testing.assert_close(video, noise, rtol=0, atol=0)


def laid_out(video, layout):
    """The same values in other orders of memory."""
    if layout == 'columns first':
        return video.mT.contiguous().mT
    around = F.pad(video, (2, 3, 1, 4)) if layout.startswith('a part') else video
    pixels = around.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if layout != 'planes' else around
    return pixels[..., 1 : 1 + video.shape[2], 2 : 2 + video.shape[3]] if around is not video else pixels


def test_flip_mirrors_whole_clips(rng):
    source = clip()
    torch.testing.assert_close(Flip(prob=1.0)(clip(), rng).video, source.video.flip(-1))
    torch.testing.assert_close(Flip(prob=0.0)(clip(), rng).video, source.video)


def test_gain_is_in_decibels_and_stays_in_range(rng):
    source = clip()
    torch.testing.assert_close(Gain(6.0206, 6.0206)(clip(), rng).audio, source.audio * 2, rtol=1e-4, atol=1e-5)
    assert Gain(40, 40)(clip(), rng).audio.abs().max() == 1


def test_spec_mask_blanks_stretches_no_wider_than_asked():
    torch.manual_seed(0)
    mel = torch.rand(64, 1, 40, 20) + 1
    mel[:, :, 0, 0] = 0.0
    masked = SpecMask(time_masks=1, max_frames=6, band_masks=1, max_bands=4)(mel)
    blank = masked != mel
    assert (masked[blank] == 0).all()
    frames = blank[:, 0, 1:, 1:].all(dim=2).sum(dim=1)
    bands = blank[:, 0, 1:, 1:].all(dim=1).sum(dim=1)
    assert frames.max() <= 6
    assert bands.max() <= 4
    assert frames.float().mean() > 1
    assert bands.float().mean() > 0.5
    assert len({tuple(row) for row in blank[:, 0, :, 5].tolist()}) > 10, 'every clip has a mask of its own'
    off = SpecMask(time_masks=0, band_masks=0)(mel)
    torch.testing.assert_close(off, mel)
