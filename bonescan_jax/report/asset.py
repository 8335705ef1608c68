"""Files beside this one that go into the page: style sheet, script, HTML."""

from importlib.resources import files


def asset(name: str) -> str:
    """The text of one of them."""
    return (files(__package__) / name).read_text(encoding="utf-8")
