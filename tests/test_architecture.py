"""The rules of the house, read from the source without running it.

Every rule is a pure function from sources to the places that break it, so that each is also tried on a made-up source
that must be caught and on one that must pass.
"""

import ast
import configparser
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
Sources = dict[str, str]  # dotted module name, '.__init__' kept -> source text
Rule = Callable[[Sources], list[str]]

LAYERS = {
    '': 0,  # the package itself: the version and nothing else
    **dict.fromkeys(('errors', 'registry', 'structures', 'distributed', 'compat', 'seals', 'pictures', 'readers'), 1),
    **dict.fromkeys(('models', 'datasets', 'evaluation', 'engine'), 2),
    **dict.fromkeys(('inference', 'search', 'webapp'), 3),
}
BLIND_LAYER = 2
OUTSIDE = ('configs', 'tools', 'projects', 'benchmarks')
PLUGIN_KINDS = ('backbones', 'pyramids', 'heads', 'denoisers', 'noise_schedulers', 'samplers', 'codecs', 'vocoders')
COLLECTIVE_HOMES = ('torch.distributed', 'mmengine.dist')
COLLECTIVES = re.compile(
    r'(all_)?(gather|reduce|to_all)(_\w+)?|reduce_scatter\w*|broadcast\w*|scatter\w*|barrier|monitored_barrier'
    r'|i?send\w*|i?recv\w*|collect_results\w*|sync_random_seed|batch_isend_irecv'
)
# MMEngine calls these methods by keyword or documents them so; overriding them is no reason to rename.
MMENGINE_METHODS = (
    'forward',
    'process',
    'compute_metrics',
    'evaluate',
    'transform',
    'loss',
    'predict',
    'add_datasample',
)
MMENGINE_HOOK = re.compile(r'(before|after)_\w+')
FORBIDDEN_WORDS = ('img', 'imgs', 'inputs', 'data_samples', 'results', 'spec', 'neck', 'ann_file', 'first_stage')
# Import name -> name of the distribution, where they differ.
DISTRIBUTIONS = {'cv2': 'opencv-python', 'PIL': 'pillow', 'decord': 'decord2'}
# torch's summary writer needs it.
NEEDED_UNSEEN = {'tensorboard'}
# Installed with what is declared: jinja2, MMEngine and gradio are built on them.
BROUGHT_ALONG = {'markupsafe', 'yaml', 'termcolor', 'starlette'}


class Import(NamedTuple):
    """One name that a module imports."""

    target: str  # a module of the sources where it is one, else the dotted name
    line: int
    in_function: bool


def read_sources(*folders: str) -> Sources:
    sources = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob('*.py')):
            sources['.'.join(path.relative_to(ROOT).with_suffix('').parts)] = path.read_text()
    return sources


def plain(module: str) -> str:
    return module.removesuffix('.__init__')


@cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def imports(module: str, source: str, known: frozenset[str] = frozenset()) -> Iterator[Import]:
    """What `module` imports; `known` modules are told apart from names inside a module."""
    inside = {
        id(node)
        for function in ast.walk(parse(source))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, node.lineno, id(node) in inside)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = module.split('.')[: -node.level]
                base = '.'.join([*parents, base]).rstrip('.')
            for name in node.names:
                full = f'{base}.{name.name}'
                yield Import(full if not known or full in known else base, node.lineno, id(node) in inside)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith('import_module'):
            # By name, so that Python decides at run time: allowed in a function, and an import like any other.
            for name in node.args[:1]:
                if isinstance(name, ast.Constant):
                    yield Import(str(name.value), node.lineno, in_function=False)


def own_imports(sources: Sources) -> Iterator[tuple[str, Import]]:
    """(module, import) for every import in the sources, targets resolved to modules of the sources where they are."""
    known = frozenset(map(plain, sources))
    for module, source in sources.items():
        for found in imports(module, source, known):
            yield plain(module), found


def is_within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f'{package}.') for package in packages)


def wrong_layers(sources: Sources) -> list[str]:
    """Imports that point upwards, or sideways between the parts that are blind to each other."""
    wrong = []
    for module, found in own_imports(sources):
        part = module.removeprefix('gmscavp').lstrip('.').partition('.')[0]
        if part not in LAYERS:
            wrong.append(f'{module}: {part} has no layer; give it one in LAYERS')
        elif found.target.startswith('gmscavp.'):
            other = found.target.split('.')[1]
            upward = LAYERS.get(other, 0) > LAYERS[part]
            sideways = LAYERS[part] == BLIND_LAYER == LAYERS.get(other) and other != part
            if upward or sideways:
                wrong.append(f'{module}:{found.line} imports {found.target}')
    return wrong


