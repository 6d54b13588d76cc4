"""Segmentation network: mmsegmentation's `EncoderDecoder` around a frozen backbone and a decode head.

Only the decode head is trained: any of mmsegmentation's, or the linear one of DINOv2's protocol. Import this module
after `mmsegmentation.prepare()`, as `segmentation.Segmenter` does.
"""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.data.image_sets import IGNORED
from regvit_lightning.errors import one_line
from regvit_lightning.frozen import large_logits
from regvit_lightning.frozen.dense import features, window_starts
from regvit_lightning.frozen.large_logits import Window
from regvit_lightning.frozen.module import Frozen
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import SettingsError, check, nearest
from regvit_lightning.tasks.batch_norm import BatchNorm, synchronise

if TYPE_CHECKING:
    from regvit_lightning.tasks.segmentation import SegmentationSettings


class PatchMaps(nn.Module):
    """Frozen backbone as an encoder of mmsegmentation: patches of the last blocks as feature maps.

    Args:
        frozen: frozen backbone.
        blocks: number of last blocks.
        device_batch: images per forward pass.
    """

    def __init__(self, frozen: Frozen, blocks: int, device_batch: int) -> None:
        super().__init__()
        self.frozen, self.blocks, self.device_batch = frozen, blocks, device_batch

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, D, h, w) of each block, float32, for normalised images (B, 3, H, W)."""
        blocks = features(self.frozen, images, range(-self.blocks, 0), True, self.device_batch)
        return [tokens.patches.permute(0, 3, 1, 2) for tokens in blocks]


class Segmentor(EncoderDecoder):
    """mmsegmentation's segmentor, with the sliding windows of an image processed in batches.

    Args:
        device_batch: windows per forward pass.
        parts: arguments of `EncoderDecoder`.
    """

    def __init__(self, device_batch: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.device_batch = device_batch

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Logits (B, classes, H, W), averaged over all windows at a pixel, for normalised images (B, 3, H, W).

        Windows are `stride` apart; the last of a row or column is shifted inwards to end with the image.
        """
        height, width = inputs.shape[-2:]
        (high, wide), strides = self.test_cfg["crop_size"], self.test_cfg["stride"]
        high, wide = min(high, height), min(wide, width)
        corners = list(product(window_starts(height, high, strides[0]), window_starts(width, wide, strides[1])))
        total = torch.zeros_like(inputs[:, :1]).expand(-1, self.out_channels, -1, -1)
        total = total.contiguous(memory_format=torch.channels_last)  # layout of the logits of a 1 × 1 convolution
        count = inputs.new_zeros(height, width)
        at_once = max(self.device_batch // len(inputs), 1)
        for part in (corners[first : first + at_once] for first in range(0, len(corners), at_once)):
            windows = torch.cat([inputs[..., y : y + high, x : x + wide] for y, x in part])
            logits = self.encode_decode(windows, [{"img_shape": windows.shape[-2:]}])
            for (y, x), window in zip(part, logits.split(len(inputs)), strict=True):
                total[..., y : y + high, x : x + wide] += window
                count[y : y + high, x : x + wide] += 1
        return total.div_(count)

    def windows(self, height: int, width: int) -> list[Window]:
        """Rows and columns of the sliding windows of an image."""
        (high, wide), strides = self.test_cfg["crop_size"], self.test_cfg["stride"]
        high, wide = min(high, height), min(wide, width)
        corners = product(window_starts(height, high, strides[0]), window_starts(width, wide, strides[1]))
        return [(slice(y, y + high), slice(x, x + wide)) for y, x in corners]

    def labels(self, image: Tensor, size: Sequence[int]) -> Tensor:
        """Class indices (H', W') of a normalised image (1, 3, H, W), for a head that resizes its logits bilinearly.

        They are the largest of the logits of `slide_inference`, resized to `size`, which are never all in memory.
        """
        windows = self.windows(*image.shape[2:])
        crops = torch.cat([image[:, :, rows, columns] for rows, columns in windows])
        parts = [self.decode_head(self.extract_feat(part)) for part in crops.split(self.device_batch)]
        return large_logits.largest_class(list(torch.cat(parts)), windows, image.shape[2:], size)

    def is_bilinear(self) -> bool:
        """Whether the head gives its logits at the size of the maps, and resizes them as most heads do."""
        head = type(self.decode_head)
        return not self.align_corners and head.predict_by_feat is BaseDecodeHead.predict_by_feat


@MODELS.register_module(force=True)
class BNHead(BaseDecodeHead):
    """DINOv2's linear head (dinov2/eval/segmentation/models/decode_heads/linear_head.py).

    Batch normalisation and a 1 × 1 convolution; maps of several blocks are concatenated. The loss is the pixel
    cross-entropy, so `loss_decode` is not accepted.
    """

    def __init__(self, **settings: Any) -> None:
        if "loss_decode" in settings:
            raise ValueError("BNHead has a loss of its own")
        several = isinstance(settings["in_channels"], Sequence)
        width = sum(settings["in_channels"]) if several else settings["in_channels"]
        defaults = {"channels": width, "dropout_ratio": 0.0, "input_transform": "resize_concat" if several else None}
        super().__init__(**{**defaults, **settings})
        self.norm = BatchNorm(width)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, classes, h, w)."""
        logits: Tensor = self.cls_seg(self.norm(self._transform_inputs(inputs)))
        return logits

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Cross-entropy of the upsampled logits, averaged over all pixels, including unlabelled ones.

        It equals that of mmsegmentation, but is several times faster on CPUs: classes are contiguous in memory, and no
        accuracy is computed. Large logits are upsampled in parts.
        """
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in batch_data_samples])
        if large_logits.is_large(len(labels), seg_logits.shape[1], *labels.shape[1:]):
            return {"loss_ce": large_logits.cross_entropy_sum(seg_logits, labels, self.ignore_index) / labels.numel()}
        logits = seg_logits.contiguous(memory_format=torch.channels_last)
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)
        loss = F.cross_entropy(logits, labels.flatten(), ignore_index=self.ignore_index, reduction="sum")
        return {"loss_ce": loss / labels.numel()}


