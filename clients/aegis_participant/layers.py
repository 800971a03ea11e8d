"""Which models can be trained privately: stacks of layers that treat every row by itself.

Clipping bounds what one row can do to the sum of gradients only if no layer lets rows look at each
other. BatchNorm does, an unknown layer may, and a layer that is used twice has gradients that add
up where the arithmetic of `clipping` sees two. So the list says what is allowed, and everything
else is refused by name before a single row has been touched.
"""

from __future__ import annotations

from torch import nn

# Compared by identity: a subclass may do anything.
_STACK = nn.Sequential
_DENSE = nn.Linear
_ACTIVATIONS = frozenset({nn.Identity, nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU})


class ModelNotPrivate(ValueError):
    """A layer cannot be trained privately; the server is told the kind of this error."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(f"{layer}: {why}")
        self.layer = layer


def dense_layers(module: nn.Module) -> list[nn.Linear]:
    """Returns the layers that have parameters, in the order of the stack.

    Raises `ModelNotPrivate` when the module is not a stack of dense layers and activations, each
    used once and all of it to be trained.
    """
    dense: list[nn.Linear] = []
    seen: set[int] = set()
    for name, layer in module.named_modules(remove_duplicate=False):
        if type(layer) is _STACK or type(layer) in _ACTIVATIONS:
            continue
        name = name or "the model"
        if type(layer) is not _DENSE:
            raise ModelNotPrivate(name, f"{type(layer).__name__} is not known to be private")
        for part in layer.parameters():
            if id(part) in seen:
                raise ModelNotPrivate(name, "shares its parameters with another layer")
            if not part.requires_grad:
                raise ModelNotPrivate(name, "is not to be trained")
            seen.add(id(part))
        dense.append(layer)
    if not dense:
        raise ModelNotPrivate("the model", "has nothing to train")
    return dense
