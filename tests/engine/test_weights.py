"""Released weights: the tables fit our nets, the whole of CAVP computes what it did, and the way back is exact."""

import ast
import json
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from gmscavp.compat import ABSENT, load_checkpoint_file, load_weights
from gmscavp.engine.weights import LAYOUTS, guess_layout, refuse_partial, to_ours, to_released, unwrap, write_weights
from gmscavp.engine.weights.files import write_safetensors
from gmscavp.errors import UserError
from gmscavp.registry import BACKBONES, MODELS

CAVP_MODEL = dict(
    type='GMSCAVP',
    data_preprocessor=dict(type='ClipPreprocessor'),
    video_backbone=dict(type='SlowOnlyR50'),
    audio_backbone=dict(type='Cnn14'),
    video_pyramid=dict(type='SingleScale', dim=512),
    audio_pyramid=dict(type='SingleScale', dim=512),
    head=dict(type='MultiScaleInfoNCE', temporal_weight=0.0),
)
WIDTH, HIDDEN, LAYERS, HEADS = 8, 12, 2, 2


def released_weights(layout, shapes):
    """Zeros of every key of a layout, sizes read off `shapes`."""
    return {entry.released: torch.zeros(entry.shape) for entry in layout.table(shapes)}


def named(net, prefix):
    return {f'{prefix}.{name}': tuple(value.shape) for name, value in net.state_dict().items()}


def oracle_weights(keys):
    """The weights that the golden outputs were computed with: from a seed and the key, by the rule beside them."""
    weights = {}
    for line in keys:
        key, shape = str(line).split(' ', 1)
        z = np.random.default_rng([11, zlib.crc32(key.encode())]).standard_normal(ast.literal_eval(shape))
        z = torch.from_numpy(np.asarray(z, dtype=np.float32))
        if key.endswith('num_batches_tracked'):
            weights[key] = torch.tensor(0)
        elif key == 'logit_scale':
            weights[key] = torch.tensor(2.65926)
        elif key.endswith('running_var'):
            weights[key] = 1 + 0.1 * z.abs()
        elif key.endswith(('running_mean', 'bias')):
            weights[key] = 0.05 * z
        elif z.dim() == 1:
            weights[key] = 1 + 0.1 * z
        else:
            weights[key] = z * float(np.sqrt(2 / np.prod(z.shape[1:])))
    return weights


@pytest.fixture(scope='module')
def cavp(real_data):
    """Golden outputs, the released weights, these converted, and our model before it has them."""
    golden = np.load(real_data / 'oracles/cavp_path.npz')
    released = oracle_weights(golden['keys'])
    wrapped = {'state_dict': {f'module.{name}': value for name, value in released.items()}, 'epoch': 1}
    converted = to_ours(unwrap(wrapped), LAYOUTS['cavp'])
    return SimpleNamespace(golden=golden, released=released, converted=converted, model=MODELS.build(CAVP_MODEL).eval())


def test_every_key_of_released_cavp_is_used_and_none_is_left(cavp):
    refuse_partial(cavp.converted, LAYOUTS['cavp'])
    assert len(cavp.converted.used) == len(cavp.released) == 402
    own = {name for name in cavp.model.state_dict() if not name.startswith('data_preprocessor.')}
    assert own == set(cavp.converted.weights)


def test_converted_cavp_computes_what_the_released_code_does(cavp):
    model = cavp.model
    assert not model.load_state_dict(cavp.converted.weights, strict=False).unexpected_keys
    generator = np.random.default_rng([11, 12345])
    video = torch.from_numpy(generator.random((1, 16, 3, 224, 224), np.float32)).transpose(1, 2)
    mel = torch.from_numpy(generator.random((1, 128, 256), np.float32)).transpose(1, 2)[:, None]
    with torch.no_grad():
        seen, heard = model.video_backbone(video * 2 - 1), model.audio_backbone(mel)
        outputs = dict(
            video_tokens=model.video_pyramid.project(seen[-1].mean(2)),
            audio_tokens=model.audio_pyramid.project(heard[-1].mean(2)),
            video_embedding=model.head.embed(model.video_pyramid(seen)),
            audio_embedding=model.head.embed(model.audio_pyramid(heard)),
        )
    assert seen[-1].shape == (1, 16, 49, 2048)
    assert heard[-1].shape == (1, 16, 1, 2048)
    for name, output in outputs.items():
        expected = torch.from_numpy(cavp.golden[name])
        assert (output - expected).norm() < 1e-4 * expected.norm(), name
        assert (output - expected).abs().max() < 1e-4 * expected.abs().max(), name
    assert model.head.logit_scales().item() == pytest.approx(np.exp(2.65926), rel=1e-6)


