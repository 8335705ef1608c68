"""UNet++ computed on cells of pixels: the same weights and results, several times faster on a TPU.

A TPU is slow at moving activations, so the backward pass is written by hand: each convolution
output is stored once, before normalisation, and the operations that read it normalise and rectify
it; the gradient of an activation is one convolution over all nodes that read it, not a sum of
several.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bonescan_jax.models.activations import Activation, Moments, Plan, Stage, Tree, read_all
from bonescan_jax.models.blocks import check_size
from bonescan_jax.models.cells import (
    Cell,
    axes_of,
    blank_outside,
    choose_cells,
    convolve,
    correlate,
    correlate_up,
    down_convolve,
    expand_kernel,
    expand_up_kernel,
    max_pool,
    max_pool_backward,
    pack,
    transposed,
    up_convolve,
)
from bonescan_jax.models.unetpp import UNetPlusPlus, node_order

NodeName = tuple[int, int]  # row and column


# ---- forward -------------------------------------------------------------------------------------


class Node(NamedTuple):
    """Results of a node, for the nodes that read it and for the backward pass."""

    sources: list[Activation]
    first: Activation  # of its two convolutions
    second: Activation
    moments: tuple[Moments, Moments]


def _expand(kernel: jax.Array, sources: int, cell: Cell, to_shifted: bool) -> jax.Array:
    """Expands a kernel for the cells of several sources, concatenated along the lanes."""
    axes = axes_of(cell, to_shifted)
    parts = jnp.split(kernel, sources, 2)
    return jnp.concatenate([expand_kernel(part, axes) for part in parts], 2)


def _norm_weights(weights: Tree, number: int) -> Tree:
    """Weights of the norm after a convolution, or the convolution's bias without a norm."""
    return weights.get(f"norm{number}", {"bias": weights[f"conv{number}"].get("bias")})


class Part(NamedTuple):
    """Concatenated sources that one convolution reads."""

    x: jax.Array
    sources: int


def _read_parts(sources: Sequence[Activation]) -> list[Part]:
    """Concatenates sources, at most four at a time: XLA would copy more before reading them."""
    groups = [sources[start : start + 4] for start in range(0, len(sources), 4)]
    return [Part(read_all(group), len(group)) for group in groups]


def _kernels(kernel: jax.Array, parts: Sequence[Part]) -> list[jax.Array]:
    """Splits a kernel into the slices for each part."""
    counts = [part.sources for part in parts]
    channels = kernel.shape[2] // sum(counts)
    cuts = [channels * cut for cut in itertools.accumulate(counts[:-1])]
    return jnp.split(kernel, cuts, 2)


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    """Of one or more, in their order."""
    return functools.reduce(operator.add, terms)


def _convolution(
    stage: Stage, weights: Tree, number: int, parts: Sequence[Part], running: Tree | None
) -> tuple[Activation, Moments]:
    """The first convolution of a node, to the shifted grid, or the second, back."""
    to_shifted = number == 1
    kernel = weights[f"conv{number}"]["kernel"].astype(stage.plan.dtype)
    raw = _sum(
        convolve(
            part.x,
            _expand(own, part.sources, stage.cell, to_shifted),
            axes_of(stage.cell, to_shifted),
        )
        for part, own in zip(parts, _kernels(kernel, parts), strict=True)
    )
    # The stored output is not blanked, or XLA would store both versions.
    moments = stage.moments(blank_outside(raw, stage.cell) if to_shifted else raw)
    running = running and running[f"norm{number}"]
    line = stage.line(_norm_weights(weights, number), moments, running)
    return stage.activation(raw, line), moments


def _node(stage: Stage, weights: Tree, sources: list[Activation], running: Tree | None) -> Node:
    first, before = _convolution(stage, weights, 1, _read_parts(sources), running)
    between = Part(blank_outside(first.read(), stage.cell), 1)
    second, after = _convolution(stage, weights, 2, [between], running)
    return Node(sources, first, second, (before, after))


def _pool(plan: Plan, row: int, above: Activation) -> Activation:
    """Max-pool from the row above, of its raw output; normalised when it is read."""
    cells = plan.cells[row - 1], plan.cells[row]
    assert above.line is not None  # what a node gives has one
    multiplier, offset = above.line
    channels = multiplier.shape[-1] // math.prod(cells[0])
    line = (
        jnp.tile(jnp.abs(multiplier)[:, :channels], math.prod(cells[1])),
        jnp.tile(offset[:, :channels], math.prod(cells[1])),
    )
    return Activation(max_pool(_rising(above), *cells), line)


