import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.visualization import LocalVisBackend

from gmscavp.errors import UserError
from gmscavp.evaluation.confusions import answers, hardest_confusions
from gmscavp.evaluation.report import ReportData, read_curves, write_report
from gmscavp.evaluation.retrieval import retrieval_ranks

VOID = {'meta', 'img', 'path', 'circle', 'polyline', 'polygon', 'br', 'link', 'input'}


class Page(HTMLParser):
    """What a page holds, and whether every tag that opens is closed."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ''
        self.source = file.read_text('utf-8')
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or '' for name, value in attrs if name in ('src', 'href', 'srcset', 'action')]
        if tag == 'img':
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if 'style' not in self.open:
            self.text += data


def clip(clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    return np.full((8, 16, 16, 3), 90, np.uint8), np.full((64, 20), 0.4, np.float32)


def figures(similarity: np.ndarray) -> dict[str, float]:
    total = len(similarity)
    found = {'retrieval/N': float(total), 'retrieval/skipped': 0.0}
    for k in (1, 5, 10):
        found[f'retrieval/chance_R{k}'] = 100 * min(k, total) / total
    for way, matrix in (('v2a', similarity), ('a2v', similarity.T)):
        ranks = np.array([(row >= row[i]).sum() for i, row in enumerate(matrix)])
        found |= {f'retrieval/{way}_R{k}': 100 * float((ranks <= k).mean()) for k in (1, 5, 10)}
        found |= {f'retrieval/{way}_MedR': float(np.median(ranks)), f'retrieval/{way}_MeanR': float(ranks.mean())}
    found['retrieval/mean_R1'] = (found['retrieval/v2a_R1'] + found['retrieval/a2v_R1']) / 2
    return found


def report_data(similarity: np.ndarray, **other) -> ReportData:
    total = len(similarity)
    parts = {
        'title': 'a run',
        'metrics': figures(similarity) if total else {},
        'similarity': similarity.astype(np.float32),
        'clip_ids': [f'clip-{i}' for i in range(total)],
        'curves': {},
        'bad_clips': {},
        'facts': {},
    }
    return ReportData(**parts | other)


def made_up(total: int = 12) -> np.ndarray:
    """Right, but that video 7 prefers audio 2 by far, video 4 audio 9 by less, and video 5 audio 0 by little."""
    similarity = 0.1 * np.random.default_rng(0).random((total, total)) + 0.5 * np.eye(total)
    similarity[7, 2], similarity[4, 9], similarity[5, 0] = 3.0, 2.0, 0.9
    return similarity


def write(tmp_path: Path, data: ReportData, show=clip, **other) -> Page:
    file = tmp_path / 'report.html'
    write_report(file, data, show, **other)
    assert [path.name for path in tmp_path.iterdir()] == ['report.html']
    return Page(file)


def test_hardest_confusions_come_first_and_in_order(tmp_path):
    page = write(tmp_path, report_data(made_up()))
    given_video = page.text[page.text.index('Given the video') : page.text.index('Given the audio')]
    assert re.findall(r'the video of (clip-\d+)', given_video) == ['clip-7', 'clip-4', 'clip-5']
    assert re.findall(r'the audio of (clip-\d+)', given_video) == ['clip-2', 'clip-9', 'clip-0']
    given_audio = page.text[page.text.index('Given the audio') : page.text.index('Right both ways')]
    assert re.findall(r'the audio of (clip-\d+)', given_audio)[0] == 'clip-2'
    assert 'score 3.000' in given_video


def test_no_more_confusions_than_asked_for(tmp_path):
    page = write(tmp_path, report_data(np.zeros((30, 30))), confusions=2)
    assert page.text.count('First instead') == 4


def test_answers_rank_as_the_metric_does():
    generator = torch.Generator().manual_seed(0)
    video, audio = (torch.nn.functional.normalize(torch.randn(40, 6, generator=generator)) for _ in range(2))
    video[10:14], audio[10:14] = video[10], audio[10]  # ties
    found = answers((video @ audio.T).numpy())
    assert [answer.rank for answer in found] == retrieval_ranks(video, audio).tolist()
    for answer in hardest_confusions(found, 40):
        assert answer.rank > 1
        assert answer.wrong != answer.query


def test_clips_without_a_score_are_neither_confused_nor_right():
    similarity = np.eye(4)
    similarity[1] = np.nan
    similarity[:, 1] = np.nan
    assert [answer.query for answer in answers(similarity)] == [0, 2, 3]
    assert hardest_confusions(answers(similarity), 9) == []


def test_every_metric_is_on_the_page(tmp_path):
    data = report_data(
        made_up(), bad_clips={'no audio track': ['a.mp4', 'b.mp4']}, facts={'seed': '17', 'config': 'x\ny'}
    )
    page = write(tmp_path, data)
    for name, value in data.metrics.items():
        assert name in page.text
        assert f'{value:.6g}' in page.text
    for words in ('17', 'x\ny', 'no audio track', 'a.mp4', 'b.mp4', '2 could not be used'):
        assert words in page.text
    assert 'among 12 clips' in page.text


def test_the_page_needs_nothing_but_itself(tmp_path):
    curves = {'loss': [(1, 2.0), (2, 1.0)], 'retrieval/mean_R1': [(2, 5.0)], 'lr': [(1, 0.1), (2, 0.2)]}
    page = write(tmp_path, report_data(made_up(), curves=curves))
    assert page.links
    assert all(link.startswith('data:image/') for link in page.links)
    assert not {'script', 'link', 'iframe', 'object', 'base'} & set(page.tags)
    assert 'url(' not in page.source
    assert '@import' not in page.source
    assert all(image['alt'] for image in page.images)
    assert page.tags.count('svg') == 3
    assert 'prefers-color-scheme: dark' in page.source
    assert 'width=device-width' in page.source


def test_hostile_names_are_only_text(tmp_path):
    hostile = '"><script>alert(1)</script><img src=http://x.y onerror=alert(1)>\udcff'
    data = report_data(
        made_up(),
        title=hostile,
        clip_ids=[f'{hostile}{i}' for i in range(12)],
        curves={hostile: [(1, 1.0)], f'loss{hostile}': [(1, 1.0)]},
        bad_clips={hostile: [hostile]},
        facts={hostile: hostile, 'config': f'{hostile}\n'},
        metrics=figures(made_up()) | {hostile: 1.0},
    )

    def gone(clip_id: str):
        raise UserError(f'{clip_id} is gone')

    page = write(tmp_path, data, gone)
    assert 'script' not in page.tags
    assert all(link.startswith('data:image/') for link in page.links)
    assert page.text.count('<script>alert(1)</script>') > 10


@pytest.mark.parametrize('total', [0, 1, 2, 3])
def test_few_clips_or_none(tmp_path, total):
    page = write(tmp_path, report_data(np.eye(total)))
    assert 'no wrong match beat a right one' in page.text
    assert 'nan' not in page.text
    assert 'left no log' in page.text
    if total == 1:
        assert 'says nothing about the model' in page.text


def test_metrics_may_be_missing_or_unknown(tmp_path):
    page = write(tmp_path, report_data(np.eye(3), metrics={'retrieval/mean_R1': float('nan'), 'other/FAD': 1.25}))
    assert 'Nothing was measured' in page.text
    assert '1.25' in page.text


def test_nothing_skipped_is_said_and_unnamed_ones_are_counted(tmp_path):
    assert re.search(r'Skipped clips\s+none', write(tmp_path, report_data(np.eye(3))).text)
    data = report_data(np.eye(3), bad_clips={'too short': ['x.mp4']})
    page = write(tmp_path, ReportData(**vars(data) | {'metrics': data.metrics | {'retrieval/skipped': 4.0}}))
    assert '4 could not be used' in page.text
    assert '3 of them without a file named' in page.text


def test_a_clip_that_is_gone_leaves_the_rest_of_the_page(tmp_path):
    def show(clip_id: str):
        if clip_id == 'clip-2':
            raise FileNotFoundError(f'{clip_id}: no such file')
        return clip(clip_id)

    page = write(tmp_path, report_data(made_up()), show)
    assert 'clip-2: no such file' in page.text
    assert len(page.images) > 5


def test_a_failure_leaves_the_former_page_and_no_rubbish(tmp_path):
    page = write(tmp_path, report_data(np.eye(3)))

    def broken(clip_id: str):
        raise RuntimeError('a fault of the code is not hidden')

    with pytest.raises(RuntimeError, match='fault of the code'):
        write(tmp_path, report_data(np.eye(3)), broken)
    with pytest.raises(ValueError, match='expected'):
        write_report(tmp_path / 'report.html', report_data(np.eye(3), clip_ids=['a']), clip)
    assert [path.name for path in tmp_path.iterdir()] == ['report.html']
    assert (tmp_path / 'report.html').read_text('utf-8') == page.source


def write_scalars(file: Path, *lines: dict | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text('\n'.join(texts), 'utf-8')
    return file


def test_curves_come_from_the_log_of_mmengine(tmp_path):
    file = write_scalars(
        tmp_path / 'scalars.json',
        {'lr': 0.1, 'loss': 3.0, 'time': 1.0, 'epoch': 1, 'iter': 10, 'memory': 5, 'step': 10},
        {'lr': 0.1, 'loss': float('nan'), 'iter': 20, 'step': 20},
        {'retrieval/mean_R1': 4.0, 'step': 1},  # logged by epoch: it stands at the training step
        {'retrieval/mean_R1': 6.0, 'step': 40},
        '{"lr": 0.1, "loss": 2.0, "it',
    )
    curves = read_curves(file)
    assert set(curves) == {'lr', 'loss', 'retrieval/mean_R1'}
    assert curves['lr'] == [(10, 0.1), (20, 0.1)]
    assert curves['retrieval/mean_R1'] == [(20, 4.0), (40, 6.0)]
    assert np.isnan(curves['loss'][1][1])
    assert set(read_curves(file, ['retrieval/', 'lr'])) == {'lr', 'retrieval/mean_R1'}


def test_what_mmengine_writes_is_read_back(tmp_path):
    backend = LocalVisBackend(str(tmp_path))
    for step in (1, 2, 3):
        backend.add_scalars({'loss': 1.0 / step, 'iter': step, 'epoch': 1}, step=step)
    backend.add_scalars({'retrieval/mean_R1': 50.0}, step=3)
    expected = {'loss': [(step, 1.0 / step) for step in (1, 2, 3)], 'retrieval/mean_R1': [(3, 50.0)]}
    assert read_curves(tmp_path / 'scalars.json') == expected


def test_a_resumed_run_is_one_curve(tmp_path):
    first = write_scalars(tmp_path / 'a.json', *({'loss': 1.0, 'iter': i, 'step': i} for i in (1, 2, 3)))
    second = write_scalars(tmp_path / 'b.json', *({'loss': 2.0, 'iter': i, 'step': i} for i in (3, 4)))
    assert read_curves([first, second])['loss'] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_lines_damaged_by_a_killed_run_do_not_hide_the_others(tmp_path):
    file = write_scalars(
        tmp_path / 's.json', {'loss': 1.0, 'step': 1}, '{"loss": 2.0, "st', '', {'loss': 3.0, 'step': 3}
    )
    assert read_curves(file)['loss'] == [(1, 1.0), (3, 3.0)]
    assert read_curves(write_scalars(tmp_path / 'empty.json')) == {}
