"""Features of a whole data set, batch by batch, so that whatever ends the work ends one batch only."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from nc_sweeps.data import Dataset, Split
from nc_sweeps.data.features import serialise_features
from nc_sweeps.errors import DataError, UserError
from nc_sweeps.features.backbone import Backbone
from nc_sweeps.store import files


class Extraction:
    """The file of the features of a data set, there or still to be made.

    Its name ends in a hash of the images, the labels, the weights and the transform: what decides the features, to
    rounding. Batches lie in a folder beside it until all are there.

    Args:
        name: with which the file's name begins.
        data: images in [0, 1].
        backbone: makes features of them.
        folder: of the file.

    Attributes:
        path: of the file.
        total: number of images.

    Raises:
        UserError: the samples are no images.
    """

    def __init__(self, name: str, data: Dataset, backbone: Backbone, folder: Path) -> None:
        if len(data.shape) != 3 or data.shape[0] not in {1, 3}:
            raise UserError(f"dataset={name}: has no images; its samples are of shape {data.shape}")
        self._backbone = backbone
        self._images = {"train": _images(data.train, data.shape), "test": _images(data.test, data.shape)}
        self._labels = {"train": data.train.labels, "test": data.test.labels}
        state = hashlib.sha256(backbone.digest().encode())
        for split, images in self._images.items():
            state.update(f"{split} {images.shape}".encode())
            state.update(images.data)
            state.update(self._labels[split].data)
        self.path = folder / f"{name}-{backbone.name}-{state.hexdigest()[:12]}.safetensors"
        self.total = len(data.train.x) + len(data.test.x)

    def run(self, batch_size: int, advance: Callable[[int], object], origin: dict[str, str]) -> None:
        """Make the file, from where the work was left.

        Args:
            batch_size: images at once.
            advance: told of every number of images that are done.
            origin: where the images come from, for the file's metadata.

        Raises:
            DataError: what an earlier run left is damaged.
        """
        parts = self.path.with_suffix(".parts")
        if not self.path.exists():
            parts.mkdir(parents=True, exist_ok=True)
            features = {split: self._features(split, parts, batch_size, advance) for split in self._images}
            train, test = ((features[split], self._labels[split]) for split in ("train", "test"))
            told = origin | {"model": self._backbone.name, "weights": self._backbone.origin}
            files.write(self.path, serialise_features(train, test, told | {"transform": repr(self._backbone.preset)}))
        shutil.rmtree(parts, ignore_errors=True)

    def _features(self, split: str, parts: Path, batch_size: int, advance: Callable[[int], object]) -> np.ndarray:
        done = []
        for start in range(0, len(self._images[split]), batch_size):
            images = self._images[split][start : start + batch_size]
            part = parts / f"{split}-{start}-{len(images)}.safetensors"
            if not part.exists():
                files.write(part, save({"features": self._backbone(torch.from_numpy(images)).numpy()}))
            done.append(part)
            advance(len(images))
        try:
            return np.concatenate([load_file(part)["features"] for part in done])
        except (SafetensorError, OSError) as error:
            raise DataError(f"{parts}: damaged ({error}); remove it and begin again") from error


def _images(split: Split, shape: tuple[int, ...]) -> UInt8[np.ndarray, "n channels height width"]:
    images: np.ndarray = np.rint(split.x * 255).astype(np.uint8).reshape(-1, *shape)
    return images