def _rising(activation: Activation) -> jax.Array:
    """The raw values, negated where the multiplier is, so that they have the same maxima.

    The result is exact in whichever pass XLA computes it: the backward pass must find the same
    maxima.
    """
    assert activation.line is not None
    return jnp.where(activation.line[0] < 0, -activation.raw, activation.raw)


def _up(plan: Plan, row: int, weights: Tree, x: jax.Array) -> jax.Array:
    """2×2 transposed convolution of stride 2 from the row below, with bias."""
    kernel = _up_kernel(plan, row, weights)
    bias = Stage(plan, row).lanes(weights["bias"].astype(plan.dtype))
    return up_convolve(x, kernel) + bias


def _up_kernel(plan: Plan, row: int, weights: Tree) -> jax.Array:
    kernel = weights["kernel"].astype(plan.dtype)
    return expand_up_kernel(kernel, plan.cells[row + 1], plan.cells[row])


# XLA fuses the computation of one factor into a product. A barrier around the other candidates, the
# small kernel and the bias, makes it choose the activation, which is then never written to memory.
_hold_back = jax.lax.optimization_barrier


def _matrix(plan: Plan, x: jax.Array) -> jax.Array:
    """(rows, columns, batch, lanes) to (cells, lanes).

    The cells of each shard stay together, so that nothing moves between devices.
    """
    rows, columns, batch, lanes = x.shape
    x = x.reshape(rows, columns, plan.shards, batch // plan.shards, lanes)
    return jnp.moveaxis(x, 2, 0).reshape(-1, lanes)


def _read_matrix(plan: Plan, source: Activation) -> jax.Array:
    """An activation as (cells, lanes)."""
    # Where the line is the same for all images, normalise after the reshape: XLA then fuses it into
    # the product, as long as a barrier hides the reshape.
    if plan.per_image:
        return _matrix(plan, source.read())
    return Activation(_hold_back(_matrix(plan, source.raw)), source.line).read()


def _expand_head(plan: Plan, kernel: jax.Array) -> jax.Array:
    """(C, classes) to (classes · pixels of a cell, lanes)."""
    pixels = math.prod(plan.cells[0])
    same = jnp.eye(pixels, dtype=kernel.dtype)
    kernel = jnp.einsum("pq,ck->kpqc", same, kernel)
    return kernel.reshape(-1, pixels * kernel.shape[-1])


def _head(plan: Plan, weights: Tree, source: Activation) -> jax.Array:
    """Float32 logits (classes, pixels of a cell, cells) of an activation.

    The cells come last, along the lanes, which 3 classes would waste.
    """
    kernel = _hold_back(_expand_head(plan, weights["kernel"].astype(plan.dtype)))
    x = _read_matrix(plan, source)
    logits = _hold_back(jnp.einsum("nc,kc->kn", x, kernel, preferred_element_type=jnp.float32))
    logits = logits.reshape(-1, math.prod(plan.cells[0]), len(x))
    return logits + weights["bias"][:, None, None]


def _forward(
    plan: Plan, weights: Tree, x: jax.Array, running: Tree | None
) -> tuple[list[jax.Array], dict[NodeName, Node]]:
    """Logits of every head, and every node.

    Args:
        plan: of the network.
        weights: its parameters.
        x: images (B, H, W, in_channels).
        running: the running statistics to normalise with, or None for those of the batch.
    """
    nodes: dict[NodeName, Node] = {}
    for row, column in node_order(plan.levels):
        name = f"{row}_{column}"
        with jax.named_scope(f"X{name}"):
            if column:
                below = nodes[row + 1, column - 1].second.read()
                up = _up(plan, row, weights["ups"][name], below)
                earlier = [nodes[row, before].second for before in range(column)]
                sources = [Activation(up), *earlier]
            elif row:
                sources = [_pool(plan, row, nodes[row - 1, 0].second)]
            else:
                sources = [Activation(pack(x, plan.cells[0]).astype(plan.dtype))]
            statistics = running and running["nodes"][name]
            nodes[row, column] = _node(
                Stage(plan, row), weights["nodes"][name], sources, statistics
            )
    with jax.named_scope("heads"):
        logits = [
            _head(plan, weights["heads"][f"{column}"], nodes[0, column].second)
            for column in plan.supervised
        ]
    return logits, nodes


# ---- backward ------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _train(
    plan: Plan, weights: Tree, x: jax.Array
) -> tuple[list[jax.Array], dict[str, tuple[Moments, Moments]]]:
    """Logits of every head, and the moments of both convolutions of every node."""
    return _train_forward(plan, weights, x)[0]


