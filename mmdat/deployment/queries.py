"""DETR and DINO as one graph from pixels to boxes: each query is a box, and none is suppressed."""

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttention,
    multi_scale_deformable_attn_pytorch,
)
from mmdet.models import DINO
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmdat.deployment.boxes import gather_rows

Sizes = Sequence[tuple[int, int]]
# To mmdet's transformers: the images of a batch have one size and no padding.
WHOLE = SimpleNamespace(batch_input_shape=(1, 1), img_shape=(1, 1))


class QueryBoxes(nn.Module):
    """The transformer and the head of DETR or DINO, from features to boxes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.most = model.test_cfg.get('max_per_img', model.num_queries)
        outside = dict.fromkeys(map(id, (model.backbone, model.neck)), nn.Identity())
        self.model = copy.deepcopy(model, outside)
        for module in list(self.model.modules()):
            for name, child in module.named_children():
                if type(child) is MultiScaleDeformableAttention:
                    setattr(module, name, DeformableAttention(child))
        if isinstance(model, DINO):
            # torch.export cannot space points evenly over a size that it does not know.
            self.model.encoder.get_encoder_reference_points = reference_points
            self.model.gen_encoder_output_proposals = self._propose

    def forward(
        self, features: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (batch, n, 4), scores and labels (batch, n), best first."""
        logits, boxes = self.model.bbox_head(**self._decode(features))
        logits, boxes = logits[-1], boxes[-1]
        if self.model.bbox_head.loss_cls.use_sigmoid:
            classes = self.model.bbox_head.num_classes
            scores, index = logits.sigmoid().flatten(1).topk(self.most)
            index, labels = index // classes, index % classes
        else:
            scores, labels = logits.softmax(dim=-1)[..., :-1].max(dim=-1)
            scores, index = scores.topk(self.most)
            labels = labels.gather(1, index)
        height, width = size
        x1, y1, x2, y2 = bbox_cxcywh_to_xyxy(gather_rows(boxes, index)).unbind(dim=-1)
        x1, x2 = ((x * width).clamp(0, width) for x in (x1, x2))
        y1, y2 = ((y * height).clamp(0, height) for y in (y1, y2))
        return torch.stack([x1, y1, x2, y2], dim=-1), scores, labels

    def _decode(self, features: Sequence[Tensor]) -> dict[str, Any]:
        """What the head takes: the states of all decoder layers, and their reference boxes."""
        model = self.model
        if isinstance(model, DINO):
            for_encoder, for_decoder = self._flatten(features)
        else:
            for_encoder, for_decoder = model.pre_transformer(features, [WHOLE])
        queries, for_head = model.pre_decoder(**model.forward_encoder(**for_encoder))
        for_decoder |= queries
        if not isinstance(model, DINO):
            return for_head | model.forward_decoder(**for_decoder)
        # mmdet's forward_decoder asks how many images there are, which a graph does not know.
        states, references = model.decoder(
            value=for_decoder.pop('memory'),
            key_padding_mask=for_decoder.pop('memory_mask'),
            self_attn_mask=for_decoder.pop('dn_mask'),
            reg_branches=model.bbox_head.reg_branches,
            **for_decoder,
        )
        return dict(hidden_states=states, references=list(references))

    def _flatten(self, features: Sequence[Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What encoder and decoder of DINO take, with the sizes of the levels as numbers.

        mmdet has them in a tensor, by whose values a graph cannot split another.
        """
        model = self.model
        positions = [
            model.positional_encoding(None, input=feature) + embedding[:, None, None]
            for feature, embedding in zip(features, model.level_embed, strict=True)
        ]
        levels = dict(
            spatial_shapes=[tuple(feature.shape[2:]) for feature in features],
            level_start_index=None,
            valid_ratios=features[0].new_ones(features[0].shape[0], len(features), 2),
        )
        cells, feat_pos = (
            torch.cat([x.flatten(2).mT for x in maps], dim=1) for maps in (features, positions)
        )
        return dict(feat=cells, feat_mask=None, feat_pos=feat_pos, **levels), dict(
            memory_mask=None, **levels
        )

    def _propose(
        self, memory: Tensor, memory_mask: None, spatial_shapes: Sizes
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of all cells, and the logits of a box at each; both without border cells."""
        sides = [
            memory.new_full((height * width, 2), 0.05 * 2**level)
            for level, (height, width) in enumerate(spatial_shapes)
        ]
        boxes = torch.cat([cell_centers(spatial_shapes, memory.device), torch.cat(sides)], dim=-1)
        border = ((boxes <= 0.01) | (boxes >= 0.99)).any(dim=-1, keepdim=True)
        memory = self.model.memory_trans_fc(memory.masked_fill(border, 0.0))
        boxes = torch.log(boxes / (1 - boxes)).masked_fill(border, torch.inf)
        return self.model.memory_trans_norm(memory), boxes


def cell_centers(sizes: Sizes, device: torch.device) -> Tensor:
    """Centers (cells, 2) of the cells of all levels, x and y from 0 to 1."""
    centers = []
    for height, width in sizes:
        y, x = ((torch.arange(n, device=device) + 0.5) / n for n in (height, width))
        grid = [x.expand(height, -1), y[:, None].expand(-1, width)]
        centers.append(torch.stack(grid, dim=-1).flatten(0, 1))
    return torch.cat(centers)


def reference_points(sizes: Sizes, valid_ratios: Tensor, device: torch.device) -> Tensor:
    """Where the encoder's queries look from (batch, cells, levels, 2): their cells' centers."""
    return cell_centers(sizes, device)[:, None] * valid_ratios[:, None]


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention that takes the sizes of the levels as numbers."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        spatial_shapes: list[tuple[int, int]],
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Attend to what lies around the reference points, see the class in mmcv.

        Args:
            query: (batch, n, dims).
            reference_points: (batch, n, levels, 2 or 4), points or boxes from 0 to 1.
            spatial_shapes: Height and width of each level.
            value: (batch, all cells of all levels, dims); the queries if it is not given.
            identity: What the result is added to; the query if it is not given.
            query_pos: (batch, n, dims), added to the queries.
        """
        own = self.attention
        value = own.value_proj(query if value is None else value)
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        points = (own.num_heads, own.num_levels, own.num_points)
        offsets = own.sampling_offsets(query).unflatten(-1, (*points, 2))
        weights = own.attention_weights(query).unflatten(-1, (own.num_heads, -1))
        weights = weights.softmax(dim=-1).unflatten(-1, points[1:])
        centers = reference_points[:, :, None, :, None]
        if reference_points.shape[-1] == 2:
            sizes = [query.new_full((), length) for h, w in spatial_shapes for length in (w, h)]
            offsets = offsets / torch.stack(sizes).view(-1, 1, 2)
        else:
            offsets = offsets / own.num_points * centers[..., 2:] * 0.5
        attended = multi_scale_deformable_attn_pytorch(
            value.unflatten(-1, (own.num_heads, -1)),
            spatial_shapes,
            centers[..., :2] + offsets,
            weights,
        )
        return own.output_proj(attended) + identity
