"""Predictions as files: COCO's results, pictures, and masks of classes."""

import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from mmdat.datasets.images import quiet_opencv
from mmdat.datasets.inputs import FRAME_RATE, MASKS, PICTURES, RESULTS
from mmdat.errors import UserError
from mmdat.files import partial_path, write_whole, writing_to
from mmdat.visualization.predictions import Color, draw_classes_of_pixels, draw_instances, draw_text

from .predictor import Predictor
from .results import Instances, Prediction

TOP = 5  # classes of a classifier that are named
PICTURE_SUFFIXES = ('.jpg', '.jpeg', '.png')
MOST_JPEG = 65500  # pixels a side
# MPEG-4 counts time in at most 65535 parts of a second, and OpenCV in decimal ones.
MOST_RATE = 655


class PredictionFiles:
    """Files in a folder that hold predictions; a context, at whose end they are complete.

    ``predictions.json`` is a list in COCO's format for results, with a dict for each object that a
    detector found: ``image_id`` (that of the data set that the config tests on for its own images,
    by their path; of others, and of frames, a number above those, or from 1), ``category_id`` (the
    class's number in that data set), ``bbox`` (x, y, width, height in pixels),
    ``score`` and, of masks, ``segmentation`` (run-length encoding); besides ``file_name`` (path
    below the folder that all inputs share), ``category_name`` and, in a video, ``frame`` (from 0).
    Of a segmentor it has a dict for each image, with ``mask`` (path of its file) and ``classes``,
    each with its ``share`` of the pixels; of a classifier ``classes`` are the five with the highest
    ``score``. For these two ``category_id`` is the model's class, from 0.

    ``pictures/`` has the images with what was found in them, ``masks/`` PNG files of the images'
    sizes whose pixels are classes, from 0, with the classes' colors as palette.

    A file appears when it is complete. No two are of the same name. The videos have even sides, as
    their codec wants them: the last row or column is there twice.

    Args:
        folder: Folder to write into, made if it is not there.
        predictor: Tells the classes, their colors and numbers.
        pictures: Whether to draw pictures.

    Attributes:
        num_images: Number of predictions that were written.
        paths: What has been written, at the end.
        unwritten: Path of each video that OpenCV does not write; the rest is written without it.

    Raises:
        UserError: If a file cannot be written.
    """

    def __init__(self, folder: str | Path, predictor: Predictor, pictures: bool = True) -> None:
        self.folder = Path(folder)
        self.paths: list[Path] = []
        self.unwritten: list[Path] = []
        self._predictor = predictor
        self._pictures = pictures
        self.num_images = 0
        known = predictor.image_ids.values()
        self._next_id = max((number for number in known if isinstance(number, int)), default=0) + 1
        self._json = self.folder / RESULTS
        self._separator = '[\n'
        self._is_torn = False  # whether the last entry may be in the file in part
        self._video: _VideoFile | None = None
        self._targets: dict[Path, str] = {}  # file -> name of the input that it is of

    def __enter__(self) -> 'PredictionFiles':
        if self._json.is_dir():
            raise UserError(f'{self._json} is a folder, but is to be a file: move it away')
        with writing_to(self._json):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = partial_path(self._json).open('w', encoding='utf-8')
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What was predicted before Ctrl-C or an error is complete in itself.
        complete = kind is None or self.num_images > 0 or self._separator != '[\n'
        self._end_video()
        partial = partial_path(self._json)
        with writing_to(self._json):
            try:
                with self._file:
                    self._file.write('[]\n' if self._separator == '[\n' else '\n]\n')
            except OSError:
                self._is_torn = True
                raise
            finally:
                if complete and (not self._is_torn or _keep_whole_entries(partial)):
                    partial.replace(self._json)
                    self.paths.append(self._json)
                else:
                    partial.unlink(missing_ok=True)
                tops = {path.relative_to(self.folder).parts[0] for path in self._targets}
                self.paths += [self.folder / top for top in sorted(tops) if self.num_images]

    def write(self, prediction: Prediction) -> None:
        """Write the entries, the mask and the picture of a prediction."""
        for entry in self._entries(prediction):
            line = self._separator + json.dumps(entry, ensure_ascii=False)
            self._separator = ',\n'
            self._is_torn = True
            with writing_to(self._json):
                self._file.write(line)
                self._file.flush()
            self._is_torn = False
        if self._pictures:
            self._write_picture(prediction)
        self.num_images += 1

    def _entries(self, prediction: Prediction) -> Iterator[dict[str, Any]]:
        image_id = self._predictor.image_ids.get(prediction.path)
        if image_id is None:
            image_id = self._next_id
            self._next_id += 1
        common: dict[str, Any] = dict(image_id=image_id, file_name=prediction.name)
        if prediction.frame is not None:
            common['frame'] = prediction.frame
        if prediction.instances is not None:
            for instance in self._instances(prediction.instances):
                yield {**common, **instance}
        elif prediction.class_map is not None:
            mask = self._write_mask(prediction, prediction.class_map)
            shares = np.bincount(prediction.class_map.ravel()) / prediction.class_map.size
            classes = self._classes(shares, 'share', int(np.count_nonzero(shares)))
            yield dict(common, mask=mask.relative_to(self.folder).as_posix(), classes=classes)
        elif prediction.class_scores is not None:
            yield dict(common, classes=self._classes(prediction.class_scores, 'score', TOP))

    def _instances(self, instances: Instances) -> Iterator[dict[str, Any]]:
        for index, label in enumerate(instances.labels.tolist()):
            x1, y1, x2, y2 = instances.boxes[index].tolist()
            entry = dict(
                category_id=self._predictor.category_ids[label],
                category_name=self._predictor.classes[label],
                bbox=[round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                score=float(instances.scores[index]),
            )
            if instances.masks is not None:
                rle = instances.masks[index]
                entry['segmentation'] = dict(rle, counts=rle['counts'].decode())
            yield entry

    def _classes(self, values: np.ndarray, key: str, most: int) -> list[dict[str, Any]]:
        """The classes with the highest values, the highest first."""
        return [
            {
                'category_id': index,
                'category_name': self._predictor.classes[index],
                key: float(values[index]),
            }
            for index in np.argsort(-values, kind='stable')[:most].tolist()
        ]

    def _write_mask(self, prediction: Prediction, class_map: np.ndarray) -> Path:
        mask = Image.fromarray(class_map)
        if class_map.dtype == np.uint8:
            mask.putpalette(np.array(self._predictor.palette, np.uint8).tobytes())
        buffer = io.BytesIO()
        mask.save(buffer, 'PNG')
        if prediction.frame is None:
            path = self._path(MASKS, prediction.name, '.png', prediction.path)
        else:
            path = self._path(MASKS, f'{prediction.name}/{prediction.frame:06}', '.png')
        write_whole(path, buffer.getvalue())
        return path

    def _write_picture(self, prediction: Prediction) -> None:
        picture = draw_prediction(prediction, self._predictor.palette)[..., ::-1]
        if prediction.frame is None:
            self._end_video()
            suffix = PurePath(prediction.name).suffix.lower()
            if suffix not in PICTURE_SUFFIXES or max(picture.shape) > MOST_JPEG:
                suffix = '.png'
            path = self._path(PICTURES, prediction.name, suffix, prediction.path)
            write_whole(path, cv2.imencode(suffix, picture)[1].tobytes())
            return
        path = self._path(PICTURES, prediction.name, '.mp4', prediction.path)
        if self._video is None or self._video.path != path:
            self._end_video()
            self._video = _VideoFile(path, prediction.rate or FRAME_RATE, picture.shape[:2])
            if not self._video.is_open:
                self.unwritten.append(path)
        self._video.write(picture)

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = None

    def _path(self, kind: str, name: str, suffix: str, source: str = '') -> Path:
        """Path of an input's file: its name with another suffix, or with one more if that is taken.

        Of ``a.jpg`` beside ``a.png``, as ``source`` tells, the mask is ``a.jpg.png``. Of ``a.tif``
        and ``a.gif`` the one is drawn as ``a.png``, the other as ``a.gif.png``.
        """
        folder = self.folder / kind
        path = folder / name
        if path.suffix.lower() != suffix:
            path = path.with_suffix(suffix)
            if source and os.path.exists(f'{os.path.splitext(source)[0]}{suffix}'):
                path = folder / f'{name}{suffix}'
        tail = suffix
        while self._targets.setdefault(path, name) != name:
            path, tail = folder / f'{name}{tail}', f'{tail}{suffix}'
        return path


def draw_prediction(prediction: Prediction, palette: Sequence[Color]) -> np.ndarray:
    """Draw what was predicted on its image, in RGB colors; (height, width, 3), RGB uint8."""
    if prediction.class_map is not None:
        return draw_classes_of_pixels(
            prediction.image, prediction.class_map, prediction.classes, palette
        )
    if prediction.class_scores is not None:
        best = np.argsort(-prediction.class_scores, kind='stable')[:TOP]
        lines = [f'{prediction.class_scores[i]:.2f} {prediction.classes[i]}' for i in best]
        return draw_text(prediction.image, '\n'.join(lines))
    instances = prediction.instances
    assert instances is not None
    labels = instances.labels.tolist()
    return draw_instances(
        prediction.image,
        instances.boxes,
        [
            f'{prediction.classes[label]} {score:.2f}'
            for label, score in zip(labels, instances.scores.tolist(), strict=True)
        ],
        [palette[label] for label in labels],
        (mask_api.decode(mask).astype(bool) for mask in instances.masks or ()),
    )


class _VideoFile:
    """A video that appears when it is closed, unless OpenCV does not open it."""

    def __init__(self, path: Path, rate: float, shape: tuple[int, int]) -> None:
        self.path = path
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        codec = cv2.VideoWriter.fourcc(*'mp4v')
        self._padding = [side % 2 for side in shape]
        height, width = (side + odd for side, odd in zip(shape, self._padding, strict=True))
        rate = max(0.01, round(rate, 2 if rate <= MOST_RATE else None))
        with quiet_opencv():
            self._writer = cv2.VideoWriter(
                str(partial_path(path)), codec, min(rate, 65535), (width, height)
            )
        self.is_open = self._writer.isOpened()

    def write(self, picture: np.ndarray) -> None:
        bottom, right = self._padding
        self._writer.write(cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE))

    def close(self) -> None:
        self._writer.release()
        if self.is_open:
            partial_path(self.path).replace(self.path)
        else:
            partial_path(self.path).unlink(missing_ok=True)


def _keep_whole_entries(path: Path) -> bool:
    """End a list of entries behind the last whole one, in no more bytes; False if there is none."""
    with path.open('rb+') as file:
        end = file.read().rfind(b',\n')
        if end > 0:
            file.seek(end)
            file.write(b'\n]')
            file.truncate()
    return end > 0
