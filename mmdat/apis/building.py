"""The model of a config outside a runner: built on the CPU, with the weights of a checkpoint."""

from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm

from mmdat import checks
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.checks.model_fit import check_weights_fit, unbuilt_stages
from mmdat.registry import MODELS


def build_model(cfg: Config) -> BaseModel:
    """Build the model of a config on the CPU, with random weights and without a process group."""
    model = cfg.model.copy()
    if cfg.get('data_preprocessor'):  # where mmpretrain's configs have it
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return revert_sync_batchnorm(MODELS.build(model))


def load_weights(model: BaseModel, checkpoint: str) -> None:
    """Load a checkpoint into the model that it was written from.

    Raises:
        UserError: If the file cannot be read, or if its weights are of another model.
    """
    content = read_checkpoint(checkpoint)
    checks.before_loading(content, checkpoint, resume=False)
    check_weights_fit(
        content, model.state_dict(), checkpoint, backbone_only=False, unneeded=unbuilt_stages(model)
    )
    weights = content.get('state_dict', content)
    # Not strict, as older checkpoints lack batch norm's counter.
    model.load_state_dict(
        {name.removeprefix('module.'): value for name, value in weights.items()}, strict=False
    )
