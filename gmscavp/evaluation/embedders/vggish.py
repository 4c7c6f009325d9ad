"""VGGish as judge: the features of the Frechet audio distance (FAD)."""

import torch
from torch import Tensor, nn

from gmscavp import compat
from gmscavp.errors import UserError
from gmscavp.evaluation.embedders.base import Embedder, at_rate, released_weights
from gmscavp.registry import EMBEDDERS

SAMPLE_RATE = 16000
# Samples of a frame, from frame to frame, and of the transform; frames and mel bands of a window.
FRAME, HOP, N_FFT = 400, 160, 512
WINDOW, BANDS = 96, 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
_LAYERS = (64, 'pool', 128, 'pool', 256, 256, 'pool', 512, 512, 'pool')
_WHAT = 'vggish-10086976.pth of torchvggish (github.com/harritaylor/torchvggish, releases)'


@EMBEDDERS.register_module()
class VGGish(Embedder):
    """128 features of every 0.96 s, without class scores. Hershey et al. 2017; as FAD by Kilgour et al. 2019.

    weights: the file of torchvggish as it is. activation: apply the ReLU after the last layer; without it, and without the
    principal components of the released post-processing, is how FAD is mostly computed.
    """

    def __init__(self, weights: str, activation: bool = False) -> None:
        released = released_weights(weights, 'VGGish', _WHAT)
        self.network = _network(activation)
        own = {name: value for name, value in released.items() if not name.startswith('pproc.')}
        said = compat.differences(self.network.state_dict(), own)
        if said:
            raise UserError(f'{weights} is no VGGish: {said}; give {_WHAT}.')
        self.network.load_state_dict(own)
        self.network.requires_grad_(False).eval()
        self.filters = mel_filters()

    def to(self, device: str | torch.device) -> None:
        """Move the network."""
        self.network.to(device)
        self.filters = self.filters.to(device)

    @torch.no_grad()
    def __call__(self, waveform: Tensor, sample_rate: int) -> tuple[Tensor, None]:
        """(B, S) -> features (B, W, 128) of W windows in succession; what is left at the end does not count."""
        least = (WINDOW - 1) * HOP + FRAME
        sound = at_rate(waveform.to(self.filters.device), sample_rate, SAMPLE_RATE, least)
        mel = log_mel(sound, self.filters)
        count = mel.shape[1] // WINDOW
        windows = mel[:, : count * WINDOW].reshape(-1, 1, WINDOW, BANDS)
        x = self.network['features'](windows)
        # As its TensorFlow original lays them out: time, frequency, channels.
        x = self.network['embeddings'](x.permute(0, 2, 3, 1).flatten(1))
        return x.reshape(len(sound), count, -1).float().cpu(), None


def log_mel(waveform: Tensor, filters: Tensor) -> Tensor:
    """(B, S) at 16 kHz -> (B, F, bands): ln(mel + 0.01) of magnitudes, frames without padding."""
    frames = waveform.unfold(-1, FRAME, HOP) * torch.hann_window(FRAME, device=waveform.device)
    return (torch.fft.rfft(frames, N_FFT).abs() @ filters + LOG_OFFSET).log()


def mel_filters() -> Tensor:
    """(257, 64): triangles that are straight in mel (HTK's 1127 ln(1 + f / 700)), the lowest bin left out."""

    def mel(frequency: Tensor) -> Tensor:
        return 1127 * torch.log1p(frequency / 700)

    places = mel(torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / N_FFT)[:, None]
    low, high = mel(torch.tensor([LOWEST_HZ, HIGHEST_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)
    rising = (places - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[0] = 0
    return filters.float()


def _network(activation: bool) -> nn.ModuleDict:
    """The layers under the names of torchvggish."""
    layers: list[nn.Module] = []
    channels = 1
    for width in _LAYERS:
        if isinstance(width, int):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    last = [nn.ReLU()] if activation else []
    dense = [nn.Linear(512 * 6 * 4, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128), *last]
    return nn.ModuleDict({'features': nn.Sequential(*layers), 'embeddings': nn.Sequential(*dense)})
