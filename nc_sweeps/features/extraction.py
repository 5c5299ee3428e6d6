"""Extracts the features of a data set batch by batch: an interruption costs one batch at most."""

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
    """The extraction of the features of a data set to a file.

    The name of the file ends in a hash of the images, the labels, the weights and the transform, which decide the
    features up to rounding. The batches lie in a folder beside the file until all are done.

    Args:
        name: beginning of the name of the file.
        data: images in [0, 1].
        backbone: network that computes their features.
        folder: folder of the file.

    Attributes:
        path: path of the file.
        total: number of images.

    Raises:
        UserError: the samples are no images.
    """

    def __init__(self, name: str, data: Dataset, backbone: Backbone, folder: Path) -> None:
        if len(data.shape) != 3 or data.shape[0] not in {1, 3}:
            raise UserError(f"dataset={name}: has no images; its samples are of shape {data.shape}")
        self._backbone = backbone
        self._images = {
            "train": _convert_to_images(data.train, data.shape),
            "test": _convert_to_images(data.test, data.shape),
        }
        self._labels = {"train": data.train.labels, "test": data.test.labels}
        state = hashlib.sha256(backbone.compute_digest().encode())
        for split, images in self._images.items():
            state.update(f"{split} {images.shape}".encode())
            state.update(images.data)
            state.update(self._labels[split].data)
        self.path = folder / f"{name}-{backbone.name}-{state.hexdigest()[:12]}.safetensors"
        self.total = len(data.train.x) + len(data.test.x)

    def run(self, batch_size: int, advance: Callable[[int], object], origin: dict[str, str]) -> None:
        """Write the file, from the first batch that an earlier call has not done.

        Args:
            batch_size: number of images in a batch.
            advance: called after each batch with its number of images.
            origin: where the images come from, for the metadata of the file.

        Raises:
            DataError: a batch of an earlier call is damaged.
        """
        parts = self.path.with_suffix(".parts")
        if not self.path.exists():
            parts.mkdir(parents=True, exist_ok=True)
            features = {split: self._extract(split, parts, batch_size, advance) for split in self._images}
            train, test = ((features[split], self._labels[split]) for split in ("train", "test"))
            network = {"model": self._backbone.name, "weights": self._backbone.origin}
            network["transform"] = repr(self._backbone.preset)
            files.write(self.path, serialise_features(train, test, origin | network))
        shutil.rmtree(parts, ignore_errors=True)

    def _extract(self, split: str, parts: Path, batch_size: int, advance: Callable[[int], object]) -> np.ndarray:
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


def _convert_to_images(split: Split, shape: tuple[int, ...]) -> UInt8[np.ndarray, "n channels height width"]:
    images: np.ndarray = np.rint(split.x * 255).astype(np.uint8).reshape(-1, *shape)
    return images
