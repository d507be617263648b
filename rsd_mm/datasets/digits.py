# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Handwritten digits that come with scikit-learn: real images, nothing to download."""

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
            'SklearnDigits reads the images that come with scikit-learn, which is not installed. '
            'To install it: pip install scikit-learn.'
        ) from error
    digits = load_digits()
    # 17 grey levels, 0 to 16, as the grey images in RGB that an image file would give.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=-1), digits.target


@DATASETS.register_module()
class SklearnDigits(BaseDataset):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, 10 classes.

    They are the test set of the UCI "Optical Recognition of Handwritten Digits",
    in the order of their writers, of whom the dataset does not tell the names.
    Splits are consecutive, so that most writers of one are not in the other, which
    makes it harder than a random split.

    Images are ``(8, 8, 3)`` uint8 in RGB, held in memory, so a pipeline needs no
    loading step.

    Args:
        split (str): ``train`` (the first 1,200 images) or ``test`` (the other
            597). Defaults to ``train``.
        **kwargs: Of MMPretrain's ``BaseDataset``, for example ``pipeline`` or
            ``indices``.

    Raises:
        ValueError: For another split.
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
        """The images and labels of the split."""
        images, labels = _digits()
        part = self.SPLITS[self.split]
        return [dict(img=image, gt_label=int(label)) for image, label in zip(images[part], labels[part])]

    def extra_repr(self) -> List[str]:
        """What identifies the dataset, for its repr."""
        return [f'Split: \t{self.split}']
