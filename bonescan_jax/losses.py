"""The loss of each head: (focal) cross-entropy plus a soft overlap (Dice or Tversky)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bonescan_jax.hyperparameters import Section

# Between two float32 numbers just below 1.
RESOLUTION = 2.0**-24
SMOOTH = 1.0  # pixels, in numerator and denominator, as in the UNet++ paper's soft Dice


def head_loss(logits: jax.Array, mask: jax.Array, settings: Section) -> jax.Array:
    """The loss of one head, a scalar.

    cross_entropy_weight · mean over pixels of w_y (1 − p_y)^γ (−log p_y)
    + overlap_weight · mean over foreground classes of 1 − T, with the soft Tversky index
    T = (TP + s) / (TP + a FP + b FN + s), sums over all pixels of the batch.

    With γ = 0, a = b = ½ and no class weights this is the loss of Zhou et al. (arXiv 1912.05074,
    eq. 3) up to a constant. Focal: Lin et al., arXiv 1708.02002. Tversky: Salehi et al., arXiv
    1706.05721. The overlap is pooled over the batch because most crops hold one class or none, and
    an image that lacks a class would push its prediction to zero twice.

    Args:
        logits: (K, …) float32.
        mask: (…) classes as whole numbers of any type, 0 is background.
        settings: `section` of config.loss.
    """
    # An array for each class: reductions over an axis of 3 would cost more passes over the pixels.
    highest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, logits))
    exponentials = [jnp.exp(logit - highest) for logit in logits]
    total = sum(exponentials)
    log_total = jnp.log(total) + highest

    loss = jnp.zeros(())
    tversky = []
    for label, (logit, exponential) in enumerate(zip(logits, exponentials, strict=True)):
        truth = (mask == label).astype(jnp.float32)
        probability = exponential / total
        if settings["cross_entropy_weight"] is not None:
            surprise = truth * (log_total - logit)
            if settings["focal_gamma"] is not None:
                # Of a power below 1 the slope at 0 is infinite.
                doubt = jnp.maximum(1 - probability, RESOLUTION)
                surprise *= doubt ** settings["focal_gamma"]
            weight = settings["cross_entropy_weight"] * settings["class_weights"][label]
            loss += weight * surprise.sum() / mask.size
        if label:
            tversky.append(_tversky(probability, truth, settings))
    if settings["overlap_weight"] is not None:
        loss += settings["overlap_weight"] * (1 - sum(tversky) / len(tversky))
    return loss


def _tversky(probability: jax.Array, truth: jax.Array, settings: Section) -> jax.Array:
    true_positive = (probability * truth).sum()
    false_positive = probability.sum() - true_positive
    false_negative = truth.sum() - true_positive
    return (true_positive + SMOOTH) / (
        true_positive
        + settings["false_positive_weight"] * false_positive
        + settings["false_negative_weight"] * false_negative
        + SMOOTH
    )


def bones_loss(logits: jax.Array, bones: jax.Array) -> jax.Array:
    """The mean cross-entropy of the bones, a scalar.

    An auxiliary task: what knows the anatomy tells a hot joint from a hot lesion.

    Args:
        logits: (bones, …) float32.
        bones: (…) numbers of `scans.bones.BONES`, of any type.
    """
    # Not by gathering, which is slow on every device.
    own = sum(jnp.where(bones == number, logit, 0.0) for number, logit in enumerate(logits))
    return (jax.nn.logsumexp(logits, axis=0) - own).mean()


def deep_supervision_loss(
    logits: Sequence[jax.Array], mask: jax.Array, settings: Section
) -> tuple[jax.Array, list[jax.Array]]:
    """The mean of the heads' losses, and each of them (arXiv 1912.05074: no head weighs more)."""
    losses = [head_loss(head, mask, settings) for head in logits]
    return sum(losses[1:], losses[0]) / len(losses), losses
