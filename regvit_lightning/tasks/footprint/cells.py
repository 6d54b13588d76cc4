"""Peak memory of a whole task, from its settings, the number of images and the shape of the model, for `make plan`.

A task holds the weights all the time, and goes through parts one after another: forward passes of a batch, the training
of heads, a choice among them, a search. Its memory is that of its largest part. `of` finds the estimate by the task's
module; `tests/tasks/footprint` holds that every task of `configs/tasks` has one.
"""

from collections.abc import Callable, Mapping

from regvit_lightning.frozen.shared import USUAL_BLOCKS
from regvit_lightning.tasks.footprint import pieces
from regvit_lightning.tasks.footprint.case import Case, Footprint, Part
from regvit_lightning.tasks.footprint.pieces import DOUBLE, FLOAT, LONG, PIXEL

QUERIES = 70  # of Oxford and Paris


# ------------------------------------------------------------------------------------------------ classification


def _knn(case: Case) -> Footprint:
    settings, (train, _) = case.settings, case.images["imagenet"]
    search = pieces.knn(train, case.width, settings.device_batch, settings.bank_chunk)
    return case.footprint(passes=pieces.bank(train, case.width) + case.forward(0, USUAL_BLOCKS), search=search)


def _linear(case: Case) -> Footprint:
    settings, (train, test) = case.settings, case.images["imagenet"]
    batch, rates = min(settings.batch_size, settings.device_batch), len(settings.learning_rates)
    inputs = [(blocks + mean) * case.width for blocks in settings.blocks for mean in (0, 1)]
    inputs += [2 * case.width] * (case.model.registers > 0)
    step = pieces.linear_step(batch, sum(inputs), rates, case.classes, len(inputs))
    read = case.forward(batch, max(settings.blocks)) + FLOAT * batch * sum(inputs)
    heads = 3 * FLOAT * rates * case.classes * sum(inputs)
    choice = pieces.head_choice(rates * len(inputs), round(settings.held_out * train), test)
    return case.footprint(
        training=step + read, passes=heads + case.forward(0, max(settings.blocks)), choice=heads + choice
    )


def _attentive(case: Case) -> Footprint:
    settings, width, model = case.settings, case.width, case.model
    tokens = {"patches": case.patches(), "registers": model.registers, "both": case.patches() + model.registers}
    read = [tokens[name] for name in settings.inputs if model.registers or name == "patches"]
    heads, batch = (
        len(settings.learning_rates) * len(settings.weight_decays),
        min(settings.batch_size, settings.device_batch),
    )
    parameters = heads * pieces.attentive_parameters(width, case.classes, settings.queries, len(read))
    queries = width // settings.head_width, settings.queries
    reads = [(own, count) for count in read for own in queries]
    step = pieces.attentive_step(batch, width, heads, reads, case.classes, parameters)
    train, test = case.images["imagenet"]
    choice = pieces.head_choice(heads * (2 * len(read) + 1), round(settings.held_out * train), test)
    return case.footprint(training=step + case.forward(batch), choice=4 * FLOAT * parameters + choice)


def _zero_shot(case: Case) -> Footprint:
    from regvit_lightning.tasks.zeroshot import TEMPLATES

    texts = case.classes * len(TEMPLATES[case.settings.templates]())
    return case.footprint(passes=case.forward(), texts=pieces.zero_shot(texts, case.width, 77))


def _robustness(case: Case) -> Footprint:
    batch = case.settings.device_batch
    heads = pieces.robustness(batch, 7 * case.width, case.classes, case.images[case.settings.images][0])
    return case.footprint(passes=heads + case.forward(0, 4))


def _logistic(case: Case) -> Footprint:
    settings, counts = case.settings, case.images[case.settings.images]
    tokens = FLOAT * sum(counts) * case.width * (1 + 2 * settings.tokens.draws + case.model.prefix)
    fit = pieces.regression(
        counts[0], case.width, case.classes, settings.tokens.iterations, len(settings.tokens.exponents)
    )
    return case.footprint(0, tokens, passes=case.forward(), regressions=Part(0, fit))


# -------------------------------------------------------------------------------------------------------- dense


def _segmentation(case: Case) -> Footprint:
    settings, images = case.settings, case.work.passes[0]
    pixels, width = images.height * images.width, settings.blocks * case.width
    patches = case.model.patches(images.height, images.width)
    step = pieces.segmentation_step(settings.batch_size, width, patches, pixels, case.classes)
    crops = settings.batch_size * PIXEL * pixels * (1 + FLOAT)
    at_once = min(settings.batch_size, settings.device_batch)
    return case.footprint(
        training=step + crops,
        features=crops + case.forward(at_once, settings.blocks) + FLOAT * settings.batch_size * patches * width,
        test=_logits(case),
    )


