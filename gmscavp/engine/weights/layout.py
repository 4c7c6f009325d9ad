"""What a layout of released weights is: a table of keys, theirs beside ours, with shapes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Entry:
    """One tensor of a released file and what becomes of it.

    released: its key there. shape: its shape there. ours: its key here; several where it is cut into equal parts along
    its first axis. our_shape: of each part here, where it is another.
    """

    released: str
    ours: tuple[str, ...]
    shape: Shape
    our_shape: Shape | None = None

    @property
    def part_shape(self) -> Shape:
        """The shape of each of our tensors."""
        if self.our_shape is not None:
            return self.our_shape
        return (self.shape[0] // len(self.ours), *self.shape[1:]) if len(self.ours) > 1 else self.shape


@dataclass(frozen=True)
class Layout:
    """How one project releases its weights.

    table: shapes of a file's tensors, released or ours -> every entry that a whole file has; sizes that differ between
    files of the layout are read off the shapes. wrapper: the entry of the released file that holds the weights, '' for
    none. prefix: what every key begins with there. ignored: patterns of keys that pretraining has no use for, such as
    classifiers. about: what is in it and which part of a model it fills. licence: as far as is known.
    """

    name: str
    about: str
    licence: str
    table: Callable[[Shapes], list[Entry]]
    wrapper: str = ''
    prefix: str = ''
    ignored: tuple[str, ...] = ()


def same(released: str, ours: str, shape: Shape) -> Entry:
    """A tensor that only changes its name."""
    return Entry(released, (ours,), shape)


def batch_norm(released: str, ours: str, channels: int) -> Iterator[Entry]:
    """The five tensors of a BatchNorm."""
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        yield same(f'{released}.{name}', f'{ours}.{name}', (channels,))
    yield same(f'{released}.num_batches_tracked', f'{ours}.num_batches_tracked', ())


def affine(released: str, ours: str, shape: Shape) -> Iterator[Entry]:
    """Weight of `shape` and bias of its first axis: a linear layer, a convolution, a LayerNorm."""
    yield same(f'{released}.weight', f'{ours}.weight', shape)
    yield same(f'{released}.bias', f'{ours}.bias', shape[:1])
