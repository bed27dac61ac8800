"""Numbers that any picture has: a stand-in for learned rewards on scenes that no judge knows, such as photos.

They cannot read a prompt, so they bear names of their own and claim none of the papers' aspects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Scene, Subject
from narrative_jax.core.types import Pictures

_LUMA = np.float32([0.299, 0.587, 0.114])  # Rec. 601
_WELL_EXPOSED, _SPREAD = 0.5, 0.2
_LEVELS = 6  # of each colour channel in a histogram: coarse, so that light may differ


@dataclass(frozen=True)
class PictureStatistics:
    """Sharpness, exposure, and agreement of the colours with the subjects' photos; see `score_images`."""

    name: ClassVar[str] = "picture_statistics"
    aspects: ClassVar[tuple[str, ...]] = ("sharpness", "exposure", "colour_agreement")
    differentiable: ClassVar[bool] = False
    needs_facts: ClassVar[bool] = False

    def score_images(self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, 3] of pictures u8[h, w, 3]; see `HostReward`.

        `sharpness`: log10 of the variance of the Laplacian (noise counts as sharp). `exposure`: how near to middle grey
        the pixels are, in [0, 1] (Mertens et al. 2007, sec. 3.1). `colour_agreement`: how much the histogram of the
        picture shares with that of a subject's photos, in [0, 1] (Swain & Ballard 1991), mean over subjects.
        Raises InputError for a scene without subjects.
        """
        photos = {scene.id: _photo_histograms(scene) for scene in {scene.id: scene for scene in scenes}.values()}
        rows = []
        for image, scene in zip(images, scenes, strict=True):
            grey = np.float32(image) @ _LUMA / 255
            shared = np.minimum(_histogram(image.reshape(-1, 3)), photos[scene.id]).sum(1)
            rows.append((_sharpness(grey), _exposure(grey), shared.mean()))
        return np.float32(rows)


def _sharpness(grey):
    return np.log10(ndimage.laplace(grey).var() + 1e-6)


def _exposure(grey):
    return np.exp(-((grey - _WELL_EXPOSED) ** 2) / (2 * _SPREAD**2)).mean()


def _photo_histograms(scene):
    """Of each subject's photos, f[subjects, colours]."""
    if not scene.subjects:
        raise InputError(f"scene {scene.id!r} without subjects", "colours are compared with theirs", "give subjects")
    return np.stack([_histogram(_subject_colours(subject)) for subject in scene.subjects])


def _subject_colours(subject: Subject):
    """The colours of a subject u8[n, 3]: within its masks, if it has any, and without pure white.

    Photos of several sizes stand on white, and so do cut-out subjects.
    """
    masked = subject.masks is not None and np.any(subject.masks)
    images = np.asarray(subject.images)
    colours = images[subject.masks] if masked else images.reshape(-1, 3)
    inked = colours[(colours < 255).any(1)]
    return inked if len(inked) else colours


def _histogram(colours):
    levels = colours.astype(int) * _LEVELS // 256
    cells = np.ravel_multi_index(tuple(levels.T), (_LEVELS,) * 3)
    return np.bincount(cells, minlength=_LEVELS**3) / len(cells)
