"""Turn exceptions that a user's mistake causes inside the toolboxes into one sentence each."""

import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import OPTIMIZERS, Registry
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mmdat.errors import UserError, list_first, nearest, reason, suggest
from mmdat.files import file_fault

from .config_keys import RUNNER_KEYS, parameters
from .config_tree import paths, value_at
from .images import DECODES_NOT, UNREADABLE
from .mmengine_private import PREPARATIONS, built_by

# Toolbox -> the transform that gives its models what they take.
PACKING = dict(mmdet='PackDetInputs', mmseg='PackSegInputs', mmpretrain='PackInputs')
LOST_PROCESS = r'gloo|NCCL|Connection (closed|reset) by peer'
# What an exception's text has -> the user's mistake, with the pattern's groups in its braces.
SENTENCES = {
    r'(?:^|AssertionError: )failed to load image: (.*)': UNREADABLE.format('{}', DECODES_NOT),
    # mmengine says it of a data set without items.
    r'^need at least one array to concatenate$': (
        'a data set found no image in its folder: check data_prefix and, for other images than '
        "JPEG, img_suffix (as in '.png')"
    ),
    r'Invalid RLE mask representation': (
        'a mask of run lengths of the {split} data does not decode (segmentation, counts): export '
        'the annotations anew'
    ),
    r'Expected more than 1 value per channel': (
        'batch normalization of one value a channel needs batches of two images: set '
        'train_dataloader.batch_size to 2 or more, and drop_last=True if one image is left over'
    ),
    r'stack expects each tensor to be equal size, but got (.*)': (
        'the images of a batch have different sizes ({}): add a transform to the pipeline that '
        'gives all one size, such as Resize with a width and a height, or a crop'
    ),
    # mmsegmentation says it in validation and test.
    r'^The image size in a batch should be the same\.$': (
        'the images of a batch have different sizes, which segmentors do not pad in validation '
        'and test: set {split}_dataloader.batch_size to 1'
    ),
    r'`epoch_length` must be a positive integer, but got 0': (
        'train_dataloader yields no batch: it has fewer images (for each process) than its '
        'batch_size, and drop_last is set; lower batch_size'
    ),
    r'Initialize dataset with `reduce_zero_label`': (
        'the data set and LoadAnnotations disagree on reduce_zero_label: leave it out of '
        'LoadAnnotations, or use mmdat.LoadSegmentationMap'
    ),
    r"step\(\) missing 1 required positional argument: 'closure'": (
        'optim_wrapper.optimizer computes the loss several times a step, as LBFGS does, which no '
        "training here can: set another type, such as 'AdamW'"
    ),
    r'failed to listen on any local network address\. port: (\d+)': (
        'processes cannot meet at port {} of this machine (MASTER_PORT), which is in use, as by '
        'another training: give another one'
    ),
    r'DataLoader worker \(pid.*\) (is killed by [^.]*|exited)': (
        'a worker process of a data loader was ended (it {}), as by a machine that is short of '
        'memory: lower num_workers or batch_size; a training goes on with --resume'
    ),
}


@contextmanager
def explained(cfg: Config) -> Iterator[None]:
    """Turn an exception that a mistake in ``cfg`` causes into a UserError; let others pass."""
    try:
        yield
    except Exception as error:
        sentence = _explain(error, cfg)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _explain(error: Exception, cfg: Config) -> str | None:
    """Say what the user did wrong; None if it is not known to be a mistake of theirs."""
    text = str(error.args[0]) if error.args else ''
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    owners = [frame.f_locals.get('self') for frame in frames]
    loop = next((type(x).__name__ for x in owners if isinstance(x, BaseLoop)), '')
    split = next((split for split in ('val', 'test') if split in loop.lower()), 'train')
    if isinstance(error, UserError):
        # A data loader's worker process sends its traceback as text.
        return text.rsplit('UserError: ', 1)[-1].strip()
    if match := re.search(r'(\S+) is not in the (.+?) registry', text):
        name, registry = match.groups()
        where = _where(cfg, name)
        near = _nearest_type(name, frames[-1].f_locals.get('registry'))
        return (
            f"unknown {'type' if where == name else f'{where}.type'}='{name}': nothing of that "
            f'name is registered in {registry}; '
            + (f'did you mean {near!r}? Else check' if near else 'check its spelling,')
            + " its scope (as in 'mmdat.DATPlusPlus') and custom_imports"
        )
    if isinstance(error, FileNotFoundError):
        return _missing_file(error, text, cfg)
    if fault := file_fault(error):
        return fault
    for pattern, sentence in SENTENCES.items():
        if match := re.search(pattern, text):
            return sentence.format(*match.groups(), split=split)
    if match := re.search(r'did not receive grad for rank \d+: ([\d ]+)', text):
        return _without_gradient({*map(int, match[1].split())}, owners)
    if isinstance(error, RuntimeError) and re.search(LOST_PROCESS, text):
        return (
            'another process of this run has ended or cannot be reached, see its log: training '
            f'goes on from the last checkpoint with --resume ({reason(error)})'
        )
    if isinstance(error, AssertionError) and isinstance(owners[-1], Hook):
        return f'{_where(cfg, type(owners[-1]).__name__)} cannot be used: {reason(error)}'
    if isinstance(error, KeyError) and any(isinstance(x, BaseDataPreprocessor) for x in owners):
        pack = PACKING.get(str(cfg.get('default_scope')), 'what packs the inputs')
        return (
            f'the pipeline of {split}_dataloader.dataset gives no {text!r}, which the model takes: '
            f'end it with {pack}'
        )
    if lacked := _unloaded(error, text, frames[-1]):
        return (
            f'the pipeline of {split}_dataloader.dataset gives no {lacked!r}, which the model or '
            'the evaluator takes: let it load that (as masks, with_mask=True of LoadAnnotations), '
            'or leave out the part that takes it'
        )
    modules = [owner for owner in owners if isinstance(owner, nn.Module)]
    return _misfit(text, modules, frames[-1]) or _unusable_part(error, text, frames, cfg)


