"""Where curves and pictures go; what cannot be written there is said once and stops no training."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import VISBACKENDS
from mmengine.visualization.vis_backend import BaseVisBackend


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

    def close(self) -> None:
        """Finish writing."""
        self._try('close')

    def _try(self, method: str, *args: Any, **kwargs: Any) -> None:
        for backend in list(self.backends):
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
