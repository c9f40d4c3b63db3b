#!/usr/bin/env python
"""Time the checks of a config's data against loading them: ``benchmarks/data_checks.py CONFIG``."""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from mmengine.registry import DATASETS, DefaultScope
from rich.console import Console
from rich.table import Table

from mmdat import checks
from mmdat.analysis.browse import evenly_spaced
from mmdat.analysis.data_summary import items_of, load
from mmdat.apis.model import build_model
from mmdat.apis.runner import add_checks, read_run_config

LOADED = 500  # images that are loaded with their annotations, for comparison


def cpu_seconds(run: Callable[[], Any]) -> float:
    """CPU time of a function, in all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config whose data are there')
    cfg = read_run_config(parser.parse_args().config, None, None, 'none')
    add_checks(cfg)
    seconds: Counter[str] = Counter()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg)
        datasets = {
            split: DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val')
        }
        for check in checks.first_step_checks(model, datasets, {}, warn=lambda text: None):
            name = f'{check.func.__module__.split(".")[-1]}.{check.func.__name__}'
            seconds[name] += cpu_seconds(check)
        items = [item for dataset in datasets.values() for item in items_of(dataset)]
        some = [items[index] for index in evenly_spaced(LOADED, len(items))]
        loading = cpu_seconds(lambda: [load(*item) for item in some]) / len(some)
    table = Table('check', 'CPU s', 'ms for an image', title=f'{len(items)} images')
    for name, spent in seconds.most_common():
        table.add_row(name, f'{spent:.2f}', f'{1e3 * spent / len(items):.3f}')
    total = seconds.total()
    table.add_row('all', f'{total:.2f}', f'{1e3 * total / len(items):.3f}')
    table.add_row('loading, an epoch', f'{loading * len(items):.2f}', f'{1e3 * loading:.3f}')
    Console().print(table)


if __name__ == '__main__':
    main()