def _nearest_type(name: str, registry: Any) -> str | None:
    """The type, with the scope it needs, spelled most like ``name`` whatever scope that has."""
    if not isinstance(registry, Registry):
        return None
    root = registry.root
    # Name without a scope -> how a config writes it. Later ones replace earlier ones.
    types = {
        each: f'{scope}.{each}'
        for scope, child in sorted(root.children.items(), reverse=True)
        for each in child.module_dict
    }
    types |= {each: each for each in (*root.module_dict, *registry.module_dict)}
    scope, _, bare = name.rpartition('.')
    if scope in root.children:
        types |= {each: f'{scope}.{each}' for each in root.children[scope].module_dict}
    # Among so many names, one is often a little like a class of the user's own.
    near = nearest(bare, types, cutoff=0.8)
    return types[near] if near else nearest(name, types.values(), cutoff=0.8)


def _missing_file(error: FileNotFoundError, text: str, cfg: Config) -> str:
    # A data loader's worker process sends its traceback as text, and no file name.
    said = text.rsplit('FileNotFoundError: ', 1)[-1].strip() if '\n' in text else reason(error)
    named = re.search("No such file or directory: '(.*)'$", said)
    path = error.filename or (named[1] if named else '')
    if not path:
        return f"{said.removesuffix('.')}: check the config's paths"
    work_dir = cfg.get('work_dir')
    if work_dir and Path(path).is_relative_to(Path(work_dir).absolute()):
        return f'{path} cannot be written: its folder is gone'
    return f"file {path} does not exist: check the config's paths"


def _unloaded(error: Exception, text: str, innermost: FrameType) -> str | None:
    """Name the annotation that code of a toolbox looks for and that the pipeline did not load."""
    lacked = ''
    if isinstance(error, KeyError) and text.startswith('gt_'):
        lacked = text
    if isinstance(error, AttributeError) and isinstance(error.obj, BaseDataElement):
        lacked = (error.name or '').removeprefix('_')  # a property's value is kept below it
    in_toolbox = innermost.f_globals['__name__'].partition('.')[0] in PACKING
    # A user's own code may be wrong, and a model may predict nothing: neither is the pipeline's.
    return lacked if in_toolbox and not lacked.startswith('pred_') else None


def _without_gradient(indices: set[int], owners: list[Any]) -> str | None:
    """Name the parameters that had no gradient, by their indices among those that are trained."""
    wrapper = next((x for x in owners if isinstance(x, DistributedDataParallel)), None)
    if wrapper is None:
        return None
    trained = [name for name, x in wrapper.module.named_parameters() if x.requires_grad]
    names = [name for index, name in enumerate(trained) if index in indices]
    remedy = 'take them out of the model'
    if all(name.startswith('backbone.norms.') for name in names):
        remedy = 'leave the maps that nothing reads out of model.backbone.out_indices'
    return (
        f'trained parameters had no gradient in a step ({list_first(names)}), which several '
        f'processes cannot train: {remedy}, or set find_unused_parameters=True in the config'
    )