def imports_of_plugins(sources: Sources) -> list[str]:
    """Imports of a plug-in kind from anywhere in models but that kind. The package's own list of names is free."""
    kinds = {f'gmscavp.models.{kind}' for kind in PLUGIN_KINDS}
    return [
        f'{module}:{found.line} imports {found.target}'
        for module, found in own_imports(sources)
        if module.startswith('gmscavp.models.')
        and any(is_within(found.target, kind) and not is_within(module, kind) for kind in kinds)
    ]


def import_circles(sources: Sources) -> list[str]:
    """Modules from which the imports lead back to themselves."""
    edges: dict[str, set[str]] = {plain(module): set() for module in sources}
    for module, found in own_imports(sources):
        if found.target in edges and found.target != module:
            edges[module].add(found.target)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(edges[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting.extend(edges[module])
        return seen

    return [f'{module} leads back to itself' for module in edges if module in reachable(module)]


def local_imports(sources: Sources) -> list[str]:
    return [f'{module}:{found.line} in a function' for module, found in own_imports(sources) if found.in_function]


def imports_from_outside(sources: Sources) -> list[str]:
    """Imports, from inside the package, of the folders that stand on it."""
    return [
        f'{module}:{found.line} imports {found.target}'
        for module, found in own_imports(sources)
        if is_within(module, 'gmscavp') and found.target.split('.')[0] in (*OUTSIDE, 'tests')
    ]


def configs_named_in_python(sources: Sources) -> list[str]:
    """Tools, projects' classes and benchmarks load a config by path; only configs import configs."""

    def is_config(module: str) -> bool:
        names = {node.id for node in ast.walk(parse(sources[module])) if isinstance(node, ast.Name)}
        return is_within(module, 'configs') or 'read_base' in names

    known = frozenset(map(plain, sources))
    return [
        f'{module}:{found.line} imports {found.target}'
        for module, source in sources.items()
        if not is_config(module)
        for found in imports(module, source, known)
        if is_within(found.target, 'configs')
    ]


def dotted(node: ast.AST) -> str:
    """'a.b.c' for an expression of names and dots, '' for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f'{base}.{node.attr}'
    return ''


def stray_collectives(sources: Sources) -> list[str]:
    """Collectives of PyTorch or MMEngine outside gmscavp/distributed.py, under whatever name they were imported."""
    wrong = []
    for module, source in sources.items():
        if module == 'gmscavp.distributed':
            continue
        names = {}
        uses = []
        for node in ast.walk(parse(source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                base = f'{node.module}.' if isinstance(node, ast.ImportFrom) else ''
                for name in node.names:
                    names[name.asname or name.name] = base + name.name
                    uses.append((base + name.name, node.lineno))
        for node in ast.walk(parse(source)):
            root, _, rest = dotted(node).partition('.')
            if rest:
                uses.append((f'{names.get(root, root)}.{rest}', node.lineno))
        wrong += [
            f'{plain(module)}:{line} uses {name}'
            for name, line in uses
            if name.startswith(COLLECTIVE_HOMES) and COLLECTIVES.fullmatch(name.rsplit('.', 1)[1])
        ]
    return sorted(set(wrong))


def stray_torchaudio(sources: Sources) -> list[str]:
    return [
        f'{module}:{found.line} imports {found.target}'
        for module, found in own_imports(sources)
        if is_within(found.target, 'torchaudio') and module != 'gmscavp.compat'
    ]


def open_constructors(sources: Sources) -> list[str]:
    """Constructors that take any keyword: a misspelt key of a config would pass in silence."""
    return [
        f'{plain(module)}:{method.lineno} {node.name}.__init__ takes **{method.args.kwarg.arg}'
        for module, source in sources.items()
        for node in ast.walk(parse(source))
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == '__init__' and method.args.kwarg
    ]


def missing_docstrings(sources: Sources) -> list[str]:
    """Public modules, classes and functions without a docstring (ruff sees to the methods)."""
    wrong = []
    for module, source in sources.items():
        tree = parse(source)
        if not ast.get_docstring(tree):
            wrong.append(plain(module))
        wrong += [
            f'{plain(module)}.{node.name}'
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith('_')
            and not ast.get_docstring(node)
        ]
    return wrong


def forbidden_words(sources: Sources) -> list[str]:
    """Names given (not merely used) that the house has a better word for."""
    wrong = []
    for module, source in sources.items():
        for function in ast.walk(parse(source)):
            if isinstance(function, ast.FunctionDef) and not (
                function.name in MMENGINE_METHODS or MMENGINE_HOOK.fullmatch(function.name)
            ):
                given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
                wrong += [(module, argument.lineno, argument.arg) for argument in given]
        for node in ast.walk(parse(source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                wrong.append((module, node.lineno, node.id))
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                wrong.append((module, node.lineno, node.attr))
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                wrong.append((module, node.lineno, node.name))
    return sorted(f'{plain(module)}:{line} {name}' for module, line, name in wrong if name in FORBIDDEN_WORDS)


def undeclared_packages(sources: Sources) -> list[str]:
    """Imports of packages that setup.cfg does not name."""
    declared = declared_packages('required') | declared_packages('extra')
    return sorted(
        {
            f'{module} imports {package}'
            for module, found in own_imports(sources)
            for package in [found.target.split('.')[0]]
            if package not in sys.stdlib_module_names and package not in BROUGHT_ALONG | {'gmscavp'}
            if DISTRIBUTIONS.get(package, package) not in declared
        }
    )


def declared_packages(which: str) -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    extras = [value for key, value in setup['options.extras_require'].items() if key != 'test']
    lines = [setup['options']['install_requires']] if which == 'required' else extras
    entries = [line for text in lines for line in text.splitlines() if line.strip() and not line.startswith('#')]
    return {re.split(r'[<>=!~\[; ]', entry.strip())[0].lower() for entry in entries}


CORE_RULES: list[Rule] = [
    wrong_layers,
    imports_of_plugins,
    import_circles,
    local_imports,
    imports_from_outside,
    stray_collectives,
    open_constructors,
    missing_docstrings,
    forbidden_words,
    undeclared_packages,
]


@pytest.mark.parametrize('rule', CORE_RULES, ids=lambda rule: rule.__name__)
def test_package_keeps(rule):
    sources = read_sources('gmscavp')
    assert len(sources) > 5
    assert rule(sources) == []


@pytest.mark.parametrize('rule', [stray_torchaudio, configs_named_in_python], ids=lambda rule: rule.__name__)
def test_whole_repository_keeps(rule):
    assert rule(read_sources('gmscavp', *OUTSIDE)) == []


def test_every_declared_package_is_imported():
    targets = {found.target.split('.')[0] for _, found in own_imports(read_sources('gmscavp'))}
    used = {DISTRIBUTIONS.get(package, package) for package in targets}
    assert declared_packages('required') - used - NEEDED_UNSEEN == set()


BREAKS: list[tuple[Rule, Sources]] = [
    (wrong_layers, {'gmscavp.models.heads': '', 'gmscavp.registry': 'from gmscavp.models import heads'}),
    (wrong_layers, {'gmscavp.errors': 'import gmscavp.webapp'}),
    (wrong_layers, {'gmscavp.models.heads': 'from gmscavp.datasets.manifest import Manifest'}),
    (wrong_layers, {'gmscavp.engine.hooks': 'from ..evaluation import retrieval', 'gmscavp.evaluation.retrieval': ''}),
    (wrong_layers, {'gmscavp.engine.__init__': 'from ..models import heads', 'gmscavp.models.heads': ''}),
    (wrong_layers, {'gmscavp.newcomer': 'import math'}),
    (wrong_layers, {'gmscavp.__init__': 'from gmscavp.errors import UserError'}),
    (imports_of_plugins, {'gmscavp.models.gmscavp': 'from gmscavp.models.heads import Head'}),
    (imports_of_plugins, {'gmscavp.models.gmscavp': 'from .heads.nce import Head', 'gmscavp.models.heads.nce': ''}),
    (imports_of_plugins, {'gmscavp.models.generator': 'from . import codecs', 'gmscavp.models.codecs': ''}),
    (imports_of_plugins, {'gmscavp.models.samplers': 'from gmscavp.models.noise_schedulers import Flow'}),
    (
        import_circles,
        {'gmscavp.a': 'import gmscavp.b', 'gmscavp.b': 'import gmscavp.c', 'gmscavp.c': 'import gmscavp.a'},
    ),
    (
        import_circles,
        {'gmscavp.models.__init__': 'from .x import X', 'gmscavp.models.x': 'from gmscavp.models import Y'},
    ),
    (local_imports, {'gmscavp.a': 'def f():\n    import math\n'}),
    (
        local_imports,
        {'gmscavp.a': 'class A:\n    async def f(self):\n        if self:\n            from math import pi\n'},
    ),
    (imports_from_outside, {'gmscavp.a': 'from projects.debiased_head import Head'}),
    (imports_from_outside, {'gmscavp.a': 'import tools.train'}),
    (configs_named_in_python, {'tools.train': 'from configs import gmscavp_impacts'}),
    (configs_named_in_python, {'projects.a.b': 'from ...configs.c import model', 'configs.c': ''}),
    (stray_collectives, {'gmscavp.a': 'import torch\ntorch.distributed.all_gather(x, y)'}),
    (stray_collectives, {'gmscavp.a': 'import torch.distributed as dist\ndist.all_reduce(x)'}),
    (stray_collectives, {'gmscavp.a': 'from torch import distributed\ndistributed.nn.functional.all_gather(x)'}),
    (stray_collectives, {'gmscavp.a': 'from torch.distributed.nn import all_gather as together'}),
    (stray_collectives, {'gmscavp.a': 'from mmengine.dist import collect_results'}),
    (stray_torchaudio, {'gmscavp.a': 'from torchaudio.transforms import MelSpectrogram'}),
    (stray_torchaudio, {'benchmarks.a': 'import torchaudio'}),
    (stray_torchaudio, {'gmscavp.a': 'import importlib\nimportlib.import_module("torchaudio.compliance")'}),
    (open_constructors, {'gmscavp.a': 'class A:\n    def __init__(self, dim, **options): ...'}),
    (missing_docstrings, {'gmscavp.a': 'x = 1'}),
    (missing_docstrings, {'gmscavp.a': '"""Module."""\ndef public(): ...'}),
    (missing_docstrings, {'gmscavp.a': '"""Module."""\nclass Public: ...'}),
    (forbidden_words, {'gmscavp.a': 'def resize(img): ...'}),
    (forbidden_words, {'gmscavp.a': 'for neck in parts: ...'}),
    (forbidden_words, {'gmscavp.a': 'class A:\n    def f(self):\n        self.spec = results = 1'}),
    (undeclared_packages, {'gmscavp.a': 'import torchvision'}),
]

PASSES: list[tuple[Rule, Sources]] = [
    (wrong_layers, {'gmscavp.webapp': 'from gmscavp import inference\nfrom gmscavp.models.heads import H'}),
    (
        wrong_layers,
        {'gmscavp.models.heads': 'from gmscavp.models.layers import Attention\nfrom gmscavp.errors import E'},
    ),
    (imports_of_plugins, {'gmscavp.models.heads.nce': 'from gmscavp.models.heads.base import Head'}),
    (imports_of_plugins, {'gmscavp.models.__init__': 'from .heads import Head', 'gmscavp.models.heads': ''}),
    (imports_of_plugins, {'gmscavp.models.headset': 'from gmscavp.models.layers import Attention'}),
    (
        import_circles,
        {'gmscavp.a': 'import gmscavp.b\nimport gmscavp.c', 'gmscavp.b': 'import gmscavp.c', 'gmscavp.c': ''},
    ),
    (local_imports, {'gmscavp.a': 'try:\n    import xformers\nexcept ImportError:\n    xformers = None\n'}),
    (
        configs_named_in_python,
        {'projects.a.b': 'with read_base():\n    from ...configs.c import *', 'configs.d': 'import configs.e'},
    ),
    (stray_collectives, {'gmscavp.distributed': 'from torch import distributed\ndistributed.all_reduce(x)'}),
    (stray_collectives, {'gmscavp.a': 'import torch\nx = torch.gather(y, 0, i)\ntorch.distributed.is_initialized()'}),
    (stray_torchaudio, {'gmscavp.compat': 'import torchaudio', 'gmscavp.a': 'from gmscavp.compat import torchaudio'}),
    (
        open_constructors,
        {'gmscavp.a': 'class A:\n    def __init__(self, *, dim=1): ...\n    def f(self, **kwargs): ...'},
    ),
    (missing_docstrings, {'gmscavp.a': '"""Module."""\ndef _private(): ...'}),
    (
        forbidden_words,
        {'gmscavp.a': 'class M(BaseMetric):\n    def process(self, data_batch, data_samples): self.results.append(1)'},
    ),
    (undeclared_packages, {'gmscavp.a': 'import os, cv2, xformers, torch.nn, gmscavp.b'}),
]


@pytest.mark.parametrize(('rule', 'sources'), BREAKS)
def test_rule_catches(rule, sources):
    assert rule(sources)


@pytest.mark.parametrize(('rule', 'sources'), PASSES)
def test_rule_lets_pass(rule, sources):
    assert rule(sources) == []


def test_every_rule_is_tried_both_ways():
    rules = {*CORE_RULES, stray_torchaudio, configs_named_in_python}
    assert {rule for rule, _ in BREAKS} == rules
    assert rules - {rule for rule, _ in PASSES} == {imports_from_outside}