def _train_forward(plan: Plan, weights: Tree, x: jax.Array) -> tuple[Tree, Tree]:
    logits, nodes = _forward(plan, weights, x, None)
    moments = {f"{row}_{column}": node.moments for (row, column), node in nodes.items()}
    return (logits, moments), (weights, x, nodes)


def _train_backward(plan: Plan, saved: Tree, gradients: Tree) -> tuple[Tree, jax.Array]:
    """Gradients of weights and images, node by node, each after all that read it."""
    weights, image, nodes = saved
    # Otherwise XLA would store the normalised activations of the forward pass for this one.
    nodes, gradients = jax.lax.optimization_barrier((nodes, gradients))
    to_logits = dict(zip(plan.supervised, gradients[0], strict=True))
    to_weights: Tree = {"nodes": {}, "ups": {}, "heads": {}}
    to_first: dict[NodeName, jax.Array] = {}  # gradients of the first convolutions' outputs
    terms: dict[NodeName, list[jax.Array]] = {name: [] for name in nodes}
    for row, column in reversed(node_order(plan.levels)):
        node, name = nodes[row, column], f"{row}_{column}"
        own = weights["nodes"][name]
        with jax.named_scope(f"X{name}"):
            if row == 0 and column in to_logits:
                to_weights["heads"][f"{column}"], term = _head_backward(
                    plan, weights["heads"][f"{column}"], node.second, to_logits[column]
                )
                if column < plan.levels or plan.per_image:
                    term = _from_matrix(plan, term, node.second.raw)
                terms[row, column].append(term)
            readers = [(row, later) for later in range(column + 1, plan.levels - row + 1)]
            if readers:
                terms[row, column].append(
                    _from_readers(plan, row, column + 1, weights["nodes"], to_first, readers)
                )
            total = _sum(terms.pop((row, column)))
            to_weights["nodes"][name], to_first[row, column] = _node_backward(
                Stage(plan, row), own, node, total
            )
            if column or row:
                to_source = _from_readers(plan, row, 0, weights["nodes"], to_first, [(row, column)])
            if column:
                below = nodes[row + 1, column - 1].second
                to_weights["ups"][name], term = _up_backward(
                    plan, row, weights["ups"][name], below, to_source
                )
                terms[row + 1, column - 1].append(term)
            elif row:
                above, (pooled,) = _rising(nodes[row - 1, 0].second), node.sources
                cells = plan.cells[row - 1], plan.cells[row]
                terms[row - 1, 0].append(max_pool_backward(above, pooled.raw, to_source, *cells))
    to_image = _from_readers(plan, 0, 0, weights["nodes"], to_first, [(0, 0)])
    unpack = jax.linear_transpose(lambda x: pack(x, plan.cells[0]).astype(plan.dtype), image)
    return to_weights, unpack(to_image)[0]


_train.defvjp(_train_forward, _train_backward)


def _from_readers(
    plan: Plan,
    row: int,
    place: int,
    weights: Tree,
    to_first: dict[NodeName, jax.Array],
    readers: Sequence[NodeName],
) -> jax.Array:
    """The gradient of an activation: one convolution over the nodes that read it.

    Args:
        plan: of the network.
        row: of the activation and of the nodes that read it.
        place: of the activation among their sources.
        weights: of all nodes.
        to_first: the gradients of the first convolutions' outputs.
        readers: the nodes.
    """
    cell, kernels = plan.cells[row], []
    for reader in readers:
        kernel = weights[f"{reader[0]}_{reader[1]}"]["conv1"]["kernel"].astype(plan.dtype)
        part = jnp.split(kernel, reader[1] + 1, 2)[place]
        kernels.append(transposed(expand_kernel(part, axes_of(cell, to_shifted=True))))
    gradients = jnp.concatenate([to_first[reader] for reader in readers], -1)
    return convolve(gradients, jnp.concatenate(kernels, 2), axes_of(cell, to_shifted=False))