def _logits(case: Case) -> int:
    """Logits of the largest test image of the usual sides, whole; or in parts, where that is possible."""
    from regvit_lightning.frozen import dense, large_logits

    settings, scale = case.settings, max(case.settings.test_scales)
    short = round(scale * settings.short_side)
    sides = short, round(short * 4 / 3)
    starts = [dense.window_starts(side, min(settings.crop, side), settings.stride) for side in sides]
    single = len(settings.test_scales) == 1 and not settings.test_flip
    if single and large_logits.is_large(1, case.classes, *sides):
        crops = FLOAT * PIXEL * len(starts[0]) * len(starts[1]) * settings.crop**2
        return 4 * large_logits.TILE + LONG * sides[0] * sides[1] + crops + case.forward(0, settings.blocks)
    windows, at_once = len(starts[0]) * len(starts[1]), settings.device_batch
    forward = case.forward(min(at_once, windows), settings.blocks)
    return pieces.sliding_windows(sides[0] * sides[1], windows, settings.crop**2, at_once, case.classes, forward)


def _depth(case: Case) -> Footprint:
    settings, crops = case.settings, case.work.passes[0]
    patches = case.model.patches(crops.height, crops.width)
    channels = settings.blocks * case.width * (1 + settings.cls)
    step = pieces.depth_step(settings.batch_size, channels, patches, settings.bins)
    joined = FLOAT * settings.batch_size * patches * channels
    pixels = settings.batch_size * PIXEL * crops.height * crops.width * (1 + FLOAT)
    batch = min(settings.batch_size, settings.device_batch)
    return case.footprint(
        training=step + pixels,
        features=joined + joined // (1 + settings.cls) + pixels,
        passes=case.forward_of(crops, batch, settings.blocks),
        test=case.forward(0, settings.blocks) + FLOAT * settings.bins * 16 * case.patches() * 3,
    )


# -------------------------------------------------------------------------------------------- discovery, artifacts


def _at_once(case: Case) -> int:
    """Images of a batch."""
    from regvit_lightning.data.discovery import images_at_once

    return images_at_once(case.settings.device_batch, case.patches())


def _lost(case: Case) -> Footprint:
    images = _at_once(case)
    maps = FLOAT * images * case.patches() * case.width
    copies = case.settings.centred + case.settings.l2
    method = 3 * maps + pieces.lost(images, case.patches(), case.width, copies) - maps
    return case.footprint(passes=case.forward(images) + 3 * maps, boxes=method)


def _lost_sweep(case: Case) -> Footprint:
    images, blocks = _at_once(case), len(case.settings.blocks)
    maps = FLOAT * images * case.patches() * case.width
    method = pieces.lost(images, case.patches(), case.width, 2) - maps
    return case.footprint(passes=case.forward(images) + blocks * 3 * maps, boxes=blocks * 3 * maps + method)


def _token_cut(case: Case) -> Footprint:
    images = _at_once(case)
    maps = FLOAT * images * case.patches() * case.width
    graph = pieces.token_cut(images, case.patches(), case.width) - maps
    return case.footprint(passes=case.forward(images) + 3 * maps, cut=Part(3 * maps + graph))


def _rows(case: Case, images: int) -> int:
    """Rows of attention of CLS and registers in all blocks of a batch."""
    blocks = len(case.settings.blocks) or case.model.depth
    return FLOAT * images * case.model.heads * case.model.prefix * (case.model.prefix + case.patches()) * blocks


def _register_boxes(case: Case) -> Footprint:
    images, blocks = _at_once(case), len(case.settings.blocks) or case.model.depth
    rows, boxes = _rows(case, images), pieces.map_boxes(images * blocks * case.model.prefix, case.patches())
    return case.footprint(passes=rows + case.forward(images), boxes=rows + boxes)


def _saliency(case: Case) -> Footprint:
    images, blocks = _at_once(case), len(case.settings.blocks) or case.model.depth
    pixels = max(one.height * one.width for one in case.work.passes)
    maps = FLOAT * images * case.patches() * case.width
    graph = 2 * maps + pieces.token_cut(images, case.patches(), case.width)
    scores = pieces.saliency(images * blocks * case.model.prefix, case.patches(), pixels)
    rows = _rows(case, images)
    return case.footprint(passes=rows + case.forward(images) + 3 * maps, boxes=rows + scores, cut=graph)


def _artifacts(case: Case) -> Footprint:
    settings, model, patches = case.settings, case.model, case.patches()
    train, test, classes = _report_images(case)
    probes, local = settings.probes, settings.probes.local
    tokens = FLOAT * (train + test) * case.width * (2 * probes.tokens.draws + model.prefix)
    drawn = min(local.position_tokens, min(probes.local_images, train) * patches)
    fit = pieces.regression(train, case.width, classes, probes.tokens.iterations, len(probes.tokens.exponents))
    position = pieces.position_probe(drawn, case.width, patches, 200)
    sums = pieces.pixel_probe(patches, case.width, PIXEL * model.patch**2)
    return case.footprint(
        0,
        FLOAT * test * (model.depth + 1) * patches,
        passes=case.forward(),
        norms=Part(0, pieces.outliers(test, model.depth + 1, patches)),
        placement=Part(0, pieces.placement(test, patches)),
        position=Part(position, tokens + sums),
        tokens=Part(0, tokens + fit),
    )


