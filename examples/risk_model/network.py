"""A small neural network in numpy: fit, and the layers that the SavedModel writer takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Layers = list[tuple[Floats, Floats]]
FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8  # Adam (Kingma and Ba 2015) with the paper's own values


def forward(layers: Layers, inputs: Floats) -> tuple[Floats, list[Floats]]:
    """(n, classes) probabilities, and what each layer was given."""
    given, last = [inputs], len(layers) - 1
    for index, (weights, bias) in enumerate(layers):
        product = given[-1] @ weights + bias
        given.append(product if index == last else np.maximum(product, 0))
    logits = given.pop()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True), given


def gradients(layers: Layers, inputs: Floats, targets: Floats, decay: float) -> Layers:
    """Of the mean cross entropy, with L2 decay of the weights. ``targets`` is (n, classes), rows may carry weights."""
    probabilities, given = forward(layers, inputs)
    error = (probabilities * targets.sum(axis=1, keepdims=True) - targets) / len(inputs)
    found: Layers = []
    for (weights, _), below in zip(reversed(layers), reversed(given), strict=True):
        found.append((below.T @ error + decay * weights, error.sum(axis=0)))
        error = (error @ weights.T) * (below > 0)
    return found[::-1]


def fit(
    inputs: Floats,
    targets: Floats,
    hidden: Sequence[int],
    *,
    epochs: int,
    seed: int,
    told: Callable[[int], None] = lambda _: None,
) -> Layers:
    """Layers for unscaled inputs. The same data and seed give the same layers on the same machine."""
    random = np.random.default_rng(seed)
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    scaled = (inputs - mean) / spread
    widths = [inputs.shape[1], *hidden, targets.shape[1]]
    layers: Layers = [
        (random.normal(0, np.sqrt(2 / above), (above, below)), np.zeros(below)) for above, below in pairwise(widths)
    ]
    moments = [[np.zeros_like(part) for layer in layers for part in layer] for _ in range(2)]
    step = 0
    for epoch in range(epochs):
        for batch in np.array_split(random.permutation(len(scaled)), max(1, len(scaled) // 64)):
            step += 1
            slopes = [part for layer in gradients(layers, scaled[batch], targets[batch], 1e-3) for part in layer]
            rate = 3e-3 * (1 - epoch / epochs)
            _adam([part for layer in layers for part in layer], slopes, moments, rate, step)
        told(epoch + 1)
    return _unscaled(layers, mean, spread)


def _adam(parts: list[Floats], slopes: list[Floats], moments: list[list[Floats]], rate: float, step: int) -> None:
    for part, slope, first, second in zip(parts, slopes, *moments, strict=True):
        first[...] = FIRST_DECAY * first + (1 - FIRST_DECAY) * slope
        second[...] = SECOND_DECAY * second + (1 - SECOND_DECAY) * slope**2
        unbiased = first / (1 - FIRST_DECAY**step), second / (1 - SECOND_DECAY**step)
        part[...] = part - rate * unbiased[0] / (np.sqrt(unbiased[1]) + EPSILON)


def _unscaled(layers: Layers, mean: Floats, spread: Floats) -> Layers:
    """Scaling moves into the first layer, so that the model takes features as they come."""
    weights, bias = layers[0]
    return [(weights / spread[:, None], bias - (mean / spread) @ weights), *layers[1:]]


def targets_of(labels: NDArray[np.int64], *, balanced: bool = False) -> Floats:
    """(n, 2) one-hot rows; when ``balanced`` both classes weigh the same in total."""
    hot = np.eye(2)[labels]
    return hot * (len(labels) / (2 * np.maximum(hot.sum(axis=0), 1))) if balanced else hot
