"""The reader of simulated scans: whom he would box, tested on a body of water."""

import cv2
import numpy as np

from bonescan_jax.phantom.annotator import annotate
from bonescan_jax.phantom.uptake import HotSpot
from bonescan_jax.scans import HEIGHT, NORMAL, WIDTH


def test_kidneys_are_boxed_both_or_neither():
    """One rule for a pair: kidneys just below and just above the threshold, on a body of water."""
    total = np.full((HEIGHT, WIDTH), 10.0, np.float32)
    spots = []
    for column, height in ((80, 40.0), (160, 50.0)):  # 4 and 5 times what lies around
        image = np.zeros((41, 41), np.float32)
        image[20, 20] = 1
        image = cv2.GaussianBlur(image, (0, 0), 6)
        image *= height / image.max()
        total[300:341, column : column + 41] += image
        organ = HotSpot("kidney", NORMAL, "kidney", np.zeros(0, int), np.zeros(0))
        spots.append((organ, image, 300, column))
    field = (0, HEIGHT, 0, WIDTH)
    _, boxes = annotate(spots, total, field)
    assert len(boxes) == 2
    weak = [(spots[0][0], spots[0][1], 300, 80)]
    total[300:341, 160:201] = 10
    assert annotate(weak, total, field)[1] == ()
