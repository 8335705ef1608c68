"""Every setting once, with its default, unit, range and reason; a file in configs/ changes some."""

import math

import ml_collections

from bonescan_jax.errors import InputError
from bonescan_jax.scans import CLASSES, HEIGHT, WIDTH

# A duration may be given in any of these; exactly one of the three is more than zero.
DURATION_UNITS = ("steps", "epochs", "examples")


def default_config() -> ml_collections.ConfigDict:
    """The settings of a run, locked: an unknown name is an error and not a new setting."""
    config = ml_collections.ConfigDict()
    # What is learned: a class for every pixel of a scan (segment), or one for a whole image from
    # its label alone (classify), by the encoder of the same network.
    config.task = "segment"
    config.seed = 0  # weights, order of samples, crops and augmentation all follow from it

    config.data = _data()
    config.augment = _augment()
    config.model = _model()
    config.loss = _loss()
    config.train = _train()
    config.evaluate = _evaluate()
    config.mesh = _mesh()
    config.lock()
    return config


def _data() -> ml_collections.ConfigDict:
    data = ml_collections.ConfigDict()
    data.dir = "data"  # folder that `bonescan prepare` wrote
    # Data set in it: bs80k, phantom or folder (own scans), or regions: images without boxes.
    data.name = "bs80k"
    data.regions = ()  # of the data set regions, such as ("chestR", "head"); () is all of them
    # What makes one example: an anterior or a posterior view, each of them, or both views of a
    # patient side by side, so that the network sees a hot spot from in front and from behind.
    data.views = "each"
    # How a box becomes a mask: box, ellipse (hot spots are round) or otsu (what is bright in it,
    # the recipe published with other results on BS-80K).
    data.mask = "ellipse"
    data.split_seed = 0  # which patients are for training, validation and test
    data.validation_fraction = 0.1  # of the patients
    data.test_fraction = 0.2  # of the patients
    data.num_folds = 5  # for cross-validation; `bonescan prepare` deals the patients
    data.fold = -1  # this fold (from 0) is for testing, the others for the rest; -1: fixed splits
    data.crop_height = 1024  # pixels; 1024 is the whole scan
    data.crop_width = 256  # pixels; 256 is the whole scan
    # Most crops hold no hot spot: this share of them is laid around one on purpose ...
    data.hot_spot_crops = 0.6
    # ... and this share of those around an abnormal one, where the scan has one.
    data.abnormal_crops = 0.6
    # Two scans of three hold nothing abnormal: this share of the examples is drawn from the others
    # alone, and the rest from all; 0 shows every scan once an epoch.
    data.abnormal_examples = 0.0
    data.num_workers = 0  # processes that decode; 0 decodes in threads of this one
    data.num_threads = 4  # that load and decode data, in each process
    data.prefetch_batches = 4  # decoded ahead of the step
    return data


def _augment() -> ml_collections.ConfigDict:
    augment = ml_collections.ConfigDict()
    augment.flip = 0.5  # probability of swapping left and right
    augment.rotation = 5.0  # degrees, at most, either way: patients lie nearly straight
    augment.scale = 0.1  # relative change of size, at most, either way
    augment.shift = 4.0  # pixels, at most, either way
    augment.thinning = 0.5  # share of the counts taken away, at most: a shorter scan
    augment.gain = 0.15  # relative change of brightness, at most, either way
    # Standard deviation of the logarithm of a smooth field that brightness is multiplied with: no
    # two patients take up the tracer alike in all regions.
    augment.uptake = 0.0
    # Probability of blanking one of both views, so that scans of one view can be read too. In
    # a run of 600 steps 0.1 was too seldom: Dice of abnormal 0.006 on one view alone.
    augment.hidden_view = 0.1
    return augment


