"""The configuration of a run.

``conf/`` holds the values, this package what they mean: the schema, the checks, and what makes two runs the same.
"""

from nc_sweeps.config.datasets import (
    DATASETS,
    DatasetConfig,
    DigitsConfig,
    DownloadedConfig,
    ReadConfig,
    StoredConfig,
    SyntheticConfig,
)
from nc_sweeps.config.dynamics import DYNAMICS, DynamicsConfig, FlowConfig, MomentumConfig, StepSizeChange
from nc_sweeps.config.explanations import explain_config_error
from nc_sweeps.config.identity import add_later_keys, compute_ensemble_key, compute_signature
from nc_sweeps.config.keys import Key, list_keys, list_values
from nc_sweeps.config.models import MODELS, ConvolutionalConfig, DeepConfig, MlpConfig, ModelConfig
from nc_sweeps.config.overrides import check_numbers
from nc_sweeps.config.parsing import parse, parse_dataset
from nc_sweeps.config.schema import (
    CHOICES,
    ComputeConfig,
    MetricsConfig,
    RunConfig,
    SeparationConfig,
    list_all_keys,
    select_metrics,
)
from nc_sweeps.config.variations import Variations

__all__ = [
    "CHOICES",
    "DATASETS",
    "DYNAMICS",
    "MODELS",
    "ComputeConfig",
    "ConvolutionalConfig",
    "DatasetConfig",
    "DeepConfig",
    "DigitsConfig",
    "DownloadedConfig",
    "DynamicsConfig",
    "FlowConfig",
    "Key",
    "MetricsConfig",
    "MlpConfig",
    "ModelConfig",
    "MomentumConfig",
    "ReadConfig",
    "RunConfig",
    "SeparationConfig",
    "StepSizeChange",
    "StoredConfig",
    "SyntheticConfig",
    "Variations",
    "add_later_keys",
    "check_numbers",
    "compute_ensemble_key",
    "compute_signature",
    "explain_config_error",
    "list_all_keys",
    "list_keys",
    "list_values",
    "parse",
    "parse_dataset",
    "select_metrics",
]
