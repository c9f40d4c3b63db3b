"""What models see in the images of several people, and what each pixel's query attends to."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import ref

import cv2
import numpy as np
from pycocotools import mask as mask_api

from mmdat.checks.images import read_headers
from mmdat.datasets.images import UnreadableError, read_image
from mmdat.errors import UserError
from mmdat.visualization import Recording, draw_query

from .prediction_files import draw_prediction
from .predictor import Predictor, encode_mask
from .results import Instances, Prediction

MOST_PIXELS = 50_000_000  # of a file's image; it takes 16 bytes each while it is read
MOST_SIDE = 2048  # in pixels, of an image as it is kept and predicted
LEGIBLE = 720  # in pixels: the least longer side of a picture
Number = float | None  # as typed into the page, in which a field may be empty
MOST_RECORDINGS = 4  # kept at a time; each has the features of all blocks, some 100 MB


@dataclass(eq=False)
class Scene:
    """The image of a session, and what has been found out about it.

    Attributes:
        name: Of its file, and what was done to it that one might not expect.
        image: (height, width, 3), RGB uint8.
        query: (x, y) in pixels of the image.
        predictions: By the name of the model.
        recording: Of the attention of the model of that name; None if it is not kept.
    """

    name: str
    image: np.ndarray
    query: tuple[float, float]
    predictions: dict[str, Prediction] = field(default_factory=dict)
    recording: tuple[str, Recording] | None = None

    @property
    def scale(self) -> float:
        """Pixels of the picture for one of the image."""
        return max(1, LEGIBLE / max(self.image.shape[:2]))


class Viewer:
    """What the page asks of models, answered one question at a time.

    Args:
        models: By the name that the page shows.

    Attributes:
        models: As given.
        heads: Of each model the number of heads of each block that can be drawn, by the number of
            its stage, from 0.

    Raises:
        UserError: If the attention of a model cannot be recorded.
    """

    def __init__(self, models: Mapping[str, Predictor]) -> None:
        self.models = models
        self._lock = threading.Lock()
        self._recorded: deque[ref[Scene]] = deque()
        self.heads: dict[str, dict[int, list[int]]] = {}
        for name, model in models.items():
            recording = model.record_attention(np.zeros((64, 64, 3), np.uint8))
            self.heads[name] = {
                stage: [block.heads for block in recording.blocks if block.stage == stage]
                for stage in recording.stages
            }

    def read(self, path: str) -> Scene:
        """Read an image file; the query is in its middle.

        Raises:
            UserError: If it is no image, is broken or too large.
        """
        name = Path(path).name
        notes = [name]
        with self._lock:
            try:
                image = self._decode(path, notes)
            except UnreadableError as error:
                raise UserError(f'{name} cannot be read: {error}') from error
        height, width = image.shape[:2]
        scale = MOST_SIDE / max(height, width)
        if scale < 1:
            size = max(1, round(scale * width)), max(1, round(scale * height))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            notes.append(f'reduced from {width} x {height} to {size[0]} x {size[1]} pixels')
            height, width = image.shape[:2]
        text = '; '.join(notes).replace(path, 'it')
        return Scene(text, image[..., ::-1].copy(), (width // 2 + 0.5, height // 2 + 0.5))

    def picture(self, scene: Scene, model: str, score_thr: float) -> tuple[np.ndarray, str]:
        """The image with what a model predicts, and how much that is.

        Args:
            score_thr: Objects with a lower score are left out.

        Returns:
            (height, width, 3), RGB uint8, and the end of a sentence about a detector's objects.
        """
        predictor = self.models[model]
        with self._lock:
            if model not in scene.predictions:
                output, recording = predictor.predict_and_record(scene.image[..., ::-1])
                self._keep(scene, model, recording)
                scene.predictions[model] = Prediction(
                    '', '', None, None, scene.image, predictor.classes, **output
                )
            prediction = scene.predictions[model]
            text = ''
            if found := prediction.instances:
                many = int((found.scores >= score_thr).sum())  # the best are first
                text = f': {many} object{"s" * (many != 1)} with a score of {score_thr:g} or more'
                found = Instances(
                    found.boxes[:many],
                    found.scores[:many],
                    found.labels[:many],
                    found.masks and found.masks[:many],
                )
                prediction = replace(prediction, instances=found)
            prediction = _enlarged(prediction, scene.scale)
            return draw_prediction(prediction, predictor.palette), text

    def attention(self, scene: Scene, model: str, stage: int, block: int, head: int) -> np.ndarray:
        """What the scene's query attends to; (height, width, 3), RGB uint8.

        Args:
            stage: Number of the stage, from 1.
            block: Number of the block among those of the stage, from 1.
            head: Number of the head, from 1; 0 for the mean of all.
        """
        with self._lock:
            recording = self._record(scene, model)
            blocks = [found for found in recording.blocks if found.stage == stage - 1]
            return draw_query(
                scene.image, recording, scene.query, [blocks[block - 1]], head - 1 if head else None
            )

    def limit(self, model: str, stage: Number, block: Number, head: Number) -> tuple[int, int, int]:
        """The nearest stage, block and head that a model has; the least if none is given."""
        stages = self.heads[model]
        stage = round(nearest(stage, min(stages) + 1, max(stages) + 1))
        block = round(nearest(block, 1, len(stages[stage - 1])))
        return stage, block, round(nearest(head, 0, stages[stage - 1][block - 1]))

    def _decode(self, path: str, notes: list[str]) -> np.ndarray:
        header = read_headers([path])[0]
        if header is None:
            raise UnreadableError('it is no image of a kind that is read: give a JPEG or PNG')
        width, height = header.stored
        if width * height > MOST_PIXELS:
            raise UnreadableError(
                f'it has {width} x {height} pixels, and {MOST_PIXELS:,} are the most'
            )
        return read_image(path, notes.append)

    def _record(self, scene: Scene, model: str) -> Recording:
        if scene.recording is None or scene.recording[0] != model:
            self._keep(scene, model, self.models[model].record_attention(scene.image[..., ::-1]))
        assert scene.recording is not None
        return scene.recording[1]

    def _keep(self, scene: Scene, model: str, recording: Recording) -> None:
        """Keep a scene's recording, and drop the oldest of others if there are too many."""
        others = (other for other in self._recorded if other() not in (None, scene))
        self._recorded = deque([*others, ref(scene)])
        if len(self._recorded) > MOST_RECORDINGS:
            oldest = self._recorded.popleft()()
            if oldest is not None:
                oldest.recording = None
        scene.recording = model, recording


def nearest(number: Number, least: float, most: float) -> float:
    """The number nearest to one that lies within limits; the least if there is none."""
    return least if number is None else min(max(number, least), most)


def _enlarged(prediction: Prediction, scale: float) -> Prediction:
    """A prediction for an image that is enlarged, so that texts on it are small."""
    if scale == 1:
        return prediction
    height, width = (round(scale * side) for side in prediction.image.shape[:2])
    image = cv2.resize(prediction.image, (width, height), interpolation=cv2.INTER_CUBIC)
    class_map, found = prediction.class_map, prediction.instances
    if class_map is not None:
        class_map = cv2.resize(class_map, (width, height), interpolation=cv2.INTER_NEAREST)
    if found is not None:
        masks = found.masks and [
            encode_mask(mask_api.decode(mask), (height, width)) for mask in found.masks
        ]
        found = replace(found, boxes=found.boxes * scale, masks=masks)
    return replace(prediction, image=image, class_map=class_map, instances=found)
