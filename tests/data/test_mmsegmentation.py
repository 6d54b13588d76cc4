"""mmsegmentation is made ready when it is needed, in worker processes, too."""

import pickle
import pickletools

import pytest
import torch

from regvit_lightning.data import ade20k, mmsegmentation
from regvit_lightning.errors import UserError


def test_an_operator_that_needs_compiling_says_so():
    mmsegmentation.prepare()
    from mmcv.ops import nms

    with pytest.raises(UserError, match="compiled operator 'nms' is needed"):
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)


def test_opencv_takes_no_threads_of_its_own():
    import cv2

    mmsegmentation.prepare.cache_clear()
    cv2.setNumThreads(3)
    mmsegmentation.prepare()
    assert cv2.getNumThreads() == 1  # OpenCV's word for none


def test_samples_are_sent_to_a_process_that_has_not_loaded_mmseg(tiny, monkeypatch):
    """Reading them must name nothing of mmseg before `prepare` has been called."""
    images = ade20k.test_images(tiny, ade20k.test_pipeline(tiny.segmentation, 64, [1.0], False))
    calls = []
    for sent in (ade20k.InOrder(images), ade20k.Augmented(images, seed=3)):
        content = pickle.dumps(sent)
        names = {argument for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)}
        assert not [name for name in names if name.startswith(("mmseg", "mmcv", "mmengine"))], names
        monkeypatch.setattr(mmsegmentation, "prepare", lambda: calls.append("prepare"))
        arrived = pickle.loads(content)
        assert len(arrived) == len(images)
    assert calls == ["prepare"] * 2
    assert arrived.seed == 3
    assert torch.equal(arrived[0, 0]["inputs"][0], sent[0, 0]["inputs"][0])
