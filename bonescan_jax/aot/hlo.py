"""Parses the text of a compiled TPU program: XLA's cycle estimates and memory traffic."""

import math
import re
from collections import Counter
from typing import NamedTuple

# An asynchronous operation is counted at its start; waiting for it adds no cost.
_WAITS = ("-done", "-update")
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# Operations that only move or rearrange data.
_MOVES = frozenset({
    "bitcast", "bitcast-convert", "broadcast", "concatenate", "constant", "convert", "copy",
    "copy-start", "dynamic-slice", "dynamic-update-slice", "get-tuple-element", "iota", "pad",
    "parameter", "reshape", "reverse", "slice", "slice-start", "transpose", "tuple",
})  # fmt: skip
_REDUCES = ("reduce", "reduce-window", "select-and-scatter")
_GATHERS = ("gather", "scatter")
_FREE = ("bitcast", "constant", "get-tuple-element", "iota", "parameter", "partition-id", "tuple")

_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")
_CONDITION = re.compile(r"\bcondition=%([\w.\-]+)")
_INTEGER = re.compile(r"s32\[\][^=]* constant\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+(?:e\dm\d\w*)?)\[([\d,]*)\](\{[^}]*\})?")
# The parts of the step that the program names, see jax.named_scope in the models and the step.
_PART = re.compile(r"\b(augment|X\d+_\d+|heads?|loss|optimizer)\b")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    shape: str  # of the result
    operands: tuple[str, ...]
    cycles: int | None  # XLA's estimate; None if it gives none
    called: tuple[str, ...]  # computations: a fusion's, a loop's body, the branches
    condition: str  # the computation that ends a loop; empty for all else
    integer: int | None  # the value of an integer constant
    op_name: str  # the JAX operation it comes from


class Program(NamedTuple):
    """The computations of a module by name, and which of them is the entry."""

    computations: dict[str, list[Instruction]]
    entry: str


