# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Load images, some of which may be corrupt."""

from typing import Any, Optional

import mmcv
import mmengine.fileio as fileio
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that names or skips corrupt images.

    This includes truncated JPEGs, which some versions of OpenCV fill with grey. Grey, CMYK and 16-bit images are loaded
    as ``(H, W, 3)`` uint8, as by ``LoadImageFromFile``.

    Args:
        corrupt (str): ``raise``, or ``skip`` to replace the image by a random other one (for training; a test needs
            every image) and to log its path and how many were skipped. Defaults to ``raise``.
        **kwargs: Of ``LoadImageFromFile``.

    Raises:
        ValueError: For a corrupt image, and for an unknown ``corrupt``.
    """

    def __init__(self, corrupt: str = 'raise', **kwargs: Any) -> None:
        if corrupt not in ('raise', 'skip'):
            raise ValueError(f"LoadCheckedImage: corrupt is 'raise' or 'skip', received {corrupt!r}.")
        super().__init__(**kwargs)
        self.corrupt = corrupt
        #: Images skipped so far, by all data workers together.
        self.skipped = torch.zeros(1, dtype=torch.int64).share_memory_()

    def transform(self, results: dict) -> Optional[dict]:
        """Load ``results['img_path']`` as ``img``; return None to skip the image."""
        path = results['img_path']
        try:
            image = self._read(path)
        except Exception as error:  # Decoders and storage backends have their own types.
            reason = str(error).strip().partition('\n')[0] or type(error).__name__
            if self.corrupt == 'skip':
                self.skipped += 1
                print_log(f'Skipping image {path!r} ({int(self.skipped)} so far): {reason}', logger='current')
                return None
            raise ValueError(
                f"Image {path!r} can't be read: {reason}. Replace it or remove it from the dataset; to train "
                "without such images, set corrupt='skip' of LoadCheckedImage."
            ) from None
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _read(self, path: str) -> np.ndarray:
        data = fileio.get(path, backend_args=self.backend_args)
        if not data:
            raise ValueError('the file is empty')
        # A JPEG ends with an end-of-image marker; one in the first half belongs to an embedded preview.
        if data.startswith(b'\xff\xd8') and data.rfind(b'\xff\xd9') < len(data) // 2:
            raise ValueError('the JPEG is truncated')
        image = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
        if image is None:
            raise ValueError('it is truncated or not an image')
        return image
