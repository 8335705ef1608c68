"""What a head is trained on: cross-entropy (focal) plus a soft overlap (Dice or Tversky)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections

SMOOTH = 1.0  # pixels, in numerator and denominator, as in the UNet++ paper's soft Dice


def head_loss(logits: jax.Array, mask: jax.Array, settings: ml_collections.ConfigDict) -> jax.Array:
    """The loss of one head, a scalar.

    cross_entropy_weight · mean over pixels of w_y (1 − p_y)^γ (−log p_y)
    + overlap_weight · mean over foreground classes of 1 − T, with the soft Tversky index
    T = (TP + s) / (TP + a FP + b FN + s), sums over all pixels of the batch.

    With γ = 0, a = b = ½ and no class weights this is the loss of Zhou et al. (arXiv 1912.05074,
    eq. 3) up to a constant. Focal: Lin et al., arXiv 1708.02002. Tversky: Salehi et al., arXiv
    1706.05721. The overlap is pooled over the batch because most crops hold one class or none, and
    an image that lacks a class would push its prediction to zero twice.

    Args:
        logits: (…, K) float32.
        mask: (…) integer classes, 0 is background.
        settings: config.loss.
    """
    # Classes first: K = 3 as the last axis would waste the lanes of every vector register.
    logits = jnp.moveaxis(logits, -1, 0)
    log_probs = logits - jax.nn.logsumexp(logits, axis=0)
    probs = jnp.exp(log_probs)
    truth = jax.nn.one_hot(mask, len(logits), axis=0)
    pixels = tuple(range(1, logits.ndim))

    loss = jnp.zeros(())
    if settings.cross_entropy_weight:
        weights = jnp.expand_dims(jnp.asarray(settings.class_weights, jnp.float32), pixels)
        surprise = -log_probs * weights * truth
        if settings.focal_gamma:
            surprise = surprise * (1 - probs) ** settings.focal_gamma
        loss += settings.cross_entropy_weight * surprise.sum(0).mean()
    if settings.overlap_weight:
        true_positive = (probs * truth).sum(pixels)[1:]
        false_positive = probs.sum(pixels)[1:] - true_positive
        false_negative = truth.sum(pixels)[1:] - true_positive
        tversky = (true_positive + SMOOTH) / (
            true_positive
            + settings.false_positive_weight * false_positive
            + settings.false_negative_weight * false_negative
            + SMOOTH
        )
        loss += settings.overlap_weight * (1 - tversky).mean()
    return loss


def deep_supervision_loss(
    logits: Sequence[jax.Array], mask: jax.Array, settings: ml_collections.ConfigDict
) -> tuple[jax.Array, list[jax.Array]]:
    """The mean of the heads' losses, and each of them (arXiv 1912.05074: no head weighs more)."""
    losses = [head_loss(head, mask, settings) for head in logits]
    return sum(losses) / len(losses), losses
