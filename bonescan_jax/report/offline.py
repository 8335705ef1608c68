"""The frame of a page that opens offline: one file with its style, its script and its data."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape

from bonescan_jax.report.asset import asset


def offline_page(
    title: str,
    body: str,
    script: str,
    data: str | None = None,
    pictures: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The page in pieces.

    The policy lets nothing run but this script, by its checksum, and nothing load at all.

    Args:
        title: of the page, plain text.
        body: HTML.
        script: JavaScript, which runs where there are data.
        data: JSON, which the script reads from the element "data".
        pictures: further text by the name of its element.
    """
    style = asset("page.css")
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    policy += f"style-src {_checksum(style)}; script-src {_checksum(script)}"
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><main>{body}</main>"
    )
    if data is not None:
        # In JSON "<" is only ever part of text; without it, no text can end the element.
        plain = data.replace("<", "\\u003c")
        yield f'<script type="application/json" id="data">{plain}</script>'
        yield f"<script>{script}</script>"
        for name, text in (pictures or {}).items():
            yield f'<script type="text/plain" id="{escape(name)}">{text}</script>\n'
    yield "</body></html>\n"


def _checksum(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
