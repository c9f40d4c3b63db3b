"""A config, and its model with the weights of a checkpoint."""

import copy
import os
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm

from mmdat import checks
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.checks.config_file import put_options, read_config
from mmdat.checks.model_fit import check_weights_fit, unbuilt
from mmdat.registry import MODELS


def load_config(
    config: str | os.PathLike | Config, cfg_options: dict[str, Any] | None = None
) -> Config:
    """Read a config, or copy one that was read, and check what it holds.

    Args:
        cfg_options: Values to put into the config, by dotted key.

    Raises:
        UserError: For a mistake in what was given.
    """
    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
        put_options(cfg, cfg_options or {})
    else:
        cfg = read_config(os.fspath(config), cfg_options)
    checks.after_reading(cfg)
    return cfg


def build_model(cfg: Config) -> BaseModel:
    """Build the model of a config on the CPU, with random weights and without a process group."""
    model = cfg.model.copy()
    if cfg.get('data_preprocessor'):  # where mmpretrain's configs have it
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return revert_sync_batchnorm(MODELS.build(model))


def load_weights(model: BaseModel, checkpoint: str) -> dict[str, Any]:
    """Fill a model with the weights of a checkpoint.

    Args:
        checkpoint: A file or URL, as in :func:`mmdat.checkpoints.read_checkpoint`.

    Returns:
        What training wrote beside the weights (``meta``), such as ``dataset_meta``.

    Raises:
        UserError: If the checkpoint cannot be read, or is of another model.
    """
    content = read_checkpoint(checkpoint, skip_objects=True)
    checks.before_loading(content, checkpoint, resume=False)
    check_weights_fit(
        content, model.state_dict(), checkpoint, backbone_only=False, unneeded=unbuilt(model)
    )
    weights = content.get('state_dict', content)
    # Not strict, as older checkpoints lack batch norm's counter.
    model.load_state_dict(
        {name.removeprefix('module.'): value for name, value in weights.items()}, strict=False
    )
    return content.get('meta') or {}
