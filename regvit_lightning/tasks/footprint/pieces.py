"""Peak memory in bytes of the part of each task that needs the most beside its forward passes, by its sizes.

What is counted are arrays that grow with the data, at the moment when most of them exist together: a bank, the heads
with their gradients and moments, copies in float64, the intermediate results of one chunk. The rows of `make bench
ARGS=only=j` measure the same parts on random features, and `cells` puts together what `make plan` shows of a task.

Sizes are numbers: of images, of patches of an image, of classes; `width` is that of the tokens, D.
"""

from collections.abc import Sequence

from regvit_lightning.analysis import positions
from regvit_lightning.analysis.logistic import HISTORY, LOGITS
from regvit_lightning.frozen.large_logits import TILE
from regvit_lightning.neighbours import AGAIN, QUERIES, SPARE
from regvit_lightning.tasks.discovery.seed_expansion import ELEMENTS, STRIP
from regvit_lightning.tasks.patches.kmeans import AT_ONCE
from regvit_lightning.tasks.video.label_propagation import AFFINITIES

FLOAT, DOUBLE, LONG = 4, 8, 8
PIXEL = 3  # bytes of an image in uint8
VOTING = 1024  # queries whose neighbours vote at a time, see `hummingbird.InContext.shares`
REORDERED = 2  # copies of its maps in a CPU's convolution


def forward(tokens: int, width: int, hidden: int, pixels: int, half: bool, blocks: int = 1) -> int:
    """Forward pass: uint8 and normalised pixels, and what exists in the MLP of the last block.

    Those are the embedded tokens, the input of the block, or what is kept of the blocks before it, the residual stream
    and its norm, and the hidden layer before and after its activation.

    Args:
        tokens, pixels: of all images of a batch.
        hidden: width of the hidden layer of a block, in 16 bit if `half`.
        blocks: last blocks whose tokens are kept.
    """
    inside = 2 * (2 if half else FLOAT) * hidden
    return PIXEL * pixels * (1 + FLOAT) + tokens * ((3 + max(blocks - 1, 1)) * FLOAT * width + inside)


# ------------------------------------------------------------------------------------------------ classification


def bank(images: int, width: int) -> int:
    """kNN: train features, their labels, and which of them are held out."""
    return images * (FLOAT * width + LONG + 1)


def knn(images: int, width: int, queries: int, chunk: int) -> int:
    """kNN: the bank; a chunk in float64 and its products, and the products of the chunk before in float32."""
    chunk = min(chunk, images)
    return bank(images, width) + chunk * (DOUBLE * (width + queries) + FLOAT * queries)


def head_choice(heads: int, held_out: int, test: int) -> int:
    """Choice of a head: predictions of both passes as int64; while they are compared, again as bool and float64.

    The batches of a pass are small arrays, which the allocator of a CPU keeps once they are joined.
    """
    return heads * (LONG * (held_out + test) + (1 + DOUBLE + LONG) * held_out)


def linear_step(batch: int, inputs: int, rates: int, classes: int, groups: int) -> int:
    """Step of the linear probe: weights, gradients and momenta, and the log-probabilities of a batch.

    Args:
        inputs: widths of the inputs of all groups of heads, added up.
        rates: heads of each group.
    """
    return 3 * FLOAT * rates * classes * inputs + FLOAT * batch * rates * classes * (groups + 2)


def attentive_step(
    batch: int, width: int, heads: int, reads: Sequence[tuple[int, int]], classes: int, parameters: int
) -> int:
    """Step of the attentive probe: parameters, gradients and two moments, and what the backward pass needs of a batch.

    Args:
        heads: heads of each group.
        reads: queries of a head, and tokens of an image that it reads, for each attentive group.
        parameters: parameters of all heads.
    """
    read = FLOAT * batch * heads * sum(queries * (tokens + width) for queries, tokens in reads)
    return 4 * FLOAT * parameters + 7 * read // 4 + 2 * FLOAT * batch * heads * classes


def attentive_parameters(width: int, classes: int, queries: int, inputs: int) -> int:
    """Parameters of one head of each group: of CAPI's and EP's kind on each of `inputs` inputs, and a linear one."""
    classifier = classes * (width + 1)
    attentive = 3 * width**2 + (3 + queries) * width + 2 * classifier
    return inputs * attentive + classifier


def zero_shot(texts: int, embed: int, context: int) -> int:
    """Class weights: embeddings of all texts, their tokens as int64, and the texts."""
    return texts * (FLOAT * embed + LONG * context + 100)


def robustness(batch: int, inputs: int, classes: int, images: int) -> int:
    """Kept heads: weights of `inputs` inputs in all, logits of a batch, and the accepted classes of all images."""
    return FLOAT * classes * (inputs + 6 * batch) + 200 * images


# -------------------------------------------------------------------------------------------------------- dense


def segmentation_step(batch: int, width: int, patches: int, pixels: int, classes: int) -> int:
    """Step of the linear head: maps, normalised maps, their gradients, labels, and logits of a part of an image.

    A CPU's convolution reorders its input and its gradient; those two copies are none of PyTorch's tensors.
    """
    maps, tile = FLOAT * batch * width * patches, min(TILE, FLOAT * classes * pixels)
    return (5 + 2 * REORDERED) * maps // 2 + LONG * batch * pixels + 17 * tile // 4


def sliding_windows(pixels: int, windows: int, window: int, at_once: int, classes: int, forward: int) -> int:
    """Logits of a test image at its size, of one batch of windows and of the one before, or the forward pass of one.

    Args:
        pixels, window: pixels of the image and of a window.
        windows: number of windows.
        forward: bytes of the forward pass of a batch of windows.
    """
    held = FLOAT * classes * min(windows, 2 * at_once) * window
    return FLOAT * classes * pixels + max(held, forward)