def decode_head(options: "SegmentationSettings", backbone: Backbone, classes: int) -> dict[str, Any]:
    """Settings of the head, completed with the values that follow from backbone and data.

    Raises:
        SettingsError: mmsegmentation has no such head, or a setting is not allowed.
    """
    several, name = options.blocks > 1, options.decode_head["type"]
    own = sorted({"in_channels", "in_index", "num_classes", "ignore_index"} & options.decode_head.keys())
    check(not own, f"decode_head: {', '.join(own)} follow from backbone and data; leave them out")
    heads = [known for known in MODELS.module_dict if "Head" in known]
    check(name in heads, f"decode_head: mmsegmentation has no '{name}'; {nearest(str(name), heads)}")
    return {
        "in_channels": [backbone.embed_dim] * options.blocks if several else backbone.embed_dim,
        "in_index": list(range(options.blocks)) if several else 0,
        "num_classes": classes,
        "ignore_index": IGNORED,
        **options.decode_head,
    }


def build(frozen: Frozen, options: "SegmentationSettings", classes: int) -> Segmentor:
    """Build the network with a new head, whose weights are drawn from torch's global generator.

    Raises:
        SettingsError: mmsegmentation has no such head, or its settings are invalid.
    """
    backbone, crop = frozen.backbone, (options.crop, options.crop)
    mean, std = ([255 * value for value in values] for values in (backbone.mean, backbone.std))
    head, at_once = decode_head(options, backbone, classes), options.device_batch
    try:
        model = Segmentor(
            at_once,
            backbone={"type": PatchMaps, "frozen": frozen, "blocks": options.blocks, "device_batch": at_once},
            decode_head=head,
            data_preprocessor=SegDataPreProcessor(mean, std, size=crop, seg_pad_val=IGNORED, bgr_to_rgb=True),
            test_cfg=ConfigDict(mode="slide", crop_size=crop, stride=(options.stride, options.stride)),
        )
        synchronise(model.decode_head)
        _try_out(model.decode_head, backbone.embed_dim, options.blocks)
    except Exception as error:  # mmsegmentation has no specific error for invalid settings
        reason = str(error) and f"{type(error).__name__}: {one_line(error)}"
        hint = "a head of one map takes blocks=1, one of several takes blocks=4 and perhaps input_transform"
        raise SettingsError(f"decode_head={options.decode_head}: {reason or 'it does not fit'}; {hint}") from None
    model.decode_head.init_weights()
    return model


def _try_out(head: BaseDecodeHead, width: int, blocks: int) -> None:
    """Compute one loss and one prediction on zero maps, before any data is read; raises what the head raises."""
    maps, sample = [torch.zeros(2, width, 8, 8)] * blocks, SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 32, 32, dtype=torch.long))
    head.eval()
    with torch.no_grad():
        head.loss(maps, [sample, sample], ConfigDict())
        head.predict(maps, [{"img_shape": torch.Size((32, 32))}], ConfigDict())
    head.train()
