"""Draw what a model has learned, or how it did: one subcommand per picture."""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from mmengine.config import Config
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from gmscavp.datasets import ClipFormat, probe, read_clip
from gmscavp.datasets.encoding import write_clip
from gmscavp.engine.cli import run_tool
from gmscavp.engine.config import add_config_options, load_config
from gmscavp.engine.trained import load_model
from gmscavp.errors import UserError
from gmscavp.evaluation.projection import on_plane
from gmscavp.evaluation.report import read_curves
from gmscavp.inference.alignment import step_similarity
from gmscavp.pictures import (
    Curve,
    contact_sheet,
    film_strip,
    heat_overlay,
    overlay_limits,
    plane_picture,
    png_bytes,
    runs_picture,
    timeline_picture,
)
from gmscavp.registry import DATASETS, TRANSFORMS
from gmscavp.structures import Clip


def main() -> None:
    """Read the command line and draw the picture it names."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='`<picture> --help` explains the options of each.')
    pictures = parser.add_subparsers(title='pictures', dest='picture', metavar='<picture>', required=True)
    add_heatmap(pictures)
    add_similarity(pictures)
    add_embeddings(pictures)
    add_curves(pictures)
    arguments = parser.parse_args()
    if not arguments.out.parent.is_dir():
        parser.error(f'--out: folder {arguments.out.parent} does not exist.')
    if arguments.out.suffix.lower() not in arguments.endings:
        parser.error(f'--out: {arguments.out} must end in {" or ".join(arguments.endings)}.')
    arguments.draw(arguments)


def add_heatmap(pictures: 'argparse._SubParsersAction[argparse.ArgumentParser]') -> None:
    """`heatmap`: where the sound comes from."""
    parser = pictures.add_parser(
        'heatmap',
        help='where in the picture the sound comes from, over the frames of a file',
        description='Draw where in the picture the sound comes from: colour over the frames, the sound kept (.mp4), or '
        'a sheet of film strips (.png). For models with DenseHead, such as configs/dense_impacts.py.',
    )
    add_model(parser)
    add_file(parser)
    parser.add_argument(
        '--out', type=Path, default=Path('heatmap.mp4'), help='.mp4 or .png to write (default: heatmap.mp4)'
    )
    parser.add_argument('--size', type=positive, default=384, help='short side of the picture in pixels (default: 384)')
    parser.add_argument(
        '--fps', type=positive, default=25, help='most frames a second; the file may have fewer (default: 25)'
    )
    add_config_options(parser)
    parser.set_defaults(draw=draw_heatmap, endings=('.mp4', '.png'))


def add_similarity(pictures: 'argparse._SubParsersAction[argparse.ArgumentParser]') -> None:
    """`similarity`: how well picture and sound agree, moment by moment."""
    parser = pictures.add_parser(
        'similarity',
        help='how well picture and sound of a file agree over time, scale by scale',
        description='Draw the cosine of video and audio tokens over time, one line for every scale of the model.',
    )
    add_model(parser)
    add_file(parser)
    parser.add_argument('--audio', type=Path, metavar='FILE', help='take the sound of this file instead')
    parser.add_argument(
        '--out', type=Path, default=Path('similarity.png'), help='.png to write (default: similarity.png)'
    )
    add_config_options(parser)
    parser.set_defaults(draw=draw_similarity, endings=('.png',))


def add_embeddings(pictures: 'argparse._SubParsersAction[argparse.ArgumentParser]') -> None:
    """`embeddings`: the test set as points."""
    parser = pictures.add_parser(
        'embeddings',
        help='the clips of the test set as points on a plane, coloured by label',
        description='Draw the embeddings of the test set on their first two principal components, videos beside audios.',
    )
    add_model(parser)
    parser.add_argument(
        '--clips', type=positive, default=2000, help='at most so many clips, evenly over the test set (default: 2000)'
    )
    parser.add_argument(
        '--labels', type=positive, default=12, help='so many of the most frequent labels have a colour (default: 12)'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('embeddings.png'), help='.png to write (default: embeddings.png)'
    )
    add_config_options(parser)
    parser.set_defaults(draw=draw_embeddings, endings=('.png',))


def add_curves(pictures: 'argparse._SubParsersAction[argparse.ArgumentParser]') -> None:
    """`curves`: runs against each other."""
    parser = pictures.add_parser(
        'curves',
        help='training curves of several runs in the same panels',
        description='Draw the logged curves of one or more work directories, one panel for each curve that moves.',
    )
    parser.add_argument('runs', type=Path, nargs='+', metavar='RUN_DIR', help='work directory of a training run')
    parser.add_argument(
        '--only', nargs='+', default=[], metavar='NAME', help='curves whose names begin so, for example loss retrieval/'
    )
    parser.add_argument('--out', type=Path, default=Path('curves.png'), help='.png to write (default: curves.png)')
    parser.set_defaults(draw=draw_curves, endings=('.png',))


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a trained model."""
    parser.add_argument('config', help='config file the checkpoint was trained with')
    parser.add_argument('checkpoint', type=Path, help='.pth file, or a work directory (its newest checkpoint)')


