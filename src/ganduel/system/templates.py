"""Text made from templates. A template is a file beside the code that fills it, and ends in .jinja."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

PACKAGE = Path(__file__).parents[1]

ENVIRONMENT = Environment(
    loader=FileSystemLoader(PACKAGE),
    autoescape=select_autoescape(["html.jinja", "svg.jinja"]),  # no value brings tags or scripts of its own
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: Path, **values: Any) -> str:
    """The text of a template with these values. In HTML and SVG all values are escaped, but for `markupsafe.Markup`."""
    return ENVIRONMENT.get_template(template.relative_to(PACKAGE).as_posix()).render(values)
