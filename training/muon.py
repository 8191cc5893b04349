"""Muon for matrices and convolution kernels, AdamW for everything else.

Muon replaces the momentum of a matrix by the nearest orthogonal one, found with a Newton-Schulz iteration:
Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/ (iteration and coefficients from there). On this project's small
networks it needs about half of AdamW's steps. Matrices of one shape are orthogonalised as one batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# First and last layers, embeddings and norms do not gain from orthogonal updates.
_ADAM_NAMES = ("conv_in", "conv_out", "quant_conv", "norm", "emb")
_SMALLEST_SIDE = 8
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices [..., M, N] of near-orthogonal rows or columns, in bf16, with the singular vectors of these."""
    wide = matrices.bfloat16()
    tall = wide.shape[-2] > wide.shape[-1]
    if tall:
        wide = wide.mT
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = wide @ wide.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.baddbmm(wide, polynomial, wide, beta=a)
    return wide.mT if tall else wide


class Muon:
    """One step for all parameters with two learning rates; gradients are freed by it."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], momentum: float = 0.95) -> None:
        self.momentum = momentum
        self._matrices: dict[tuple[int, int], list[nn.Parameter]] = {}
        others: list[nn.Parameter] = []
        for name, parameter in named:
            if _is_matrix(name, parameter):
                shape = (parameter.shape[0], parameter[0].numel())
                self._matrices.setdefault(shape, []).append(parameter)
            else:
                others.append(parameter)
        self._momenta = {
            shape: torch.zeros(len(group), *shape, device=group[0].device) for shape, group in self._matrices.items()
        }
        self._adam = Adam(others)

    def state(self) -> list[Tensor]:
        """Every tensor of the optimizer's state, always in the same order; assigning into them restores it."""
        return [*self._momenta.values(), *self._adam.state()]

    @torch.no_grad()
    def step(self, rate: float, adam_rate: float) -> None:
        """Move every parameter against its gradient: `rate` is Muon's, for matrices, `adam_rate` AdamW's."""
        for shape, group in self._matrices.items():
            gradient = torch.stack([_gradient(parameter).reshape(shape) for parameter in group])
            momentum = self._momenta[shape]
            momentum.lerp_(gradient, 1 - self.momentum)
            updates = orthogonal(gradient.lerp_(momentum, self.momentum)).float()
            # Tall matrices map to more outputs than inputs: their update grows to keep an output's change.
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, update in zip(group, updates, strict=True):
                parameter.add_(update.view(parameter.shape), alpha=-rate * scale)
                parameter.grad = None
        self._adam.step(adam_rate)


class Adam:
    """AdamW without weight decay, its state in plain tensors so that workers can average it."""

    def __init__(self, parameters: list[nn.Parameter], betas: tuple[float, float] = (0.9, 0.98)) -> None:
        self.parameters: list[Tensor] = [*parameters]
        self.betas = betas
        self.first = [torch.zeros_like(parameter) for parameter in parameters]
        self.second = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = torch.zeros(())

    def state(self) -> list[Tensor]:
        return [*self.first, *self.second, self.steps]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        self.steps += 1
        steps = float(self.steps)
        gradients = [_gradient(parameter) for parameter in self.parameters]
        torch._foreach_lerp_(self.first, gradients, 1 - self.betas[0])
        torch._foreach_mul_(self.second, self.betas[1])
        torch._foreach_addcmul_(self.second, gradients, gradients, 1 - self.betas[1])
        scale = torch._foreach_div(self.second, 1 - self.betas[1] ** steps)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, 1e-8)
        torch._foreach_addcdiv_(self.parameters, self.first, scale, -rate / (1 - self.betas[0] ** steps))
        for parameter in self.parameters:
            parameter.grad = None


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    if parameter.ndim < 2 or any(word in name for word in _ADAM_NAMES):
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= _SMALLEST_SIDE


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise ValueError("A parameter was given to the optimizer that the loss does not depend on.")
    return parameter.grad
