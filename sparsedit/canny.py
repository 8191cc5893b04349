"""Canny edges: the picture a Canny ControlNet is conditioned on.

The detector is scikit-image's, set up so that thresholds mean what users of OpenCV's `cv2.Canny` know. Nothing
here knows a model, and importing it imports no torch.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from skimage import feature

from sparsedit.errors import SettingsError

LOW = 100
HIGH = 200


def canny(image: Image.Image, low: float = LOW, high: float = HIGH) -> Image.Image:
    """The edges of a picture, white on black, as an RGB picture of the same size.

    An edge pixel's gradient is the largest along its own direction and at least `low`, and it hangs together with
    one of at least `high` (Canny, "A Computational Approach to Edge Detection", 1986).

    As in OpenCV the picture is not blurred first, gradients are those of the 3x3 Sobel kernels on levels 0-255, so
    that a straight step by 50 levels has a gradient of 200, and thresholds lie on that scale as they are. Their
    norm is the Euclidean one, `cv2.Canny(..., L2gradient=True)`. OpenCV's default, |x| + |y|, is the same along
    rows and columns and up to 1.41 times as large along diagonals: there it finds a little more.
    Every colour channel is searched and the edges found are put together, where OpenCV takes each pixel from the
    channel with the steepest gradient. The outermost pixels are never edges.

    SettingsError when not 0 <= low <= high.
    """
    if not 0 <= low <= high:
        raise SettingsError(
            f"Canny's thresholds are {low:g} and {high:g}: the lower must be at least 0 and at most the upper, "
            f"such as {LOW} and {HIGH}."
        )
    levels = np.asarray(image.convert("RGB"))
    edges = np.zeros(levels.shape[:2], bool)
    for channel in np.moveaxis(levels, 2, 0):
        edges |= feature.canny(channel, sigma=0, low_threshold=low, high_threshold=high, mode="nearest")
    return Image.fromarray(edges).convert("RGB")
