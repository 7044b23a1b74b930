"""Statistics of activations over images, and how far a shift seen in them is to be believed.

Statistics from few images are uncertain, and where a chip hardly differs from what was trained,
replacing good statistics by uncertain ones costs accuracy. So a shift is shrunk by the positive
part James-Stein rule (Efron and Morris, "Stein's estimation rule and its competitors", 1973,
without its small correction for the number of channels): of the shifts d_c of a layer's channels,
with sampling variances v_c, the share

    max(0, 1 - sum v_c / sum d_c^2)

is believed. With many images, or a large shift, that is all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# Below this share of a layer's largest variance a channel carries nothing to be matched.
_DEAD = 1e-12


@dataclass
class Moments:
    """Mean and mean square of every channel on every image, collected batch by batch.

    Images are what the first dimension counts; positions within an image depend on each other, and
    only images tell how uncertain a mean is.
    """

    means: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)

    def add(self, y: Tensor, trailing: tuple[bool, ...]) -> None:
        """Take in activations; of their trailing dimensions, True marks those of channels."""
        y = y.detach().double() if y.dtype == torch.float64 else y.detach().float()
        y = y if y.ndim > len(trailing) else y.unsqueeze(0)
        here = y.ndim - len(trailing)
        inner = (here + k for k, channels in enumerate(trailing) if not channels)
        positions = [*range(1, here), *inner]
        if positions:
            means, squares = y.mean(positions), (y * y).mean(positions)
        else:
            means, squares = y, y * y
        self.means.append(means.flatten(1).double())
        self.squares.append(squares.flatten(1).double())

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """Means and mean squares, float64 (images, channels) each."""
        return torch.cat(self.means), torch.cat(self.squares)


def believed(shifts: Tensor, variances: Tensor) -> Tensor:
    """The share of ``shifts`` (C), seen with sampling ``variances`` (C), that is no accident."""
    seen = shifts.square().sum()
    if not seen > 0:
        return torch.zeros_like(seen)
    return (1 - variances.sum() / seen).clamp(0, 1)


def blended(
    moments: Moments, mean: Tensor, variance: Tensor, shrink: bool = True
) -> tuple[Tensor, Tensor]:
    """Means and variances (C) between the former ones and those of ``moments``.

    Means shift in units of the former deviation, variances by the logarithm of their ratio. One
    image says nothing of its own uncertainty, and leaves the former statistics as they are.
    """
    means, squares = moments.images
    count = len(means)
    new_mean = means.mean(0)
    new_variance = (squares.mean(0) - new_mean.square()).clamp_min(0)
    if not shrink:
        return new_mean, new_variance
    mean, variance = mean.double(), variance.double()
    if count < 2:
        return mean, variance
    pairs = count * (count - 1)
    floor = max(float(variance.max()), float(new_variance.max())) * _DEAD
    alive = (variance > floor) & (new_variance > floor)
    was, now = torch.where(alive, variance, 1), torch.where(alive, new_variance, 1)
    of_mean = (means - new_mean).square().sum(0) / pairs / was
    influence = squares - 2 * new_mean * means
    influence = influence - influence.mean(0)
    of_ratio = torch.where(alive, influence.square().sum(0) / pairs / now.square(), 0)
    shift = torch.where(alive, (new_mean - mean) / was.sqrt(), 0)
    ratio = torch.where(alive, (now / was).log(), 0)
    share = believed(shift, torch.where(alive, of_mean, 0))
    powers = (believed(ratio, of_ratio) * ratio).exp()
    blend = torch.where(alive, mean + share * (new_mean - mean), new_mean)
    return blend, torch.where(alive, was * powers, new_variance)


def matching(seen: Moments, wanted: Moments, shrink: bool = True) -> tuple[Tensor, Tensor]:
    """Scale and offset (C) that give ``seen`` the means and variances of ``wanted``.

    Both hold the same images, so that what the images differ in cancels: only what no scale and no
    offset explain makes the match uncertain, and an error that is affine is undone exactly.
    """
    (means, squares), (right, right_squares) = seen.images, wanted.images
    count = len(means)
    mean, target = means.mean(0), right.mean(0)
    variance = (squares.mean(0) - mean.square()).clamp_min(0)
    wish = (right_squares.mean(0) - target.square()).clamp_min(0)
    alive = (variance > variance.max() * _DEAD) & (wish > wish.max() * _DEAD)
    was, wish = torch.where(alive, variance, 1), torch.where(alive, wish, 1)
    ratio = torch.where(alive, (wish / was).log(), 0)
    shift = torch.where(alive, (target - mean) / wish.sqrt(), 0)
    if shrink:
        if count < 2:
            return torch.ones_like(mean), torch.zeros_like(mean)
        pairs = count * (count - 1)
        factor = (wish / was).sqrt()
        rest = (right - target) - factor * (means - mean)
        spread = (right_squares - 2 * target * right + target.square()) / wish
        spread = spread - (squares - 2 * mean * means + mean.square()) / was
        spread = spread - spread.mean(0)
        of_shift = rest.square().sum(0) / pairs / wish
        of_ratio = spread.square().sum(0) / pairs
        ratio = ratio * believed(ratio, torch.where(alive, of_ratio, 0))
        shift = shift * believed(shift, torch.where(alive, of_shift, 0))
    scale = (ratio / 2).exp()
    return scale, mean + shift * wish.sqrt() - scale * mean
