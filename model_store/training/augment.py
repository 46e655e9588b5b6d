"""From pictures as decoded to a batch for the network: plain as it is served, or varied for training."""

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

_GREY_WEIGHTS = (0.299, 0.587, 0.114)
_TURN_DEGREES = 6.0
_SHIFT = 0.04  # of the side
_STRETCH = 0.06
_BRIGHTNESS, _CONTRAST, _SATURATION = 0.2, 0.2, 0.25
_GREY_SHARE = 0.03
_BLURRED_SHARE = 0.25
_BLURRED_SIDES = (48, 128)  # what a picture is reduced to, in pixels

# How much nearer (above 1) or further away a face may come than its data set shows it. One in three goes to
# the wide end: CelebA shows head and shoulders, UTKFace the face alone, and what is served lies between.
WIDE_SHARE = 1 / 3
Zoom = tuple[tuple[float, float], tuple[float, float]]  # (usual, wide)
ZOOMS: dict[str, Zoom] = {
    "celeba": ((0.95, 1.12), (1.0, 1.6)),
    "utkface": ((0.92, 1.08), (0.65, 1.0)),
}


def plain(images: npt.NDArray[np.uint8], resolution: int) -> torch.Tensor:
    """[N, H, W, 3] bytes to [N, 3, resolution, resolution] in [-1, 1], resized as `imaging.decode` does."""
    return _normalise(_resize(_planes(images), resolution))


def resized(images: npt.NDArray[np.uint8], resolution: int) -> npt.NDArray[np.uint8]:
    """The same as bytes [N, resolution, resolution, 3]: what a variant of the store takes."""
    return np.ascontiguousarray(_resize(_planes(images), resolution).permute(0, 2, 3, 1).numpy())


def varied(
    images: npt.NDArray[np.uint8], resolution: int, zoom: Zoom, generator: torch.Generator
) -> torch.Tensor:
    """The same, each picture moved, turned, mirrored and tinted by chance. No attribute is left or right."""
    planes = _planes(images)
    if _uniform(generator, 1).item() < _BLURRED_SHARE:
        low, high = _BLURRED_SIDES
        side = int(low + (high - low) * _uniform(generator, 1).item())
        planes = _resize(planes, min(side, *planes.shape[2:]))
    pictures = _normalise(_resize(planes, resolution))
    return _tint(_move(pictures, zoom, generator), generator).contiguous(memory_format=torch.channels_last)


def _planes(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last in memory already


def _resize(planes: torch.Tensor, resolution: int) -> torch.Tensor:
    if tuple(planes.shape[2:]) == (resolution, resolution):
        return planes
    return F.interpolate(planes, (resolution, resolution), mode="bilinear", antialias=True)


def _normalise(planes: torch.Tensor) -> torch.Tensor:
    return (planes.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _move(pictures: torch.Tensor, zoom: Zoom, generator: torch.Generator) -> torch.Tensor:
    count = len(pictures)
    wide = _uniform(generator, count) < WIDE_SHARE
    share = _uniform(generator, count)
    (low, high), (wide_low, wide_high) = zoom
    scale = torch.where(wide, _between(share, wide_low, wide_high), _between(share, low, high))
    stretch = torch.exp(_STRETCH * _signed(generator, count))
    mirrored = torch.where(_uniform(generator, count) < 0.5, -1.0, 1.0)
    turn = math.radians(_TURN_DEGREES) * _signed(generator, count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = mirrored * turn.cos() * stretch / scale
    theta[:, 0, 1] = -mirrored * turn.sin() / scale
    theta[:, 1, 0] = turn.sin() / scale
    theta[:, 1, 1] = turn.cos() / stretch / scale
    theta[:, :, 2] = 2 * _SHIFT * _signed(generator, count, 2)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures.contiguous(), grid, padding_mode="border", align_corners=False)


def _tint(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count = len(pictures)
    factors = _signed(generator, count, 3, 1, 1)
    grey = (pictures * torch.tensor(_GREY_WEIGHTS).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = 1 + _SATURATION * factors[:, 0:1]
    saturation = torch.where(_uniform(generator, count, 1, 1, 1) < _GREY_SHARE, 0.0, saturation)
    coloured = grey + (pictures - grey) * saturation
    middle = grey.mean(dim=(2, 3), keepdim=True)
    contrast = 1 + _CONTRAST * factors[:, 1:2]
    return ((coloured - middle) * contrast + middle + _BRIGHTNESS * factors[:, 2:3]).clamp(-1, 1)


def _uniform(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator)


def _signed(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return 2 * _uniform(generator, *shape) - 1


def _between(share: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Log-uniform."""
    return torch.exp(math.log(low) + share * (math.log(high) - math.log(low)))
