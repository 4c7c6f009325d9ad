"""Encoders as graphs that run without this package: torch.export and ONNX, held against what they were made from."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gmscavp.errors import UserError
from gmscavp.inference.loaded import Loaded, demand_embeddings
from gmscavp.inference.windows import Side
from gmscavp.models.heads import unit_tokens
from gmscavp.structures import Clip

Format = Literal['torch', 'onnx']
ENDINGS = {'torch': '.pt2', 'onnx': '.onnx'}
INSTALL = 'pip install -c requirements/constraints.txt "gmscavp[export]"'

# Clips of the example that is traced, and of the one that is compared: another number, so that it is seen to be free.
_TRACED, _COMPARED = 2, 3


class Exported(NamedTuple):
    """A written graph: what it takes and gives, by name and shape, and how far it is from eager, None if not compared."""

    file: Path
    takes: str
    gives: list[str]
    difference: float | None


class VideoEncoder(nn.Module):
    """(B, T, 3, H, W) uint8 -> fused (B, E), then unit tokens of every scale, (B, L_s, D), fine to coarse."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.pyramid, self.head = model.video_backbone, model.video_pyramid, model.head

    def forward(self, video: Tensor) -> tuple[Tensor, ...]:
        """As the class says."""
        tokens = self.pyramid(self.backbone(video.transpose(1, 2).float() / 127.5 - 1))
        return self.head.embed(tokens), *unit_tokens(tokens)


class AudioEncoder(nn.Module):
    """Waveform (B, S), or with `log_mel` None its mel (B, 1, F, bands) in [0, 1] -> as VideoEncoder."""

    def __init__(self, model: Any, log_mel: nn.Module | None) -> None:
        super().__init__()
        self.log_mel = log_mel
        self.backbone, self.pyramid, self.head = model.audio_backbone, model.audio_pyramid, model.head

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """As the class says."""
        tokens = self.pyramid(self.backbone(self.log_mel(audio) if self.log_mel else audio))
        return self.head.embed(tokens), *unit_tokens(tokens)


def export_encoder(run: Loaded, side: Side, form: Format, folder: Path) -> Exported:
    """Write folder/<side>_encoder.pt2 or .onnx, for batches of any size, and compare it with eager on a fixed batch.

    Pictures go in as uint8. Sound goes in as waveform in torch's form, and in ONNX as the log-mel, since a short-time
    Fourier transform is not exported there. UserError: what ONNX needs is not installed, or the model cannot be exported.
    """
    demand_embeddings(run)
    if form == 'onnx' and (missing := [x for x in ('onnx', 'onnxscript') if not importlib.util.find_spec(x)]):
        raise UserError(f'exporting to ONNX needs {" and ".join(missing)}; install with: {INSTALL}')
    encoder = _encoder(run, side, form).eval()
    example, other = (_batch(run, side, form, count) for count in (_TRACED, _COMPARED))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f'{side}_encoder{ENDINGS[form]}'
    # Traced on the CPU: the constants of a graph keep their device.
    where = next(encoder.parameters()).device
    encoder.cpu()
    try:
        with torch.no_grad():
            wanted = encoder(other)
            made = _write_torch(encoder, example, file) if form == 'torch' else _write_onnx(encoder, example, file)
            found = made(other)
    finally:
        encoder.to(where)
    names = ['fused', *(f'scale_{k}' for k in range(len(wanted) - 1))]
    shape = ', '.join(map(str, example.shape[1:]))
    takes = f'{_name(side, form)} (batch, {shape}) {str(example.dtype).removeprefix("torch.")}'
    gives = [f'{name} (batch, {", ".join(map(str, x.shape[1:]))})' for name, x in zip(names, wanted, strict=True)]
    return Exported(file, takes, gives, None if found is None else _apart(found, wanted))


def _write_torch(encoder: nn.Module, example: Tensor, file: Path) -> Any:
    try:
        program = torch.export.export(encoder, (example,), dynamic_shapes=({0: torch.export.Dim('batch')},))
    # What cannot be traced raises types of every depth of the compiler.
    except Exception as error:
        raise _cannot(encoder, error) from error
    torch.export.save(program, file)
    return torch.export.load(file).module()


def _write_onnx(encoder: nn.Module, example: Tensor, file: Path) -> Any:
    """What runs the file, which gives None where onnxruntime is not installed."""
    count = len(encoder(example))
    names = ['fused', *(f'scale_{k}' for k in range(count - 1))]
    try:
        program = torch.onnx.export(
            encoder,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim('batch')},),
            input_names=['clips'],
            output_names=names,
            verbose=False,
        )
    # As above.
    except Exception as error:
        raise _cannot(encoder, error) from error
    assert program is not None
    program.save(str(file))
    if not importlib.util.find_spec('onnxruntime'):
        return lambda clips: None
    runtime = importlib.import_module('onnxruntime')
    session = runtime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    return lambda clips: [torch.from_numpy(x) for x in session.run(None, {'clips': clips.numpy()})]


def _encoder(run: Loaded, side: Side, form: Format) -> nn.Module:
    if side == 'video':
        return VideoEncoder(run.model)
    return AudioEncoder(run.model, run.model.data_preprocessor.log_mel if form == 'torch' else None)


def _name(side: Side, form: Format) -> str:
    return {'video': 'video', 'audio': 'waveform' if form == 'torch' else 'log-mel'}[side]


def _batch(run: Loaded, side: Side, form: Format, count: int) -> Tensor:
    """The same noise always, as the encoder takes it."""
    rng, clip = np.random.default_rng(0), run.clip
    if side == 'video':
        size = (clip.size, clip.size) if isinstance(clip.size, int) else clip.size
        frames = torch.from_numpy(rng.integers(0, 256, (clip.frames, 3, *size), dtype=np.uint8))
        shown = Clip(frames, torch.zeros(1))
        for transform in run.transforms:
            shown = transform(shown, np.random.default_rng(0))
        return torch.stack([shown.video.roll(k, 0) for k in range(count)])
    waves = torch.from_numpy(rng.uniform(-0.5, 0.5, (count, clip.samples)).astype(np.float32))
    if form == 'torch':
        return waves
    with torch.no_grad():
        return run.model.data_preprocessor.log_mel(waves.to(run.device)).cpu()


def _apart(found: Any, wanted: tuple[Tensor, ...]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(found, wanted, strict=True))


def _cannot(encoder: nn.Module, error: Exception) -> UserError:
    said = str(error).strip().splitlines()
    return UserError(
        f'{type(encoder).__name__} cannot be exported ({type(error).__name__}: {said[0] if said else ""}); try the other '
        '--format, or a model without the part that it names.'
    )
