"""Verbs that measure or estimate speed: benchmark, compile."""

from pathlib import Path
from typing import Any

from absl import flags

from bonescan_jax.cli.flags import (
    config_flag,
    integer_flag,
    read_config,
    refuse_positionals,
    require,
    string_flag,
)
from bonescan_jax.cli.verb import Verb

# ---- benchmark -----------------------------------------------------------------------------------


def _define_benchmark(values: flags.FlagValues) -> None:
    config_flag(values)
    kinds = ["step", "input", "loop", "inference"]
    flags.DEFINE_enum("what", "step", kinds, "What to measure.", flag_values=values)
    flags.DEFINE_enum(
        "peer",
        None,
        ["torch"],
        "Measure PyTorch and MONAI beside it; needs `bash launch/setup.sh peers` once.",
        flag_values=values,
    )
    integer_flag(values, "rounds", 5, "Number of measurements; the median is reported.", 1)
    integer_flag(values, "seconds", 4, "Minimum duration of a measurement.", 1)


def _run_benchmark(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.benchmark import benchmark

    refuse_positionals(rest)
    config = read_config(values)
    return benchmark(config, values.what, values.peer, values.rounds, values.seconds)


# ---- compile -------------------------------------------------------------------------------------


def _define_compile(values: flags.FlagValues) -> None:
    config_flag(values)
    string_flag(values, "topology", None, "Chip and shape of the slice, such as v5e:2x2.")
    text = (
        "Examples per step and chip (those along mesh.spatial share); 0 divides train.batch_size."
    )
    integer_flag(values, "batch_per_chip", 0, text, 0)
    text = "Also find the largest batch that fits, by compiling several more times."
    flags.DEFINE_bool("largest_batch", False, text, flag_values=values)
    text = "File for the compiled step, for `bonescan train --executable` on the real slice."
    string_flag(values, "out", None, text)


def _run_compile(values: flags.FlagValues, rest: list[str]) -> dict[str, Any]:
    from bonescan_jax.aot.compile import compile_for

    refuse_positionals(rest)
    config = read_config(values)
    require(values, "topology")
    out = Path(values.out) if values.out else None
    return compile_for(config, values.topology, values.batch_per_chip, values.largest_batch, out)


VERBS = {
    "benchmark": Verb(
        "benchmark --config=FILE --what=step|input|loop|inference [--peer=torch]",
        "Measures this program, side by side with others in the same run.\n\n"
        "step: the training step on synthetic crops, in float32 and bfloat16, its share of the\n"
        "best matrix product; with --peer=torch also MONAI's and a plain PyTorch UNet++.\n"
        "input: images a second from prepared records to batches, on one core and on all, then\n"
        "with augmentation on the device; with --peer=torch also a PyTorch and a MONAI loader on\n"
        "the same images.\n"
        "loop: training with data, logging and checkpoints over its step alone.\n"
        "inference: whole synthetic scans at the levels L1 to L4.\n"
        "input and loop need prepared data; all need a machine that does nothing else.",
        _define_benchmark,
        _run_benchmark,
    ),
    "compile": Verb(
        "compile --config=FILE --topology=v5e:2x2 [--largest_batch] [--out=FILE]",
        "Compiles the training step ahead of time for a TPU slice.\n\n"
        "Reports XLA's estimates: memory, cycles by kind of operation and part of the step,\n"
        "images per second, bytes between chips. Estimates, not measurements; docs/tpu.md says\n"
        "what they cover. Needs the extra `tpu` and some minutes.",
        _define_compile,
        _run_compile,
    ),
}