def _model() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    model.name = "unetpp"  # unetpp or unet
    # Pixels on a side that the first row takes as one (space to depth); its heads give each of them
    # a class of its own. 1 is the network of the paper.
    model.patch = 1
    model.filters = (32, 64, 128, 256, 512)  # channels of each row
    model.levels = 4  # depth, L1 to L4 of the paper
    model.norm = "batch"  # none, batch, group or instance
    model.dropout = 0.0  # dropout rate of the pooled features in training (classify)
    model.deep_supervision = True  # a head and a loss on every X^{0,j} (unetpp)
    # Of the activations: bfloat16 or float32; weights are float32. Products of float32 are TF32 on
    # an H100 and bfloat16 on a TPU, by the default precision of XLA.
    model.dtype = "bfloat16"
    # Rows of few channels computed on cells of several pixels (models/packed.py), with the same
    # weights and results: on, off, or auto, which is on where it pays, on a TPU.
    model.packed = "auto"
    # What the backward pass rematerialises instead of saving it in the forward pass: none, or
    # activations: the normalised and rectified outputs of convolutions. Packed execution always
    # does the latter.
    model.remat = "none"
    return model


def _loss() -> ml_collections.ConfigDict:
    loss = ml_collections.ConfigDict()
    loss.cross_entropy_weight = 0.5  # as in the UNet++ paper: ½ cross-entropy + soft Dice
    loss.focal_gamma = 0.0  # 0 is plain cross-entropy; 2 is that of Lin et al., arXiv 1708.02002
    # Of background, abnormal, normal in the cross-entropy. Heavier foreground (8 and 4, focal 2,
    # 0.75 hot_spot_crops) found 1.4 times the abnormal pixels of phantoms, and invented 3 times.
    loss.class_weights = (1.0, 1.0, 1.0)
    loss.overlap_weight = 1.0
    # Of the cross-entropy of an auxiliary head that says of which bone each pixel is. It is there
    # in training only, and on simulated scans only (data.name=phantom): others do not know.
    loss.bones_weight = 0.0
    # Tversky index, arXiv 1706.05721; 0.5 and 0.5 make it the Dice coefficient.
    loss.false_positive_weight = 0.5
    loss.false_negative_weight = 0.5
    return loss


def _train() -> ml_collections.ConfigDict:
    train = ml_collections.ConfigDict()
    train.batch_size = 16  # examples a step over all devices
    train.accumulate_steps = 1  # parts a batch is computed in, one after the other, to save memory
    for name, steps in (("num", 1000), ("warmup", 50), ("eval_every", 500), ("save_every", 500)):
        train[f"{name}_steps"] = steps
        train[f"{name}_epochs"] = 0.0
        train[f"{name}_examples"] = 0
    train.log_every_steps = 20
    train.optimizer = "adamw"  # adamw, or muon on the kernels of convolutions and adamw on the rest
    train.learning_rate = 1e-3  # peak, after the warm-up; falls to zero on a cosine
    # Weights to start from: the workdir of another run, its newest averaged weights, or a file of
    # `bonescan export`; what does not fit starts fresh. Only a run without a checkpoint reads it.
    train.init_from = ""
    # Learning rate of the encoder, X^{i,0}, relative to the others'. At 0 its weights stay as they
    # are, without decay too. The running statistics of its batch normalisation still follow the
    # data: in training the batch's own count, so in inference those of the same data must.
    train.encoder_learning_rate = 1.0
    train.weight_decay = 1e-4  # on kernels only
    train.clip_gradient_norm = 1.0  # of all gradients together; 0 clips nothing
    train.ema_decay = 0.99  # of the averaged weights that are evaluated; 0 evaluates the last
    train.keep_checkpoints = 3  # the last ones; the best in validation is kept beside them
    train.save_every_minutes = 0.0  # also save this long after the last save; 0 saves by steps only
    # On a non-finite loss or gradient: stop, or skip that step's update.
    train.on_nonfinite = "stop"
    # After so many minutes without a step, print the stacks of all threads; 0: never.
    train.stall_minutes = 10.0
    # On a GPU: only kernels that sum in a fixed order, so that a continued run ends with the
    # weights of one that nothing disturbed. Off leaves XLA more kernels to choose from.
    train.deterministic = True
    train.log_samples = False  # which samples each step saw, in samples.jsonl: to compare runs
    return train


def _evaluate() -> ml_collections.ConfigDict:
    evaluate = ml_collections.ConfigDict()
    evaluate.batch_size = 8  # whole scans a step over all devices
    evaluate.min_area = 4  # pixels; smaller spots are no detection
    return evaluate


