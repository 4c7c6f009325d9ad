"""Checkpoints are read without running what is in them; torchaudio is whole where its extension is not."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.logging import HistoryBuffer
from yapf.yapflib import yapf_api

from gmscavp import compat
from gmscavp.compat import load_checkpoint_file, torchaudio
from gmscavp.errors import UserError
from gmscavp.models.preprocessor import LogMel
from tests.hostile import Payload


def test_a_runs_own_checkpoint_comes_back_with_its_histories(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    history.update(6.0)
    state = {'message_hub': {'loss': history}, 'weight': torch.arange(3), 'meta': {'seed': 1, 'lr': np.float64(0.5)}}
    torch.save(state, tmp_path / 'c.pth')
    loaded = load_checkpoint_file(tmp_path / 'c.pth')
    assert loaded['message_hub']['loss'].mean() == pytest.approx(3.0)
    assert loaded['message_hub']['loss'].current() == 6.0
    assert loaded['meta'] == {'seed': 1, 'lr': 0.5}
    assert torch.equal(loaded['weight'], torch.arange(3))


class ReachOut:
    """Asks the stand-in for getattr for something that is no statistic."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


@pytest.mark.parametrize('kind', ['payload', 'getattr'])
def test_code_in_a_checkpoint_is_not_run(tmp_path, kind):
    mark = tmp_path / 'mark'
    hostile = Payload(mark) if kind == 'payload' else ReachOut()
    torch.save({'state_dict': {}, 'x': hostile}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match=r'refused|no training run writes'):
        load_checkpoint_file(tmp_path / 'evil.pth')
    assert not mark.exists()


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        load_checkpoint_file(tmp_path / 'none.pth')
    torch.save({'w': torch.zeros(1000)}, tmp_path / 'c.pth')
    whole = (tmp_path / 'c.pth').read_bytes()
    for name, content in {'cut': whole[:2000], 'empty': b'', 'text': b'hello', 'tail': whole[-2000:]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r'is damaged|is refused'):
            load_checkpoint_file(tmp_path / name)
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(UserError, match='holds a list'):
        load_checkpoint_file(tmp_path / 'list.pth')


def test_torchaudio_resamples_and_inverts_a_mel():
    time = torch.arange(8000) / 8000
    up = torchaudio.transforms.Resample(8000, 16000)(torch.sin(2 * torch.pi * 440 * time))
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    torch.testing.assert_close(up[200:-200], expected[200:-200], atol=2e-2, rtol=0)
    assert torchaudio.transforms.GriffinLim(n_fft=256, n_iter=2)(torch.rand(129, 20)).ndim == 1


def test_log_mel_matches_the_released_code(real_data):
    golden = np.load(real_data / 'oracles/metrics.npz')
    log_mel = LogMel(16000, n_fft=1024, hop=250, bands=128, f_min=125, f_max=7600)
    mel = log_mel(torch.from_numpy(golden['waveform']).float()[None])[0, 0]
    expected = torch.from_numpy(golden['mel'])[:, :256].T.float()
    torch.testing.assert_close(mel, expected, atol=1e-3, rtol=0)


def test_log_mel_shows_a_tone_at_its_band_and_silence_at_the_floor():
    log_mel = LogMel(16000, n_fft=1024, hop=250, bands=64, f_min=125, f_max=7600)
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(64000) / 16000)[None]
    mel = log_mel(tone)
    assert mel.shape == (1, 1, 256, 64)
    centres = (
        torchaudio.functional.melscale_fbanks(513, 125, 7600, 64, 16000, 'slaney', 'slaney').argmax(0) * 16000 / 1024
    )
    loudest = mel[0, 0, 50:200].mean(0).argmax()
    assert abs(centres[loudest] - 1000) < 80
    assert log_mel(torch.zeros(1, 64000)).max() == 0


def test_a_config_is_formatted_once_and_as_before(monkeypatch):
    asked = []

    def format_code(text, **settings):
        asked.append(text)
        return yapf_api.FormatCode(text, **settings)

    monkeypatch.setattr(mmengine_config, 'FormatCode', compat._formatting_once(format_code))
    config = Config(dict(model=dict(width=[1] * 40, name='x')))
    texts = [config.pretty_text for _ in range(3)]
    config.model.width = 2
    texts.append(config.pretty_text)
    assert len(asked) == 2
    assert len({*texts[:3]}) == 1
    assert 'width=2' in texts[3].replace(' ', '')
    monkeypatch.setattr(mmengine_config, 'FormatCode', yapf_api.FormatCode)
    assert config.pretty_text == texts[3]


def test_of_texts_that_were_formatted_the_oldest_is_forgotten():
    asked = []

    def format_code(text):
        asked.append(text)
        return text, False

    once = compat._formatting_once(format_code)
    texts = [str(number) for number in range(compat._FORMATTED_AT_ONCE + 1)]
    for text in (*texts, *reversed(texts)):
        assert once(text) == (text, False)
    assert asked == [*texts, texts[0]]
