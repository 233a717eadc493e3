"""Layer-wise aggregation (Eq. 19) as a running sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from fedquad.config import InputError
from fedquad.methods.method import Accumulator, LocalUpdate
from fedquad.model.adapter import Adapter


class TensorSum:
    """Weighted sum of tensors under fixed names, in fp32, and the sum of the weights."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._total: dict[str, Tensor] = {}

    def add(self, tensors: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add ``weight * tensors``; none of them is kept or changed."""
        if not self._total:
            # Not added to zeros: -0.0 stays what it is, as in `Adapter.mean`.
            self._total = {name: tensor.float() * weight for name, tensor in tensors.items()}
        else:
            for name, tensor in tensors.items():
                self._total[name].add_(tensor.float(), alpha=weight)
        self.weight += weight

    def merge(self, other: TensorSum) -> None:
        """Add another sum, its weights included."""
        weight = self.weight + other.weight
        self.add(other._total)
        self.weight = weight

    def mean(self) -> dict[str, Tensor]:
        """Weighted mean of what was added, in fp32."""
        return {name: tensor / self.weight for name, tensor in self._total.items()}

    def mean_or(self, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mean` in the names' order and dtypes of ``before``; its copy if nothing was added."""
        if not self.weight:
            return {name: tensor.clone() for name, tensor in before.items()}
        mean = self.mean()
        return {name: mean[name].to(tensor.dtype) for name, tensor in before.items()}


class LayerwiseMean(Accumulator):
    """Eq. (19): each layer's mean over the devices that trained it; the head's over all.

    Sums run in fp32 and in the order of `add`, so the result is the same bytes
    every time. Held are one adapter of sums and what a device adds at the moment.

    Parameters
    ----------
    global_adapter : Adapter
        All L layers; where nobody trained a layer its value stays.
    weight_of : callable, optional
        Weight of an update, > 0, such as its number of samples; all alike by default.
    """

    def __init__(
        self,
        global_adapter: Adapter,
        weight_of: Callable[[LocalUpdate], float] | None = None,
    ) -> None:
        self._global = global_adapter
        self._weight_of = weight_of
        self._layers: dict[int, TensorSum] = {}
        self._head = TensorSum()

    def add(self, update: LocalUpdate) -> None:
        """Take one device's update.

        Raises
        ------
        InputError
            A layer, name or shape that the global adapter lacks, or a weight of 0
            or less; nothing has been added then.
        """
        weight = 1.0 if self._weight_of is None else float(self._weight_of(update))
        if not weight > 0:
            raise InputError("weight of an update", weight, "a number > 0")
        require_same_tensors(update.adapter, self._global, update.device)
        for layer, tensors in update.adapter.lora.items():
            self._layers.setdefault(layer, TensorSum()).add(tensors, weight)
        self._head.add(update.adapter.head, weight)

    def merge(self, other: LayerwiseMean) -> None:
        """Add all that another mean has summed up."""
        for layer, total in other._layers.items():
            self._layers.setdefault(layer, TensorSum()).merge(total)
        if other._head.weight:
            self._head.merge(other._head)

    def layer_weight(self, layer: int) -> float:
        """Sum of the weights of the updates that hold a layer; without weights their number."""
        return self._layers[layer].weight if layer in self._layers else 0.0

    def layer_change(self, layer: int) -> dict[str, Tensor]:
        """Mean update of a layer: the mean over its holders minus its global value."""
        before = self._global.lora[layer]
        return {n: mean - before[n] for n, mean in self._layers[layer].mean().items()}

    def finish(self) -> Adapter:
        lora = {
            layer: self._layers.get(layer, TensorSum()).mean_or(before)
            for layer, before in self._global.lora.items()
        }
        return Adapter(lora, self._head.mean_or(self._global.head), self._global.layout)


def require_same_tensors(received: Adapter, known: Adapter, device: int) -> None:
    """Raise `InputError` unless an update's layers and head are tensor by tensor the global ones.

    It may hold fewer layers, but of each layer, and of the head, all tensors.
    """
    pairs = [("head", received.head, known.head)]
    pairs += [(f"layer {n}", tensors, known.lora.get(n)) for n, tensors in received.lora.items()]
    for place, tensors, there in pairs:
        field = f"{place} of device {device}"
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if there is None:
            raise InputError(field, shapes, f"layers {sorted(known.lora)}")
        accepted = {name: tuple(tensor.shape) for name, tensor in there.items()}
        if shapes != accepted:
            raise InputError(field, shapes, f"the global adapter's {accepted}")