def _from_matrix(plan: Plan, matrix: jax.Array, like: jax.Array) -> jax.Array:
    """(cells, lanes) back to the axes of another array."""
    return jax.linear_transpose(functools.partial(_matrix, plan), like)(matrix)[0]


def _through_relu(gradient: jax.Array, activation: Activation) -> jax.Array:
    return jnp.where(activation.read() > 0, gradient, jnp.zeros((), gradient.dtype))


def _node_backward(
    stage: Stage, weights: Tree, node: Node, gradient: jax.Array
) -> tuple[Tree, jax.Array]:
    """Gradients of the weights of a node and of its first convolution's output.

    Args:
        stage: of its row.
        weights: its parameters.
        node: its results.
        gradient: of its activation, or as a matrix where nothing but a head reads it.
    """
    cell, to_weights = stage.cell, {}

    def through_norm(
        number: int, gradient: jax.Array, activation: Activation, sums: Moments
    ) -> jax.Array:
        """From the gradient behind the ReLU, and its sums, to that of the convolution's output."""
        own = _norm_weights(weights, number)
        moments = node.moments[number - 1]
        to_raw, to_norm = stage.backward(gradient, sums, activation.raw, own, moments)
        if stage.plan.norm == "none":
            to_weights[f"conv{number}"] = to_norm
        else:
            to_weights[f"conv{number}"], to_weights[f"norm{number}"] = {}, to_norm
        return to_raw

    def to_kernel(number: int, parts: Sequence[Part], gradient: jax.Array) -> jax.Array:
        to_shifted, found = number == 1, []
        kernel = weights[f"conv{number}"]["kernel"]
        for part, own in zip(parts, _kernels(kernel, parts), strict=True):
            expand = functools.partial(
                _expand, sources=part.sources, cell=cell, to_shifted=to_shifted
            )
            pull = jax.linear_transpose(expand, own)
            found += pull(correlate(part.x, gradient, axes_of(cell, to_shifted)))
        return jnp.concatenate(found, 2)

    if gradient.ndim == node.second.raw.ndim:
        gradient = _through_relu(gradient, node.second)
        sums = stage.gradient_sums(gradient, node.second.raw)
    else:  # in matrix form, XLA computes the sums in the same pass as the head's product
        raw = _hold_back(_matrix(stage.plan, node.second.raw))
        gradient = _through_relu(gradient, Activation(raw, node.second.line))
        sums = stage.gradient_sums(gradient, raw)
        # The barrier keeps XLA from storing it in float32, the type it is read in next.
        gradient = _from_matrix(stage.plan, _hold_back(gradient), node.second.raw)
    to_second = through_norm(2, gradient, node.second, sums)
    between = Part(blank_outside(node.first.read(), cell), 1)
    to_weights["conv2"]["kernel"] = to_kernel(2, [between], to_second)
    kernel = _expand(weights["conv2"]["kernel"].astype(stage.plan.dtype), 1, cell, False)
    gradient = convolve(to_second, transposed(kernel), axes_of(cell, to_shifted=True))
    gradient = _through_relu(blank_outside(gradient, cell), node.first)
    sums = stage.gradient_sums(gradient, node.first.raw)
    to_first = blank_outside(through_norm(1, gradient, node.first, sums), cell)
    to_weights["conv1"]["kernel"] = to_kernel(1, _read_parts(node.sources), to_first)
    return to_weights, to_first


def _head_backward(
    plan: Plan, weights: Tree, source: Activation, gradient: jax.Array
) -> tuple[Tree, jax.Array]:
    """Gradients of the weights of a head and, as a matrix, of its input."""
    expand = functools.partial(_expand_head, plan)
    kernel = _hold_back(expand(weights["kernel"].astype(plan.dtype)))
    to_logits = _hold_back(gradient.reshape(len(kernel), -1).astype(plan.dtype))
    x = _read_matrix(plan, source)
    to_kernel = jnp.einsum("kn,nc->kc", to_logits, x, preferred_element_type=jnp.float32)
    (to_kernel,) = jax.linear_transpose(expand, weights["kernel"])(_hold_back(to_kernel))
    to_source = jnp.einsum("kn,kc->nc", to_logits, kernel)
    return {"kernel": to_kernel, "bias": gradient.sum((1, 2))}, to_source


