"""One HTML document that holds all it needs, from a template and a typed value."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def render_document(template: str, page: object) -> str:
    """Fill a template of `assets`, as `page`, with the style and script of every page.

    Every text is escaped, and a content security policy with the hashes of the page's own style
    and script keeps anything else from running or being fetched.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    style, script = _asset("page.css"), _asset("page.js")
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        page=page,
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text("utf-8")


def _csp_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
