"""A classifier of torchvision, up to its last linear layer."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from nc_sweeps.config.checks import suggest_choice
from nc_sweeps.errors import UserError


class Backbone:
    """A classifier that returns its penultimate features: what enters its last ``torch.nn.Linear``.

    Args:
        name: name of the model in torchvision.
        weights: ``published`` (the default ones of torchvision), ``none`` (random ones), or a file with a state dict.
        seed: seed of random weights.
        device: device that computes the features.

    Attributes:
        preset: transform of images with which the published weights were evaluated.
        origin: where the weights come from.

    Raises:
        UserError: there is no such model, it has no linear layer, or the weights or the device cannot be had.
    """

    def __init__(self, name: str, weights: str, seed: int, device: torch.device) -> None:
        import torchvision

        names = list_models(module=torchvision.models)
        if name not in names:
            raise UserError(f"--model={name}: no classifier of torchvision; {suggest_choice(name, names)}")
        published = get_model_weights(name).DEFAULT
        self.name = name
        self.preset: Callable[[Tensor], Tensor] = published.transforms()
        self.origin = {"published": str(published), "none": f"random, seed {seed}"}.get(weights, Path(weights).name)
        model = _build_model(name, published, weights, seed)
        linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError(f"--model={name}: has no linear layer, so no penultimate features")
        linear[-1].register_forward_pre_hook(self._keep)
        try:
            self._model = model.eval().to(device)
        except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
            raise UserError(f"--device={device}: {str(error).splitlines()[0]}") from error
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: UInt8[Tensor, "n channels height width"]) -> Float[Tensor, "n d"]:
        """Return the features of images, in the memory of the CPU.

        Args:
            images: images of one channel or of three.
        """
        self._model(self.preset(images.to(self._device).expand(-1, 3, -1, -1)))
        return self._features.flatten(1).float().cpu()

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]

    def compute_digest(self) -> str:
        """Return the SHA-256 of all that decides the features of an image."""
        state = hashlib.sha256(f"{self.name} {self.preset!r}".encode())
        for key, value in self._model.state_dict().items():
            state.update(key.encode())
            state.update(value.cpu().contiguous().numpy())
        return state.hexdigest()


def _build_model(name: str, published: WeightsEnum, weights: str, seed: int) -> nn.Module:
    if weights == "published":
        try:
            return get_model(name, weights=published)  # type: ignore[no-any-return]
        except (OSError, RuntimeError) as error:  # RuntimeError: the file has another checksum
            raise UserError(
                f"--weights=published: {published} cannot be had from {published.url} ({error}); download it to "
                f"{torch.hub.get_dir()}/checkpoints, or give a file: --weights=FILE"
            ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = get_model(name, weights=None)
    if hasattr(model, "transform_input"):
        model.transform_input = True  # type: ignore[assignment]  # as torchvision does with published weights
    if weights != "none":
        try:
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
            problem = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:200]
            raise UserError(f"--weights={weights}: no weights of {name} ({problem})") from error
    return model
