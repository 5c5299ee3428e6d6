"""The configuration of a run.

``conf/`` says what the values are, this package what they mean: schema, checks, and what makes two runs the same.
"""

from nc_sweeps.config.identity import ensemble_key, signature
from nc_sweeps.config.parsing import explain, parse, parse_dataset
from nc_sweeps.config.schema import (
    CHOICES,
    DATASETS,
    DYNAMICS,
    MODELS,
    ComputeConfig,
    DatasetConfig,
    DeepConfig,
    DigitsConfig,
    DynamicsConfig,
    FlowConfig,
    MetricsConfig,
    MlpConfig,
    ModelConfig,
    MomentumConfig,
    RunConfig,
    StepSizeChange,
    StoredConfig,
    SyntheticConfig,
    declared_keys,
    leaves,
    selected_metrics,
)
from nc_sweeps.config.variations import Variations

__all__ = [
    "CHOICES",
    "DATASETS",
    "DYNAMICS",
    "MODELS",
    "ComputeConfig",
    "DatasetConfig",
    "DeepConfig",
    "DigitsConfig",
    "DynamicsConfig",
    "FlowConfig",
    "MetricsConfig",
    "MlpConfig",
    "ModelConfig",
    "MomentumConfig",
    "RunConfig",
    "StepSizeChange",
    "StoredConfig",
    "SyntheticConfig",
    "Variations",
    "declared_keys",
    "ensemble_key",
    "explain",
    "leaves",
    "parse",
    "parse_dataset",
    "selected_metrics",
    "signature",
]
