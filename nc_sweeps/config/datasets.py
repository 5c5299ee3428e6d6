"""The keys of data sets."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from nc_sweeps.config.keys import per_run, shape, unsigned

CIFAR100_CLASSES = ("fine", "superclass")
# In the order of the numbers that the files of CIFAR-100 give them, which is that of the alphabet.
SUPERCLASSES = (
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
)


@dataclass
class DatasetConfig(ABC):
    """Keys that every data set has."""

    name: str = shape("name of the data set")
    seed: int = per_run("seed with which samples are drawn; that of the run unless given")
    imbalance: float = shape(
        "imbalance ≥ 1: of class k = 0 … q−1 the share imbalance^(−k/(q−1)) of the training samples is kept; 1: all"
    )
    label_noise: float = per_run("probability with which another class, drawn uniformly, replaces a training label")

    @property
    @abstractmethod
    def class_count(self) -> int:
        """Number of classes q."""

    @property
    def is_sampled(self) -> bool:
        """Whether the samples depend on the seed."""
        return True


@dataclass
class SyntheticConfig(DatasetConfig):
    """Keys of the data sets that are drawn from a known law."""

    classes: int = shape("number of classes q")
    dimension: int = shape("input dimension d ≥ q")
    train_per_class: int = shape("number m of training samples of each class")
    test_per_class: int = shape("number of held-out samples of each class")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return self.classes


@dataclass
class SeparableConfig(SyntheticConfig):
    """Keys of ``dataset=separable``, whose margin is known (THEORY §8)."""

    margin: float = per_run("margin τ in (−1, 1/√q): above 0 the classes are separable, below 0 they overlap")


@dataclass
class GaussianConfig(SyntheticConfig):
    """Keys of ``dataset=gaussian``, whose class means have a given distance and whose tails overlap."""

    distance: float = per_run("distance between any two class means, in standard deviations")


@dataclass
class ReadConfig(DatasetConfig):
    """Keys of the data sets that are read from files."""

    train_per_class: int | None = shape("number of training samples of each class, drawn at random; null: all")
    test_per_class: int | None = shape("number of held-out samples of each class, drawn at random; null: all")
    unit_ball: bool = shape("divide the inputs by their largest norm, so that ‖x‖ ≤ 1")


@dataclass
class DigitsConfig(ReadConfig):
    """Keys of ``dataset=digits``, scikit-learn's 8×8 digits."""

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return 10


@dataclass
class StoredConfig(ReadConfig):
    """Keys of the data sets whose files say what is for training and what is held out."""

    @property
    def is_sampled(self) -> bool:
        """Whether the samples depend on the seed."""
        is_drawn = self.train_per_class is not None or self.test_per_class is not None
        return is_drawn or self.imbalance > 1 or self.label_noise > 0


@dataclass
class DownloadedConfig(StoredConfig):
    """Keys of the data sets that torchvision downloads."""

    data_dir: str = unsigned("folder of the files that torchvision downloads")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return 10


@dataclass
class MnistConfig(DownloadedConfig):
    """Keys of ``dataset=mnist`` and ``dataset=mnist_mod3``."""

    modulus: int | None = shape("number modulo which the digits are relabelled; null: the ten digits stay")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return self.modulus or 10


@dataclass
class FashionMnistConfig(DownloadedConfig):
    """Keys of ``dataset=fashion_mnist``."""


@dataclass
class Cifar10Config(DownloadedConfig):
    """Keys of ``dataset=cifar10``."""


@dataclass
class Cifar100Config(DownloadedConfig):
    """Keys of ``dataset=cifar100`` and ``dataset=cifar100_superclasses``."""

    classes: str = shape("kind of classes: fine (100) or superclass (20, of five fine ones each)")
    superclasses: list[str] = shape("super-classes that are kept as classes 0 … q−1, for classes=superclass; []: all")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return len(self.superclasses) or (100 if self.classes == "fine" else len(SUPERCLASSES))


@dataclass
class FeaturesConfig(StoredConfig):
    """Keys of ``dataset=features``, a file of features and labels."""

    path: str = unsigned("file of features and labels, such as nc-features writes")
    classes: int = shape("number of classes q, read from the file")
    digest: str = shape("SHA-256 of the file, with which the signature depends on what the file holds")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return self.classes


DATASETS: dict[str, type[DatasetConfig]] = {
    "separable": SeparableConfig,
    "gaussian": GaussianConfig,
    "digits": DigitsConfig,
    "mnist": MnistConfig,
    "fashion_mnist": FashionMnistConfig,
    "cifar10": Cifar10Config,
    "cifar100": Cifar100Config,
    "features": FeaturesConfig,
}
