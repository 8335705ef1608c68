"""Reading a compiled program: tests/v5e.hlo is XLA's text of a small one for four v5e chips.

It convolves a sharded image, gathers pixels, runs a loop five times and sums over the chips; of
its metadata only what is read was kept.
"""

import re
from pathlib import Path

import pytest

from bonescan_jax.aot.hlo import cost, parse, shape_bytes

TEXT = (Path(__file__).parent / "v5e.hlo").read_text()
LOOP = 1851 + 2217  # cycles of one round: a copy and a matrix product


def by_kind(text: str) -> dict[str, int]:
    cycles = cost(parse(text)).cycles
    return {kind: sum(n for (_, k), n in cycles.items() if k == kind) for _, kind in cycles}


def test_a_loop_counts_as_often_as_it_runs():
    once = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', TEXT)))
    assert cost(parse(TEXT)).cycles.total() == once + 4 * LOOP


def test_a_loop_of_unknown_length_is_said_to_be_counted_once():
    limit = "%constant.3.clone.1 = s32[]{:T(128)} constant(5)"
    assert limit in TEXT
    found = cost(parse(TEXT.replace(limit, limit.replace("constant(5)", "negate(%limit)"))))
    assert found.cycles.total() == cost(parse(TEXT)).cycles.total() - 4 * LOOP
    assert found.unestimated["loops of unknown length, counted once"] == 1


def test_fusions_are_what_they_hold():
    assert by_kind(TEXT) == {
        "convolutions": 23788 + 5 * 2217,  # the product of matrices is one too
        "copies": 800 + 100 + 5 * 1851,
        "elementwise": 1828 + 1820,
        "reductions": 1868,
    }


def test_cycles_belong_to_the_part_of_the_step_that_asked_for_them():
    cycles = cost(parse(TEXT)).cycles
    assert cycles["X0_1", "convolutions"] == 23788
    assert cycles["loss", "convolutions"] == 5 * 2217
    assert cycles["augment", "elementwise"] == 1828 + 1820


def test_what_xla_puts_no_figure_on_is_listed():
    assert cost(parse(TEXT)).unestimated == {
        "prefetches": 2,  # the two copy-start; what waits for them is not another one
        "gathers": 1,
        "collectives": 1,
        "copies": 1,  # the loop's counter
        "elementwise": 5,
    }


def test_bytes_between_chips_are_the_operands_of_collectives():
    assert cost(parse(TEXT)).collective_bytes == {"all-reduce": 512 * 4}


def test_an_asynchronous_collective_is_counted_once():
    line = next(line for line in TEXT.splitlines() if line.startswith("  ROOT %all-reduce = "))
    pair = line.replace("ROOT %all-reduce =", "%start =").replace(
        " all-reduce(", " all-reduce-start("
    )
    done = "  ROOT %done = f32[512]{0:T(512)} all-reduce-done(%start)"
    found = cost(parse(TEXT.replace(line, f"{pair}\n{done}")))
    assert found.collective_bytes == {"all-reduce": 512 * 4}
    assert found.unestimated["collectives"] == 1


def test_memory_traffic_leaves_out_what_stays_on_the_chip():
    found = cost(parse(TEXT)).memory_bytes
    assert found["convolutions"] == 8 * 32 * 32 * 32 * 2  # only the image; the rest is in S(1)
    assert found["prefetches"] == 3 * 3 * 32 * 32 * 2 + 512 * 4  # the kernel and the indices
    assert found["gathers"] == found["reductions"] == 0


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[]{:T(128)}", 4),
        ("(bf16[3,32]{1,0:T(8,128)(2,1)}, /*index=1*/pred[7]{0}, token[])", 199),
        ("s4[10]{0}", 5),
        ("f8e4m3fn[2,3]{1,0}", 6),
    ],
)
def test_bytes_of_shapes(shape: str, size: int):
    assert shape_bytes(shape) == size


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="found no ENTRY computation"):
        parse("module @jit_step {}")
