"""Which mask belongs to which image, by the names of files and folders."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from mmdat.checks.images import IMAGE_SUFFIXES
from mmdat.errors import UserError

from .files import MASK_END, Folder, NotRecognizedError, split_of_folder

IMAGE_WORDS = ('images', 'image', 'imgs', 'img', 'jpegimages', 'photos', 'inputs')
# Words for folders of masks, the surest first: programs write pictures of the masks into others.
MASK_WORDS = (
    'segmentationclasspng', 'segmentationclass', 'masks', 'mask', 'labels', 'label', 'annotations',
    'annotation', 'annot', 'ann', 'gt', 'groundtruth', 'targets', 'segmentation',
    'semantic',
)  # fmt: skip
# Parts of a mask's name that its image's lacks: those of Cityscapes first, of CamVid last (_P as
# fastai has it).
MORE_IN_MASKS = (
    re.compile('(_gtFine)?_labelTrainIds$'),
    re.compile('_gtFine_labelIds$'),
    MASK_END,
    re.compile(r'^(masks?|seg|labels?|gt)[_-]', re.IGNORECASE),
    re.compile(rf'({"|".join(map(re.escape, IMAGE_SUFFIXES))})$', re.IGNORECASE),
    re.compile('_[LP]$'),
)
CITYSCAPES_END = '_leftImg8bit'
NO_MASK = re.compile('_gtCoarse_|_gtFine_(color|instance)|SegmentationObject/')
# Folders that are of no use if another has files of the same names, as KITTI's and Supervisely's.
INSTEAD = {'instance': 'semantic', 'masks_human': 'masks_machine'}
FOLDERS = dict(
    leftimg8bit='images', gtfine='gt', trainannot='train annot', valannot='val annot',
    testannot='test annot', ground_truth='gt', **{'ground truth': 'gt', 'ground-truth': 'gt'},
    **{'701_stillsraw_full': 'images', 'labeledapproved_full': 'labels'},
)  # fmt: skip
Ranked = tuple[int, int, str]  # rank of a mask, rank of the key that fits it, and its path
Candidate = tuple[list[tuple], int, str]  # keys that a mask may have, its rank and its path


def pair_masks(folder: Folder) -> dict[str, str]:
    """Pair images with masks of the same stem: in folders that are named so, or beside them.

    Stems of masks may end in a word for a mask.

    Returns:
        Image -> mask, both relative to the root.

    Raises:
        NotRecognizedError: If there are none.
        UserError: If there are JPEG files alone where masks would be.
    """
    photos, masks, blurred, is_clear = _key_files(folder, '[a-z]+')
    if not is_clear:  # as images1/a.jpg and images2/a.jpg
        photos, masks, blurred, _ = _key_files(folder, r'[^\W\d_]+|\d+')
    pairs = {path: masks[key][-1] for key, path in photos.items() if key in masks}
    if not pairs and (pairs := _pair_by_name(photos, masks)):
        image, mask = next(iter(pairs.items()))
        folder.note(
            f'Folders do not say which mask is whose: names alone do, as those of {image} and '
            f'{mask}. Check that they belong together.'
        )
    if not pairs and blurred:
        raise UserError(
            f'{folder.root / min(blurred)} holds JPEG files, which blur the values of masks: save '
            'the masks as PNG'
        )
    if not pairs:
        raise NotRecognizedError(
            f'{folder.root} has no pairs of an image and a mask: give a folder with images/ and '
            'masks/ (or labels/, annotations/), whose files have the same names up to the suffix'
        )
    if lonely := [path for path in photos.values() if path not in pairs]:
        folder.note(f'{len(lonely)} images have no mask, such as {lonely[0]}: they are left out.')
    used = set(pairs.values())
    if unused := [path for *_, path in masks.values() if path not in used]:
        folder.note(f'{len(unused)} masks have no image, such as {unused[0]}: they are left out.')
    return pairs


def _key_files(
    folder: Folder, pattern: str
) -> tuple[dict[tuple, str], dict[tuple, Ranked], set[str], bool]:
    """Give images and masks that belong together one key.

    Args:
        folder: The folder of the images.
        pattern: What the words in a folder's name are; the other signs are not looked at.

    Returns:
        Key -> image, key -> ranks and path of a mask, folders of masks that are JPEG, and whether
        no two folders have an image of the same key.
    """
    photos: dict[tuple, str] = {}
    found: list[Candidate] = []
    beside: list[Candidate] = []
    doubtful: list[Candidate] = []
    blurred: set[str] = set()
    is_clear = True
    plain = {_parts(path) for path in folder.paths}
    # Photos with masks beside them, whose folder may have any word, as semantic.
    marked = {base for parts in plain if (base := _without_end(parts)) != parts} & plain
    # Not masks in two forms, of photos in another folder.
    elsewhere = {parts[-1] for parts in plain - marked}
    marked = {parts for parts in marked if parts[-1] not in elsewhere}
    files = {*folder.paths}
    for path in folder.paths:
        parts = _parts(path)
        if NO_MASK.search(path):
            continue
        better = '/'.join(INSTEAD.get(part, part) for part in path.split('/'))
        if better != path and better in files:
            continue
        ends = [(*parts[:-1], name) for name in _names_of_images(parts[-1])]
        is_beside = _without_end(parts) in marked
        for index in () if is_beside else reversed(range(len(parts) - 1)):
            name = parts[index].lower()
            words = re.findall(pattern, FOLDERS.get(name, name))
            mask_word = next((word for word in MASK_WORDS if word in words), None)
            image_word = next((word for word in IMAGE_WORDS if word in words), None)
            if mask_word == 'semantic' and image_word:  # as in semantic_images
                mask_word = None
            word = mask_word or image_word
            if word is None:
                continue
            rest = tuple(item for item in words if item != word)
            if mask_word is None:
                last = parts[-1].removesuffix(CITYSCAPES_END)
                key = (parts[:index], rest, (*parts[index + 1 : -1], last))
                other = photos.setdefault(key, path)
                is_clear &= PurePosixPath(other).parent == PurePosixPath(path).parent
            elif not path.lower().endswith(('.jpg', '.jpeg')):
                keys: list[tuple] = [(parts[:index], rest, end[index + 1 :]) for end in ends]
                split = ('_'.join(rest),) if rest else ()
                # Images may lie beside the folder of masks, or in a folder without a word.
                keys += [(*parts[:index], *split, *end[index + 1 :]) for end in ends]
                found.append((keys, MASK_WORDS.index(mask_word), path))
            else:
                blurred.add('/'.join(parts[: index + 1]))
            break
        else:
            shorter: list[tuple] = [end for end in ends if end != parts]
            if match := MASK_END.search(parts[-1]):
                word = match[1].lower()
                rank = MASK_WORDS.index(word) if word in MASK_WORDS else len(MASK_WORDS)
                beside.append((shorter, rank, path))
            elif not plain.isdisjoint(shorter):
                doubtful.append((shorter, len(MASK_WORDS), path))
            else:
                photos[parts] = path
    # In a folder of images that have masks, a_L.png beside a.png is another image.
    sure = {key[:-1] for keys, *_ in (*found, *beside) for key in keys if key in photos}
    for item in doubtful:
        parts = _parts(item[-1])
        if parts[:-1] in sure:
            photos[parts] = item[-1]
        else:
            beside.append(item)
    for item in beside:
        path = item[-1]
        if path.lower().endswith(('.jpg', '.jpeg')):
            blurred.add(str(PurePosixPath(path).parent))
        else:
            found.append(item)
    masks: dict[tuple, Ranked] = {}
    for keys, rank, path in found:
        at = next((number for number, key in enumerate(keys) if key in photos), 0)
        masks[keys[at]] = min(masks.get(keys[at], (rank, at, path)), (rank, at, path))
    return photos, masks, blurred, is_clear


def _parts(path: str) -> tuple[str, ...]:
    """Folders and stem of a path, in one form of Unicode: Macs write letters and signs apart."""
    return PurePosixPath(unicodedata.normalize('NFC', path)).with_suffix('').parts


def _without_end(parts: tuple[str, ...]) -> tuple[str, ...]:
    """A path without the word for a mask that its name may end in."""
    return (*parts[:-1], MASK_END.sub('', parts[-1]))


def _pair_by_name(photos: Mapping[tuple, str], masks: Mapping[tuple, Ranked]) -> dict[str, str]:
    """Pair images with masks of the same name wherever they lie, but not of another split.

    Where names do not tell apart several images, or several masks of one rank, there is no pair.
    """
    by_name: dict[str, dict[str | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    # If there are folders that are named for images, the images lie in them.
    named = [path for key, path in photos.items() if isinstance(key[0], tuple)]
    for path in named or photos.values():
        by_name[PurePosixPath(path).stem][split_of_folder(path)].append(path)
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for rank, _, path in masks.values():
        split = split_of_folder(path)
        for name in _names_of_images(PurePosixPath(path).stem):
            alike = [
                image
                for other, listed in by_name[name].items()
                if None in (split, other) or split == other
                for image in listed[:2]  # two are too many, as of thousands called frame.png
            ]
            if len(alike) == 1:
                found[alike[0]].append((rank, path))
                break
    pairs = {}
    for image, ranked in found.items():
        ranks = [rank for rank, _ in ranked]
        if ranks.count(min(ranks)) == 1:
            pairs[image] = min(ranked)[1]
    return pairs


def _names_of_images(mask: str) -> list[str]:
    """List the names that the image of a mask may have, without suffix, the likeliest first."""
    return [mask, *(pattern.sub('', mask) or mask for pattern in MORE_IN_MASKS)]
