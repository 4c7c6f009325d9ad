"""What all vocoders share: the interface."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Vocoder(nn.Module, ABC):
    """From the log-mel back to sound.

    sample_rate, n_fft, hop, bands, f_min, f_max: of the log-mel (preprocessor.LogMel), filled in by the model.
    """

    @abstractmethod
    def forward(self, mel: Tensor) -> Tensor:
        """(B, 1, F, M) in [0, 1] -> (B, F * hop) waveform in [-1, 1]."""