def depth_step(batch: int, channels: int, patches: int, bins: int) -> int:
    """Step of the depth head: its input, the upsampled scores that the backward pass needs, and those of two images."""
    fine = FLOAT * bins * 16 * patches
    return FLOAT * batch * patches * channels + fine * (batch + 6)


# -------------------------------------------------------------------------------------------- discovery, artifacts


def lost(images: int, patches: int, width: int, copies: int) -> int:
    """LOST: maps; of some of them `copies`, centred or normalised, a strip of Gram matrices, and what is above."""
    some = min(images, max(ELEMENTS["cpu"] // (patches * width), 1))
    strip = min(some * min(STRIP, patches) * patches, ELEMENTS["cpu"])
    return FLOAT * patches * width * (images + copies * some) + 2 * FLOAT * strip


def token_cut(images: int, patches: int, width: int) -> int:
    """TokenCut: maps and normalised maps, and the graph of one image as bool and in float64."""
    return 2 * FLOAT * images * patches * width + patches**2 * (DOUBLE + 1)


def map_boxes(maps: int, patches: int) -> int:
    """Boxes of attention maps: the maps, in float64, sorted, and the order."""
    return maps * patches * (FLOAT + 2 * DOUBLE + LONG)


def saliency(maps: int, patches: int, pixels: int) -> int:
    """Scores of attention maps as masks: as `map_boxes`, and the patch of every pixel."""
    return map_boxes(maps, patches) + pixels * (1 + LONG + LONG // 2)


def outliers(images: int, stages: int, patches: int) -> int:
    """Norms of all patches after all blocks, and what a rule needs of them."""
    return 21 * images * stages * patches


def regression(images: int, width: int, classes: int, iterations: int, penalties: int = 1) -> int:
    """Logistic regression: float64 features, their axes, blocks of logits, what L-BFGS remembers, a model of each C."""
    turned = max(4 * width**2, width**2 + min(LOGITS, images * width))
    models = 2 * min(iterations, HISTORY) + 10 + penalties - 1
    fitted = width**2 + 3 * min(LOGITS, images * classes) + width * classes * models
    return DOUBLE * (images * width + max(turned, fitted))


def position_probe(tokens: int, width: int, patches: int, iterations: int) -> int:
    """Position probe: drawn tokens, once by image, joined, and twice in float64; the regression of P positions."""
    return 2 * FLOAT * tokens * width + DOUBLE * tokens * width + regression(tokens, width, patches, iterations)


def pixel_probe(patches: int, width: int, pixels: int) -> int:
    """Pixel probe: sums of products of features and the `pixels` values of a patch, of kinds, splits and their sums."""
    size = 1 + width + pixels
    return DOUBLE * size * (19 * size // 2 + 2 * patches)


def placement(images: int, patches: int) -> int:
    """Positions of outliers: masks, one permutation, and the shares of all permutations with their order."""
    return patches * (images * (1 + 2 * FLOAT + LONG) + 3 * DOUBLE * positions.DRAWS)


def shifted_content(images: int, patches: int, width: int) -> int:
    """Position bias: crops, both in float64 and normalised; the sums of products of a probe."""
    return images * patches * width * (2 * FLOAT + 3 * DOUBLE) + 2 * DOUBLE * (width + 3) ** 2


def label_free(images: int, width: int) -> int:
    """RankMe of nine tenths of the vectors: all, those, and copies of them in float64."""
    return images * width * (FLOAT + 9 * (2 * FLOAT + 2 * DOUBLE) // 10)


# -------------------------------------------------------------------------------------- patches, pairs, videos, ranks


def patch_memory(patches: int, width: int, area: int, queries: int, neighbours: int, chunk: int) -> int:
    """Memory of patches with the labels of their pixels; products of a chunk twice, or the labels of all neighbours.

    Args:
        area: pixels of a patch.
        queries: patches of a batch of test images.
    """
    search = 2 * FLOAT * min(chunk, patches) * min(QUERIES, queries)
    again = (FLOAT + DOUBLE) * min(AGAIN, queries) * (neighbours + SPARE) * width
    votes = min(min(VOTING, queries) * neighbours, patches) * area * (1 + 2 * LONG + FLOAT + 1)
    return patches * (FLOAT * width + area + LONG) + max(search, again, votes)


def kmeans(points: int, width: int, clusters: int) -> int:
    """k-means: the points, and in parts their distances to the centres."""
    parts = min(AT_ONCE, points) * (FLOAT * clusters + DOUBLE * width)
    return FLOAT * points * width + parts + 3 * DOUBLE * clusters * width


def keypoints(pairs: int, patches: int, width: int) -> int:
    """Features of a batch of pairs, and the normalised ones of one image."""
    return FLOAT * patches * width * (2 * pairs + 1)


def propagation(frames: int, rows: int, columns: int, width: int, classes: int, radius: int) -> int:
    """Label propagation: features of all frames, normalised ones too, those near some rows, and their cosines."""
    reach = min(2 * radius + 1, rows)
    at_once = min(max(AFFINITIES // (columns * columns * frames * reach), 1), rows)
    near = min(at_once + 2 * radius, rows) * columns * frames
    one = rows * columns * (width + classes)
    return FLOAT * ((2 * frames + 1) * one + near * (width + classes) + at_once * columns * near)


def ranking(queries: int, images: int, width: int) -> int:
    """Vectors of queries and images; cosines, sorted ones and their order."""
    return FLOAT * (queries + images) * width + queries * images * (2 * FLOAT + LONG)


def intervals(images: int, values: int, at_once: int) -> int:
    """Bootstrap: scores in float64, and how often each image is in each of some sets, as integers and in float64."""
    return DOUBLE * images * values + 2 * DOUBLE * at_once * images
