"""The file of a test's predictions, whatever the evaluator."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmdat.checks import config_tree
from mmdat.registry import HOOKS


@HOOKS.register_module()
class WriteResultsHook(Hook):
    """Write the predictions of a test to a file, and with the first what the classes are called.

    They are there before the metrics are computed, in which a test may end with an error. Among the
    metrics of mmdet's ``MultiDatasetsEvaluator`` the one that writes would be left out.

    Args:
        metric: Config of a metric that writes predictions, such as mmengine's ``DumpResults``.
    """

    def __init__(self, metric: dict[str, Any]) -> None:
        self.metric = METRICS.build(metric)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement | dict] | None = None,
    ) -> None:
        samples = [x.to_dict() if isinstance(x, BaseDataElement) else x for x in outputs or ()]
        if samples and not self.metric.results:
            metainfo = getattr(runner.test_dataloader.dataset, 'metainfo', None)
            classes = tuple(config_tree.first_metainfo(metainfo).get('classes') or ())
            samples[0] = dict(samples[0], classes=classes)
        self.metric.process(data_batch, samples)
        if self.end_of_epoch(runner.test_dataloader, batch_idx):
            self.metric.evaluate(len(runner.test_dataloader.dataset))