def _report_images(case: Case) -> tuple[int, int, int]:
    """Train and test images of the report, and their classes."""
    settings = case.settings
    if settings.source == "imagenet":
        train, test = case.images["imagenet"]
        return min(train, settings.probes.train_images), min(test, settings.images), case.classes
    boxed = case.images[settings.source][0]
    return min(boxed - boxed // 2, settings.probes.train_images), min(boxed // 2, settings.images), 1


def _position_bias(case: Case) -> Footprint:
    batch, size = case.settings.device_batch, case.width + 3
    stages = min(case.model.depth, 4) + 1
    probes = 2 * stages * DOUBLE * size**2
    shifted = pieces.shifted_content(batch, case.patches(), case.width)
    return case.footprint(probes, passes=case.forward(0, stages), shifted=shifted)


# -------------------------------------------------------------------------------------- patches, pairs, videos, ranks


def _memory(case: Case) -> Footprint:
    settings, area = case.settings, case.model.patch**2
    neighbours = settings.neighbours if isinstance(settings.neighbours, int) else max(settings.neighbours)
    views = case.images[settings.section][0] * getattr(settings, "epochs", 1)
    patches = views * min(settings.memory // max(views, 1), case.patches())
    bank, queries = patches * (FLOAT * case.width + area + LONG), settings.device_batch * case.patches()
    search = pieces.patch_memory(patches, case.width, area, queries, neighbours, settings.bank_chunk)
    return case.footprint(passes=bank + case.forward(), search=search + FLOAT * queries * (case.width + case.classes))


def _clusters(case: Case) -> Footprint:
    settings = case.settings
    drawn = FLOAT * settings.points * case.width
    clusters = pieces.kmeans(settings.points, case.width, settings.clusters or case.classes)
    return case.footprint(passes=drawn + case.forward(), joined=2 * drawn, clusters=clusters)


def _keypoints(case: Case) -> Footprint:
    pairs = case.settings.device_batch
    return case.footprint(passes=case.forward(2 * pairs), matches=pieces.keypoints(pairs, case.patches(), case.width))


def _videos(case: Case) -> Footprint:
    settings, images = case.settings, case.work.passes[0]
    rows, columns = -(-images.height // case.model.patch), -(-images.width // case.model.patch)
    frames, batch = settings.context + 1, FLOAT * settings.device_batch * case.patches() * case.width
    labels = pieces.propagation(frames, rows, columns, case.width, 4, settings.radius)
    held = FLOAT * frames * case.patches() * case.width
    return case.footprint(passes=held + case.forward(), propagation=batch + labels - held)


def _retrieval(case: Case) -> Footprint:
    count = case.images[case.settings.images][0]
    vectors, orders = 3 * FLOAT * count * case.width, 3 * LONG * QUERIES * count
    own = pieces.ranking(QUERIES, count - QUERIES, case.width) - FLOAT * count * case.width
    return case.footprint(0, vectors, passes=case.forward(), ranking=Part(0, orders + max(own, 0)))


def _label_free(case: Case) -> Footprint:
    from regvit_lightning.tasks.unlabelled.dense_structure import IMAGES

    settings, test = case.settings, case.images["imagenet"][1]
    images, objects = min(settings.images, test), min(settings.objects, test)
    kept = FLOAT * (images + objects * settings.views) * case.width
    group = DOUBLE * 4 * IMAGES * case.patches() * case.width
    ranks = pieces.label_free(images, case.width) - FLOAT * images * case.width
    return case.footprint(0, kept, passes=case.forward(), groups=group, ranks=Part(0, ranks))


def _texts(case: Case) -> Footprint:
    return case.footprint(texts=0)


OF_MODULE: Mapping[str, Callable[[Case], Footprint]] = {
    "artifact_report": _artifacts,
    "attentive_probe": _attentive,
    "correspondence": _keypoints,
    "depth": _depth,
    "hummingbird": _memory,
    "knn": _knn,
    "label_free": _label_free,
    "linear": _linear,
    "logistic": _logistic,
    "lost": _lost,
    "lost_sweep": _lost_sweep,
    "overclustering": _clusters,
    "patch_knn": _memory,
    "position_bias": _position_bias,
    "register_discovery": _register_boxes,
    "retrieval": _retrieval,
    "robustness": _robustness,
    "saliency": _saliency,
    "segmentation": _segmentation,
    "text_report": _texts,
    "tokencut": _token_cut,
    "video_segmentation": _videos,
    "zeroshot": _zero_shot,
}


def of(module: str, case: Case) -> Footprint:
    """Footprint of a task by the last name of its module; of an unknown one that of its passes and `Work.kept`."""
    if module in OF_MODULE:
        return OF_MODULE[module](case)
    return case.footprint(FLOAT * case.work.kept * case.width, passes=case.forward())