def _mesh() -> ml_collections.ConfigDict:
    mesh = ml_collections.ConfigDict()
    mesh.data = -1  # devices along the batch; -1 takes all that `spatial` leaves
    mesh.spatial = 1  # devices along the height of a scan
    mesh.shard_parameters = False  # spread weights and optimizer over `data` instead of copying
    return mesh


def resolve_steps(train: ml_collections.ConfigDict, name: str, examples_per_epoch: int) -> int:
    """The duration `name` (num, warmup, …) of config.train in steps, whatever unit it is given in.

    Raises:
        InputError: not exactly one of `<name>_steps`, `_epochs` and `_examples` is above zero
            (all zero is allowed for everything but `num`, and means never).
    """
    durations = {unit: train[f"{name}_{unit}"] for unit in DURATION_UNITS}
    given = {unit: value for unit, value in durations.items() if value > 0}
    if len(given) > 1 or (name == "num" and not given):
        found = " and ".join(f"train.{name}_{unit}={value}" for unit, value in given.items())
        raise InputError(
            f"config: found {found or f'no train.{name}_steps'}, expected exactly one of "
            + ", ".join(f"train.{name}_{unit}" for unit in DURATION_UNITS)
            + " above zero (set the others to 0)"
        )
    if not given:
        return 0
    unit, value = given.popitem()
    examples = {"steps": train.batch_size, "epochs": examples_per_epoch, "examples": 1}[unit]
    return max(1, round(value * examples / train.batch_size))


_CHOICES = {
    "data.views": ("anterior", "posterior", "each", "both"),
    "data.mask": ("box", "ellipse", "otsu"),
    "data.name": ("bs80k", "phantom", "regions", "folder"),
    "model.name": ("unetpp", "unet"),
    "train.optimizer": ("adamw", "muon"),
    "train.on_nonfinite": ("stop", "skip"),
    "model.patch": (1, 2, 4),
    "model.norm": ("none", "batch", "group", "instance"),
    "model.dtype": ("bfloat16", "float32"),
    "model.packed": ("auto", "on", "off"),
    "model.remat": ("none", "activations"),
}


_INFINITY = math.inf

