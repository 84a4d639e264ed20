"""Settings of models, runs and sweeps as frozen dataclasses, with presets and I/O. Loads neither jax nor numpy."""

from clip_jax._moved import names_of
from clip_jax.config.data import DataConfig, ScenesConfig
from clip_jax.config.model import (
    ACTIVATIONS,
    ATTENTIONS,
    DTYPES,
    IMAGE_POOLS,
    INTERPOLATIONS,
    OBJECTIVES,
    PARAMETRIZATIONS,
    REMAT_POLICIES,
    RESIZE_MODES,
    TEXT_ENCODERS,
    TEXT_POOLS,
    DecoderConfig,
    ImageTowerConfig,
    ModelConfig,
    ParametrizationConfig,
    PixelConfig,
    TextTowerConfig,
    check_pixels,
)
from clip_jax.config.run import (
    AnomalyConfig,
    DistributedConfig,
    EvalConfig,
    InitConfig,
    LossConfig,
    MeshConfig,
    OptimConfig,
    RunConfig,
    TrackingConfig,
)

__getattr__ = names_of(
    __name__,
    "errors",
    renamed={
        "FaultConfig": "AnomalyConfig",
        "PARAMETRISATIONS": "PARAMETRIZATIONS",
        "ParametrisationConfig": "ParametrizationConfig",
    },
)

__all__ = [
    "ACTIVATIONS",
    "ATTENTIONS",
    "DTYPES",
    "IMAGE_POOLS",
    "INTERPOLATIONS",
    "OBJECTIVES",
    "PARAMETRIZATIONS",
    "REMAT_POLICIES",
    "RESIZE_MODES",
    "TEXT_ENCODERS",
    "TEXT_POOLS",
    "AnomalyConfig",
    "DataConfig",
    "DecoderConfig",
    "DistributedConfig",
    "EvalConfig",
    "ImageTowerConfig",
    "InitConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "ParametrizationConfig",
    "PixelConfig",
    "RunConfig",
    "ScenesConfig",
    "TextTowerConfig",
    "TrackingConfig",
    "check_pixels",
]