class Cost(NamedTuple):
    """Cost of running a program once on one chip, by XLA's own estimate."""

    cycles: Counter  # by (part of the step, kind of operation), see `part` and `kind`
    unestimated: Counter  # number of operations of each kind without an estimate
    collective_bytes: Counter  # operands of collectives, by opcode
    memory_bytes: Counter  # read from and written to the chip's main memory, by kind of operation


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`.

    Raises:
        ValueError: the text has no ENTRY computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = computations.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            current.append(_instruction(line))
    if not entry:
        raise ValueError("found no ENTRY computation, expected the text of a compiled module")
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    left, right = line.split(" = ", 1)
    # A tuple's shape holds spaces, every other shape ends at the first.
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    opened = right.index("(", end)
    closed = _closing(right, opened)
    cycles, condition, op_name = (
        pattern.search(right, closed) for pattern in (_CYCLES, _CONDITION, _OP_NAME)
    )
    integer = _INTEGER.match(right)
    called = [name for names in _CALLED.findall(right, closed) for name in _NAME.findall(names)]
    return Instruction(
        name=left.split()[-1].lstrip("%"),
        opcode=right[end:opened].strip(),
        shape=right[:end],
        operands=tuple(_NAME.findall(right[opened:closed])),
        cycles=int(cycles[1]) if cycles else None,
        called=tuple(called),
        condition=condition[1] if condition else "",
        integer=int(integer[1]) if integer else None,
        op_name=op_name[1] if op_name else "",
    )


def _closing(text: str, opened: int) -> int:
    """Where the bracket that opens at `opened` closes."""
    depth = 0
    for index in range(opened, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"found an open bracket in {text[:80]!r}")


def cost(program: Program) -> Cost:
    """Adds up XLA's estimates for the entry; loops count as many times as they run."""
    total = Cost(*(Counter() for _ in Cost._fields))
    _add(program, program.entry, 1, total)
    return total


def _add(program: Program, name: str, times: int, total: Cost) -> None:
    shapes = {each.name: each.shape for each in program.computations[name]}
    for instruction in program.computations[name]:
        if instruction.opcode in _FREE or instruction.opcode.endswith(_WAITS):
            continue
        what = kind(program, instruction)
        if what == "collectives":
            moved = sum(shape_bytes(shapes[operand]) for operand in instruction.operands)
            total.collective_bytes[instruction.opcode.removesuffix("-start")] += times * moved
        total.memory_bytes[what] += times * _memory_bytes(instruction, shapes)
        if instruction.cycles is not None:
            total.cycles[part(instruction), what] += times * instruction.cycles
        elif instruction.opcode in ("while", "call", "conditional"):
            rounds = times * _trips(program, instruction, total.unestimated)
            for called in instruction.called:  # all branches of a conditional: an upper bound
                _add(program, called, rounds, total)
        else:
            total.unestimated[what] += times


def _trips(program: Program, instruction: Instruction, unknown: Counter) -> int:
    """How often a loop runs: JAX's scans and counted loops count from 0 to a constant by 1."""
    if instruction.opcode != "while":
        return 1
    condition = program.computations[instruction.condition]
    limits = [each.integer for each in condition if each.integer is not None]
    if len(limits) == 1:
        return limits[0]
    unknown["loops of unknown length, counted once"] += 1
    return 1


def kind(program: Program, instruction: Instruction) -> str:
    """Convolutions, gathers, collectives, copies, reductions or elementwise.

    A fusion has the kind of its most significant operation, in that order: one that contains a
    convolution counts as a convolution, whatever else it computes.
    """
    opcodes = _opcodes(program, instruction)
    bare = {opcode.removesuffix("-start") for opcode in opcodes}
    if bare.intersection(COLLECTIVES):
        return "collectives"
    if bare.intersection(("convolution", "dot")):
        return "convolutions"
    if bare.intersection(_GATHERS):
        return "gathers"
    if instruction.opcode in ("copy-start", "slice-start"):
        return "prefetches"
    if opcodes <= _MOVES:
        return "copies"
    return "reductions" if opcodes.intersection(_REDUCES) else "elementwise"


def _opcodes(program: Program, instruction: Instruction) -> set[str]:
    if instruction.opcode not in ("fusion", "async-start"):
        return {instruction.opcode}
    inner = [each for name in instruction.called for each in program.computations[name]]
    return set().union(*(_opcodes(program, each) for each in inner))


def part(instruction: Instruction) -> str:
    """The part of the step that an operation comes from, forward or backward; else other."""
    found = _PART.search(instruction.op_name)
    return found[1] if found else "other"


def _memory_bytes(instruction: Instruction, shapes: dict[str, str]) -> int:
    """Upper bound of the bytes that an operation reads from and writes to main memory.

    A fusion may read only a slice of its operands.
    """
    given = [shapes[operand] for operand in instruction.operands]
    if not instruction.opcode.endswith("-start"):
        return sum(shape_bytes(shape, memory_only=True) for shape in [*given, instruction.shape])
    # The result of a start holds the operand beside the copy, which may be a slice of it.
    arrays = Counter(_ARRAY.findall(instruction.shape)) - Counter(_ARRAY.findall(" ".join(given)))
    copies = sorted(arrays.elements(), key=_array_bytes)[-1:]
    reads = any(not _is_elsewhere(array) for array in _ARRAY.findall(" ".join(given)))
    return sum(_array_bytes(copy) * (reads + (not _is_elsewhere(copy))) for copy in copies)


def shape_bytes(shape: str, memory_only: bool = False) -> int:
    """Bytes of an array's or tuple's shape as XLA writes it, without padding.

    Args:
        shape: such as "(bf16[3,32]{1,0:T(8,128)(2,1)}, f32[])", which takes 196 bytes.
        memory_only: only of what lies in the chip's main memory.
    """
    arrays = _ARRAY.findall(shape)
    return sum(_array_bytes(each) for each in arrays if not (memory_only and _is_elsewhere(each)))


def _is_elsewhere(array: tuple[str, str, str]) -> bool:
    """A layout ends with the memory space where that is not 0, the main memory."""
    return "S(" in array[2]


def _array_bytes(array: tuple[str, str, str]) -> int:
    dtype, sizes, _ = array
    bits = {"pred": 8, "token": 0}.get(dtype)
    if bits is None:
        bits = int(re.sub(r"^[a-z]+(\d+).*", r"\1", dtype))
    return math.prod(int(size) for size in sizes.split(",") if size) * bits // 8
