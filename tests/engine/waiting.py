"""Finds, without a GPU, what would make the host wait for one: the model stands on the device 'meta'."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_READS = (_ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.masked_select.default)
_FACTORIES = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)


class Waits(TorchDispatchMode):
    """Lists reads of values and copies between devices; those that need not be waited for are in `free`."""

    def __init__(self):
        super().__init__()
        self.found, self.free = [], []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        sources = [x for x in args if isinstance(x, torch.Tensor)]
        if operator in _READS and any(x.is_meta for x in sources):
            self.found.append(str(operator))
        done = operator(*args, **kwargs)
        copied = {_ATEN._to_copy.default: 0, _ATEN.copy_.default: 1}.get(operator)
        if copied is not None and args[copied].device != done.device:
            free = kwargs.get('non_blocking') or (copied and len(args) > 2 and args[2])
            (self.free if free else self.found).append(f'{operator} of {tuple(done.shape)}')
        return done


class Made(TorchFunctionMode):
    """Lists tensors that are made on the device from values of the host, which no operator shows."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        done = function(*args, **(kwargs or {}))
        if function in _FACTORIES and done.is_meta:
            self.found.append(function.__name__)
        return done


def waits_of(step):
    """(what step() would wait for, the copies that it would not wait for)."""
    with Waits() as waits, Made() as made:
        step()
    return waits.found + made.found, waits.free
