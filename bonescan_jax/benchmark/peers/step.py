"""UNet++ of MONAI and of plain PyTorch, and a training step of each. Runs in `.venv-peers`."""

import os
from collections.abc import Sequence

import torch
from monai.networks.nets import BasicUNetPlusPlus
from torch import nn
from torch.nn import functional

from bonescan_jax.benchmark.measure import Work, peak_resident
from bonescan_jax.benchmark.peers import Task


class _Block(nn.Module):
    """(3×3 convolution, batch norm, ReLU) twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(x)), inplace=True)


class PlainUNetPlusPlus(nn.Module):
    """The nodes, up-convolutions and heads of `bonescan_jax.models.unetpp.UNetPlusPlus`."""

    def __init__(self, channels: int, classes: int, filters: Sequence[int]) -> None:
        super().__init__()
        self.levels = len(filters) - 1
        self.nodes, self.ups = nn.ModuleDict(), nn.ModuleDict()
        for row, column in self._order():
            if column:
                up = nn.ConvTranspose2d(filters[row + 1], filters[row], 2, 2)
                self.ups[f"{row}_{column}"] = up
                width = (column + 1) * filters[row]
            else:
                width = filters[row - 1] if row else channels
            self.nodes[f"{row}_{column}"] = _Block(width, filters[row])
        self.heads = nn.ModuleList(nn.Conv2d(filters[0], classes, 1) for _ in range(self.levels))

    def _order(self) -> list[tuple[int, int]]:
        return [(depth - j, j) for depth in range(self.levels + 1) for j in range(depth + 1)]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, channels, H, W) to logits (B, classes, H, W) of each head."""
        out: dict[tuple[int, int], torch.Tensor] = {}
        for row, column in self._order():
            if column:
                up = self.ups[f"{row}_{column}"](out[row + 1, column - 1])
                source = torch.cat([up, *(out[row, earlier] for earlier in range(column))], 1)
            else:
                source = functional.max_pool2d(out[row - 1, 0], 2) if row else x
            out[row, column] = self.nodes[f"{row}_{column}"](source)
        return [head(out[0, column + 1]) for column, head in enumerate(self.heads)]


def _network(peer: str, variant: str, task: Task) -> nn.Module:
    if peer == "torch":
        return PlainUNetPlusPlus(task.channels, task.classes, task.filters)
    return BasicUNetPlusPlus(
        spatial_dims=2,
        in_channels=task.channels,
        out_channels=task.classes,
        features=(*task.filters, task.filters[0]),
        deep_supervision=True,
        **({"norm": ("batch", {"affine": True})} if variant.startswith("batch") else {}),
    )


def _loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """½ cross-entropy + soft Dice over the foreground classes, as `bonescan_jax.losses`."""
    logits = logits.float()
    probabilities = logits.softmax(1)
    truth = functional.one_hot(mask, logits.shape[1]).movedim(-1, 1).float()
    pixels = (0, 2, 3)
    found = (probabilities * truth).sum(pixels)[1:]
    sizes = probabilities.sum(pixels)[1:] + truth.sum(pixels)[1:]
    dice = (found + 1) / (sizes / 2 + 1)
    return functional.cross_entropy(logits, mask) / 2 + (1 - dice).mean()


def peer_work(peer: str, variant: str, dtype: str, task: Task) -> Work:
    """A training step ("step") and a forward pass in training mode ("forward").

    Args:
        peer: monai or torch.
        variant: one of its `VARIANTS` or `COMPILED_VARIANTS`.
        dtype: float32, or bfloat16 under autocast.
        task: what is computed.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # XLA tries every convolution's algorithms too
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last if "channels last" in variant else torch.contiguous_format
    network = _network(peer, variant, task).to(device, memory_format=layout)
    if variant.endswith("compiled"):
        network = torch.compile(network)
    image = torch.rand(task.batch_size, task.channels, task.height, task.width)
    image = image.to(device, memory_format=layout)
    mask = torch.randint(0, task.classes, (task.batch_size, task.height, task.width)).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), task.learning_rate, weight_decay=task.weight_decay, fused=True
    )

    def forward() -> list[torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            return network(image)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        heads = forward()
        loss = sum(_loss(head, mask) for head in heads) / len(heads)
        loss.backward()
        optimizer.step()
        return loss.item()

    def forward_only() -> float:
        with torch.no_grad():
            return forward()[-1].sum().item()

    step()
    on_gpu = device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else peak_resident()
    pieces = {"step": step, "forward": forward_only}
    return Work(pieces, {"peak_memory_mib": memory / 2**20}, "gpu" if on_gpu else "cpu")