def _misfit(text: str, modules: list[nn.Module], innermost: FrameType) -> str | None:
    """Say which layer gets other channels than it takes; None where that is not what happened.

    Args:
        text: What PyTorch said.
        modules: Those whose methods ran, from the outermost to the innermost.
        innermost: The frame of the last method.
    """
    convolved = re.search(r'to have (?P<takes>\d+) channels, but got (?P<gets>\d+) channels', text)
    product = r'cannot be multiplied \(\d+x(?P<gets>\d+) and (?P<takes>\d+)x\d+\)'
    match = convolved or re.search(product, text)
    if match is None or not modules:
        return None
    names = {module: name for name, module in modules[0].named_modules()}
    name = names.get(modules[-1])
    if not name:
        return None
    x = innermost.f_locals.get('input')
    has_neck = getattr(modules[0], 'neck', None) is not None
    if name.startswith('head.') and not has_neck and isinstance(x, Tensor) and x.ndim == 4:
        # As in recipes for vision transformers, which return vectors; what it gets is a width.
        return (
            f'model.{name} takes vectors, but gets maps of {x.shape[1]} channels: pool them with '
            "model.neck=dict(type='GlobalAveragePooling')"
        )
    part = '.'.join(name.split('.')[:2]) if name.startswith('roi_head.') else name.split('.')[0]
    return (
        f'model.{name} takes {match["takes"]} channels, but gets {match["gets"]}: make in_channels '
        f'of model.{part}, or what it is computed from, fit what comes before it'
    )


def _unusable_part(error: Exception, text: str, frames: list[FrameType], cfg: Config) -> str | None:
    """Name the part of the config that cannot be built, and why; None while none is being built."""
    built = _last_built(frames, cfg)
    if built is None:
        return None
    where, factory = built
    if where == 'optim_wrapper' and text == 'None is not a callable object':
        name = cfg.optim_wrapper.optimizer.type
        near = _nearest_type(name, OPTIMIZERS)
        return f"unknown optim_wrapper.optimizer.type='{name}': " + (
            f'did you mean {near!r}?'
            if near
            else "mmengine registers PyTorch's optimizers, and those of packages such as "
            'lion_pytorch where they are installed'
        )
    if where == 'optim_wrapper' and type(error) is NotImplementedError:
        return (
            f"{where}.constructor='{cfg.optim_wrapper.get('constructor')}' does not know the "
            'layers of this backbone: for rates that decay from layer to layer set it to '
            "'mmdat.BackboneDecayConstructor', with paramwise_cfg=dict(layer_decay_rate=...)"
        )
    if match := re.search(r'Cannot infer the rule for (?:key )?(.*), thus', text):
        return (
            f'{where} goes by {match[1]}, of which it is not known whether more is better: check '
            "its spelling, or set rule to 'greater' or 'less'"
        )
    if match := re.search(r"got an unexpected keyword argument '(\w+)'", text):
        key = match[1]
        if key == 'pretrained' and cfg.get('model', {}).get(key) is not None:
            return (
                f'model.pretrained={cfg.model.pretrained!r} is for another backbone: set it to '
                f'None, and the weights of {factory.__name__} in its init_cfg'
            )
        return (
            f"unknown key '{where}.{key}' for {factory.__name__}: "
            f'{suggest(key, _parameters(factory))}'
        )
    return f'{where} cannot be used: {reason(error)}'


def _last_built(frames: list[FrameType], cfg: Config) -> tuple[str, Any] | None:
    """Find out what was being built when an exception arose.

    Returns:
        Path in ``cfg`` and class; those of the part that the runner prepares, or of the whole
        config, where no class is being built; None if the runner prepares nothing.
    """
    for frame in reversed(frames):
        if built := built_by(frame):
            values, factory = built
            return _where(cfg, values.get('type'), values), factory
        method = PREPARATIONS.get(frame.f_code)
        if method == 'build_dataloader':
            return f'{_split_of(frames)}_dataloader', DataLoader
        if method is not None:
            part = method.removeprefix('build_')
            return part if part in cfg else f'config {cfg.filename}', Runner
    return None


def _split_of(frames: list[FrameType]) -> str:
    """Name the split whose loop is being built."""
    methods = {PREPARATIONS.get(frame.f_code) for frame in frames}
    for split in ('val', 'test'):
        if f'build_{split}_loop' in methods:
            return split
    return 'train'


def _where(cfg: Config, name: Any, built: Any = None) -> str:
    """Name up to two dicts in ``cfg`` of type ``name``, those most like ``built`` if any."""
    found = [path.removesuffix('.type') for path in paths(cfg, 'type', name)]
    if built is not None:
        keys = set(built) - {'type'}
        found = [path for path in found if set(value_at(cfg, path)) >= keys] or found
        # Of the data sets of several splits, the one with these values.
        same = [
            path
            for path in found
            if all(_equal(value_at(cfg, path).get(k), built[k]) for k in keys)
        ]
        found = same or found
    found = [path for path in found if path.split('.')[0] in RUNNER_KEYS] or found
    return ' or '.join(found[:2]) or str(name)


def _equal(value: Any, other: Any) -> bool:
    try:
        return bool(value == other)
    except ValueError:  # of arrays
        return repr(value) == repr(other)


def _parameters(factory: Any) -> set[str]:
    """Names of the arguments that a class or function takes, also by its bases."""
    if not inspect.isclass(factory):
        return parameters(factory)
    names: set[str] = set()
    for base in factory.__mro__:
        constructor = base.__init__  # type: ignore[misc]
        names |= parameters(constructor)
        kinds = [parameter.kind for parameter in inspect.signature(constructor).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return names
