# SPDX-License-Identifier: Apache-2.0
"""Parts of HTML pages that load nothing: templates, scripts and data in one file under a content security policy."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources


def filled(template: str, parts: dict[str, str]) -> str:
    """Put every part in its place in one pass, so that a part's text is never searched for places."""
    pieces, rest = [], template
    while rest:
        found = [(rest.find(mark), mark) for mark in parts if mark in rest]
        if not found:
            pieces.append(rest)
            break
        place, mark = min(found)
        pieces += [rest[:place], parts[mark]]
        rest = rest[place + len(mark) :]
    return "".join(pieces)


def safe_json(value: object) -> str:
    """Return JSON in which neither a tag nor a comment can start or end, for use between script tags."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packaged(name: str) -> str:
    """Return the text of a file of this package, as "web_page.css"."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def policy_hash(text: str) -> str:
    """Return the hash by which a content security policy allows this script or style and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
