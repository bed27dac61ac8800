"""Pictures between disk and networks: the one place where uint8 becomes float32 in [-1, 1], and back."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps


def to_float(images) -> np.ndarray:
    """u8[..., h, w, 3] to f32 in [-1, 1]."""
    return np.asarray(images, np.float32) / 127.5 - 1


def to_uint8(images) -> np.ndarray:
    """f32 in [-1, 1], clipped where beyond, to u8 of the same shape."""
    return np.round(np.clip((np.asarray(images, np.float32) + 1) * 127.5, 0, 255)).astype(np.uint8)


def fitted(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Height, width, top and left of a picture in the middle of a square of this size."""
    scale = size / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    return height, width, (size - height) // 2, (size - width) // 2


def fit_image(image: np.ndarray, size: int) -> np.ndarray:
    """u8[h, w, 3] of any size into the middle of a white u8[size, size, 3], all of it, its proportions kept."""
    height, width, top, left = fitted(*image.shape[:2], size)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)  # antialiased
    canvas = np.full((size, size, 3), 255, np.uint8)
    canvas[top : top + height, left : left + width] = resized
    return canvas


def crop_image(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture u8[h, w, 3] of any size as u8[size, size, 3]: no bars, and nothing out of proportion."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.LANCZOS))


def grid(rows: Sequence[Sequence[np.ndarray]], scale: int = 1, gap: int = 2) -> np.ndarray:
    """One picture u8[h, w, 3] of rows of pictures u8[h, w, 3] of any sizes, each `scale` times as large, on white."""
    heights = [max(len(picture) for picture in row) + gap for row in rows]
    width = max(sum(picture.shape[1] + gap for picture in row) for row in rows)
    canvas = np.full((sum(heights) + gap, width + gap, 3), 255, np.uint8)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for picture in row:
            canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
            x += picture.shape[1] + gap
        y += height
    return canvas.repeat(scale, 0).repeat(scale, 1)


def png(picture: np.ndarray) -> bytes:
    """A picture u8[h, w, 3] as a PNG file."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()
