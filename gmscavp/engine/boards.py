"""Where curves and pictures go; what cannot be written there is said once and stops no training."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import VISBACKENDS
from mmengine.visualization import TensorboardVisBackend, Visualizer
from mmengine.visualization.vis_backend import BaseVisBackend
from tensorboard.compat.proto.summary_pb2 import Summary

from gmscavp.pictures import gif_bytes


class MediaBoard(TensorboardVisBackend):
    """TensorBoard with sounds and videos; of these it plays animated pictures, without sound."""

    def add_sound(self, name: str, waveform: np.ndarray, sample_rate: int, step: int = 0) -> None:
        """(S,) in [-1, 1]; what is not finite is silent."""
        whole = torch.from_numpy(np.nan_to_num(waveform, posinf=0.0, neginf=0.0)).clamp(-1, 1)
        self.experiment.add_audio(name, whole[None], step, sample_rate)

    def add_video(self, name: str, frames: np.ndarray, fps: float, step: int = 0) -> None:
        """(T, H, W, 3) uint8."""
        height, width = frames.shape[1:3]
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif_bytes(frames, fps))
        # SummaryWriter's own takes one more library, for the same.
        writer = self.experiment._get_file_writer()
        writer.add_summary(Summary(value=[Summary.Value(tag=name, image=picture)]), step)


def media_boards(visualizer: Visualizer) -> list[Any]:
    """The backends of a run that take sounds and videos."""
    return [board for board in visualizer._vis_backends.values() if hasattr(board, 'add_video')]


class PatientVisBackend(BaseVisBackend):
    """Other backends, each left alone for good once its folder does not take what it writes.

    backends: configs of the others, for example dict(type=TensorboardVisBackend). save_dir: their folder where they name
    none, filled in by the runner.
    """

    def __init__(self, backends: Sequence[Mapping[str, Any]], save_dir: str = '.') -> None:
        super().__init__(save_dir)
        self.backends: list[Any] = [VISBACKENDS.build({'save_dir': save_dir, **backend}) for backend in backends]

    @property
    def experiment(self) -> Any:
        """What the first backend writes to, None where all are given up."""
        return self.backends[0].experiment if self.backends else None

    def _init_env(self) -> None:
        # The other backends open their files at the first write, which is where an error is caught.
        pass

    def add_config(self, config: Any, **kwargs: Any) -> None:
        """Write the config."""
        self._try('add_config', config, **kwargs)

    def add_graph(self, model: Any, data_batch: Any, **kwargs: Any) -> None:
        """Write the model's graph."""
        self._try('add_graph', model, data_batch, **kwargs)

    def add_image(self, name: str, image: Any, step: int = 0, **kwargs: Any) -> None:
        """Write a picture (H, W, 3)."""
        self._try('add_image', name, image, step, **kwargs)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write a number."""
        self._try('add_scalar', name, value, step, **kwargs)

    def add_scalars(
        self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write several numbers."""
        self._try('add_scalars', scalar_dict, step, file_path, **kwargs)

    def add_sound(self, name: str, waveform: np.ndarray, sample_rate: int, step: int = 0) -> None:
        """Write a sound (S,) to the backends that take one."""
        self._try('add_sound', name, waveform, sample_rate, step)

    def add_video(self, name: str, frames: np.ndarray, fps: float, step: int = 0) -> None:
        """Write a video (T, H, W, 3) to the backends that take one."""
        self._try('add_video', name, frames, fps, step)

    def close(self) -> None:
        """Finish writing."""
        self._try('close')

    def _try(self, method: str, *args: Any, **kwargs: Any) -> None:
        for backend in [backend for backend in self.backends if hasattr(backend, method)]:
            try:
                getattr(backend, method)(*args, **kwargs)
            except OSError as error:
                self.backends.remove(backend)
                print_log(
                    f'{type(backend).__name__} cannot write to {backend._save_dir} ({error.strerror or error}): training '
                    'goes on without its curves and pictures; checkpoints are not concerned.',
                    logger='current',
                    level=logging.WARNING,
                )
