"""The commands of mmdat: ``mmdat NAME ...``, and the scripts of ``tools`` of the same names."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mmdat.analysis.data import check_data, print_data_report
from mmdat.analysis.report import print_report, write_report
from mmdat.apis import command_line, test, train, write_attention, write_predictions
from mmdat.apis.cli import add_cfg_options, add_run_arguments
from mmdat.apis.curves import read_log, write_curves
from mmdat.apis.export import export
from mmdat.apis.new_config import new_config
from mmdat.apis.predict import print_summary
from mmdat.checks.run import VIS_BACKENDS
from mmdat.errors import UserError
from mmdat.version import __version__
from mmdat.visualization.comparison import SCORE_THRESHOLD

CONFIG = 'path of the config, or mmdat::NAME.py for one of mmdat'
CHECKPOINT = 'path of the checkpoint, or mmdat://NAME for one that the authors published'


class Command(NamedTuple):
    """What a command does, in a sentence, the arguments that it takes, and what they call."""

    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[..., object]


class Subparser(argparse.ArgumentParser):
    """The parser of a command, which refuses what it does not know with its own usage.

    argparse leaves that to the parser above, whose usage has none of the command's flags.
    """

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse arguments, of which none may be unknown."""
        known, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}')
        return known, unknown


def main() -> None:
    """Run the command that the command line names: ``mmdat NAME ...``."""
    parser = argparse.ArgumentParser(
        prog='mmdat', description='DAT, DAT++ and ScalableViT for detection and segmentation'
    )
    parser.add_argument('--version', action='version', version=f'mmdat {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True, parser_class=Subparser)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name, help=command.description, description=command.description
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    command_line(lambda: _parse_and_run(parser))


def run_command(name: str) -> None:
    """Run one command on the arguments of a script, as those of ``tools`` do."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(description=command.description)
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)
    command_line(lambda: _parse_and_run(parser))


def _parse_and_run(parser: argparse.ArgumentParser) -> None:
    arguments = vars(parser.parse_args())
    if 'local_rank' in arguments:  # of commands that run on several processes
        os.environ.setdefault('LOCAL_RANK', str(arguments.pop('local_rank')))
    arguments.pop('run')(**arguments)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help=CONFIG)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, from the latest in the work dir if none is named; '
        '"auto" starts anew where there is none',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size'
    )
    parser.add_argument(
        '--vis-backend',
        dest='vis_backends',
        action='append',
        default=[],
        choices=VIS_BACKENDS,
        help='where losses and metrics go besides files; can be given several times',
    )
    add_run_arguments(parser)


def _add_test(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help=CONFIG)
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument('--out', metavar='PKL', help='file for the predictions')
    parser.add_argument('--show-dir', help='folder for pictures, in the work dir')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--amp', action='store_true', help='run backbone and neck in mixed precision (bfloat16)'
    )
    add_run_arguments(parser)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help=CONFIG)
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help="an image, folder, pattern such as 'photos/**/*.jpg', video, camera's number or URL",
    )
    parser.add_argument('--out-dir', default='predictions', help='folder to write (predictions)')
    parser.add_argument(
        '--score-thr', type=float, help='least score of objects that are told (0.3)'
    )
    parser.add_argument('--batch-size', type=int, default=1, help='images that run together (1)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0 and so on (cpu)')
    parser.add_argument(
        '--slice',
        dest='slice_size',
        type=int,
        metavar='PIXELS',
        help='predict larger images in square tiles of that side, such as 640, and merge',
    )
    parser.add_argument('--overlap', type=float, help='share of a tile that the next has too (0.2)')
    parser.add_argument(
        '--no-pictures', dest='pictures', action='store_false', help='draw no pictures'
    )
    add_cfg_options(parser)


def _predict(**arguments: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C, which keeps what there is
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)
    print_summary(write_predictions(**arguments))


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help=CONFIG)
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument('out', help='file to write, .onnx or .pt2')
    parser.add_argument(
        '--check', action='store_true', help='compare the file with the model, at three sizes'
    )
    add_cfg_options(parser)


def _add_visualize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('image', help="an image, folder, pattern such as 'photos/**/*.jpg' or URL")
    parser.add_argument('config', help=CONFIG)
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument(
        '--query',
        nargs='+',
        default=[],
        metavar='X,Y',
        help='pixels whose attention is drawn (the center)',
    )
    parser.add_argument(
        '--stage', nargs='+', type=int, default=[], help='stages to draw, from 1 (all)'
    )
    parser.add_argument('--out', default='attention', help='folder to write (attention)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0 and so on (cpu)')
    add_cfg_options(parser)


def _visualize(
    image: str, out: str, query: Sequence[str], stage: Sequence[int], **arguments: Any
) -> None:
    queries = list(map(_parse_query, query))
    stages = [number - 1 for number in stage]
    summary = write_attention(
        inputs=image, out_dir=out, queries=queries, stages=stages, **arguments
    )
    print_summary(summary, 'Drawn')


def _parse_query(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(','))
    except ValueError:
        raise UserError(f'--query takes X,Y in pixels, such as 320,240, got {text}') from None
    return x, y


def _add_check_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help=CONFIG)
    parser.add_argument(
        '--out-dir', help='folder for the pictures (work_dirs/NAME, as of a training)'
    )
    parser.add_argument('--num-images', type=int, default=12, help='number of pictures (12)')
    add_cfg_options(parser)


def _check_data(config: str, **arguments: Any) -> None:
    report = check_data(config, **arguments)
    print_data_report(report)
    if report.errors:
        raise UserError(f'errors in the data of {config}: {len(report.errors)}, see above')


def _add_new_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('base', metavar='BASE', help=f'{CONFIG}, that trains the model')
    parser.add_argument('data', metavar='DATA', help='folder of the data; it is left as it is')
    parser.add_argument('out', metavar='OUT', help='config to write, such as my_parts.py')
    parser.add_argument(
        '--load-from', metavar='CHECKPOINT', help=f'weights to start from: {CHECKPOINT}'
    )
    parser.add_argument(
        '--val-share',
        type=float,
        default=0.2,
        help='share of the images to validate on, if the data does not say which (0.2)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed that chooses them (0)')
    parser.add_argument(
        '--zero',
        choices=['background', 'ignored'],
        help='what 0 or black in masks is: a class, or nothing (found from names and values)',
    )


def _new_config(**arguments: Any) -> None:
    print('\n'.join(new_config(**arguments)))


def _add_plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work dir of a training')
    parser.add_argument(
        '--out', metavar='PNG', help='the picture (curves.png, of one training in its work dir)'
    )


def _plot(work_dirs: Sequence[str], out: str | None) -> None:
    path = write_curves(work_dirs, out)
    for work_dir in work_dirs:
        print(f'{work_dir}: {" and ".join(read_log(work_dir).runs)}')
    print(f'Curves: {path.resolve()}')


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help=CONFIG)
    parser.add_argument('results', help='pickle that mmdat test --out wrote')
    parser.add_argument('--out-dir', help='folder of the report (that of the results)')
    parser.add_argument('--num-images', type=int, default=8, help='number of pictures (8)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=SCORE_THRESHOLD,
        help='least score of what is drawn (%(default)s)',
    )
    parser.add_argument(
        '--checkpoint',
        help="weights to show deformed points of (the work dir's last, if the results are in it)",
    )


def _report(**arguments: Any) -> None:
    print_report(write_report(**arguments, command=shlex.join(sys.argv)))


COMMANDS = {
    'train': Command('Train a model', _add_train, train),
    'test': Command('Evaluate a checkpoint', _add_test, test),
    'predict': Command(
        'Predict images and videos: pictures, masks and a file in COCO format',
        _add_predict,
        _predict,
    ),
    'export': Command('Export a model to ONNX or torch.export', _add_export, export),
    'visualize': Command(
        'Draw where deformable attention samples, and what queries attend to',
        _add_visualize,
        _visualize,
    ),
    'check-data': Command(
        'Look for what is wrong with the data of a config before it is trained; status 1 if there '
        'is.',
        _add_check_data,
        _check_data,
    ),
    'new-config': Command(
        'Look at a folder of data and write a config that trains a model on it',
        _add_new_config,
        _new_config,
    ),
    'plot': Command(
        'Draw losses, learning rates and validation metrics of trainings, several in one picture; '
        'of each the last run in its work dir, with the runs that it resumed',
        _add_plot,
        _plot,
    ),
    'report': Command(
        'Draw predictions beside the truth and tabulate how good they are, from what mmdat test '
        '--out wrote',
        _add_report,
        _report,
    ),
}
