"""The classifier of clips: where a pitch is, what it learns, its labels, and its metric."""

import pytest
import torch

from gmscavp.datasets.impacts_render import render_impacts
from gmscavp.errors import UserError
from gmscavp.evaluation.classification_metric import ClassificationMetric
from gmscavp.models import ClipClassifier
from gmscavp.registry import DATASETS

RATE = 16_000
SETTINGS = dict(
    data_preprocessor=dict(type='ClipPreprocessor', sample_rate=RATE, bands=32),
    audio_backbone=dict(type='TinyAudioNet', width=8, strides=[(2, 2)]),
    classes=['low', 'high', 'never'],
    bands=4,
    width=16,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tones(count, generator):
    """One short tone somewhere in a second of silence, low or high or both, and which."""
    labels = torch.randint(2, (count, 2), generator=generator).float()
    since = torch.arange(RATE // 10) / RATE
    sound = torch.zeros(count, RATE)
    for row, label in zip(sound, labels, strict=True):
        for heard, pitch in zip(label, (300, 3000), strict=True):
            start = int(torch.randint(RATE - len(since), (), generator=generator))
            row[start : start + len(since)] += heard * 0.5 * torch.sin(2 * torch.pi * pitch * since)
    return sound, torch.cat([labels, torch.zeros(count, 1)], dim=1)


def test_it_learns_pitches_that_a_convolution_alone_cannot_tell():
    model, generator = ClipClassifier(**SETTINGS), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        sound, labels = tones(16, generator)
        loss = model(model.data_preprocessor.log_mel(sound), labels=labels, mode='loss')['loss_classes']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sound, labels = tones(32, generator)
    with torch.no_grad():
        features, scores = model.eval()(model.data_preprocessor.log_mel(sound))
    assert features.shape == (32, 16)
    assert ((scores > 0) == (labels > 0.5)).float().mean() > 0.95


def test_predictions_say_whose_they_are():
    model = ClipClassifier(**SETTINGS).eval()
    mel, labels = torch.rand(2, 1, 64, 32), torch.eye(3)[:2]
    rows = model(mel, labels=labels, clip_id=['a', 'b'], valid=torch.tensor([True, False]), mode='predict')
    assert [(row['clip_id'], row['valid']) for row in rows] == [('a', True), ('b', False)]
    torch.testing.assert_close(rows[1]['scores'], model(mel)[1][1].detach())
    assert rows[0]['scores'].untyped_storage().nbytes() == rows[0]['scores'].nbytes
    assert 'labels' not in model(mel, clip_id=['a', 'b'], mode='predict')[0]


def test_any_backbone_will_do_and_what_does_not_fit_is_said():
    cnn14 = dict(type='Cnn14', bands=32, width=2)
    for bands in (1, 3):
        model = ClipClassifier(**SETTINGS | dict(audio_backbone=cnn14, bands=bands)).eval()
        assert model(torch.rand(1, 1, 64, 32))[1].shape == (1, 3)
    for classes in ([], ['a', 'a']):
        with pytest.raises(UserError, match='names that differ'):
            ClipClassifier(**SETTINGS | dict(classes=classes))
    model = ClipClassifier(**SETTINGS)
    for labels in (None, torch.zeros(1, 4)):
        with pytest.raises(UserError, match='LabelledClips'):
            model(torch.rand(1, 1, 64, 32), labels=labels, mode='loss')


def test_labels_are_those_of_the_clip_that_was_read(tmp_path):
    root = render_impacts(tmp_path / 'impacts', train=4, test=0, workers=1, progress=False)
    clip = dict(duration_s=4.0, fps=1, size=8, sample_rate=RATE, backend='pyav')
    dataset = dict(type='Impacts', data_root=str(root), clip=clip, window=dict(type='CentreWindow'))
    rows = DATASETS.build(dataset).manifest
    classes = sorted({name for labels in rows.column('labels') for name in labels[0].split(' + ')})
    labelled = DATASETS.build(dict(type='LabelledClips', dataset=dataset, classes=classes, separator='+'))
    assert labelled.metainfo['classes'] == classes
    (root / rows[0].file).write_bytes(b'')
    of_clip = dict(zip(rows.column('clip_id'), rows.column('labels'), strict=True))
    for index in range(4):
        sample = labelled[index]
        names = [classes[number] for number in sample['labels'].nonzero().flatten()]
        assert sorted(names) == sorted(set(of_clip[sample['clip_id']][0].split(' + ')))
    assert labelled[0]['clip_id'] != rows[0].clip_id, 'a clip that cannot be read was replaced'
    with pytest.raises(UserError, match=f"label '{classes[0]}', no class"):
        DATASETS.build(dict(type='LabelledClips', dataset=dataset, classes=classes[1:], separator='+'))


def rows_of(scores, labels, invalid=()):
    return [
        dict(clip_id=str(number), valid=number not in invalid, scores=torch.tensor(s), labels=torch.tensor(t))
        for number, (s, t) in enumerate(zip(scores, labels, strict=True))
    ]


def test_mean_average_precision_by_hand():
    metric = ClassificationMetric()
    metric.dataset_meta = dict(classes=['a', 'b', 'c'])
    scores = [[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.7, 0.3, 0.5], [9.0, 9.0, 9.0]]
    labels = [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    metric.process({}, rows_of(scores, labels, invalid={3}))
    found = metric.evaluate(4)
    # a: its clips at places 1 and 3; b: at place 3; c has none.
    a, b = (1 + 2 / 3) / 2, 1 / 3
    assert found['classes/mAP'] == pytest.approx(100 * (a + b) / 2)
    assert found['classes/chance_mAP'] == pytest.approx(100 * (2 / 3 + 1 / 3) / 2)
    assert (found['classes/N'], found['classes/skipped']) == (3, 1)
    assert set(metric.details['average_precision']) == {'a', 'b'}


def test_equal_scores_do_not_pass_for_knowledge():
    metric = ClassificationMetric()
    metric.process({}, rows_of([[0.0]] * 4, [[1.0], [0.0], [0.0], [0.0]]))
    assert metric.evaluate(4)['classes/mAP'] == pytest.approx(25)
    metric.process({}, rows_of([[float('nan')]], [[1.0]]))
    with pytest.raises(UserError, match='not finite'):
        metric.evaluate(1)
    metric.results.clear()
    metric.process({}, [dict(clip_id='a', valid=True, scores=torch.zeros(1))])
    with pytest.raises(UserError, match='LabelledClips'):
        metric.evaluate(1)
