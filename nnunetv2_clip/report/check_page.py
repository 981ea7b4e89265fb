"""The page of `nnunetv2_clip check`: one HTML file with the matrix of sources and classes and a picture per case."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from nnunetv2_clip import __version__
from nnunetv2_clip.imaging.colors import hex_color

ASSETS = files("nnunetv2_clip.report") / "assets"


def render_check(check) -> str:
    """The HTML of a `dataset_conversion.check.Check`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((ASSETS / "check.html.j2").read_text(encoding="utf-8"))
    names = check.class_names
    return template.render(
        check=check,
        css=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        problems=check.problems,
        class_names=names,
        matrix=[
            (name, hex_color(check.taxonomy.find(name)), [_cell(source, name) for source in check.sources])
            for name in names
        ],
        num_cases=sum(source.num_found for source in check.sources),
        space=in_words(sum(source.num_bytes for source in check.sources)),
        created=datetime.now().strftime("%Y-%m-%d %H:%M"),
        version=__version__,
    )


def in_words(num_bytes: int) -> str:
    """A number of bytes for people."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def _cell(source, name: str) -> dict[str, str]:
    annotated = source.num_annotated(name)
    if not annotated:
        return {"text": "absent" if source.num_absent(name) else "", "volume": ""}
    volume = source.volume_ml(name)
    return {"text": f"{source.num_occurring(name)}/{annotated}", "volume": _millilitres(volume) if volume else ""}


def _millilitres(volume: float) -> str:
    return f"{volume:.0f} ml" if volume >= 100 else f"{volume:.2g} ml"
