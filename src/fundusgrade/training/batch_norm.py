"""Batch normalization with statistics of the whole batch, over all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fundusgrade.training.distributed import process_group


def synchronize_batch_norm(network: nn.Module) -> None:
    """Let batch normalization use the batches of all processes, if there are several; names of weights stay."""
    if process_group().size == 1:
        return
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, SynchronizedBatchNorm(child))


class SynchronizedBatchNorm(nn.Module):
    """Batch normalization over the batches of all processes (as torch's SyncBatchNorm, which needs a GPU).

    It takes over the weights and statistics of another layer, and where that is timm's, its dropout and activation.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (B, C, ...) -> normalized feature maps of the same shape and type."""
        if self.training:
            mean, variance = self._statistics(x.float())
        else:
            mean, variance = self.running_mean, self.running_var
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        y: Tensor = self.act(self.drop((x.float() * scale.view(shape) + shift.view(shape)).to(x.dtype)))
        return y

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) over all processes, from each one's own and its number of values."""
        dims = [dim for dim in range(x.ndim) if dim != 1]
        own_variance, own_mean = torch.var_mean(x, dim=dims, correction=0)
        own_count = torch.full_like(own_mean, x.numel() / x.shape[1])
        own, group = torch.stack([own_count, own_mean, own_variance]), process_group()
        by_rank = [own if rank == group.rank else torch.zeros_like(own) for rank in range(group.size)]
        counts, means, variances = _AllReduce.apply(torch.stack(by_rank)).unbind(dim=1)
        count = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / count
        variance = (counts * (variances + (means - mean).square())).sum(dim=0) / count
        self._update_running_statistics(mean.detach(), (variance * count / (count - 1)).detach())
        return mean, variance

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes, with the gradients of all."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        return process_group().all_reduce(tensor)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return process_group().all_reduce(gradient)
