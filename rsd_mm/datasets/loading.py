# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Images from files that may be broken."""

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
    """mmcv's ``LoadImageFromFile`` that says which image is broken, or leaves it out.

    Also found are truncated JPEGs, of which some versions of OpenCV fill up the
    rest in grey. Grey, CMYK and 16-bit images come out as ``(H, W, 3)`` uint8,
    as those of ``LoadImageFromFile`` do.

    Args:
        corrupt (str): ``raise``, or ``skip``: another image, drawn by chance, takes
            its place (in training; a test needs every image), and the log says
            which file it was and how many there have been. Defaults to ``raise``.
        **kwargs: Of ``LoadImageFromFile``.

    Raises:
        ValueError: For an image that can't be read, and for another option.
    """

    def __init__(self, corrupt: str = 'raise', **kwargs: Any) -> None:
        if corrupt not in ('raise', 'skip'):
            raise ValueError(f"LoadCheckedImage: corrupt is 'raise' or 'skip', received {corrupt!r}.")
        super().__init__(**kwargs)
        self.corrupt = corrupt
        #: Images left out so far, by all data workers together.
        self.skipped = torch.zeros(1, dtype=torch.int64).share_memory_()

    def transform(self, results: dict) -> Optional[dict]:
        """Load ``results['img_path']`` as ``img``, or give None to leave the image out."""
        path = results['img_path']
        try:
            image = self._read(path)
        except Exception as error:  # as many as there are decoders and storages
            reason = str(error).strip().partition('\n')[0] or type(error).__name__
            if self.corrupt == 'skip':
                self.skipped += 1
                print_log(f'Image {path!r} is left out ({int(self.skipped)} so far): {reason}', logger='current')
                return None
            raise ValueError(
                f"Image {path!r} can't be read: {reason}. Replace it or take it out of the dataset; to train "
                "without such images, set corrupt='skip' of LoadCheckedImage."
            ) from None
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _read(self, path: str) -> np.ndarray:
        data = fileio.get(path, backend_args=self.backend_args)
        if not data:
            raise ValueError('the file is empty')
        # A JPEG ends with its end-of-image marker; one in the first half is that of an embedded preview.
        if data.startswith(b'\xff\xd8') and data.rfind(b'\xff\xd9') < len(data) // 2:
            raise ValueError('the JPEG is truncated')
        image = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
        if image is None:
            raise ValueError('it is truncated, or no image')
        return image