# The lowest and the highest value of every number, and of each number of a tuple. Bounds that are
# written without a point belong to whole numbers.
_RANGES = (
    ("seed", 0, 2**32 - 1),  # what Grain's shuffling takes
    ("data.split_seed", 0, 2**32 - 1),
    ("data.validation_fraction", 0.0, 1.0),
    ("data.test_fraction", 0.0, 1.0),
    ("data.num_folds", 2, _INFINITY),
    ("data.fold", -1, _INFINITY),
    ("data.crop_height", 1, HEIGHT),
    ("data.crop_width", 1, WIDTH),
    ("data.hot_spot_crops", 0.0, 1.0),
    ("data.abnormal_crops", 0.0, 1.0),
    ("data.abnormal_examples", 0.0, 1.0),
    ("data.num_workers", 0, _INFINITY),
    ("data.num_threads", 1, _INFINITY),
    ("data.prefetch_batches", 1, _INFINITY),
    ("augment.flip", 0.0, 1.0),
    ("augment.rotation", 0.0, 180.0),
    ("augment.scale", 0.0, 0.9),  # at 1 a scan would shrink to nothing
    ("augment.shift", 0.0, float(HEIGHT)),
    ("augment.thinning", 0.0, 0.9),  # at 1 nothing would be left to scale up
    ("augment.gain", 0.0, 1.0),
    ("augment.uptake", 0.0, 1.0),
    ("augment.hidden_view", 0.0, 1.0),
    ("model.filters", 1, _INFINITY),
    ("model.levels", 1, 8),  # then the lowest row is one pixel wide
    ("model.dropout", 0.0, 1.0),
    ("loss.cross_entropy_weight", 0.0, _INFINITY),
    ("loss.focal_gamma", 0.0, _INFINITY),
    ("loss.class_weights", 0.0, _INFINITY),
    ("loss.overlap_weight", 0.0, _INFINITY),
    ("loss.bones_weight", 0.0, _INFINITY),
    ("loss.false_positive_weight", 0.0, _INFINITY),
    ("loss.false_negative_weight", 0.0, _INFINITY),
    ("train.batch_size", 1, _INFINITY),
    ("train.accumulate_steps", 1, _INFINITY),
    *(
        (f"train.{name}_{unit}", 0.0 if unit == "epochs" else 0, _INFINITY)
        for name in ("num", "warmup", "eval_every", "save_every")
        for unit in DURATION_UNITS
    ),
    ("train.log_every_steps", 1, _INFINITY),
    ("train.learning_rate", 0.0, _INFINITY),
    ("train.encoder_learning_rate", 0.0, _INFINITY),
    ("train.weight_decay", 0.0, _INFINITY),
    ("train.clip_gradient_norm", 0.0, _INFINITY),
    ("train.ema_decay", 0.0, 1.0),
    ("train.keep_checkpoints", 1, _INFINITY),
    ("train.save_every_minutes", 0.0, _INFINITY),
    ("train.stall_minutes", 0.0, _INFINITY),
    ("evaluate.batch_size", 1, _INFINITY),
    ("evaluate.min_area", 0, _INFINITY),
    ("mesh.data", -1, _INFINITY),
    ("mesh.spatial", 1, _INFINITY),
)


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks what can be checked before any data is read; `tasks` checks what a task asks for.

    Raises:
        InputError: a setting has a value outside its choices or its range, or two do not fit
            together.
    """
    for name, choices in _CHOICES.items():
        value = _value(config, name)
        if value not in choices:
            raise InputError(
                f"config: {name} is {value!r}, expected one of {', '.join(map(str, choices))}"
            )
    for name, lowest, highest in _RANGES:
        _validate_range(name, _value(config, name), lowest, highest)
    if not -1 <= config.data.fold < config.data.num_folds:
        raise InputError(
            f"config: data.fold is {config.data.fold}, expected -1 (the fixed splits) or a fold "
            f"from 0 to data.num_folds - 1 = {config.data.num_folds - 1}"
        )
    multiple = config.model.patch * 2**config.model.levels
    for name in ("crop_height", "crop_width"):
        size = config.data[name]
        if size % multiple:
            raise InputError(
                f"config: data.{name} is {size}, expected a multiple of {multiple} "
                "(model.patch times 2 to the power of model.levels)"
            )
    if len(config.model.filters) <= config.model.levels:
        raise InputError(
            f"config: model.filters has {len(config.model.filters)} widths, expected "
            f"{config.model.levels + 1} for model.levels={config.model.levels}"
        )
    if len(config.loss.class_weights) != len(CLASSES):
        raise InputError(
            f"config: loss.class_weights has {len(config.loss.class_weights)} numbers, expected "
            f"{len(CLASSES)}: of background, abnormal, normal"
        )
    if config.mesh.data == 0:
        raise InputError(
            "config: mesh.data is 0, expected a number of devices, or -1 for all that "
            "mesh.spatial leaves"
        )
    if config.train.batch_size % config.train.accumulate_steps:
        raise InputError(
            f"config: train.batch_size is {config.train.batch_size}, expected a multiple of "
            f"train.accumulate_steps={config.train.accumulate_steps}"
        )


def _value(config: ml_collections.ConfigDict, name: str) -> object:
    """The setting of this dotted name."""
    for key in name.split("."):
        config = config[key]
    return config


def _validate_range(name: str, value: object, lowest: float, highest: float) -> None:
    kind, noun = (int, "whole number") if isinstance(lowest, int) else (int | float, "number")
    for number in value if isinstance(value, tuple | list) else (value,):
        # NaN is in no range; infinity is in none either, although some have no highest value.
        fits = isinstance(number, kind) and not isinstance(number, bool)
        if not (fits and lowest <= number <= highest and number < _INFINITY):
            found = f"is {number!r}" if number is value else f"holds {number!r}"
            bounds = f"{lowest} or more" if highest == _INFINITY else f"from {lowest} to {highest}"
            raise InputError(f"config: {name} {found}, expected a {noun}, {bounds}")
