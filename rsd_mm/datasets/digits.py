# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""scikit-learn's handwritten digits: real images without a download."""

from functools import lru_cache
from typing import Any, List, Tuple

import numpy as np
from mmengine.registry import DATASETS
from mmpretrain.datasets import BaseDataset


@lru_cache(maxsize=1)
def _digits() -> Tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'SklearnDigits reads the images of scikit-learn, which is not installed. '
            'To install it: pip install scikit-learn.'
        ) from error
    digits = load_digits()
    # From grey levels 0 to 16 to 8-bit RGB, as of an image file.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=-1), digits.target


@DATASETS.register_module()
class SklearnDigits(BaseDataset):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, 10 classes.

    These are the test set of the UCI "Optical Recognition of Handwritten Digits", ordered by writer. The splits are
    consecutive, so that most writers are in only one of them; this is harder than a random split.

    Images are ``(8, 8, 3)`` uint8 arrays in RGB, so a pipeline needs no loading step.

    Args:
        split (str): ``train`` (the first 1,200 images) or ``test`` (the other 597). Defaults to ``train``.
        **kwargs: Of MMPretrain's ``BaseDataset``, such as ``pipeline`` or ``indices``.

    Raises:
        ValueError: For an unknown split.
        ImportError: If scikit-learn is not installed.
    """

    METAINFO = {'classes': tuple('0123456789')}
    SPLITS = {'train': slice(0, 1200), 'test': slice(1200, None)}

    def __init__(self, split: str = 'train', ann_file: str = '', **kwargs: Any) -> None:
        if split not in self.SPLITS:
            raise ValueError(f'SklearnDigits: split is one of {", ".join(self.SPLITS)}, received {split!r}.')
        self.split = split
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> List[dict]:
        images, labels = _digits()
        part = self.SPLITS[self.split]
        return [dict(img=image, gt_label=int(label)) for image, label in zip(images[part], labels[part])]

    def extra_repr(self) -> List[str]:
        return [f'Split: \t{self.split}']
