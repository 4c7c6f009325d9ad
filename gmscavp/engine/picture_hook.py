"""What TensorBoard shows besides curves: similarities, mels, sounds and videos of the clips of validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from gmscavp.distributed import world
from gmscavp.engine.boards import media_boards
from gmscavp.engine.hooks import bare_model
from gmscavp.pictures import PICTURE_CELLS, mel_picture, similarity_picture
from gmscavp.registry import HOOKS


@HOOKS.register_module()
class PictureHook(Hook):
    """Shows, after every validation, the similarity matrix and the mels of the first clips, and what a generator made.

    The clips themselves, which stay the same, are shown once, as video and sound. clips: how many. Similarities need a
    metric that keeps the gallery it compared (RetrievalMetric), what was made one that keeps examples (GenerationMetric).
    """

    def __init__(self, clips: int = 4) -> None:
        self.clips = clips
        self._mels: list[Any] = []
        self._shown = False

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Keep the mels of the first batch, and show its clips."""
        if batch_idx or world()[0] != 0:
            return
        preprocessor = bare_model(runner).data_preprocessor
        with torch.no_grad():
            mel = preprocessor(data_batch, False)['mel']
        self._mels = list(mel[: self.clips, 0].float().cpu().numpy())
        if not self._shown:
            self._show_clips(runner, data_batch, preprocessor.log_mel.settings['sample_rate'])
            self._shown = True

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Draw."""
        if world()[0] != 0:
            return
        step = runner.iter
        for number, mel in enumerate(self._mels):
            runner.visualizer.add_image(f'mel_{number}', mel_picture(mel), step)
        for metric in runner.val_evaluator.metrics:
            gallery = getattr(metric, 'gallery', None)
            if gallery is not None:
                matrix = gallery.similarity(PICTURE_CELLS)
                picture = similarity_picture(matrix, f'similarity at step {step}', clips=len(gallery.clip_ids))
                runner.visualizer.add_image('similarity', picture, step)
            self._show_examples(runner, getattr(metric, 'examples', ())[: self.clips])

    def _show_clips(self, runner: Runner, batch: Any, rate: int) -> None:
        # Segments of a video are clips like any other.
        videos, sounds = (batch[name].flatten(0, -1 - own) for name, own in (('video', 4), ('audio', 1)))
        for number, (video, sound) in enumerate(zip(videos[: self.clips], sounds[: self.clips], strict=True)):
            frames = video.permute(0, 2, 3, 1).cpu().numpy()
            for board in media_boards(runner.visualizer):
                board.add_video(f'clip_{number}', frames, len(frames) * rate / len(sound), runner.iter)
                board.add_sound(f'clip_{number}', sound.float().cpu().numpy(), rate, runner.iter)

    def _show_examples(self, runner: Runner, examples: Sequence[Any]) -> None:
        """What a generator made: sound where it has a mel, else frames."""
        for number, example in enumerate(examples):
            for board in media_boards(runner.visualizer):
                if example.mel is None:
                    board.add_video(f'generated_{number}', example.generated, example.rate, runner.iter)
                else:
                    board.add_sound(f'generated_{number}', example.generated, int(example.rate), runner.iter)
            if example.mel is not None:
                picture = mel_picture(example.mel.reshape(-1, example.mel.shape[-1]))
                runner.visualizer.add_image(f'generated_mel_{number}', picture, runner.iter)