def _up_backward(
    plan: Plan, row: int, weights: Tree, below: Activation, gradient: jax.Array
) -> tuple[Tree, jax.Array]:
    """Gradients of the weights of an up-convolution and of its input."""
    cells = plan.cells[row + 1], plan.cells[row]
    pull = jax.linear_transpose(lambda kernel: expand_up_kernel(kernel, *cells), weights["kernel"])
    (to_kernel,) = pull(correlate_up(below.read(), gradient))
    to_bias = gradient.astype(jnp.float32).sum((0, 1, 2))
    to_bias = to_bias.reshape(math.prod(cells[1]), -1).sum(0)
    term = down_convolve(gradient, _up_kernel(plan, row, weights))
    return {"kernel": to_kernel, "bias": to_bias}, term


# ---- the network ---------------------------------------------------------------------------------


def apply(
    model: UNetPlusPlus, x: jax.Array, train: bool, shards: int = 1
) -> tuple[list[jax.Array], Cell]:
    """Logits of every head, those of `model(x, train)` with their classes and cells first.

    Args:
        model: the network, with its plain weights; its running statistics are updated.
        x: images (B, H, W, in_channels); H and W multiples of 2**levels.
        train: normalise with the batch's own statistics and track them.
        shards: equal parts that the devices split the batch into.

    Returns:
        For each supervised column float32 (outputs, pixels of a cell, cells), and the cell;
        `pack_mask` and `unpack_logits` say which pixel lies where.
    """
    check_size(x, model.levels)
    weights = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    bones = weights.pop("bones", {})
    plan = _plan(model, x, shards)
    if not train:
        running = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        logits, _ = _forward(plan, weights, x, running if plan.norm == "batch" else None)
        return logits, plan.cells[0]
    if bones:
        weights["heads"] = jax.tree.map(
            lambda head, other: jnp.concatenate([head, other], -1), weights["heads"], bones
        )
    logits, moments = _train(plan, weights, x)
    if plan.norm == "batch":
        for name, (first, second) in moments.items():
            for norm, moment in zip(
                (model.nodes[name].norm1, model.nodes[name].norm2), (first, second), strict=True
            ):
                assert norm is not None  # by the plan
                norm.track(*moment)
    return logits, plan.cells[0]


def _plan(model: UNetPlusPlus, x: jax.Array, shards: int) -> Plan:
    _, height, width, _ = x.shape
    blocks = [model.nodes[f"{row}_0"] for row in range(model.levels + 1)]
    widths = [block.conv2.kernel.shape[-1] for block in blocks]
    norm = blocks[0].norm1
    return Plan(
        levels=model.levels,
        supervised=model.supervised,
        norm="none" if norm is None else norm.kind,
        dtype=blocks[0].conv1.dtype,
        cells=choose_cells(widths, height, width),
        size=(height, width),
        shards=shards,
    )


def pack_mask(mask: jax.Array, cell: Cell, shards: int) -> jax.Array:
    """(B, H, W, V) classes laid out as logits: bfloat16 (V, pixels of a cell, cells)."""
    mask = _hold_back(mask.astype(jnp.bfloat16))  # exact up to 256; bytes are moved slower
    batch, height, width, views = mask.shape
    rows, columns = cell
    mask = mask.reshape(
        shards, batch // shards, height // rows, rows, width // columns, columns, views
    )
    mask = mask.transpose(6, 3, 5, 0, 2, 4, 1)
    # Without the barrier XLA would transpose the losses' results, once per class and direction.
    return _hold_back(mask.reshape(views, rows * columns, -1))


def unpack_logits(logits: jax.Array, shape: Sequence[int], cell: Cell, shards: int) -> jax.Array:
    """(K, V, pixels of a cell, cells) to (B, H, W, V, K) of images (B, H, W)."""
    batch, height, width = shape
    classes, views, *_ = logits.shape
    rows, columns = cell
    logits = logits.reshape(
        classes, views, rows, columns, shards, height // rows, width // columns, batch // shards
    )
    logits = logits.transpose(4, 7, 5, 2, 6, 3, 1, 0)
    return logits.reshape(batch, height, width, views, classes)
