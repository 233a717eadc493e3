"""Bytes that quantized layers keep for backward, with and without quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from fedquad.model.activation_quantization.packing import BlockPacker
from fedquad.model.activation_quantization.regions import PackedView, Region
from fedquad.model.activation_quantization.scope import LayerScope


class ActivationRecord:
    """What the quantized layers kept in all forward passes that were recorded.

    Attributes
    ----------
    rows : list of dict
        ``layer`` (index), ``module`` (name inside the layer, empty for the layer
        itself), ``operation`` (PyTorch's name, such as ``linear``), ``kept_bytes``
        and ``unquantized_bytes``. Every storage counts once, where it is first
        kept, and weights do not count (the copies that autocast makes of them do).
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    @property
    def kept_bytes(self) -> int:
        """What is kept: codes, scales, bits, and tensors that are left as they are."""
        return sum(row["kept_bytes"] for row in self.rows)

    @property
    def unquantized_bytes(self) -> int:
        """What the same operations would keep without quantization."""
        return sum(row["unquantized_bytes"] for row in self.rows)

    @property
    def saved_share(self) -> float:
        """The cut: 1 - kept / unquantized; 0 where nothing is kept."""
        return 1 - self.kept_bytes / self.unquantized_bytes if self.unquantized_bytes else 0.0


@contextmanager
def recording(
    layers: nn.ModuleList, scope: LayerScope, packer: BlockPacker
) -> Iterator[ActivationRecord]:
    """Record what passes the packer while this context is active; see `ActivationRecord`."""
    place = _Place()
    recorder = Recorder(packer, place)
    handles = []
    for idx, layer in enumerate(layers):
        for name, module in layer.named_modules():
            handles.append(module.register_forward_pre_hook(place.entering(idx, name)))
            handles.append(module.register_forward_hook(place.leaving, always_call=True))
    unrecorded, scope.pack = scope.pack, recorder.pack
    packer.recorder = recorder
    try:
        with place:
            yield recorder.record
    finally:
        scope.pack, packer.recorder = unrecorded, None
        for handle in handles:
            handle.remove()


class _Place(TorchFunctionMode):
    """Where the forward is: the layer, the module inside it, the function."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: list[tuple[int, str]] = []
        self.operation = ""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        before, self.operation = self.operation, getattr(func, "__name__", str(func))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.operation = before

    def entering(self, idx: int, name: str) -> Callable:
        def enter(*_) -> None:
            if not name:  # the layer itself; an interrupt may have left the last one open
                self.modules.clear()
            self.modules.append((idx, name))

        return enter

    def leaving(self, *_) -> None:
        if self.modules:
            self.modules.pop()


class Recorder:
    def __init__(self, packer: BlockPacker, place: _Place) -> None:
        self.record = ActivationRecord()
        self._packer = packer
        self._place = place
        self._rows: dict[tuple, dict[str, object]] = {}
        # By address; a storage that is referred to weakly keeps its address to itself.
        self._saved: dict[int, StorageWeakRef] = {}
        self._passed: set[int] = set()
        self._regions: WeakSet[Region] = WeakSet()
        self._in_fused = False

    @contextmanager
    def fused(self, saved: Iterable[Tensor], other_bytes: int = 0) -> Iterator[None]:
        """Count what is packed in this context as kept by one fused operation.

        Parameters
        ----------
        saved : iterable of Tensor
            What the operations it stands for would have saved of tensors that exist.
        other_bytes : int
            And of tensors that never come to be.
        """
        self._add(0, other_bytes + sum(map(self._first_bytes, saved)))
        self._in_fused = True
        try:
            yield
        finally:
            self._in_fused = False

    def pack(self, tensor: Tensor) -> object:
        handle = self._packer.pack(tensor)
        if self._packer.weights.share_storage_with(tensor):
            return handle
        storage = tensor.untyped_storage()
        kept_bytes = 0
        unquantized_bytes = 0 if self._in_fused else self._first_bytes(tensor)
        if not isinstance(handle, PackedView):
            kept_bytes = 0 if storage._cdata in self._passed else storage.nbytes()
            self._passed.add(storage._cdata)
        elif handle.region not in self._regions:
            kept_bytes = handle.region.kept_bytes
            self._regions.add(handle.region)
        self._add(kept_bytes, unquantized_bytes)
        return handle

    def _first_bytes(self, tensor: Tensor) -> int:
        """Bytes of a tensor's storage, 0 if it was counted before or is a weight's."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._saved or self._packer.weights.share_storage_with(tensor):
            return 0
        self._saved[storage._cdata] = StorageWeakRef(storage)
        return storage.nbytes()

    def _add(self, kept_bytes: int, unquantized_bytes: int) -> None:
        layer, module = self._place.modules[-1]
        operation = self._place.operation.strip("_")
        key = (layer, module, operation)
        if key not in self._rows:
            names = {"layer": layer, "module": module, "operation": operation}
            self._rows[key] = row = {**names, "kept_bytes": 0, "unquantized_bytes": 0}
            self.record.rows.append(row)
        self._rows[key]["kept_bytes"] += kept_bytes
        self._rows[key]["unquantized_bytes"] += unquantized_bytes