def add_file(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a stretch of a file."""
    parser.add_argument('--video', type=Path, required=True, metavar='FILE', help='a video with sound')
    parser.add_argument(
        '--start', type=seconds, default=0.0, metavar='S', help='second from which on it is shown (default: 0)'
    )
    parser.add_argument(
        '--duration', type=seconds, default=60.0, metavar='S', help='at most so many seconds (default: 60)'
    )


def positive(text: str) -> int:
    """An integer from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1')
    return int(text)


def seconds(text: str) -> float:
    """A number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of seconds from 0')
    return value


@dataclass
class Viewer:
    """A trained model and the clips that it takes, as its config's test set reads them."""

    model: Any
    form: ClipFormat
    transforms: list[Any]

    @classmethod
    def of(cls, arguments: argparse.Namespace, config: Config) -> 'Viewer':
        """From the command line."""
        dataset = config.test_dataloader.dataset
        transforms = [TRANSFORMS.build(dict(transform)) for transform in dataset.get('transforms', ())]
        return cls(load_model(config, arguments.checkpoint), ClipFormat.of(dataset.clip), transforms)

    def starts(self, start_s: float, duration_s: float, *files: Path) -> list[float]:
        """Where the windows begin: as many whole ones beside each other as all files hold. UserError: not one."""
        lasts = min(probe(file).duration_s for file in files)
        length = self.form.duration_s
        count = int((min(lasts - start_s, duration_s) + 0.05) / length)
        if count < 1:
            raise UserError(
                f'{" and ".join(map(str, files))}: {lasts:.2f} s long, but the model takes windows of {length:g} s; choose '
                'another --start or --duration, or a longer file.'
            )
        return [start_s + k * length for k in range(count)]

    def read(self, file: Path, start_s: float) -> Clip:
        """A window as the model takes it."""
        form = self.form
        clip = read_clip(file, start_s, form.duration_s, form.fps, form.size, form.sample_rate, form.backend)
        for transform in self.transforms:
            clip = transform(clip, np.random.default_rng(0))
        return clip

    def tokens(self, video: Tensor, audio: Tensor) -> tuple[list[Tensor], list[Tensor], np.ndarray]:
        """Pyramids of a window's video (T, 3, H, W) and audio (S,), and its mel (F, M)."""
        with torch.inference_mode():
            batch = self.model.data_preprocessor({'video': video[None], 'audio': audio[None]}, False)
            v, a = self.model.encode_video(batch['video']), self.model.encode_audio(batch['mel'])
        return v, a, batch['mel'][0, 0].numpy()


def draw_heatmap(arguments: argparse.Namespace) -> None:
    """Heat of every window over its frames, on one scale of colours."""
    config = load_config(arguments.config, arguments.cfg_options)
    viewer = Viewer.of(arguments, config)
    if not hasattr(viewer.model.head, 'heat_map'):
        raise UserError(
            f'{arguments.config} trains {type(viewer.model.head).__name__}, which compares whole pictures; for heat maps '
            'train a model with DenseHead, for example configs/dense_impacts.py.'
        )
    starts = viewer.starts(arguments.start, arguments.duration, arguments.video)
    heats, mels = [], []
    for start_s in track(starts, 'listening'):
        clip = viewer.read(arguments.video, start_s)
        (v,), (a,), mel = viewer.tokens(clip.video, clip.audio)
        heats.append(viewer.model.head.heat_map(v, a)[0].numpy())
        mels.append(mel)
    limits = overlay_limits(np.stack(heats))
    info = probe(arguments.video)
    fps = min(info.fps, arguments.fps)
    shown = []
    for start_s, heat in zip(track(starts, 'drawing'), heats, strict=True):
        full = show_clip(viewer.form, arguments, start_s, fps, info.sample_rate)
        frames = cut_to(full.video.permute(0, 2, 3, 1).numpy(), clip.video.shape[2] / clip.video.shape[3])
        shown.append((heat_overlay(frames, heat, limits), full.audio.numpy()))
    if arguments.out.suffix.lower() == '.mp4':
        frames, sound = (np.concatenate(parts) for parts in zip(*shown, strict=True))
        write_clip(arguments.out, frames, fps, sound.clip(-1, 1), info.sample_rate)
    else:
        strips = [film_strip(frames, mel) for (frames, _), mel in zip(shown, mels, strict=True)]
        length = viewer.form.duration_s
        captions = [f'{arguments.video.name}   {start_s:.2f} to {start_s + length:.2f} s' for start_s in starts]
        arguments.out.write_bytes(png_bytes(contact_sheet(strips, captions, columns=1)))
    say_written(arguments, starts, viewer, f'colour from a cosine of {limits[0]:.2f} on, full at {limits[1]:.2f}')


def show_clip(form: ClipFormat, arguments: argparse.Namespace, start_s: float, fps: float, sample_rate: int) -> Clip:
    """The window as people look at it: more pixels, more frames, the file's own sample rate."""
    size: Any = arguments.size
    if not isinstance(form.size, int):
        factor = arguments.size / min(form.size)
        size = tuple(round(factor * side) for side in form.size)
    return read_clip(arguments.video, start_s, form.duration_s, fps, size, sample_rate, form.backend)


def cut_to(frames: np.ndarray, ratio: float) -> np.ndarray:
    """The middle of (T, H, W, 3) in the proportion height / width that the model sees, both even."""
    height, width = frames.shape[1:3]
    h, w = min(height, round(width * ratio)) // 2 * 2, min(width, round(height / ratio)) // 2 * 2
    top, left = (height - h) // 2, (width - w) // 2
    return np.ascontiguousarray(frames[:, top : top + h, left : left + w])


def draw_similarity(arguments: argparse.Namespace) -> None:
    """One line a scale under the film strip."""
    viewer = Viewer.of(arguments, load_config(arguments.config, arguments.cfg_options))
    sound = arguments.audio or arguments.video
    starts = viewer.starts(arguments.start, arguments.duration, *dict.fromkeys([arguments.video, sound]))
    frames, mels, values = [], [], []
    for start_s in track(starts, 'comparing'):
        clip = viewer.read(arguments.video, start_s)
        audio = viewer.read(sound, start_s).audio if arguments.audio else clip.audio
        v, a, mel = viewer.tokens(clip.video, audio)
        values.append([step_similarity(x[0], y[0]).numpy() for x, y in zip(v, a, strict=True)])
        frames.append(clip.video.permute(0, 2, 3, 1).numpy())
        mels.append(mel)
    scales = [np.concatenate(parts) for parts in zip(*values, strict=True)]
    length = viewer.form.duration_s
    rows = {f'scale {s}: {length * len(starts) / len(x):g} s a window': x for s, x in enumerate(scales)}
    strip = film_strip(np.concatenate(frames), np.concatenate(mels), columns=12, width=960)
    title = f'{arguments.video.name} from {starts[0]:g} s' + (f', sound of {sound.name}' if arguments.audio else '')
    picture = timeline_picture(strip, rows, length * len(starts), title)
    arguments.out.write_bytes(png_bytes(picture))
    means = ', '.join(f'scale {s} {x.mean():.3f}' for s, x in enumerate(scales))
    say_written(arguments, starts, viewer, f'mean cosine: {means}')


def draw_embeddings(arguments: argparse.Namespace) -> None:
    """Videos and audios of the test set, on axes of their own or on common ones where their widths agree."""
    config = load_config(arguments.config, arguments.cfg_options)
    model: Any = load_model(config, arguments.checkpoint)
    clip_ids, video, audio = [], [], []
    dataset = DATASETS.build(config.test_dataloader.dataset)
    for prediction in predictions(model, config, dataset, arguments.clips):
        if prediction['valid']:
            clip_ids.append(prediction['clip_id'])
            video.append(prediction['video_embedding'])
            audio.append(prediction['audio_embedding'])
    if len(clip_ids) < 2:
        raise UserError(f'{len(clip_ids)} clips of the test set could be read; a map needs two or more.')
    label_of = dict(zip(dataset.manifest.column('clip_id'), all_labels(dataset), strict=True))
    v, a = (torch.stack(rows) for rows in (video, audio))
    if v.shape == a.shape:
        # The two sides lie apart in many models; a common middle would show that and nothing else.
        points = list(on_plane(torch.cat([v - v.mean(0), a - a.mean(0)])).chunk(2))
    else:
        points = [on_plane(v), on_plane(a)]
    panels = {f'{side} ({len(clip_ids)} clips)': p.numpy() for side, p in zip(('video', 'audio'), points, strict=True)}
    picture = plane_picture(panels, [label_of[clip_id] for clip_id in clip_ids], arguments.labels)
    arguments.out.write_bytes(png_bytes(picture))
    print(f'{arguments.out}: {len(clip_ids)} of the {len(dataset):,} clips of the test set')


def predictions(model: Any, config: Config, dataset: Any, most: int) -> Iterator[dict[str, Any]]:
    """What the model says of at most so many clips, evenly over the data set."""
    count = min(most, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    settings = config.test_dataloader
    loader = DataLoader(Subset(dataset, chosen), settings.batch_size, num_workers=settings.get('num_workers', 0))
    for batch in track(loader, 'embedding'):
        with torch.inference_mode():
            yield from model(**model.data_preprocessor(batch, False), mode='predict')


def all_labels(dataset: Any) -> list[str]:
    """One text for each row of the manifest, '' where it has no label."""
    return [', '.join(dataset.manifest[row].labels or ()) for row in range(len(dataset))]


def draw_curves(arguments: argparse.Namespace) -> None:
    """Every curve of every run."""
    runs: dict[str, dict[str, Curve]] = {}
    for folder in arguments.runs:
        files = sorted(folder.glob('*/vis_data/scalars.json'))
        if not files:
            raise UserError(f'{folder} holds no logged curves; give the work directory of a training run.')
        name = folder.resolve().name
        runs[str(folder) if name in runs else name] = read_curves(files, arguments.only)
    names = moving_curves(runs)
    runs = {run: {name: curve for name, curve in curves.items() if name in names} for run, curves in runs.items()}
    arguments.out.write_bytes(png_bytes(runs_picture(runs)))
    print(f'{arguments.out}: {len(names)} curves of {len(runs)} runs')


def moving_curves(runs: dict[str, dict[str, Curve]]) -> set[str]:
    """The curves that are not one and the same value throughout, as the size of the test set and chance are."""
    values: dict[str, set[float]] = {}
    for curves in runs.values():
        for name, curve in curves.items():
            values.setdefault(name, set()).update(value for _, value in curve)
    return {name for name, found in values.items() if len(found) > 1}


def say_written(arguments: argparse.Namespace, starts: list[float], viewer: Viewer, what: str) -> None:
    """What was drawn of how much."""
    end_s = starts[-1] + viewer.form.duration_s
    print(f'{arguments.out}: {starts[0]:.2f} to {end_s:.2f} s of {probe(arguments.video).duration_s:.2f} s; {what}')


if __name__ == '__main__':
    run_tool(main)