def test_cavp_comes_back_bit_for_bit(cavp):
    back = to_released(cavp.converted.weights, LAYOUTS['cavp'])
    refuse_partial(back, LAYOUTS['cavp'])
    assert_same_weights(back.weights, cavp.released)


def assert_same_weights(given, expected):
    assert set(given) == set(expected)
    for name, value in expected.items():
        assert given[name].dtype == value.dtype, name
        assert given[name].shape == value.shape, name
        assert torch.equal(given[name], value), name


@pytest.mark.parametrize(
    ('layout', 'part', 'backbone'),
    [
        ('panns_cnn14', 'audio_backbone', dict(type='Cnn14', bands=64, pools=[(2, 2)] * 5 + [(1, 1)])),
        ('slowonly_openmmlab', 'video_backbone', dict(type='SlowOnlyR50')),
    ],
)
def test_the_table_is_our_backbone_and_goes_both_ways(layout, part, backbone):
    with torch.device('meta'):
        own = named(BACKBONES.build(backbone), part)
    table = LAYOUTS[layout].table({})
    assert {name: entry.part_shape for entry in table for name in entry.ours} == own
    assert len({entry.released for entry in table}) == len(table)


def videomae_weights(seed=0):
    """A small VideoMAE in its authors' layout, with a decoder and a mask token."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        'encoder.patch_embed.proj.weight': (WIDTH, 3, 2, 4, 4),
        'encoder.blocks.0.mlp.fc1.weight': (HIDDEN, WIDTH),
        f'encoder.blocks.{LAYERS - 1}.mlp.fc1.weight': (HIDDEN, WIDTH),
    }
    weights = released_weights(LAYOUTS['videomae'], shapes)
    extra = {'mask_token': torch.zeros(1, 1, 4), 'decoder.blocks.0.mlp.fc1.weight': torch.zeros(5, 4)}
    random = {name: torch.randn(value.shape, generator=generator) * 0.3 for name, value in weights.items()}
    return random | extra


def videomae_backbone():
    pytest.importorskip('transformers', reason='the extra gmscavp[hf] is not installed')
    size = dict(hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS)
    family = dict(model_type='videomae', image_size=8, patch_size=4, num_frames=4, use_mean_pooling=False)
    source = size | family | dict(layer_norm_eps=1e-6)
    return BACKBONES.build(dict(type='TransformersVideo', pretrained=False, source=source, mean=[0] * 3, std=[1] * 3))


def authors_videomae(weights, video):
    """VideoMAE's encoder written down from the paper on its authors' keys: fused projections, keys without bias."""

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), weights[f'{name}.weight'], weights[f'{name}.bias'], 1e-6)

    def linear(x, name):
        return F.linear(x, weights[f'{name}.weight'], weights[f'{name}.bias'])

    projection = 'encoder.patch_embed.proj'
    x = F.conv3d(video, weights[f'{projection}.weight'], weights[f'{projection}.bias'], stride=(2, 4, 4))
    x = x.flatten(2).transpose(1, 2)
    place = torch.arange(x.shape[1])[:, None] / 10000 ** (2 * (torch.arange(WIDTH) // 2) / WIDTH)
    x = x + torch.where(torch.arange(WIDTH) % 2 == 0, place.sin(), place.cos())
    for layer in range(LAYERS):
        name = f'encoder.blocks.{layer}'
        q_bias, v_bias = weights[f'{name}.attn.q_bias'], weights[f'{name}.attn.v_bias']
        bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        fused = F.linear(norm(x, f'{name}.norm1'), weights[f'{name}.attn.qkv.weight'], bias)
        q, k, v = fused.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(attended, f'{name}.attn.proj')
        x = x + linear(F.gelu(linear(norm(x, f'{name}.norm2'), f'{name}.mlp.fc1')), f'{name}.mlp.fc2')
    return norm(x, 'encoder.norm')


def test_converted_videomae_computes_what_the_authors_net_does(tmp_path):
    net, released = videomae_backbone().eval(), videomae_weights()
    converted = to_ours(released, LAYOUTS['videomae'])
    refuse_partial(converted, LAYOUTS['videomae'])
    assert sorted(converted.ignored) == ['decoder.blocks.0.mlp.fc1.weight', 'mask_token']
    save_file({name: value.contiguous() for name, value in converted.weights.items()}, tmp_path / 'v.safetensors')
    assert load_weights(net, tmp_path / 'v.safetensors', 'video_backbone') == []
    video = torch.rand(2, 3, 4, 8, 8)
    (features,) = net(video * 2 - 1)
    torch.testing.assert_close(features.detach().flatten(1, 2), authors_videomae(released, video), rtol=1e-4, atol=1e-5)


def test_videomae_comes_back_bit_for_bit_and_hub_files_give_the_same():
    released = videomae_weights()
    converted = to_ours(released, LAYOUTS['videomae'])
    back = to_released(converted.weights, LAYOUTS['videomae'])
    refuse_partial(back, LAYOUTS['videomae'])
    assert_same_weights(back.weights, {name: released[name] for name in converted.used})
    hub = to_released(converted.weights, LAYOUTS['videomae_hf']).weights
    assert 'videomae.encoder.layer.0.attention.attention.q_bias' in hub
    again = to_ours(hub, LAYOUTS['videomae_hf'])
    refuse_partial(again, LAYOUTS['videomae_hf'])
    assert_same_weights(again.weights, converted.weights)


def test_tuned_videomae_has_no_prefix_and_no_last_norm():
    tuned = {
        name.removeprefix('encoder.'): value
        for name, value in videomae_weights().items()
        if not name.startswith(('decoder.', 'encoder.norm', 'mask_token'))
    }
    converted = to_ours(tuned | {'fc_norm.weight': torch.zeros(WIDTH)}, LAYOUTS['videomae'])
    refuse_partial(converted, LAYOUTS['videomae'])
    assert converted.ignored == ['fc_norm.weight']
    assert not converted.absent


def test_a_net_of_more_layers_a_missing_key_and_a_wrong_shape_are_refused_by_name():
    layout = LAYOUTS['slowonly_openmmlab']
    weights = {entry.released: torch.empty(entry.shape, device='meta') for entry in layout.table({})}
    refuse_partial(to_ours(weights, layout), layout)
    deeper = weights | {'backbone.layer3.6.conv1.conv.weight': torch.empty(256, 1024, 3, 1, 1, device='meta')}
    with pytest.raises(UserError, match=r'1 unexpected \(for example backbone\.layer3\.6\.conv1'):
        refuse_partial(to_ours(deeper, layout), layout)
    short = {name: value for name, value in weights.items() if name != 'backbone.conv1.bn.bias'}
    with pytest.raises(UserError, match=r'1 missing \(for example backbone\.conv1\.bn\.bias\)'):
        refuse_partial(to_ours(short, layout), layout)
    refuse_partial(to_ours(short, layout), layout, ['backbone.conv1.bn.*'])
    fast = weights | {'backbone.conv1.conv.weight': torch.empty(64, 3, 5, 7, 7, device='meta')}
    with pytest.raises(UserError, match=r'of another shape .*\(64, 3, 5, 7, 7\) for \(64, 3, 1, 7, 7\)'):
        refuse_partial(to_ours(fast, layout), layout)


def test_the_layout_of_a_file_is_guessed_from_its_keys():
    for name in ('cavp', 'panns_cnn14', 'slowonly_openmmlab', 'videomae', 'videomae_hf'):
        layout = LAYOUTS[name]
        weights = {entry.released: torch.empty(entry.shape, device='meta') for entry in layout.table({})}
        assert guess_layout(weights, LAYOUTS.values()) is layout
    assert guess_layout({'x': torch.zeros(1)}, LAYOUTS.values()) is None


def test_wrappers_come_off_and_a_file_without_weights_is_refused():
    inner = {'module.a': torch.zeros(1), 'note': 'x'}
    for checkpoint in (
        inner,
        {'model': inner, 'iteration': 3},
        {'state_dict': inner},
        {'state_dict': {'model': inner}},
    ):
        assert list(unwrap(checkpoint)) == ['a']
    with pytest.raises(UserError, match='holds no weights'):
        unwrap({'optimizer': 1})


class Part(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.first, self.second = nn.Linear(width, 2), nn.Linear(2, 2)


def write_part(path, names, declared=()):
    part = Part()
    weights = {f'part.{name}': value + 1 for name, value in part.state_dict().items() if name.startswith(names)}
    save_file(weights | {'other.x': torch.zeros(1)}, path, {ABSENT: json.dumps([f'part.{name}' for name in declared])})
    return weights


def test_a_part_is_filled_from_its_prefix_and_nothing_else(tmp_path):
    file, part = tmp_path / 'w.safetensors', Part()
    weights = write_part(file, ('first', 'second'))
    assert load_weights(part, file, 'part') == []
    assert_same_weights({f'part.{name}': value for name, value in part.state_dict().items()}, weights)


def test_what_was_left_out_by_name_may_be_absent_and_keeps_its_value(tmp_path):
    file, part = tmp_path / 'w.safetensors', Part()
    write_part(file, ('first',), declared=('second.weight', 'second.bias'))
    before = part.second.weight.clone()
    assert load_weights(part, file, 'part') == ['second.bias', 'second.weight']
    assert torch.equal(part.second.weight, before)


def test_weights_of_another_net_are_refused_and_load_nothing(tmp_path):
    file = tmp_path / 'w.safetensors'
    weights = write_part(file, ('first', 'second'))
    wide = Part(width=3)
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    with pytest.raises(UserError, match=r'1 of another shape \(for example first\.weight \(2, 2\) for \(2, 3\)\)'):
        load_weights(wide, file, 'part')
    assert_same_weights(wide.state_dict(), before)
    with pytest.raises(UserError, match='holds no weights of video_backbone; it holds those of other, part'):
        load_weights(Part(), file, 'video_backbone')
    write_part(file, ('first',))
    with pytest.raises(UserError, match=r'2 missing \(for example second\.bias\)'):
        load_weights(Part(), file, 'part')
    assert weights


def test_metadata_names_the_source_and_tensors_that_share_memory_are_written(tmp_path):
    source = tmp_path / 'source.pth'
    torch.save({'model': videomae_weights()}, source)
    converted = to_ours(unwrap(load_checkpoint_file(source)), LAYOUTS['videomae'])
    write_weights(tmp_path / 'out.safetensors', converted, LAYOUTS['videomae'], source, 'CC-BY-NC-4.0')
    loaded = load_checkpoint_file(tmp_path / 'out.safetensors')
    assert_same_weights(loaded['state_dict'], converted.weights)
    meta = loaded['meta']
    assert meta['source'] == 'source.pth'
    assert (meta['layout'], meta['licence'], meta[ABSENT]) == ('videomae', 'CC-BY-NC-4.0', '[]')
    assert len(meta['source_sha256']) == 64
    assert not list(tmp_path.glob('.*'))


def test_arrays_pickled_before_numpy_2_are_read(tmp_path):
    """Released files have them beside the weights; the pickle names the module that NumPy had then."""
    torch.save(
        {'model': {'a': torch.zeros(1)}, 'sampler': {'indexes': np.arange(3), 'at': np.float64(2)}}, tmp_path / 'n'
    )
    with zipfile.ZipFile(tmp_path / 'n') as new, zipfile.ZipFile(tmp_path / 'old.pth', 'w') as old:
        for item in new.infolist():
            old.writestr(item.filename, new.read(item).replace(b'numpy._core.multiarray', b'numpy.core.multiarray'))
    assert b'numpy.core.multiarray' in (tmp_path / 'old.pth').read_bytes()
    loaded = load_checkpoint_file(tmp_path / 'old.pth')
    assert loaded['sampler']['indexes'].tolist() == [0, 1, 2]
    assert loaded['sampler']['at'] == 2


def test_every_flipped_bit_and_every_cut_of_what_we_write_is_refused(tmp_path):
    file, copy = tmp_path / 'ours.safetensors', tmp_path / 'copy.safetensors'
    write_safetensors(file, {'w': torch.arange(5.0), 'b': torch.ones(2)}, {'format': 'pt', 'a': 'b'})
    loaded = load_checkpoint_file(file)
    assert loaded['state_dict']['w'].tolist() == [0, 1, 2, 3, 4]
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(flipped)
        with pytest.raises(UserError, match='is damaged'):
            load_checkpoint_file(copy)
    for length in range(len(whole)):
        copy.write_bytes(whole[:length])
        with pytest.raises(UserError, match='is damaged'):
            load_checkpoint_file(copy)


def test_weights_of_others_need_no_checksum(tmp_path):
    save_file({'w': torch.ones(2)}, tmp_path / 'theirs.safetensors', {'format': 'pt'})
    assert load_checkpoint_file(tmp_path / 'theirs.safetensors')['state_dict']['w'].tolist() == [1, 1]
