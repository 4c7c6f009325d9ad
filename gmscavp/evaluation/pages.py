"""What all pages share: self-contained HTML from a template, complete or not there at all."""

import base64
import os
from pathlib import Path
from typing import Any

import jinja2


def write_page(file: Path, template: str, values: dict[str, Any]) -> None:
    """Fill in a template of this package, everything escaped; under a temporary name first."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader('gmscavp', 'evaluation'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template(template).render(values)
    unfinished = file.with_name(f'.{file.name}.{os.getpid()}.tmp')
    try:
        unfinished.write_bytes(page.encode('utf-8', 'backslashreplace'))
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def data_uri(encoded: bytes, kind: str) -> str:
    """The bytes of a file, kind such as 'image/png', as an address."""
    return f'data:{kind};base64,{base64.b64encode(encoded).decode("ascii")}'
